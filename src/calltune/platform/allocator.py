"""How memory that was freed is kept for the next array, and how much of it may wait for a GPU.

- On Linux, glibc gives large blocks back to the system at once, and the next array of that size has to be cleared
  page by page again: 4 % of an update of the demo. One arena that keeps what was freed costs no memory at the peak,
  since every update needs it again.
- MLX hands a CUDA GPU batches of work, up to ten ahead, and the arrays of a batch stay until it is done. On an H100 a
  batch is up to 1,000 MB by MLX's own choice (mlx/backend/cuda/device.cpp), so several GB wait on top of what
  training needs. 100 is MLX's choice for GPUs that it does not know; training is quickest with 30
  (docs/performance.md).

What the user has set stays (`MALLOC_*`, `MLX_MAX_MB_PER_BUFFER`); `CALLTUNE_ALLOCATOR=none` leaves all as it was.
"""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "CALLTUNE_ALLOCATOR"
# From glibc's malloc.h, with the largest threshold that it takes (half of a heap on 64 bits).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_THRESHOLD = 32 << 20
NEVER = (1 << 31) - 1  # bytes at the heap's end that are not given back: all that an int can say
WAITING = "MLX_MAX_MB_PER_BUFFER"
WAITING_MB, TRAINING_MB = 100, 30
_ours: list[str] = []  # variables that were set here, not by the user


def tune_allocator() -> None:
    """Once a process, before MLX is imported."""
    if _left_alone():
        return
    _set(WAITING_MB)
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, NEVER)


def expect_training() -> None:
    """In a process that only trains, before `calltune.engine` is imported, since MLX reads the variable once."""
    if not _left_alone():
        _set(TRAINING_MB)


def user_environment() -> dict[str, str]:
    """The environment of this process without what was set here."""
    return {name: value for name, value in os.environ.items() if name not in _ours}


def _left_alone() -> bool:
    return os.environ.get(VARIABLE) == "none" or not sys.platform.startswith("linux")


def _set(megabytes: int) -> None:
    if WAITING not in os.environ:
        os.environ[WAITING] = str(megabytes)
        _ours.append(WAITING)
