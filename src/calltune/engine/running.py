"""Replies of one model that come and go: each joins the others between two steps, and leaves as it ends.

Rows whose prompts begin with the same tools share those keys and values in one batch. What comes with other tools
meanwhile runs in a second batch, whose rows have all of theirs: so a step reads the weights at most twice, however
many sets of tools are asked about at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from calltune.batching import MIN_PREFIX
from calltune.engine.batch import Batch
from calltune.engine.cpu import fast_cpu
from calltune.engine.decode import Decoder, hold_prefix, keys_values_of, new_batch, plain_stream
from calltune.engine.writing import Writing


@dataclass(frozen=True)
class Joining:
    """A reply to be made: its prompt, and the `prefix` of it that other requests will have too."""

    writing: Writing
    prompt: Sequence[int]
    prefix: tuple[int, ...] = ()


@dataclass
class Running:
    """The replies of one model under way. What goes wrong stands in their `Writing.error`; nothing is raised."""

    decoder: Decoder
    shared: Batch | None = None
    prefix: tuple[int, ...] = ()  # of `shared`
    mixed: Batch | None = None
    alone: list[tuple[Writing, Iterator[int]]] = field(default_factory=list)  # where layers cannot share

    @property
    def batches(self) -> list[Batch]:
        return [batch for batch in (self.shared, self.mixed) if batch]

    def shares(self, prefix: tuple[int, ...]) -> bool:
        """Whether a reply that begins so would run over keys and values that it shares."""
        return len(prefix) >= MIN_PREFIX and (self.shared is None or self.prefix == prefix)

    def admit(self, new: Sequence[Joining]) -> None:
        """Runs over the prompts and chooses their first tokens."""
        if not self.decoder.sharing:
            self.alone += [(one.writing, plain_stream(self.decoder, one.prompt, one.writing)) for one in new]
            return
        with fast_cpu():
            sharing, mixed = list[Joining](), list[Joining]()
            for one in new:
                if self.shared is None and self.shares(one.prefix):
                    _guarded([one.writing], lambda one=one: self._open(one.prefix))  # type: ignore[misc]
                (sharing if self.shared and self.shares(one.prefix) else mixed).append(one)
            if self.shared:
                self._join(self.shared, sharing)
            if mixed:
                self.mixed = self.mixed or new_batch(self.decoder, 0)
                self._join(self.mixed, mixed)

    def step(self) -> None:
        """A token for every reply, or the next part of what must follow the last one."""
        with fast_cpu():
            for writing, stream in self.alone:
                _guarded([writing], lambda stream=stream: next(stream, None))  # type: ignore[misc]
            for batch in self.batches:
                if batch.rows:
                    _guarded(list(batch.rows), batch.step)

    def leave(self) -> None:
        """The replies that have ended make room."""
        self.alone = [(writing, stream) for writing, stream in self.alone if not writing.ended]
        for batch in self.batches:
            batch.leave()
        if self.shared and not self.shared.rows:  # its caches go, and other tools may be the shared ones next
            self.shared, self.prefix = None, ()
        if self.mixed and not self.mixed.rows:
            self.mixed = None

    def _open(self, prefix: tuple[int, ...]) -> None:
        hold_prefix(self.decoder, prefix)
        self.shared, self.prefix = new_batch(self.decoder, len(prefix)), prefix

    def _join(self, batch: Batch, new: Sequence[Joining]) -> None:
        new = [one for one in new if not one.writing.ended]
        rows, before = [one.writing for one in new], list(batch.rows)

        def join() -> None:
            for one in new:
                one.writing.begin(one.prompt[batch.filler.start :])
                if batch is self.mixed and len(one.prefix) >= MIN_PREFIX:
                    batch.filler.held[one.prefix] = keys_values_of(self.decoder, one.prefix)
            batch.admit(range(len(rows)), rows)

        # Where it fails after rows were added, the caches of those that were there are no longer whole.
        if rows and not _guarded(rows, join) and len(batch.rows) > len(before):
            for row in before:
                row.fail(rows[0].error or RuntimeError("the batch was lost"))


def _guarded(rows: Sequence[Writing], work: Callable[[], object]) -> bool:
    """Whether the work was done; its error is that of the rows."""
    try:
        work()
    except Exception as error:
        for row in rows:
            row.fail(error)
        mx.clear_cache()  # where memory was short
        return False
    return True
