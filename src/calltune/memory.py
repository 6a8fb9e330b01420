"""The most memory that a training run will take, from shapes and settings alone: nothing is loaded and nothing runs.

A step's memory is counted in numbers a token and layer: what the forward pass keeps for the backward pass, what one
layer's backward pass needs on top, and the logits of a chunk. The counts were read off measured peaks (the slope in
each width, docs/performance.md says how) in the three ways in which a step runs:

- `eager`: on a CPU with NumPy work (engine/cpu.py). Every array that the graph makes is held, of one slice at a time.
- `lazy`: on a GPU, or a CPU without that. Only what gradients need is held, but of the whole batch.
- both with checkpointing: the input of each layer, and everything of one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from calltune.batching import LENGTH_STEP, slice_bounds

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
# Beside arrays, on a CPU: what NumPy holds for a moment, and what the allocator does not give back.
EAGER_OVERHEAD = 60 << 20
PLAIN = 3.1  # times as many numbers where MLX's own norms, positions and SiLU run, evaluated one by one
QUICK_SIZE = 1 << 17  # numbers; smaller arrays run so as well (engine/cpu_layers.py)
LOOK_AHEAD = 8  # updates whose rows go through the frozen layers together (train.py)


@dataclass(frozen=True)
class Shape:
    """What of a model decides memory; widths are numbers a token. `keys`: of the key heads together, as of the value
    heads. `norms`: of a layer, as wide as `hidden`. `by_hand`: attention holds its scores, as with a soft cap."""

    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    weight_bytes: int
    itemsize: int
    layer_parameters: int  # of one layer
    norms: int = 2
    head_norms: bool = False
    silu: bool = True
    by_hand: bool = False
    capped_logits: bool = False

    def ends(self, name: str) -> tuple[int, int]:
        """Inputs and outputs of a projection."""
        width = {"q": (self.hidden, self.queries), "k": (self.hidden, self.keys), "v": (self.hidden, self.keys),
                 "o": (self.queries, self.hidden), "gate": (self.hidden, self.inner), "up": (self.hidden, self.inner),
                 "down": (self.inner, self.hidden)}  # fmt: skip
        return width[name]


@dataclass(frozen=True)
class Way:
    """How a run computes. `adapted`: of PROJECTIONS; `layers`: that are trained; `fused`: the device's attention
    keeps no scores for the gradient; `base`: bytes of the process before the model, 0 where the device's count."""

    kind: Literal["eager", "lazy"]
    layers: int
    adapted: frozenset[str] = frozenset({"q", "v"})
    rank: int = 16
    full: bool = False
    checkpoint: bool = False
    dropout: bool = False
    plain_layers: bool = False  # of `eager`: norms, positions and SiLU by MLX itself
    selecting_head: bool = True
    frozen_trunk: bool = True
    logit_bytes: int = 64 << 20
    slice_cells: int = 768
    trunk_cells: int = 2048
    width_step: int = LENGTH_STEP
    trunk_bytes: int = 0  # of rows' states kept in the counted memory, at most
    fused: bool = False
    base: int = 0


