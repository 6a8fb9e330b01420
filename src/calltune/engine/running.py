"""Replies of one model that come and go: each joins the others between two steps, and leaves as it ends.

Rows whose prompts begin with the same tools share those keys and values in one batch. What comes with other tools
meanwhile runs in a second batch, whose rows have all of theirs: so a step reads the weights at most twice, however
many sets of tools are asked about at once.

A long prompt is run over in pieces (`fill`), so that whoever calls may let the others take a step in between, and may
give up what nobody waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from calltune.batching import MIN_PREFIX
from calltune.engine.batch import Batch
from calltune.engine.cpu import fast_cpu
from calltune.engine.decoder import Decoder, compute_prefix, new_batch
from calltune.engine.prefix import KeyValues
from calltune.engine.streams import plain_stream
from calltune.engine.writing import Writing


@dataclass(frozen=True)
class Joining:
    """A reply to be made: its prompt, and the `prefix` of it that other requests will have too."""

    writing: Writing
    prompt: Sequence[int]
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True)
class Filling:
    """Replies on their way into a batch: the one that shares a prefix, or the other. `runs` pauses before each run of
    the model; some of the replies may be in the batch long before the last."""

    new: Sequence[Joining]
    sharing: bool
    runs: Iterator[None]

    @property
    def coming(self) -> list[Writing]:
        """Those that still have to be run over."""
        return [one.writing for one in self.new if not (one.writing.joined or one.writing.ended)]


@dataclass
class Running:
    """The replies of one model under way. What goes wrong stands in their `Writing.error`; nothing is raised.

    `piece`: the most tokens of a prompt that one `fill` runs over; None: `admit` runs over all of it.
    """

    decoder: Decoder
    piece: int | None = None
    fast: bool = True
    shared: Batch | None = None
    prefix: tuple[int, ...] = ()  # of `shared`, or of what will be it
    mixed: Batch | None = None
    fillings: list[Filling] = field(default_factory=list)
    prefixes: dict[tuple[int, ...], Generator[None, None, KeyValues]] = field(default_factory=dict)  # being computed
    alone: list[tuple[Writing, Iterator[list[int]]]] = field(default_factory=list)  # where layers cannot share

    @property
    def batches(self) -> list[Batch]:
        return [batch for batch in (self.shared, self.mixed) if batch]

    def shares(self, prefix: tuple[int, ...]) -> bool:
        """Whether a reply that begins so would run over keys and values that it shares."""
        return len(prefix) >= MIN_PREFIX and self.prefix in ((), prefix)

    def admit(self, new: Sequence[Joining]) -> None:
        """Takes up replies, over whose prompts `fill` runs."""
        if not self.decoder.sharing:
            for one in new:
                self.alone.append((one.writing, plain_stream(self.decoder, one.prompt, one.writing, self.piece)))
            return
        sharing, mixed = list[Joining](), list[Joining]()
        for one in new:
            if self.shares(one.prefix):
                self.prefix = one.prefix
                sharing.append(one)
            else:
                mixed.append(one)
        for group, shared in ((sharing, True), (mixed, False)):
            if group:
                self.fillings.append(Filling(group, shared, self._runs(group, shared)))
                self._go_on(self.fillings[-1])  # up to the first run

    def fill(self) -> None:
        """One run over new prompts. Those that came at different times take turns: a short one does not wait for the
        end of a long one."""
        if self.fillings:
            self.fillings.append(self.fillings.pop(0))
            self._go_on(self.fillings[-1])

    def step(self) -> None:
        """A token for every reply whose prompt was run over, or the next part of what must follow the last one."""
        with fast_cpu(self.fast):
            for writing, stream in self.alone:
                _guarded([writing], lambda stream=stream: next(stream, None))  # type: ignore[misc]
            for batch in self.batches:
                if batch.rows:
                    _guarded(list(batch.rows), batch.step)

    def leave(self) -> None:
        """The replies that have ended make room; fillings that nobody waits for are given up."""
        self.alone = [(writing, stream) for writing, stream in self.alone if not writing.ended]
        self._drop_fillings()
        for batch in self.batches:
            batch.leave()

    def release(self) -> None:
        """The caches that no reply needs go, and other tools may be the shared ones next."""
        asked = {one.prefix for filling in self.fillings for one in filling.new}
        self.prefixes = {ids: work for ids, work in self.prefixes.items() if ids in asked}
        if not (self.shared and self.shared.rows) and not any(filling.sharing for filling in self.fillings):
            self.shared, self.prefix = None, ()
        if not (self.mixed and self.mixed.rows) and all(filling.sharing for filling in self.fillings):
            self.mixed = None

    def _go_on(self, filling: Filling) -> None:
        """Up to the pause before the next run, or to the end."""
        with fast_cpu(self.fast):
            _guarded(filling.coming, lambda: next(filling.runs, None))
        self._drop_fillings()

    def _drop_fillings(self) -> None:
        self.fillings = [filling for filling in self.fillings if filling.coming]

    def _runs(self, new: Sequence[Joining], sharing: bool) -> Iterator[None]:
        """The runs of a filling, each after a pause."""
        known: dict[tuple[int, ...], KeyValues] = {}
        for prefix in dict.fromkeys(one.prefix for one in new if len(one.prefix) >= MIN_PREFIX):
            found = yield from self._keys_values(prefix, [one.writing for one in new if one.prefix == prefix])
            if found is not None:
                known[prefix] = found
        new = [one for one in new if not one.writing.ended]
        if not new:
            return
        if sharing:
            prefix = new[0].prefix
            batch = self.shared = self.shared or new_batch(self.decoder, known[prefix], len(prefix), self.piece)
        else:
            batch = self.mixed = self.mixed or new_batch(self.decoder, None, 0, self.piece)
        for one in new:
            one.writing.begin(one.prompt[batch.filler.start :])
        yield from batch.admit([one.writing for one in new], {} if sharing else known)

    def _keys_values(
        self, prefix: tuple[int, ...], waiting: Sequence[Writing]
    ) -> Generator[None, None, KeyValues | None]:
        """Those that are kept, else computed now: by all fillings that need them in their turns. None where nobody
        waits for them any more."""
        while any(not writing.ended for writing in waiting):
            found = self.decoder.kept.find(prefix)
            if found is not None:
                return found
            work = self.prefixes.pop(prefix, None) or compute_prefix(self.decoder, prefix, self.piece)
            if not next(work, True):
                self.prefixes[prefix] = work
                yield
        return None


def _guarded(rows: Sequence[Writing], work: Callable[[], object]) -> None:
    """Does the work; its error is that of the rows."""
    try:
        work()
    except Exception as error:
        for row in rows:
            row.fail(error)
        mx.clear_cache()  # where memory was short
