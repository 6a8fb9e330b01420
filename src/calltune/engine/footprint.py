"""What of a model decides how much memory its training takes, read off a model whose weights need not be loaded."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import get_total_parameters

from calltune.engine.load import DTYPES, device_memory, lazy_model
from calltune.engine.parts import find_parts
from calltune.engine.shapes import bare_model
from calltune.errors import InputError
from calltune.memory import Shape
from calltune.platform.shapes import SHAPES
from calltune.tokenizer import Tokenizer

__all__ = ["device_memory", "fused_attention", "planned_model", "shape_of"]


def planned_model(name: str, dtype: Any, tokenizer: str) -> tuple[Shape, Tokenizer, str, bool]:
    """Shape, tokenizer, precision, and whether the weights on disk are quantised, of a model that is not loaded.
    `name` may be one of platform/shapes.py, with the tokenizer of the model `tokenizer`. Raises InputError."""
    if name in SHAPES:
        _, rows_tokenizer, *_ = lazy_model(tokenizer, "float32")
        model, chosen = bare_model(name, dtype, len(rows_tokenizer.inner))
        return shape_of(model, chosen), rows_tokenizer, chosen, False
    model, own, chosen, quantised = lazy_model(name, dtype)
    return shape_of(model, chosen), own, chosen, quantised


def shape_of(model: nn.Module, dtype: str) -> Shape:
    """The shape of a model without adapter, computing in `dtype`. Raises InputError for one without layers."""
    parts = find_parts(model)
    args = getattr(parts.owner, "args", None) if parts else None
    if parts is None or args is None or not hasattr(args, "hidden_size"):
        raise InputError(f"the memory of a {type(model).__name__} cannot be predicted: its layers were not found",
                         next_step="train a few updates and look at the peak memory")  # fmt: skip
    layer = parts.layers[-1]
    heads = int(args.num_attention_heads)
    head = int(getattr(args, "head_dim", None) or args.hidden_size // heads)
    groups = int(getattr(args, "num_key_value_heads", None) or heads)
    norms = [m for name, m in layer.named_modules() if "weight" in m and m["weight"].ndim == 1 and "norm" in name]
    wide = sum(m["weight"].shape[0] == args.hidden_size for m in norms)
    itemsize = 2 if dtype == "quantized" else DTYPES[dtype].size
    arrays = [value for _, value in tree_flatten(model.parameters())]
    weights = sum(a.nbytes for a in arrays) if dtype == "quantized" else get_total_parameters(model) * itemsize
    kind = str(getattr(args, "model_type", ""))
    act = str(getattr(args, "hidden_act", None) or getattr(args, "hidden_activation", None) or "")
    return Shape(
        layers=len(parts.layers), hidden=int(args.hidden_size), heads=heads, queries=heads * head,
        keys=groups * head, inner=int(getattr(args, "intermediate_size", 0) or 4 * args.hidden_size),
        vocabulary=int(args.vocab_size), weight_bytes=int(weights), itemsize=itemsize,
        layer_parameters=int(get_total_parameters(layer)), norms=wide, head_norms=len(norms) > wide,
        silu=not (kind.startswith("gemma") or "gelu" in act),
        by_hand=bool(getattr(args, "attn_logit_softcapping", None)),
        capped_logits=bool(getattr(args, "final_logit_softcapping", None)),
    )  # fmt: skip


def fused_attention(shape: Shape) -> bool:
    """Whether MLX's attention has a gradient of its own on this device: on NVIDIA, for heads of up to 128 in half
    precision (mlx/backend/cuda/scaled_dot_product_attention.cpp)."""
    cuda = mx.default_device().type == mx.gpu and not mx.metal.is_available()
    return cuda and shape.itemsize == 2 and shape.queries // shape.heads <= 128
