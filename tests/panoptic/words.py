"""A text tower of six words in three channels, and vocabularies of its words."""

import torch
import torch.nn.functional as F

from clipself_d2.vocabulary import Vocabulary

ROWS = {
    "cat": [1.0, 0.0, 0.0],
    "kitten": [0.95, 0.05, 0.0],
    "dog": [0.9, 0.4, 0.0],
    "wolf": [0.7, 0.7, 0.0],
    "wall": [0.0, 0.1, 1.0],
    "sky": [0.0, 0.6, 0.8],
}


def text(classes):
    """A text tower of three channels."""
    names = [entry if isinstance(entry, str) else entry[0] for entry in classes]
    return F.normalize(torch.tensor([ROWS[name] for name in names]), dim=1)


def vocabulary(*classes, background=None):
    synonyms = [c if isinstance(c, list) else [c] for c in classes]
    return Vocabulary(synonyms, text([name for names in synonyms for name in names]), background=background)
