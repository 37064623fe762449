"""Memory that a training step frees, kept for the next one, and given back where work changes."""

from __future__ import annotations

import ctypes
import sys


def keep_memory() -> None:
    """Have the C library keep the memory that a step frees for the next one.

    By default, glibc gives large blocks back to the kernel, which zeroes them page by page when
    they are asked for again: a fifth of a step on a CPU (docs/results.md).
    """
    no_mmap, trim_threshold, top_pad = -4, -1, -2  # M_MMAP_MAX and others of glibc's malloc.h
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # missing in musl
    if mallopt is not None:
        for option, value in ((no_mmap, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            mallopt(option, value)


def give_back_memory() -> None:
    """Give the kernel what `keep_memory` kept, before work whose blocks are of other sizes.

    They would not fit into the freed ones, and lie beside them.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
