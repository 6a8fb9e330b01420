"""Replies side by side: rows leave as they end, and others take their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import mlx.core as mx

from calltune.engine.filling import Asked, Caches, Filled, Filler
from calltune.engine.parts import Parts, run_body, run_head
from calltune.engine.prefix import Decoding, KeyValues, Slots
from calltune.engine.writing import Writing, choose


@dataclass
class Batch:
    """Rows under way, with their caches."""

    parts: Parts
    caches: Caches
    filler: Filler
    rows: list[Writing] = field(default_factory=list)
    slots: Slots | None = None
    layers: list[Decoding] = field(default_factory=list)

    def leave(self) -> None:
        """The rows that have ended make room."""
        kept = [place for place, row in enumerate(self.rows) if not row.ended]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if not kept:
            self.slots, self.layers = None, []
        elif self.slots is not None:
            front = self.slots.keep(kept)
            for layer in self.layers:
                layer.keep(mx.array(kept, mx.int32), front)

    def admit(self, rows: Sequence[Writing], known: Mapping[tuple[int, ...], KeyValues]) -> Iterator[None]:
        """Runs over the prompts of new rows, which stand in their queues, and chooses their first tokens. Pauses
        before each run if the filler does; those that are ready join then. Rows that end meanwhile are left out."""
        asked = [row for row in rows if not row.ended]  # the limit may have ended one already
        ready: list[Filled] = []
        for found in self.filler.fill(Asked([row.queue for row in asked], lambda i: not asked[i].ended), known):
            if found is not None:
                ready.append(found)
                continue
            self._join(asked, ready)
            ready = []
            yield
        self._join(asked, ready)

    def _join(self, asked: Sequence[Writing], ready: Sequence[Filled]) -> None:
        """First tokens for rows that were run over, and their keys and values below those of the others."""
        if not ready:
            return
        new = [[asked[i] for i in filled.places] for filled in ready]
        for filled, rows in zip(ready, new, strict=True):
            for row in rows:
                row.queue = []
            self._choose(filled.hidden, rows)
        for row in (joining := list(chain(*new))):
            row.joined = True
        self.rows += joining
        try:
            self._lengthen(ready)
        except Exception as error:  # the caches of those that were there are no longer whole
            for row in self.rows:
                row.fail(error)
            raise

    def _lengthen(self, ready: Sequence[Filled]) -> None:
        if self.slots is None:
            self.slots = Slots(0, self.filler.start)
            self.layers = self.caches(self.filler.prefix, self.slots)
        for filled in ready:
            self.slots.add(filled.padding)
        for i, layer in enumerate(self.layers):  # one after the other: no more than one is in memory twice
            layer.add([filled.keys_values[i] for filled in ready])
            mx.eval(layer.keys, layer.values)

    def step(self) -> None:
        """One run of the model over what rows have waiting; a row that has nothing left gets its next token."""
        assert self.slots is not None
        width = chunk_width([len(row.queue) for row in self.rows])
        chunks = [row.queue[:width] for row in self.rows]
        for row in self.rows:
            del row.queue[:width]
        self.slots.extend([width - len(chunk) for chunk in chunks], width)
        ids = mx.array([[0] * (width - len(chunk)) + chunk for chunk in chunks])
        hidden = run_body(self.parts, ids, self.layers)[:, -1:]
        ready = [place for place, row in enumerate(self.rows) if not row.queue]
        if ready:
            self._choose(
                hidden[mx.array(ready)] if len(ready) < len(self.rows) else hidden, [self.rows[i] for i in ready]
            )

    def _choose(self, hidden: mx.array, rows: Sequence[Writing]) -> None:
        for row, token in zip(rows, choose(run_head(self.parts, hidden)[:, -1], rows), strict=True):
            row.add(token)


def chunk_width(lengths: Sequence[int]) -> int:
    """How many tokens the next step runs over, of rows that have `lengths` waiting: as many as leave at least half
    of the step's places to tokens, not to padding."""
    widths = sorted(set(lengths), reverse=True)
    return next((w for w in widths if 2 * sum(min(n, w) for n in lengths) >= w * len(lengths)), 1)
