"""Does a training run fit the memory, and which settings would? Predictions by memory.py, for settings and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calltune.batching import common_prefix, plan_epoch
from calltune.conversations import conversation_groups
from calltune.engine.footprint import device_memory, fused_attention, planned_model
from calltune.engine.losses import CHUNK_BYTES, GPU_CHUNK_BYTES
from calltune.engine.probe import on_gpu
from calltune.engine.step import CPU_SLICE_TOKENS, SLICE_TOKENS
from calltune.engine.trunk import store_limits
from calltune.engine.trunk_states import GPU_TRUNK_SLICE_TOKENS, TRUNK_SLICE_TOKENS
from calltune.errors import InputError
from calltune.memory import PROJECTIONS, Estimate, Rows, Shape, Way, predict
from calltune.platform.process_memory import process_bytes
from calltune.prepare import prepare
from calltune.render import Example
from calltune.settings import TrainSettings

ROOM = 0.9  # of the memory may be planned with: other programs, and what predictions miss
COMPILED_WIDTH = 64
SHORTEST = 128  # tokens, of a limit that is proposed
JOINED = {"qkv_proj": ("q", "k", "v"), "gate_up_proj": ("gate", "up")}
FASTER = "smollm2-135m"  # whose tokenizer rows have where a bare shape is asked for


@dataclass(frozen=True)
class Proposal:
    """Settings that would fit, as changes of those asked for; `dropped` rows are longer than they allow."""

    changes: dict[str, Any]
    estimate: Estimate
    dropped: int = 0

    @property
    def flags(self) -> str:
        shown = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
                 for name, value in self.changes.items()]  # fmt: skip
        return " ".join(shown)


def batching(settings: TrainSettings) -> dict[str, Any]:
    """How rows are put into batches, for `plan_epoch` and `plan_training`."""
    by_length = settings.batches == "length"
    return {"batch_size": settings.batch_size, "tokens": settings.max_tokens_per_batch, "by_length": by_length}


def run_rows(
    examples: Sequence[Example],
    valid: Sequence[Example],
    settings: TrainSettings,
    prefix: int,
    *,
    shared: bool = False,
) -> Rows:
    """Rows and batches as a run of these examples has them, of its first epochs. `shared`: examples of one
    conversation are one row, of the longest one's tokens and of what the others do not share with it."""
    lengths = [len(e) - prefix - 1 for e in examples]
    trained = [e.trained for e in examples]
    epochs = settings.epochs if settings.iters is None else settings.iters * settings.batch_size / len(examples)
    groups = conversation_groups(examples, prefix) if shared else None
    batches: list[Sequence[int]] = []
    for epoch in range(min(3, max(1, round(epochs)))):
        batches += plan_epoch(lengths, **batching(settings), seed=settings.seed + epoch, groups=groups)
    stored = sum(len(e) - prefix - 1 for e in [*examples, *valid])
    if groups:
        members: dict[int, list[int]] = {}
        for row, group in enumerate(groups):
            members.setdefault(group, []).append(row)
        places = {group: place for place, group in enumerate(members)}
        batches = [sorted({places[groups[i]] for i in batch}) for batch in batches]
        ends = [len(e) - e.first_loss for e in examples]
        lengths, trained = (
            [max(lengths[i] for i in rows) + sum(sorted(ends[i] for i in rows)[:-1]) for rows in members.values()],
            [sum(trained[i] for i in rows) for rows in members.values()],
        )
    return Rows(lengths, trained, batches, prefix, epochs, stored)


def adapted(keys: Sequence[str]) -> frozenset[str]:
    """Of PROJECTIONS; a name that is not known counts as all, so that the prediction is not too low."""
    found: set[str] = set()
    for key in keys:
        name = key.rsplit(".", 1)[-1]
        short = name.removesuffix("_proj")
        found |= set(JOINED.get(name, (short,) if short in PROJECTIONS else PROJECTIONS))
    return frozenset(found)


