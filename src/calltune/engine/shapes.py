"""Models of a known shape with random weights: speed depends on shapes alone, so a bench needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from calltune.engine.load import DTYPES, LoadedModel, choose_dtype
from calltune.platform.shapes import shape_config
from calltune.tokenizer import Tokenizer


def random_model(shape: str, dtype: Any, tokenizer: Tokenizer, vocabulary: int = 0, seed: int = 0) -> LoadedModel:
    """A frozen model of `shape` with seeded weights; its vocabulary is at least `vocabulary`. Raises InputError."""
    config = shape_config(shape, vocabulary)
    model, chosen, note = _bare(config, dtype)
    weights = []
    for number, (name, value) in enumerate(sorted(tree_flatten(model.parameters()))):
        if value.ndim < 2:  # norms as they are made, so that hidden states keep their size
            weights.append((name, value.astype(DTYPES[chosen])))
            continue
        noise = mx.random.normal(value.shape, DTYPES[chosen], key=mx.random.key(seed * 1000 + number))
        weights.append((name, noise * (0.5 * value.shape[-1] ** -0.5)))
        mx.eval(weights[-1][1])
    model.load_weights(weights)
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
    return LoadedModel(model, tokenizer, Path(shape), shape, chosen, f"random weights; {note}", config["vocab_size"])


def bare_model(shape: str, dtype: Any, vocabulary: int = 0) -> tuple[Any, str]:
    """A model of `shape` whose weights are not computed, and the precision that it would have. Raises InputError."""
    return _bare(shape_config(shape, vocabulary), dtype)[:2]


def _bare(config: dict[str, Any], dtype: Any) -> tuple[Any, str, str]:
    kind, arguments = _get_classes(config)
    model = kind(arguments.from_dict(config))
    return (model, *choose_dtype(dtype, config, sum(v.size for _, v in tree_flatten(model.parameters()))))
