"""Arithmetic on plain numbers."""

import math


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]