def run_way(shape: Shape, settings: TrainSettings, base: int) -> Way:
    """How a run with these settings computes on this machine; `base`: bytes of the process without the model."""
    gpu = on_gpu()
    eager = settings.fast_cpu and not gpu and shape.itemsize == 4
    compiled = settings.compile and gpu and not eager
    memory, device = store_limits(None if settings.trunk_memory_gb is None else int(settings.trunk_memory_gb * 1e9))
    return Way(
        kind="eager" if eager else "lazy",
        layers=shape.layers if settings.num_layers < 0 else min(settings.num_layers, shape.layers),
        adapted=adapted(settings.keys), rank=settings.rank, full=settings.fine_tune == "full",
        dropout=settings.dropout > 0, checkpoint=settings.grad_checkpoint, plain_layers=not settings.cpu_layers,
        selecting_head=settings.selecting_head, frozen_trunk=settings.frozen_trunk and settings.selecting_head,
        logit_bytes=settings.logits_mb << 20 or (GPU_CHUNK_BYTES if gpu else CHUNK_BYTES),
        slice_cells=CPU_SLICE_TOKENS if eager else SLICE_TOKENS,
        trunk_cells=GPU_TRUNK_SLICE_TOKENS if gpu else TRUNK_SLICE_TOKENS,
        width_step=COMPILED_WIDTH if compiled else 16,
        trunk_bytes=device if gpu else memory, fused=fused_attention(shape),
        base=0 if gpu else base,
    )  # fmt: skip


def predict_run(
    shape: Shape, settings: TrainSettings, train: Sequence[Example], valid: Sequence[Example], base: int
) -> Estimate:
    """The peak of a run of these examples: of the device's memory on a GPU, of the process on a CPU."""
    shared = settings.shared_prefix and settings.selecting_head and not settings.dropout
    prefix = len(common_prefix([*train, *valid])) if shared else 0
    return predict(shape, run_way(shape, settings, base), run_rows(train, valid, settings, prefix, shared=shared))


def memory_line(estimate: Estimate) -> list[str]:
    """What a run says of its memory before it starts."""
    have = device_memory()
    said = [f"memory: about {estimate.total / 1e9:.1f} GB of {have / 1e9:.1f}"]
    if estimate.total > have * ROOM:
        said.append("warning: the run may not fit the memory; `calltune doctor --fit MODEL DATA` tells what would")
    return said


def fit(settings: TrainSettings, memory_gb: float | None = None) -> dict[str, Any]:
    """Whether a run of `settings` fits this machine's memory (or `memory_gb`), and what would, if not. Nothing but
    shapes is read of the model. Raises InputError."""
    if memory_gb is not None and not 0 < memory_gb < 1e6:
        raise InputError(f"--memory is {memory_gb:g}", next_step="give the size in GB, as --memory 16")
    shape, tokenizer, dtype, quantised = planned_model(settings.model, settings.dtype, FASTER)
    if settings.num_layers > shape.layers or not settings.num_layers:
        raise InputError(f"num_layers is {settings.num_layers}, and the model has {shape.layers} layers",
                         next_step=f"give 1 to {shape.layers}, or -1 for all")  # fmt: skip
    prepared = prepare(settings, tokenizer)
    base = process_bytes()
    have = int(memory_gb * 1e9) if memory_gb is not None else device_memory()
    asked = predict_run(shape, settings, prepared.train, prepared.valid, base)
    report: dict[str, Any] = {
        "model": settings.model, "data": settings.data or settings.tools, "dtype": dtype,
        "device": "gpu" if on_gpu() else "cpu", "memory_gb": round(have / 1e9, 2),
        "rows": len(prepared.train), "longest": max(map(len, prepared.train)),
        "predicted_gb": _gb(asked.total), "parts_gb": {k: _gb(v) for k, v in asked.parts().items()},
        "fits": asked.total <= have * ROOM, "room": ROOM, "proposals": [],
    }  # fmt: skip
    if not report["fits"]:
        found = proposals(shape, settings, prepared.train, prepared.valid, base, int(have * ROOM), quantised)
        report["proposals"] = [
            {
                "settings": p.changes,
                "flags": p.flags,
                "predicted_gb": _gb(p.estimate.total),
                "dropped_rows": p.dropped,
            }
            for p in found
        ]
    return report


def _gb(size: int) -> float:
    return round(size / 1e9, 3)


