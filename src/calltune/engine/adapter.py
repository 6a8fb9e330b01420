"""Adapters: LoRA, DoRA or all weights, by mlx-lm's layers, and in its file form.

`adapters.safetensors` and `adapter_config.json` are what `mlx_lm.load(model, adapter_path=...)` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_adapters

from calltune.engine.state import read_arrays, write_arrays
from calltune.errors import CannotFinish, InputError, Problem
from calltune.platform.paths import atomic_write

Kind = Literal["lora", "dora", "full"]
LINEAR = (nn.Linear, nn.QuantizedLinear)


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained. `keys` are endings of module names inside a layer (`q_proj`), or `all`; `alpha`, if
    given, sets `scale = alpha / rank` as in peft. The same words as in mlx-lm, whose default keys are `all`."""

    kind: Kind = "lora"
    num_layers: int = 8
    rank: int = 16
    scale: float = 20.0
    dropout: float = 0.0
    keys: tuple[str, ...] = ("q_proj", "v_proj")
    alpha: float | None = None

    @property
    def strength(self) -> float:
        return self.scale if self.alpha is None else self.alpha / self.rank


def add_adapter(model: nn.Module, settings: AdapterSettings, seed: int = 0) -> list[str]:
    """Make the trainable parts of a frozen model; returns the full `keys`. Raises InputError.

    Everything else stays frozen, so that `model.trainable_parameters()` is what is saved.
    """
    model.freeze()
    layers = model.layers
    count = len(layers) if settings.num_layers < 0 else settings.num_layers
    _check(settings, count, len(layers))
    if settings.kind == "full":
        for layer in layers[len(layers) - count :]:
            layer.unfreeze()
        if count == len(layers):
            model.unfreeze()
        return []
    keys = resolve_keys(layers, settings.keys)
    mx.random.seed(seed)
    parameters = {"rank": settings.rank, "scale": settings.strength, "dropout": settings.dropout, "keys": keys}
    linear_to_lora_layers(model, count, parameters, use_dora=settings.kind == "dora")
    return keys


def resolve_keys(layers: Iterable[nn.Module], wanted: Iterable[str]) -> list[str]:
    """Full module names (`self_attn.q_proj`) for endings; `all` is every linear layer. Raises InputError."""
    present: dict[str, None] = {}
    for layer in layers:
        for name, module in layer.named_modules():
            if isinstance(module, LINEAR) or hasattr(module, "to_lora"):
                present[name] = None
    wanted = tuple(wanted)
    if "all" in wanted:
        return list(present)
    keys = [name for name in present if any(name == key or name.endswith(f".{key}") for key in wanted)]
    missing = [k for k in wanted if not any(name == k or name.endswith(f".{k}") for name in present)]
    if missing or not keys:
        problems = [Problem("unknown_key", key, ", ".join(present)) for key in missing or ("(none)",)]
        raise InputError("the model has no such layers to adapt", problems=problems,
                         next_step="set `keys` to endings of the names shown, or to `all`")  # fmt: skip
    return keys


def trainable_count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.size for _, p in tree_flatten(model.trainable_parameters()))


def trained_arrays(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.trainable_parameters()))


