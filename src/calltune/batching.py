"""Examples into batches: every row once an epoch, rows of like length run together, shared prefixes found.

Everything here is NumPy and plain Python; the arrays become MLX arrays in the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from calltune.render import Example

LENGTH_STEP = 16  # widths are multiples of this: few shapes, since each new one is compiled again
MIN_PREFIX = 32  # a shorter common prefix saves less than it costs
KINDS = ("think", "name", "arguments", "syntax", "answer")

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """Rows of examples from token `prefix` on, padded at the end.

    `ids` (B, T) int32; `rows` (N,) and `columns` (N,) say which positions of `ids` predict a trained token,
    `targets` (N,) which token that is, `kinds` (N,) its kind as an index into KINDS. `indices` are the rows'
    places in the list of examples, `groups` their conversations where examples of one are kept together, else empty.
    """

    ids: Ints
    rows: Ints
    columns: Ints
    targets: Ints
    kinds: Ints
    indices: tuple[int, ...]
    prefix: int = 0
    groups: tuple[int, ...] = ()

    @property
    def trained(self) -> int:
        return len(self.targets)

    @property
    def padding(self) -> float:
        """Share of `ids` that is padding."""
        return 1.0 - self.real / self.ids.size

    @property
    def real(self) -> int:
        """Real tokens in `ids`, the shared prefix not counted."""
        return int((self.ids >= 0).sum())


def common_prefix(examples: Sequence[Example]) -> tuple[int, ...]:
    """The longest run of ids with which every example starts and in which none carries loss; at least
    MIN_PREFIX tokens, else empty. The last token before the first loss stays outside: it predicts a target."""
    if not examples:
        return ()
    shortest = min(max(e.first_loss - 1, 0) for e in examples)
    low, high = min(e.ids for e in examples), max(e.ids for e in examples)
    length = next((i for i in range(min(shortest, len(low), len(high))) if low[i] != high[i]),
                  min(shortest, len(low), len(high)))  # fmt: skip
    return low[:length] if length >= MIN_PREFIX else ()


def make_batch(
    examples: Sequence[Example], indices: Sequence[int], prefix: int = 0, groups: Sequence[int] | None = None
) -> Batch:
    """The examples at `indices`, without their first `prefix` tokens. Padding is -1 until the step (a pad
    is never a target: trap T11)."""
    chosen = [examples[i] for i in indices]
    longest = max(len(e) for e in chosen) - prefix - 1  # the last token predicts nothing
    width = _width(longest)
    ids = np.full((len(chosen), width), -1, np.int32)
    places: list[tuple[int, int, int, int]] = []
    for row, example in enumerate(chosen):
        body = example.ids[prefix:-1]
        ids[row, : len(body)] = body
        for span in example.spans:
            kind = KINDS.index(span.kind)
            places += [(row, p - 1 - prefix, example.ids[p], kind) for p in range(max(span.start, 1), span.end)]
    rows, columns, targets, kinds = (np.array(c, np.int32) for c in zip(*places, strict=True))
    own = tuple(groups[i] for i in indices) if groups else ()
    return Batch(ids, rows, columns, targets, kinds, tuple(indices), prefix, own)


def slices(batch: Batch, tokens: int, step: int = LENGTH_STEP) -> list[Batch]:
    """The batch in runs of its rows, each as wide as its own longest row and of at most `tokens` cells; widths are
    multiples of `step`.

    Rows stand in order of length, so a slice holds rows of about one length (T01): a run ends early where a
    further row would make more than a fifth of it padding, unless it is small.
    """
    lengths = (batch.ids >= 0).sum(axis=1).tolist()
    pieces = []
    for start, stop in slice_bounds(lengths, tokens, step):
        inside = (batch.rows >= start) & (batch.rows < stop)
        width = _width(max(lengths[start:stop]), step)
        ids = batch.ids[start:stop, :width]
        ids = np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=-1)
        pieces.append(replace(
            batch, ids=ids,
            rows=batch.rows[inside] - start, columns=batch.columns[inside], targets=batch.targets[inside],
            kinds=batch.kinds[inside], indices=batch.indices[start:stop], groups=batch.groups[start:stop],
        ))  # fmt: skip
    return pieces


def slice_bounds(lengths: Sequence[int], tokens: int, step: int = LENGTH_STEP) -> list[tuple[int, int]]:
    """From which row up to which each of `slices` goes, for rows of these lengths."""
    bounds, start = [], 0
    for row in range(1, len(lengths) + 1):
        width = _width(max(lengths[row - 1 : row + 1]), step) if row < len(lengths) else 0
        cells = width * (row + 1 - start)
        wasted = cells - sum(lengths[start : row + 1])
        if row == len(lengths) or cells > tokens or (cells > tokens // 2 and wasted > cells // 5):
            bounds.append((start, row))
            start = row
    return bounds


def take_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch, in their order."""
    place = np.full(len(batch.indices), -1, np.int32)
    place[list(rows)] = np.arange(len(rows))
    inside = place[batch.rows] >= 0
    ids = batch.ids[list(rows)]
    width = _width(int((ids >= 0).sum(axis=1).max()))
    return replace(
        batch, ids=ids[:, :width], rows=place[batch.rows[inside]], columns=batch.columns[inside],
        targets=batch.targets[inside], kinds=batch.kinds[inside], indices=tuple(batch.indices[r] for r in rows),
        groups=tuple(batch.groups[r] for r in rows) if batch.groups else (),
    )  # fmt: skip


