"""What becomes of the memory that tensors on the CPU free."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep what its tensors free, for those of the next step.

    glibc maps large blocks anew for every tensor and gives them back after it; the kernel then clears each page again
    at its first use, which takes a few percent of a step. Where the C library is another, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _MOST)
    mallopt(_MMAP_THRESHOLD, _MOST)
