"""What of a step a model lets us save: the switches, each checked against the plain logits before it is used, and
the shared prefix as its rows see it.

- selecting head: logits at the positions that carry loss only (engine/losses.py)
- shared prefix: tokens with which every row starts run once a step, with gradients through them; so do those that
  the examples of one conversation share (conversations.py)
- frozen trunk: layers below the trained ones run once a row, not once an epoch (engine/trunk_states.py)
- fast CPU: attention and element-wise functions on NumPy (engine/cpu.py)

Each is exact; each that a model does not allow is left out, and `Plan.notes` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.parts import (
    Parts,
    attention_tolerance,
    check_parts,
    find_parts,
    logit_difference,
    run_body,
    run_head,
    run_top,
    run_trunk,
)
from calltune.engine.prefix import Attached, Recorder, supports_sharing
from calltune.engine.tree import extend
from calltune.engine.trunk import TrunkStore, store_limits


@dataclass(frozen=True)
class Speed:
    """The switches. All off is the plain way: every token, every layer, every logit."""

    selecting_head: bool = True
    shared_prefix: bool = True
    frozen_trunk: bool = True
    fast_cpu: bool = True
    cpu_layers: bool = False  # norms, positions, SiLU and LoRA on NumPy too
    trunk_bytes: int | None = None  # of trunk states in memory (None: a quarter of it); what has no room runs anew
    trunk_disk_bytes: int = 0  # and on disk
    logit_bytes: int = 0  # of float32 logits at a time; 0: 64 MiB on a CPU, 256 on a GPU
    compile: bool = False  # the step as one compiled function, where attention is MLX's own
    checkpoint: bool = False  # activations inside the trained layers are computed again in the backward pass


@dataclass
class Plan:
    """How one run computes its loss. Made by `plan_step`; holds the states of the frozen trunk."""

    model: nn.Module
    parts: Parts | None
    cut: int  # layers [0, cut) are a frozen trunk; 0: none
    prefix: tuple[int, ...]
    head_frozen: bool
    speed: Speed
    trees: bool = False  # examples of one conversation share what they have in common
    notes: list[str] = field(default_factory=list)
    store: TrunkStore = field(default_factory=lambda: TrunkStore(0))
    prefix_states: mx.array | None = None  # (1, P, D)
    prefix_keys: list[tuple[mx.array, mx.array]] = field(default_factory=list)
    split: bool = True  # whether the model's attention takes `Split` keys where they are quicker
    compiled_trunk: Callable[[mx.array], mx.array] | None = None  # the frozen layers (engine/trunk_states.py)

    def dimensions(self) -> tuple[int, int, int]:
        """Layers, width of the hidden states, and bytes a number of them."""
        assert self.parts is not None
        states = run_trunk(self.parts, mx.zeros((1, 1), mx.int32), 0)  # lazy: only its shape is looked at
        return len(self.parts.layers), states.shape[-1], states.itemsize

    @property
    def compiles(self) -> bool:
        return self.speed.compile and self.parts is not None and not is_fast()

    @property
    def splits(self) -> bool:
        """Whether attention takes `Split` keys now."""
        return self.split and is_fast()

    @property
    def checkpoint(self) -> bool:
        return self.speed.checkpoint and self.model.training

    def context(self) -> AbstractContextManager[None]:
        return fast_cpu(self.speed.fast_cpu, layers=self.speed.cpu_layers)


def plan_step(
    model: nn.Module, prefix: tuple[int, ...], speed: Speed, vocabulary: int, *, dropout: float, trees: bool = False
) -> Plan:
    """Decide what can be saved for this model, checking each saving against the plain logits first. `trees`: some
    examples are turns of one conversation."""
    if any(value.dtype != mx.float32 for _, value in tree_flatten(model.parameters())):
        speed = replace(speed, fast_cpu=False)  # NumPy has no bfloat16, and gains nothing for float16
    parts = find_parts(model) if speed.selecting_head else None
    plan = Plan(model, parts, 0, (), True, speed)
    memory, device = store_limits(speed.trunk_bytes)
    plan.store = TrunkStore(memory, speed.trunk_disk_bytes, device)
    trained = [name for name, _ in tree_flatten(model.trainable_parameters())]
    plan.head_frozen = all(".layers." in f".{name}" for name in trained)
    if parts is None:
        plan.notes.append("selecting head off" if not speed.selecting_head else
                          f"plain loss: the parts of {type(model).__name__} were not found")  # fmt: skip
        return plan
    with plan.context():
        if reason := check_parts(model, parts, 0, vocabulary):
            plan.parts = None
            plan.notes.append(f"plain loss: the model run in parts {reason}")
            return plan
        if speed.frozen_trunk and plan.head_frozen:
            cut = first_trained_layer(parts)
            if cut and not (reason := check_parts(model, parts, cut, vocabulary)):
                plan.cut = cut
            elif cut:
                plan.notes.append(f"no frozen trunk: {reason}")
        if (prefix or trees) and speed.shared_prefix:
            if dropout:
                plan.notes.append("no shared prefix: dropout would be the same for all rows")
            elif reason := _share_prefix(plan, vocabulary):
                plan.notes.append(f"no shared prefix: {reason}")
            else:
                plan.prefix, plan.trees = prefix, trees
        if plan.cut and plan.prefix:
            _run_prefix_trunk(plan)
    return plan


def _share_prefix(plan: Plan, vocabulary: int) -> str | None:
    """None when sharing works, with `Split` keys or, for models that attend by hand, with joined ones."""
    for plan.split in (True, False):
        reason = check_prefix(plan, vocabulary)
        if reason is None:
            return None
    return reason


def first_trained_layer(parts: Parts) -> int:
    """Index of the lowest layer with trainable parameters."""
    return next((i for i, layer in enumerate(parts.layers) if tree_flatten(layer.trainable_parameters())), 0)


def check_prefix(plan: Plan, vocabulary: int) -> str | None:
    """None when 2 rows after a shared prefix of 8 tokens give the plain logits, else how they differ."""
    model, parts = plan.model, plan.parts
    if parts is None or not supports_sharing(model):
        return "the model's layers keep more than keys and values"
    ids = mx.random.randint(0, vocabulary, (2, 14), key=mx.random.key(1))
    ids = mx.concatenate([mx.broadcast_to(ids[:1, :8], (2, 8)), ids[:, 8:]], axis=1)
    plain = model(ids)[:, 8:]
    try:
        split = plan.splits
        caches = extend(parts, ids[:1, :5], 0, None, split=split)
        caches = extend(parts, ids[:1, 5:8], 0, caches, split=split)  # as the turns of a conversation do
        worst = logit_difference(plain, run_head(parts, run_body(parts, ids[:, 8:], caches)))
    except Exception as error:  # an architecture that is built otherwise may fail anywhere
        return f"{type(error).__name__}: {error}"
    return None if worst <= attention_tolerance(plain) else f"logits differ by {worst:.2g}"


def _run_prefix_trunk(plan: Plan) -> None:
    """The prefix through the frozen layers, once a run: its states and its keys and values there."""
    parts = plan.parts
    assert parts is not None
    caches = [Recorder() for _ in parts.layers]
    plan.prefix_states = run_trunk(parts, mx.array([plan.prefix]), plan.cut, caches)
    plan.prefix_keys = [cache.keys_values for cache in caches[: plan.cut] if cache.keys_values]
    mx.eval(plan.prefix_states, plan.prefix_keys)


def prefix_cache(plan: Plan) -> list[Attached] | None:
    """Caches through which the rows see the prefix, differentiable in the trained layers."""
    parts = plan.parts
    if parts is None or not plan.prefix:
        return None
    if plan.prefix_states is None:
        return _attach(
            _record(parts, lambda c: run_body(parts, mx.array([plan.prefix]), c, checkpoint=plan.checkpoint)), plan
        )
    states = plan.prefix_states
    caches = _record(parts, lambda c: run_top(parts, states, plan.cut, c, checkpoint=plan.checkpoint))
    for cache, pair in zip(caches, plan.prefix_keys, strict=False):
        cache.keys_values = pair
    return _attach(caches, plan)


def _record(parts: Parts, run: Callable[[list[Recorder]], Any]) -> list[Recorder]:
    caches = [Recorder() for _ in parts.layers]
    run(caches)
    return caches


def _attach(caches: Sequence[Recorder], plan: Plan) -> list[Attached]:
    split = plan.splits
    return [Attached(*cache.keys_values, split=split) for cache in caches if cache.keys_values]