def _width(length: int, step: int = LENGTH_STEP) -> int:
    return -(-length // step) * step


def plan_epoch(
    lengths: Sequence[int], batch_size: int, seed: int, *, tokens: int = 0, by_length: bool = False,
    groups: Sequence[int] | None = None,
) -> list[tuple[int, ...]]:  # fmt: skip
    """Every index once (T06, T25), in random batches whose rows stand in order of length.

    `by_length`: batches hold rows of one length, as far as there are enough; `tokens`: they do, and are as many as
    fill that many cells. Rows of one width, and the batches, stand in an order that the seed gives. That needs the
    least padding and the fewest shapes, but length goes with kind: a batch of nothing but the longest rows is all
    parallel calls, one of the shortest all refusals. Whether that costs accuracy is suspected, not shown
    (docs/log.md), so random batches are the default; `slices` saves the padding inside them.

    `groups`: rows of one number stay in one random batch, which is larger than `batch_size` where they are more.
    """
    rng = np.random.default_rng(seed)
    if groups and not by_length and not tokens:
        return [tuple(sorted(batch, key=lambda i: lengths[i])) for batch in _together(groups, batch_size, rng)]
    order = [int(i) for i in rng.permutation(len(lengths))]
    if not by_length and not tokens:
        batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
        return [tuple(sorted(batch, key=lambda i: lengths[i])) for batch in batches]
    order.sort(key=lambda i: _width(lengths[i]))  # stable: the seed's order within a width
    filled = _filled(order, lengths, tokens) if tokens else [
        order[k : k + batch_size] for k in range(0, len(order), batch_size)
    ]  # fmt: skip
    return [tuple(sorted(filled[int(k)], key=lambda i: lengths[i])) for k in rng.permutation(len(filled))]


def _together(groups: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Batches of whole groups: the largest first, each where it leaves least room. Which sizes stand together is the
    same for every seed, and so the number of batches; the seed says which groups of a size they are."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    units = list(members.values())
    units = sorted((units[int(k)] for k in rng.permutation(len(units))), key=len, reverse=True)
    batches: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(batch_size + 1)]  # batches with so much room
    for unit in units:
        room = next((r for r in range(len(unit), batch_size + 1) if by_room[r]), None)
        if room is None:
            batches.append([])
            place, room = len(batches) - 1, max(batch_size, len(unit))
        else:
            place = by_room[room].pop()
        batches[place] += unit
        by_room[room - len(unit)].append(place)
    return [batches[int(k)] for k in rng.permutation(len(batches))]


def _filled(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Runs of rows in order of width whose cells fill `tokens`; a row that is longer is a batch by itself."""
    groups: list[list[int]] = []
    for index in order:
        width = _width(lengths[index])  # the widest so far
        if groups and (len(groups[-1]) + 1) * width <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def plan_training(
    lengths: Sequence[int], batch_size: int, seed: int, *, start: int = 0, tokens: int = 0, by_length: bool = False,
    groups: Sequence[int] | None = None,
) -> Iterator[tuple[int, tuple[int, ...]]]:  # fmt: skip
    """Endless `(epoch, indices)` from batch number `start` on: the data cursor is that one number (T09)."""
    # As many in every epoch: how rows are grouped depends on widths and groups alone.
    how: Any = {"tokens": tokens, "by_length": by_length, "groups": groups}
    per_epoch = len(plan_epoch(lengths, batch_size, seed, **how))
    position = start
    while True:
        epoch, offset = divmod(position, per_epoch)
        for indices in plan_epoch(lengths, batch_size, seed + epoch, **how)[offset:]:
            yield epoch, indices
            position += 1
