"""A model taken apart at two places: below the trained layers (trunk) and in front of the vocabulary (head).

Any mlx-lm architecture whose body is a loop over `self.layers` between an embedding and a norm, followed by a
head that works token by token, can be run in parts without changing it: its own `__call__` runs on a stand-in
in which some attributes are replaced. MLX is lazy, so what a replaced part would have computed never is. Each
use is checked numerically against the whole model (`check_parts`); where it differs, the plain way is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from calltune.engine.cpu import detached, is_fast


class StandIn:
    """Behaves like `target`, but for the attributes in `changed` and, if given, for being called."""

    def __init__(self, target: Any, call: Callable[..., Any] | None = None, **changed: Any) -> None:
        self.__dict__.update(_target=target, _call=call, **changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_target"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.__dict__["_call"]
        return call(*args, **kwargs) if call else self.__dict__["_target"](*args, **kwargs)


@dataclass(frozen=True)
class Parts:
    """Where a model keeps its body: `owner` applies the head, `owner.<body>` holds embedding and layers."""

    owner: nn.Module
    body: str

    @property
    def backbone(self) -> Any:
        return getattr(self.owner, self.body)

    @property
    def layers(self) -> Sequence[nn.Module]:
        layers: Sequence[nn.Module] = self.backbone.layers
        return layers


def find_parts(model: nn.Module) -> Parts | None:
    """The parts of a model, or None where it is not built from them."""
    for owner in (model, getattr(model, "language_model", None)):
        for body in ("model", "transformer", "backbone"):
            if hasattr(getattr(owner, body, None), "layers"):
                return Parts(owner, body)
    return None


def run_body(parts: Parts, ids: mx.array, cache: Any = None, *, checkpoint: bool = False) -> mx.array:
    """Hidden states (B, T, D) that enter the head."""
    if checkpoint:
        return _run_with(parts, [_checkpointed(layer) for layer in parts.layers], ids, cache)
    out: mx.array = parts.backbone(ids, cache)
    return out


def run_head(parts: Parts, hidden: mx.array) -> mx.array:
    """Logits (..., V) of hidden states (..., D), with everything that the model does after its body."""
    body = StandIn(parts.backbone, call=lambda *_, **__: hidden)
    owner = StandIn(parts.owner, **{parts.body: body})
    logits: mx.array = type(parts.owner).__call__(owner, mx.zeros(hidden.shape[:2], mx.int32))
    return logits


def run_trunk(parts: Parts, ids: mx.array, cut: int, cache: Any = None) -> mx.array:
    """What enters layer `cut`, (B, T, D): embedding and layers [0, cut) only."""
    caught: list[mx.array] = []

    def catch(x: mx.array, *_: Any, **__: Any) -> mx.array:
        caught.append(x)
        return x

    layers = [layer if i < cut else StandIn(layer, call=catch) for i, layer in enumerate(parts.layers)]
    _run_with(parts, layers, ids, cache)
    return caught[0]


def run_top(parts: Parts, hidden: mx.array, cut: int, cache: Any = None, *, checkpoint: bool = False) -> mx.array:
    """Hidden states that enter the head, from what entered layer `cut`: layers [cut, n) and the norm."""
    top = [_checkpointed(layer) if checkpoint else layer for layer in parts.layers[cut:]]
    layers = [*(StandIn(layer, call=lambda *_, **__: hidden) for layer in parts.layers[:cut]), *top]
    return _run_with(parts, layers, mx.zeros(hidden.shape[:2], mx.int32), cache)


def _checkpointed(layer: nn.Module) -> StandIn:
    """The layer, of which the backward pass keeps the input only and runs it again.

    A stand-in for this one call, where mlx-lm's `grad_checkpoint` changes the layer's class for good (T19). What
    gradients flow to must be an input of `mx.checkpoint`: the trained arrays, the hidden states, and the prefix's
    keys and values that the cache holds or, under the prefix itself, gives back.
    """

    def call(hidden: mx.array, mask: Any = None, cache: Any = None, *args: Any, **kwargs: Any) -> mx.array:
        shared = list(getattr(cache, "prefix", ()))

        def inner(trained: Any, hidden: mx.array, *shared: mx.array) -> list[mx.array]:
            layer.update(trained)
            held = cache.holding(shared) if shared else cache
            out = layer(hidden, mask, held, *args, **kwargs)
            return [out, *(getattr(held, "keys_values", None) or ())]

        trained = layer.trainable_parameters()
        run = _checkpointed_now if is_fast() else mx.checkpoint
        out, *keys_values = run(inner)(trained, hidden, *shared)
        layer.update(trained)  # `inner` left those of its own graph in the layer
        if keys_values:
            cache.keys_values = tuple(keys_values)
        result: mx.array = out
        return result

    return StandIn(layer, call=call)


def _checkpointed_now(inner: Callable[..., list[mx.array]]) -> Callable[..., list[mx.array]]:
    """`mx.checkpoint` for work that is evaluated while the graph is built: `mx.checkpoint` would keep what `inner`
    has evaluated on the way, which here is everything."""

    def call(trained: Any, *inputs: mx.array) -> list[mx.array]:
        names, values = zip(*tree_flatten(trained), strict=True) if tree_flatten(trained) else ((), ())

        def flat(*arrays: mx.array) -> list[mx.array]:
            return inner(tree_unflatten(list(zip(names, arrays, strict=False))), *arrays[len(names) :])

        @mx.custom_function
        def run(*arrays: mx.array) -> tuple[mx.array, ...]:
            return tuple(detached(made) for made in flat(*map(detached, arrays)))

        @run.vjp
        def run_vjp(primals: Any, cotangents: Any, outputs: Any) -> Any:
            given = [detached(c) for c in (cotangents if isinstance(cotangents, (tuple, list)) else [cotangents])]
            _, grads = mx.vjp(flat, [detached(array) for array in primals], given)
            mx.eval(grads)
            return tuple(detached(grad) for grad in grads)

        made = run(*values, *inputs)
        return list(made) if isinstance(made, (tuple, list)) else [made]

    return call


def _run_with(parts: Parts, layers: list[Any], ids: mx.array, cache: Any) -> mx.array:
    body = parts.backbone
    out: mx.array = type(body).__call__(StandIn(body, layers=layers), ids, cache)
    return out


def logit_difference(plain: mx.array, ours: mx.array) -> float:
    """The largest difference of two arrays of logits, relative to the largest plain one, in float32."""
    plain, ours = plain.astype(mx.float32), ours.astype(mx.float32)
    return float((mx.abs(plain - ours).max() / mx.maximum(mx.abs(plain).max(), 1e-6)).item())


def attention_tolerance(logits: mx.array) -> float:
    """How far logits may be from others that another attention kernel took part in, relative to the largest one.

    In 16 bits kernels differ: 0.066 for Gemma-3-270M on an H100, where a wrong mask gives 0.77. With less room,
    sharing was off there, and 64 replies of 32 tokens took 14 s instead of 0.7.
    """
    return 2e-2 if logits.dtype == mx.float32 else 2e-1


def check_parts(model: nn.Module, parts: Parts, cut: int, vocabulary: int, tolerance: float = 1e-3) -> str | None:
    """None when the model run in parts gives the plain logits (a probe of 2 x 12 tokens), else how it differs.

    The tolerance is relative to the largest logit and wide enough for bfloat16 rounding.
    """
    ids = mx.random.randint(0, vocabulary, (2, 12), key=mx.random.key(0))
    plain = model(ids)
    try:
        hidden = run_top(parts, run_trunk(parts, ids, cut), cut) if cut else run_body(parts, ids)
        worst = logit_difference(plain, run_head(parts, hidden))
    except Exception as error:  # an architecture that is built otherwise may fail anywhere
        return f"{type(error).__name__}: {error}"
    return None if worst <= tolerance else f"logits differ by {worst:.2g}"
