"""Memory that a training step frees: kept for the next step, returned when the work changes."""

from __future__ import annotations

import ctypes
import sys


def keep_memory() -> None:
    """Make the C library keep the memory that a step frees.

    By default, glibc returns large blocks to the kernel, which zeroes every page when the next step
    allocates them again. On a CPU that costs a fifth of a step.
    """
    no_mmap, trim_threshold, top_pad = -4, -1, -2  # M_MMAP_MAX and others of glibc's malloc.h
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in musl
    if mallopt is not None:
        for option, value in ((no_mmap, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            mallopt(option, value)


def give_back_memory() -> None:
    """Return what `keep_memory` kept to the kernel, before work with blocks of other sizes.

    They would not fit into the freed blocks, so both would take memory.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