def proposals(
    shape: Shape, settings: TrainSettings, train: Sequence[Example], valid: Sequence[Example], base: int, limit: int,
    quantised: bool = False,
) -> list[Proposal]:  # fmt: skip
    """Changes that fit `limit` bytes: each kind alone, by what it costs in speed, as little of it as is enough; where
    none of them is, all kinds one after the other until they are."""

    def attempt(changes: dict[str, Any]) -> Proposal:
        changed = replace(settings, **changes)
        own = _quantised(shape) if changes.get("dtype") == "quantized" else shape
        kept = [e for e in train if len(e) <= changed.max_seq_length]
        estimate = predict_run(own, changed, kept or [min(train, key=len)], valid if kept else [], base)
        return Proposal(changes, estimate, len(train) - len(kept))

    kinds = list(_kinds(shape, settings, train, quantised))
    found = []
    for kind in kinds:
        for changes in kind:
            proposal = attempt(changes)
            if proposal.estimate.total <= limit and proposal.dropped < len(train):
                found.append(proposal)
                break
    if found:
        return found
    return _together(kinds, attempt, lambda p: p.estimate.total <= limit and p.dropped < len(train))


def _together(
    kinds: Sequence[list[dict[str, Any]]],
    attempt: Callable[[dict[str, Any]], Proposal],
    fits: Callable[[Proposal], bool],
) -> list[Proposal]:
    """All kinds at once, then each of them, the dearest first, as mild as still fits."""
    chosen: list[dict[str, Any]] = []
    useful: list[list[dict[str, Any]]] = []
    for kind in kinds:
        before = attempt(_merged(chosen)).estimate.total
        best = min(kind, key=lambda changes: attempt(_merged([*chosen, changes])).estimate.total)
        if attempt(_merged([*chosen, best])).estimate.total < before:
            chosen.append(best)
            useful.append(kind)
    if not chosen or not fits(attempt(_merged(chosen))):
        return []
    for place in reversed(range(len(chosen))):
        for changes in [{}, *useful[place]]:
            milder = [*chosen[:place], changes, *chosen[place + 1 :]]
            if fits(attempt(_merged(milder))):
                chosen = milder
                break
    return [attempt(_merged(chosen))]


def _merged(changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for part in changes for name, value in part.items()}


def _kinds(
    shape: Shape, settings: TrainSettings, train: Sequence[Example], quantised: bool
) -> Iterator[list[dict[str, Any]]]:
    """What can be changed, each kind as a list from little to much, in the order of what it costs in speed."""
    way = run_way(shape, settings, 0)
    states = sum(map(len, train)) * shape.hidden * shape.itemsize if way.trunk_bytes else 0
    if states and settings.epochs > 1:
        yield [{"trunk_memory_gb": 0.0, "trunk_disk_gb": float(math.ceil(states / 1e8) / 10)}]
    if not settings.grad_checkpoint:
        yield [{"grad_checkpoint": True}]
    sizes = [s for s in (64, 32, 16, 8, 4, 2, 1) if s < settings.batch_size]
    if sizes and not settings.max_tokens_per_batch:  # as many rows an update as before
        yield [{"batch_size": s, "grad_accumulation": settings.grad_accumulation * -(-settings.batch_size // s)}
               for s in sizes]  # fmt: skip
    layers = shape.layers if settings.num_layers < 0 else settings.num_layers
    fewer = [n for n in (24, 16, 12, 8, 6, 4, 2, 1) if n < layers]
    if fewer:
        yield [{"num_layers": n} for n in fewer]
    lengths = sorted({len(e) for e in train})
    shorter = [n for n in (1536, 1024, 768, 512, 384, 256, SHORTEST) if lengths[0] <= n < lengths[-1]]
    if shorter:
        yield [{"max_seq_length": n} for n in shorter]
    if quantised and settings.dtype != "quantized":
        yield [{"dtype": "quantized"}]


def _quantised(shape: Shape) -> Shape:
    """Weights of 4 bits with a scale and a bias of 16 bits for each 64, as mlx-lm's; computed in half precision."""
    return replace(shape, weight_bytes=int(shape.weight_bytes / shape.itemsize * 4.5 / 8), itemsize=2)
