"""A run of the model over prompts in pieces, between which others may have their turn."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import mlx.core as mx

from calltune.engine.prefix import Decoding

# As many tokens as a run of the model costs beyond its own: on a CPU reading the weights, on a GPU its launches.
RUN_COST = {"cpu": 32, "gpu": 2048}
# The most tokens of a run that others wait for: a second of a CPU with the smallest model, a tenth of a GPU. That is
# so many times what the run itself costs that pieces take little longer than the whole.
PIECE = {"cpu": 512, "gpu": 4096}

Run = Callable[[mx.array, list[Decoding]], mx.array]
Made = TypeVar("Made")


def device_kind() -> str:
    """Of the tables above."""
    return "cpu" if mx.default_device() == mx.cpu else "gpu"


def run_over(
    run: Run,
    rows: Sequence[Sequence[int]],
    caches: list[Decoding],
    piece: int | None = None,
    wanted: Callable[[int], bool] = lambda row: True,
) -> Generator[None, None, tuple[list[int], mx.array]]:
    """Runs over rows, padded on the left, with new caches; returns which, and their last hidden states (B, 1, D).

    With `piece` in runs of so many tokens, and with a pause before each: rows that are not `wanted` any more after it
    are left out. None: in one run, without a pause.
    """
    width, at = max(map(len, rows)), 0
    left, hidden = list(range(len(rows))), mx.array([])
    for cache in caches:
        cache.step = width  # room for all at once: no piece copies those before it
    while at < width:
        if piece:
            yield
            left = _kept(left, [row for row in left if wanted(row)], caches)
            if not left:
                break
        pads = [width - len(rows[row]) for row in left]
        at = max(at, min(pads))
        stop = min(width, at + max(1, piece // len(left))) if piece else width
        ids = [([0] * pad + list(rows[row]))[at:stop] for pad, row in zip(pads, left, strict=True)]
        caches[0].slots.extend([min(max(pad - at, 0), stop - at) for pad in pads], stop - at)
        hidden = run(mx.array(ids), caches)[:, -1:]
        mx.eval(hidden, [(cache.keys, cache.values) for cache in caches])
        at = stop
    return left, hidden


def _kept(before: list[int], rows: list[int], caches: list[Decoding]) -> list[int]:
    """The rows, with caches that are of them alone."""
    if rows and len(rows) < len(before):
        places = [before.index(row) for row in rows]
        front = caches[0].slots.keep(places)
        for cache in caches:
            cache.keep(mx.array(places, mx.int32), front)
    return rows


def finished(work: Generator[object, None, Made]) -> Made:
    """What work with pauses comes to, without any."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            made: Made = end.value
            return made
