"""The thread that owns the models: requests join the batch whenever they come, and leave it as they end.

Whoever waits is taken up between two steps, all that wait together: the others pay a copy of their caches for it,
which is about a step, while to wait for more company would cost each newcomer many. Between the pieces of their
prompts the others take a step, and what nobody waits for any more is given up.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from calltune.caller import BATCH_TOKENS, Caller
from calltune.serve.job import Job, check_length
from calltune.serve.served import served_models
from calltune.serve.work import Counts, Listener, QueueFull, Stopped, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """`queue`: requests that may wait. `batch`: replies side by side; `tokens`: their prompts, beside the part that
    they share, and the longest replies that they may have, all padded to the longest."""

    queue: int = 64
    batch: int = 16
    tokens: int = BATCH_TOKENS


class JobTicket:
    """A reply under way (serve.work.Ticket)."""

    def __init__(self, worker: ModelWorker, job: Job) -> None:
        self._worker, self._job = worker, job

    def cancel(self) -> None:
        self._worker.cancel(self._job)


class ModelWorker:
    """Implements serve.work.Worker over a caller, whose model nobody else may run meanwhile. `base`: also as
    `NAME:base`, where the caller's model has an adapter."""

    def __init__(self, caller: Caller, name: str, *, base: bool = True, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._models = served_models(caller, name, base=base)
        self._side_by_side = self.limits.batch if caller.decoder.sharing else 1
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="calltune-model", daemon=True)
        self._thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    def submit(self, work: Work, listener: Listener) -> JobTicket:
        """See serve.work.Worker. Raises QueueFull, Stopped, and TooLong at once, so that what waits is not large."""
        if work.model in self._models:
            check_length(work, self._models[work.model])
        job = Job(work, listener)
        with self._wake:
            if self._closing:
                raise Stopped
            if len(self._waiting) >= self.limits.queue:
                raise QueueFull
            self._waiting.append(job)
            self._wake.notify()
        return JobTicket(self, job)

    def cancel(self, job: Job) -> None:
        with self._wake:
            job.cancelled = True
            if job in self._waiting:  # its place is free for another at once
                self._waiting.remove(job)

    def counts(self) -> Counts:
        with self._wake:
            return Counts(len(self._waiting), len(self._running), self._closing)

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- in the model's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._has_work():
                try:
                    self._turn()
                except Exception as error:  # a bug of ours: the server goes on without those it hit
                    log.exception("the model's thread goes on after an error")
                    self._end(self._running, error)
                    self._clear()
        except Exception:  # it cannot even be cleared away: whoever asks is told, and nobody waits for ever
            log.exception("the model's thread ends after an error")
        finally:
            with self._wake:
                self._closing, waiting = True, list(self._waiting)
                self._waiting.clear()
            self._end([*self._running, *waiting], Stopped())

    def _has_work(self) -> bool:
        """Waits for a request. False when it is time to stop."""
        with self._wake:
            while not (self._closing or self._waiting or self._running):
                self._wake.wait()
            return not self._closing

    def _turn(self) -> None:
        """Who waits is taken up; then a run over new prompts and a step of every model that is asked."""
        self._tell()
        new = self._take()
        for served in self._models.values():
            joining = [job.joining for job in new if job.served is served and job.joining]
            if joining or served.running.fillings:
                with served.active():
                    served.running.admit(joining)
                    served.running.fill()
                self._tell()
        for served in self._models.values():
            if any(job.served is served for job in self._running):
                with served.active():
                    served.running.step()
        self._tell()

    def _take(self) -> list[Job]:
        """The requests, in their order, that there is room for now, prepared."""
        new: list[Job] = []
        while len(self._running) < self._side_by_side and (job := self._next()):
            if job.joining is None:
                try:
                    job.prepare(self._models)
                except Exception as error:
                    if self._pop(job):
                        job.fail(error)
                    continue
            if not self._fits(job):
                break
            if self._pop(job):
                new.append(job)
                self._running.append(job)
        return new

    def _next(self) -> Job | None:
        with self._wake:
            return self._waiting[0] if self._waiting else None

    def _pop(self, job: Job) -> bool:
        """Whether it still waited: it may have been cancelled meanwhile."""
        with self._wake:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            return True

    def _fits(self, job: Job) -> bool:
        sizes = [other.size for other in (*self._running, job)]
        return len(sizes) == 1 or len(sizes) * max(sizes) <= self.limits.tokens

    def _tell(self) -> None:
        """Tells what is new, and lets those go that have ended or are not waited for any more."""
        for job in self._running:
            if job.cancelled:
                job.writing.ended = True
            else:
                job.tell()
        ended = [job for job in self._running if job.writing.ended]
        if not ended:
            return
        self._clear()  # first: where it fails, these are still among those that `_run` tells of it
        for job in ended:
            self._running.remove(job)
            job.finish()

    def _end(self, jobs: Iterable[Job], error: Exception) -> None:
        for job in list(jobs):
            if job.joining is not None:
                job.writing.ended = True
            job.fail(error)
        self._running = []

    def _clear(self) -> None:
        """Frees what the replies took that have ended."""
        for served in self._models.values():
            served.running.leave()
            served.running.release()
