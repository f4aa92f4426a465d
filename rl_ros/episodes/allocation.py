"""How a process that images come and go in should get its memory."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""
LARGEST_BLOCK = 32 << 20
"""Bytes; the most that glibc takes for `M_MMAP_THRESHOLD`."""


def keep_freed_memory(kept: int = 1 << 30) -> None:
    """Let this process keep what it frees, up to `kept` bytes, for its next allocation.

    By default glibc gives large blocks back to the kernel, and every image begins by faulting pages in again: a fifth
    of an update's time (measured), and more than copying costs a recorder. Elsewhere than on glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, kept)
