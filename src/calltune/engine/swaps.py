"""Functions of MLX and mlx-lm that are replaced for a while, and only for the threads that asked for it.

A module's attribute belongs to the whole process: a thread that put it back while another still computed would take
the quick forms, and what only they understand, away from under it. So the replacement stays as long as any thread
is within, and sends threads that are not to the plain function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Function = Callable[..., Any]
Place = tuple[Any, str, Callable[[Function], Function]]


def _nothing() -> None:
    return None


class Swaps:
    """`places`: (owner, name, make), where `make(plain)` gives what stands for `owner.name` meanwhile.

    `first` is called before the first thread enters, `last` after the last has left.
    """

    def __init__(self, places: Sequence[Place], first: Function = _nothing, last: Function = _nothing) -> None:
        self._places, self._first, self._last = places, first, last
        self._lock, self._inside, self._here = threading.Lock(), 0, threading.local()
        self._plain: list[Function] = []

    @property
    def here(self) -> bool:
        """Whether this thread is within."""
        return getattr(self._here, "within", False)

    @contextmanager
    def within(self) -> Iterator[None]:
        """The replacements, for this thread, until it leaves. Entering twice is entering once."""
        if self.here:
            yield
            return
        with self._lock:
            if self._inside == 0:
                self._put()
            self._inside += 1
        self._here.within = True
        try:
            yield
        finally:
            self._here.within = False
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._put_back()

    def _put(self) -> None:
        self._first()
        self._plain = [getattr(owner, name) for owner, name, _ in self._places]
        for (owner, name, make), plain in zip(self._places, self._plain, strict=True):
            setattr(owner, name, self._chosen(make(plain), plain))

    def _put_back(self) -> None:
        for (owner, name, _), plain in zip(self._places, self._plain, strict=True):
            setattr(owner, name, plain)
        self._last()

    def _chosen(self, quick: Function, plain: Function) -> Function:
        def function(*args: Any, **rest: Any) -> Any:
            return (quick if self.here else plain)(*args, **rest)

        return function
