"""Ctrl-C and SIGTERM during training: the first asks to stop at the next good place, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Raised at a good place after a signal asked to stop."""


class Stop:
    """A context in which signals ask. In other threads than the main one nothing changes, since only the main one can
    set handlers."""

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup does
            self.before = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        self.before = {}

    def check(self) -> None:
        if self.asked is not None:
            raise Stopped

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            self._pass_on(number, frame)
            return
        self.asked = number
        # Not `print`: the signal may have come in the middle of one.
        with suppress(OSError):
            os.write(2, b"\nstopping: this update is finished and saved first; once more to leave at once\n")

    def pass_on(self) -> None:
        """Do what the signal would have done without us: raise, or end the process."""
        if self.asked is not None:
            self._pass_on(self.asked, None)

    def _pass_on(self, number: int, frame: Any) -> None:
        handler = self.before.get(number, signal.getsignal(number))
        self.__exit__()
        if callable(handler):
            handler(number, frame)
        else:
            signal.raise_signal(number)