@dataclass(frozen=True)
class Rows:
    """Training rows as they run: tokens of each behind a shared prefix of `prefix`, how many of them carry loss, and
    the batches, as places in both. `epochs` tells whether the trunk's states are kept, `stored` of how many tokens
    (0: those of `lengths`)."""

    lengths: Sequence[int]
    trained: Sequence[int]
    batches: Sequence[Sequence[int]]
    prefix: int = 0
    epochs: float = 1.0
    stored: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what they are for."""

    weights: int
    adapter: int  # with gradients and the optimizer's state
    activations: int
    logits: int
    trunk: int
    process: int

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in
                ("weights", "adapter", "activations", "logits", "trunk", "process")}  # fmt: skip


def predict(shape: Shape, way: Way, rows: Rows) -> Estimate:
    """The peak of a run: the largest of its moments (loss, backward pass, trunk), on what always lies there."""
    below = shape.layers - way.layers  # without a trunk they run with each batch, and keep nothing either
    worst, logits = 0, 0
    for batch in rows.batches:
        memory = _batch(shape, way, rows, batch)
        if sum(memory) > worst + logits:
            worst, logits = memory
    passing = _trunk_pass(shape, way, rows) if below else 0
    adapter, updating = _adapter(shape, way)
    trunk = _trunk_states(shape, way, rows, below) if way.frozen_trunk and below else 0
    return Estimate(
        shape.weight_bytes, adapter, max(worst, passing - logits, updating - logits), logits, trunk,
        way.base + (EAGER_OVERHEAD if way.kind == "eager" else 0),
    )  # fmt: skip


def _batch(shape: Shape, way: Way, rows: Rows, batch: Sequence[int]) -> tuple[int, int]:
    """Bytes of activations and of logits at the peak of one batch."""
    lengths = [rows.lengths[i] for i in batch]
    pieces = []
    for start, stop in slice_bounds(lengths, way.slice_cells, way.width_step):
        width = -(-max(lengths[start:stop]) // way.width_step) * way.width_step
        pieces.append((stop - start, width, sum(rows.trained[i] for i in batch[start:stop])))
    prefix = rows.prefix
    kept_prefix = _kept(shape, way, prefix, prefix) if prefix else 0
    if way.kind == "eager":  # a slice's arrays are gone before the next one's and before the prefix's gradient
        found = [(_kept(shape, way, n * w, prefix + w) + _once(shape, way, n * w, prefix + w),
                  _logits(shape, way, targets, n * w)) for n, w, targets in pieces]  # fmt: skip
        activations, logits = max(found, key=lambda pair: sum(pair))
        backward = _once(shape, way, prefix, prefix) if prefix else 0
        return kept_prefix + max(activations, backward), logits
    kept = kept_prefix + sum(_kept(shape, way, n * w, prefix + w) for n, w, _ in pieces)
    once = max(_once(shape, way, n * w, prefix + w) for n, w, _ in pieces)
    if way.checkpoint:  # the layer's second forward pass
        once = once * 4 // 3
    logits = _logits(shape, way, max(targets for _, _, targets in pieces), sum(n * w for n, w, _ in pieces))
    # The logits are gone before the layers' gradients are made.
    return kept + max(0, once - logits), logits


def numbers(shape: Shape, way: Way) -> tuple[int, float]:
    """Numbers a token and layer that are held until the gradient is done, and matrices of scores."""
    has = way.adapted.__contains__
    low: float = way.rank * len(way.adapted)
    if way.full:
        has, low = {*PROJECTIONS}.__contains__, 0
    if way.kind == "eager":
        gelu = not shape.silu
        hidden = 8 + shape.norms + has("o") * (1 + gelu) + has("down") * (1 + gelu)
        hidden += gelu * (has("v") + has("gate") + has("up"))
        inner = (11 if gelu else 4) + has("gate") * (13 if gelu else 2) + has("up") * 3
        inner += (has("gate") and has("up")) * (1 if gelu else 2)
        queries = 4 + gelu + 3 * has("q") + (2 * has("v") if shape.by_hand else 0)
        keys = 3 + shape.head_norms + 3 * has("k") + 3 * has("v")
        scores = 6.0 if shape.by_hand else 0.0
        low *= 5
        if way.full:  # no second output beside the base's
            hidden, inner, queries, keys = hidden - 2, inner - 2, queries - 1, keys - 2
    else:
        hidden = 1 + shape.norms + (has("gate") or has("up"))
        inner = (4 if shape.silu else 6) + has("down")
        keys = 2 + shape.head_norms
        # A fused attention keeps its output, another one its weights; by hand, the capped scores as well.
        scores = 2.0 if shape.by_hand else 0.0 if way.fused else 1.0
        queries = 1 + shape.head_norms + (has("o") or (way.fused and not shape.by_hand))
        low *= 4
    if way.dropout and not way.full:  # the input that each adapter sees, and its mask
        copies = 3.0 if way.kind == "eager" else 1.25
        low += copies * sum(shape.ends(name)[0] for name in way.adapted)
    total = hidden * shape.hidden + inner * shape.inner + queries * shape.queries + keys * shape.keys + low
    return int(total), scores


def _kept(shape: Shape, way: Way, tokens: int, seen: int) -> int:
    """Bytes held in the trained layers for `tokens` that see up to `seen` tokens each."""
    own, scores = numbers(shape, way)
    if way.kind == "eager" and (way.plain_layers or tokens * shape.hidden < QUICK_SIZE):
        own = int(own * PLAIN)
    layer = int(tokens * (own + scores * shape.heads * seen)) * shape.itemsize
    if way.checkpoint:
        return way.layers * tokens * shape.hidden * shape.itemsize + layer
    return way.layers * layer


def _once(shape: Shape, way: Way, tokens: int, seen: int) -> int:
    """Bytes that one layer's backward pass takes for a moment."""
    if way.kind == "eager":
        if shape.silu:
            own = 7 * shape.hidden if {"gate", "up"} & way.adapted else 3 * (shape.hidden + shape.inner)
        else:
            own = 3 * shape.hidden + (0 if "gate" in way.adapted else 13 * shape.inner)
        scores = 0
    else:
        own = 8 * shape.hidden + 6 * shape.inner + 3 * shape.queries
        scores = 2 if shape.by_hand or not way.fused else 0
    return tokens * (own + scores * shape.heads * seen) * shape.itemsize