def save_adapter(folder: Path, arrays: dict[str, mx.array], settings: AdapterSettings, keys: list[str],
                 base: Path, layers: int) -> None:  # fmt: skip
    """Write the two files that mlx-lm reads, each whole or not at all. Non-finite numbers are refused."""
    count = layers if settings.num_layers < 0 else settings.num_layers
    config: dict[str, Any] = {
        "model": str(base),
        "fine_tune_type": settings.kind,
        "num_layers": count,
        "lora_parameters": {
            "rank": settings.rank, "scale": settings.strength, "dropout": settings.dropout, "keys": keys,
        },
    }  # fmt: skip
    save_arrays(folder, arrays)
    atomic_write(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def save_arrays(folder: Path, arrays: dict[str, mx.array]) -> str:
    """`adapters.safetensors` in `folder`, whole or not at all (T10); returns its SHA-256. Raises CannotFinish, and
    leaves what is there, for numbers that are not finite (T05) and where there are no arrays at all."""
    lower = "lower the learning rate, or set --clip"
    if not arrays:
        raise CannotFinish("there are no trained weights to save: no validation gave a finite loss", next_step=lower)
    bad = [name for name, array in arrays.items() if not mx.isfinite(array).all().item()]
    if bad:
        raise CannotFinish(f"not saved: {len(bad)} tensors hold numbers that are not finite ({bad[0]}, ...)",
                           next_step=lower)  # fmt: skip
    return write_arrays(folder / "adapters.safetensors", arrays)


def has_base(model: nn.Module) -> bool:
    """Whether the model without its adapter is in memory too: not where the weights themselves were trained."""
    return bool(_adapted(model))


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Within it the model runs without its adapter: each adapted layer is replaced by the one inside it."""
    places = _adapted(model)
    for parent, key, layer in places:
        parent[key] = _inside(layer)
    try:
        yield
    finally:
        for parent, key, layer in places:
            parent[key] = layer


def _adapted(model: nn.Module) -> list[tuple[Any, Any, nn.Module]]:
    """Every adapted layer, with the module, dictionary or list that holds it and under what."""
    return [(parent, key, value) for module in model.modules()
            for parent, key, value in _children(module) if "lora_a" in value]  # fmt: skip


def _children(holder: Any) -> Iterator[tuple[Any, Any, nn.Module]]:
    """Modules in a module; in its lists and dictionaries too."""
    items = enumerate(holder) if isinstance(holder, list) else holder.items() if isinstance(holder, dict) else ()
    for key, value in list(items):
        if isinstance(value, nn.Module):
            yield holder, key, value
        elif isinstance(value, (list, dict)):
            yield from _children(value)


def _inside(layer: nn.Module) -> nn.Module:
    """The layer that an adapted one of mlx-lm (mlx_lm/tuner/lora.py, dora.py) was made from."""
    found: nn.Module = layer["linear"] if "linear" in layer else layer["embedding"]
    return found


def read_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """The model with the adapter in `folder`, as mlx-lm loads it. Raises InputError."""
    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no adapter: {name} is missing",
                             next_step="name a folder that `calltune train` wrote to its end")  # fmt: skip
    try:
        adapted: nn.Module = load_adapters(model, str(folder))
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"the adapter in {folder} does not fit the model: {error}",
                         next_step="load it with the model named in its adapter_config.json") from error  # fmt: skip
    adapted.eval()
    return adapted


def begin_with(model: nn.Module, settings: AdapterSettings, folder: Path) -> None:
    """Give the trainable parts, which `add_adapter` made, the weights of the adapter in `folder`. Raises InputError
    unless that adapter is of the same form."""
    try:
        arrays = read_arrays(folder / "adapters.safetensors")
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, scale = config["fine_tune_type"], config["lora_parameters"]["scale"]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"the adapter in {folder} cannot be read: {error}",
                         next_step="name a folder that `calltune train` wrote to its end") from error  # fmt: skip
    problems = []
    if (kind, scale) != (settings.kind, settings.strength):
        problems = [Problem("adapter", f"{settings.kind} of scale {settings.strength}", f"{kind} of scale {scale}")]
    own, found = ({name: tuple(a.shape) for name, a in part.items()} for part in (trained_arrays(model), arrays))
    differing = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
    problems += [Problem("adapter", f"{name} {own.get(name, 'none')}", f"{found.get(name, 'none')}")
                 for name in differing]  # fmt: skip
    if problems:
        raise InputError(
            f"the adapter in {folder} has another form than the one to train", problems=problems,
            next_step="leave out --fine-tune, --num-layers, --rank, --keys, --scale and --alpha, or give the run's",
        )  # fmt: skip
    model.load_weights(list(arrays.items()), strict=False)


def _check(settings: AdapterSettings, count: int, layers: int) -> None:
    problems = []
    if not 0 < count <= layers:
        problems.append(Problem("num_layers", str(settings.num_layers), f"1 to {layers}, or -1 for all"))
    if settings.kind != "full" and settings.rank < 1:
        problems.append(Problem("rank", str(settings.rank), "at least 1"))
    if not 0 <= settings.dropout < 1:
        problems.append(Problem("dropout", str(settings.dropout), "0 up to, not including, 1"))
    if not math.isfinite(settings.strength):
        problems.append(Problem("scale", str(settings.strength), "a finite number"))
    if problems:
        raise InputError("the adapter's settings do not fit the model", problems=problems)
