"""Allocator settings for training on the CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Set glibc to keep the memory of freed tensors in this process instead of returning it to the system.

    By default, glibc maps each large block anew, and the kernel clears its pages at their first use: a few percent of
    a training step. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_MMAP_THRESHOLD, _LARGEST)
