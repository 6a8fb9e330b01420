"""Prompts into the caches of a batch: what some of them share is run over once, and little of a run is padding.

A prompt of a thousand tokens costs a CPU two seconds, and as much again where it is padded to its double.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from calltune.batching import MIN_PREFIX
from calltune.engine.pieces import Run, run_over
from calltune.engine.prefix import Decoding, KeyValues, Slots

Caches = Callable[[KeyValues | None, Slots], list[Decoding]]


@dataclass(frozen=True)
class Asked:
    """Rows of ids that are to be run over; `wanted` says whether one of them still is."""

    rows: Sequence[Sequence[int]]
    wanted: Callable[[int], bool] = lambda place: True


@dataclass(frozen=True)
class Filled:
    """Rows that were run over: where each was asked for (`places`), the last hidden states (B, 1, D), the keys and
    values (B, G, S, D) of each layer without the common prefix, and which of the S slots are padding (B, S)."""

    places: list[int]
    hidden: mx.array
    keys_values: KeyValues
    padding: npt.NDArray[np.bool_]


@dataclass
class Filler:
    """Fills caches of rows after the `start` tokens of `prefix` that all rows share (none: 0, None).

    `cost`: of a run, in tokens. `piece`: the most tokens of a run; None for any number of them, and no pauses.
    `held`: the beginnings that the last rows shared, for those that come next.
    """

    run: Run
    caches: Caches
    prefix: KeyValues | None
    start: int
    cost: int
    piece: int | None = None
    held: dict[tuple[int, ...], KeyValues] = field(default_factory=dict)

    def fill(self, asked: Asked, known: Mapping[tuple[int, ...], KeyValues]) -> Iterator[Filled | None]:
        """Runs over the rows, some at a time, so that little is padding. None stands for a pause before a run.
        `known`: beginnings that rows may have."""
        known, self.held = self.held | dict(known), {}
        rows, groups = asked.rows, dict[tuple[int, ...], list[int]]()
        for place, row in enumerate(rows):
            fitting = [ids for ids in known if len(ids) < len(row) and tuple(row[: len(ids)]) == ids]
            groups.setdefault(max(fitting, key=len, default=()), []).append(place)
        for ids, places in groups.items():
            if ids:
                self.held[ids] = known[ids]
            yield from self._fill(asked, sorted(places, key=lambda i: rows[i]), len(ids), known.get(ids, self.prefix))

    def _fill(self, asked: Asked, places: list[int], depth: int, prefix: KeyValues | None) -> Iterator[Filled | None]:
        """Rows, in order, that share their first `depth` ids, whose keys and values are at the end of `prefix`."""
        rows, alone = asked.rows, list[int]()
        parts: list[tuple[int, Iterator[Filled | None]]] = []
        for cluster in _clusters([rows[i] for i in places], depth):
            inside = [places[i] for i in cluster]
            shared = min(shared_length(rows[inside[0]], rows[inside[-1]]), *(len(rows[i]) - 1 for i in inside))
            if len(inside) == 1 or (len(inside) - 1) * (shared - depth) <= self.cost:
                alone += inside
            else:
                longest = max(len(rows[i]) for i in inside)
                parts.append((longest, self._fill_cluster(asked, inside, depth, shared, prefix)))
        for bucket in buckets([len(rows[i]) - depth for i in alone], self.cost):
            inside = [alone[i] for i in bucket]
            parts.append((max(len(rows[i]) for i in inside), self._fill_bucket(asked, inside, depth, prefix)))
        for _, part in sorted(parts, key=lambda part: part[0]):  # the short need not wait for the long
            yield from part

    def _fill_cluster(
        self, asked: Asked, places: list[int], depth: int, shared: int, prefix: KeyValues | None
    ) -> Iterator[Filled | None]:
        """Rows that share more than others: their first `shared` ids, once, and what each has after them."""
        first = list(asked.rows[places[0]][:shared])
        caches = self.caches(prefix, Slots(1, self.start + depth))
        left, _ = yield from run_over(
            self.run, [first[depth:]], caches, self.piece, lambda _: any(map(asked.wanted, places))
        )
        if not left:
            return
        longer = [cache.whole() for cache in caches]
        mx.eval(longer)
        self.held[tuple(first)] = longer
        yield from self._fill(asked, places, shared, longer)

    def _fill_bucket(
        self, asked: Asked, places: list[int], depth: int, prefix: KeyValues | None
    ) -> Iterator[Filled | None]:
        """Rows that are run over together after their first `depth` ids."""
        own = [asked.rows[i][depth:] for i in places]
        caches = self.caches(prefix, Slots(len(own), self.start + depth))
        left, hidden = yield from run_over(self.run, own, caches, self.piece, lambda i: asked.wanted(places[i]))
        if not left:
            return
        keys_values = [cache.whole(self.start) for cache in caches]
        mx.eval(keys_values)
        padding = np.concatenate([np.zeros((len(left), depth), np.bool_), caches[0].slots.hidden], axis=1)
        yield Filled([places[i] for i in left], hidden, keys_values, padding)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two rows begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _clusters(rows: Sequence[Sequence[int]], depth: int) -> list[list[int]]:
    """Runs of rows, in order, that are alike for MIN_PREFIX ids after the first `depth`."""
    found: list[list[int]] = [[0]] if rows else []
    for i, (before, row) in enumerate(pairwise(rows), 1):
        if shared_length(before, row) >= depth + MIN_PREFIX:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def buckets(lengths: Sequence[int], cost: int) -> list[list[int]]:
    """Which rows to run together so that the runs, each as wide as its longest row, cost the fewest tokens. `cost`:
    of a run itself."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best, first = [0], [0]  # of the first j rows in order; where the last of their runs begins
    for j in range(1, len(order) + 1):
        width = lengths[order[j - 1]]
        found = min((best[i] + cost + (j - i) * width, i) for i in range(j))
        best.append(found[0])
        first.append(found[1])
    made, j = [], len(order)
    while j:
        made.append(order[first[j] : j])
        j = first[j]
    return made[::-1]


def alike(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows in groups that begin alike for half of their length, those of short rows first."""
    groups: list[list[int]] = []
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    for place, i in enumerate(order):
        before = rows[order[place - 1]] if place else ()
        if place and 2 * shared_length(before, rows[i]) >= max(len(before), len(rows[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    return sorted(groups, key=lambda group: max(len(rows[i]) for i in group))
