"""Replies side by side: rows leave as they end, and others take their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from calltune.engine.filling import Caches, Filler
from calltune.engine.parts import Parts, run_body, run_head
from calltune.engine.prefix import Decoding, Slots
from calltune.engine.writing import Writing, choose


@dataclass
class Batch:
    """Rows under way, with their caches; `indices` says which replies they are."""

    parts: Parts
    caches: Caches
    filler: Filler
    indices: list[int] = field(default_factory=list)
    rows: list[Writing] = field(default_factory=list)
    slots: Slots | None = None
    layers: list[Decoding] = field(default_factory=list)

    def leave(self) -> list[int]:
        """The rows that have ended make room; returns which they are."""
        kept = [place for place, row in enumerate(self.rows) if not row.ended]
        if len(kept) == len(self.rows):
            return []
        ended = [index for index, row in zip(self.indices, self.rows, strict=True) if row.ended]
        self.indices, self.rows = [self.indices[i] for i in kept], [self.rows[i] for i in kept]
        if not kept:
            self.slots, self.layers = None, []
        elif self.slots is not None:
            front = self.slots.keep(kept)
            for layer in self.layers:
                layer.keep(mx.array(kept, mx.int32), front)
        return ended

    def admit(self, indices: Sequence[int], rows: Sequence[Writing]) -> None:
        """Runs over the prompts of new rows, which stand in their queues, and chooses their first tokens."""
        asked = [i for i, row in enumerate(rows) if not row.ended]  # the limit may have ended one already
        pieces = list(self.filler.fill([rows[i].queue for i in asked]))
        for piece in pieces:
            new = [rows[asked[i]] for i in piece.places]
            for row in new:
                row.queue = []
            self._choose(piece.hidden, new)
            self.indices += [indices[asked[i]] for i in piece.places]
            self.rows += new
        if not pieces:
            return
        if self.slots is None:
            self.slots = Slots(0, self.filler.start)
            self.layers = self.caches(self.filler.prefix, self.slots)
        for piece in pieces:
            self.slots.add(piece.padding)
        for i, layer in enumerate(self.layers):  # one after the other: no more than one is in memory twice
            layer.add([piece.keys_values[i] for piece in pieces])
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