def _logits(shape: Shape, way: Way, targets: int, cells: int) -> int:
    """Bytes of the logits of the largest chunk, of their float32 copy, and of their gradient."""
    if not way.selecting_head:
        return cells * shape.vocabulary * (4 * 3 + 2 * shape.itemsize)
    chunk = min(targets, max(1, way.logit_bytes // (4 * shape.vocabulary)))
    if way.full and way.layers == shape.layers:
        chunk = targets  # a head that is trained runs whole
    copies = 4 * 3 + shape.itemsize * (1 if not shape.capped_logits else 3)
    return chunk * shape.vocabulary * copies


def _adapter(shape: Shape, way: Way) -> tuple[int, int]:
    """Bytes of trained numbers, gradients, moments and best values while a step runs, and what the update takes on
    top of them when the step's activations are gone. An adapter is small, and counts whole."""
    if way.full:  # the weights themselves are counted as such
        size = shape.layer_parameters * way.layers * shape.itemsize
        if way.layers == shape.layers:
            size = shape.weight_bytes
        return 4 * size, 4 * size if way.kind == "eager" else 2 * size
    size = sum(way.rank * sum(shape.ends(name)) for name in way.adapted) * way.layers * 4
    return size * (9 if way.kind == "eager" else 7), 0


def _trunk_pass(shape: Shape, way: Way, rows: Rows) -> int:
    """Bytes of a slice in the frozen layers, which keep nothing."""
    longest = max(rows.lengths)
    tokens = min(max(way.trunk_cells, longest), sum(rows.lengths))
    own = 4 * shape.inner + 6 * shape.hidden + 4 * shape.queries
    scores = 3 * shape.heads * (rows.prefix + longest) if shape.by_hand else 0
    return tokens * (own + scores) * shape.itemsize


def _trunk_states(shape: Shape, way: Way, rows: Rows, layers: int) -> int:
    """Bytes of the states above the frozen layers: of all rows over several epochs, as far as there is room, else of
    the next updates' rows; and the prefix's keys and values there."""
    token = shape.hidden * shape.itemsize
    batch = max(sum(rows.lengths[i] for i in b) for b in rows.batches) * token
    held = (rows.stored or sum(rows.lengths)) * token if rows.epochs > 1 else LOOK_AHEAD * batch
    prefix = rows.prefix * (shape.hidden + layers * 2 * shape.keys) * shape.itemsize
    return min(held, way.trunk_bytes) + batch + prefix
