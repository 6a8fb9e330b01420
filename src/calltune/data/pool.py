"""Processes that do one task on pieces of work, side by side; results come in the order of the pieces.

Each is a plain Python process with two pipes: not a fork, since threads (MLX's, the BLAS's) do not outlive one, and
not `multiprocessing`'s spawn, which runs the caller's script again. When the pipes close, because the work is done or
this process is gone, it ends. Of Ctrl-C in the terminal it hears nothing; this process ends it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, TypeVar, cast

from calltune.errors import CannotFinish

FEW = 8  # pieces that are done sooner here than other processes start
AHEAD = 3  # pieces that a process was given: one in work, one on its way, one done; memory is bounded by it
WAIT = 0.5  # seconds until a signal is heard at the latest
P = TypeVar("P")
R = TypeVar("R")


class Pool:
    """Up to `size` processes, started when there is enough to do. To be closed, as by `with`."""

    def __init__(self, size: int) -> None:
        self.size = size if sys.executable else 1
        self.workers: list[Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, task: Callable[[P], R], pieces: Iterable[P]) -> Iterator[tuple[P, R]]:
        """Every piece and what `task`, which can be pickled, makes of it. Raises CannotFinish."""
        todo = iter(pieces)
        first = list(islice(todo, FEW)) if self.size > 1 else []
        if len(first) < FEW:
            yield from ((piece, task(piece)) for piece in chain(first, todo))
            return
        given: deque[tuple[P, Worker]] = deque()
        told: list[Worker] = []  # those that know the task: no more than there are pieces
        try:
            for number, piece in enumerate(chain(first, todo)):
                if len(told) == number < self.size:
                    told.append(self._worker(number))
                    told[number].send((task, None))
                worker = told[number % self.size]
                worker.send((None, piece))
                given.append((piece, worker))
                if len(given) == AHEAD * self.size:
                    yield _next(given)
            while given:
                yield _next(given)
        finally:
            if given:  # nobody asks for these results, and they are none of the next pieces'
                self.close()

    def _worker(self, number: int) -> Worker:
        while len(self.workers) <= number:
            self.workers.append(Worker())
        return self.workers[number]

    def close(self) -> None:
        while self.workers:
            self.workers.pop().close()


def _next(given: deque[tuple[P, Worker]]) -> tuple[P, Any]:
    piece, worker = given[0]
    result = worker.receive(piece)
    given.popleft()
    return piece, result


class Worker:
    """One process, as seen from here."""

    def __init__(self) -> None:
        # sys.path is this process's own, so that the same modules are found wherever it was started.
        code = f"import sys; sys.path[:] = {sys.path!r}; from calltune.data.pool import serve; serve()"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)  # fmt: skip
        self.outbox: SimpleQueue[bytes | None] = SimpleQueue()
        # A thread writes, so that no two processes wait for one another with full pipes.
        self.writer = threading.Thread(target=self._write, daemon=True)
        self.writer.start()
        # Another reads, so that this one hears Ctrl-C in every case: a signal that comes just before a thread waits
        # for a pipe is heard when the pipe has something to say, and a process that hangs says nothing.
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def send(self, value: Any) -> None:
        self.outbox.put(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def _write(self) -> None:
        pipe = cast(BinaryIO, self.process.stdin)
        try:
            while (data := self.outbox.get()) is not None:
                pipe.write(data)
                pipe.flush()
        except OSError:  # the process has ended, which `receive` tells
            pass

    def _read(self) -> None:
        pipe = cast(BinaryIO, self.process.stdout)
        try:
            while True:
                done, result = pickle.load(pipe)
                self.inbox.put((done, result))
        except Exception as error:
            self.inbox.put(error)

    def receive(self, piece: Any) -> Any:
        """What came of the piece that it was given longest ago. Raises CannotFinish."""
        found: Any = None
        while found is None:
            with contextlib.suppress(Empty):
                found = self.inbox.get(timeout=WAIT)
        if isinstance(found, Exception):
            self.inbox.put(found)  # for whoever asks again
            if not isinstance(found, (EOFError, OSError)):
                self.process.kill()  # something else wrote into its pipe, and it goes on
            code = self.process.wait()
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            step = "`--workers 1` works in one process, with less memory"
            raise CannotFinish(f"{piece}: the process that worked on it was ended {how}", next_step=step) from found
        done, result = found
        if not done:
            raise CannotFinish(f"{piece}: {result[0]}", next_step=result[1])
        return result

    def close(self) -> None:
        self.process.kill()
        self.outbox.put(None)
        self.writer.join()
        self.reader.join()  # the pipe has ended with the process
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what the process did not take any more
                cast(BinaryIO, pipe).close()


def serve() -> None:
    """The work of such a process: tasks and pieces in, results out, until the pipe closes."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed on the way is no result
    task: Callable[[Any], Any] | None = None
    try:
        while True:
            given, piece = pickle.load(source)
            task = given or task
            if given is None and task is not None:
                target.write(pickle.dumps(_tried(task, piece), pickle.HIGHEST_PROTOCOL))
                target.flush()
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)  # the other end is gone, with it all that could be flushed


def _tried(task: Callable[[Any], Any], piece: Any) -> tuple[bool, Any]:
    try:
        return True, task(piece)
    except MemoryError:
        return False, ("not enough memory", "`--workers 1` works in one process, with less memory")
    except Exception as error:
        found = f"a bug of ours: {type(error).__name__}: {' '.join(str(error).split())}"
        return False, (found, "please open an issue with the command")
