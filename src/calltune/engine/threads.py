"""NumPy work on all cores: Python threads over tasks, each with a BLAS of one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

from calltune.platform.machine import usable_cores


@cache
def cores() -> int:
    return usable_cores()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="calltune")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks at the loaded libraries once; NumPy and the BLAS are there by then


def run_tasks(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], *, multiplies: bool = True) -> None:
    """`work(*task)` for every task. NumPy leaves Python's lock in large operations, so the tasks run side by side.
    If they multiply matrices, a BLAS with threads of its own would make them fight for the cores."""
    if cores() == 1 or len(tasks) == 1:
        for task in tasks:
            work(*task)
        return
    with _controller().limit(limits=1, user_api="blas") if multiplies else nullcontext():
        for _ in _pool().map(lambda task: work(*task), tasks):
            pass


def in_parts(work: Callable[..., Any], *arrays: Any) -> None:
    """Element-wise `work` on the flattened arrays, one contiguous part a core."""
    size = arrays[0].size
    count = cores() if size >= 1 << 16 else 1
    bounds = [size * i // count for i in range(count + 1)]
    flat = [a.reshape(-1) for a in arrays]
    parts = [tuple(a[bounds[i] : bounds[i + 1]] for a in flat) for i in range(count)]
    run_tasks(work, parts, multiplies=False)
