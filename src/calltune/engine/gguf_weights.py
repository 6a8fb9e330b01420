"""The tensors of a GGUF file as safetensors files in mlx-lm's names and layout, written block by block."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from calltune.engine.gguf_file import Array, GgufFile, GgufTensor, can_dequantize
from calltune.errors import InputError, Problem

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_BLOCKS = {
    "llama": _BLOCK,
    "qwen2": _BLOCK,
    "qwen3": {**_BLOCK, **_HEAD_NORMS},
    "gemma3": {
        **_BLOCK,
        **_HEAD_NORMS,
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BIASES = {"qwen2": ("attn_q", "attn_k", "attn_v")}  # the only ones that mlx-lm's models have
# Factors of the rotary frequencies, not weights: they become `rope_scaling` in config.json.
ROPE_FREQS = "rope_freqs.weight"
BLOCK = 16_000_000  # numbers in memory at a time, of a matrix that is written as it lies


@dataclass(frozen=True)
class Weight:
    """One tensor of the folder: mlx-lm's `name`, its GGUF `source`, and what is done to its numbers.

    `heads`: rows are taken out of llama.cpp's order of that many heads (0: left alone). `shift` is added.
    """

    name: str
    source: GgufTensor
    heads: int = 0
    shift: float = 0.0

    @property
    def size(self) -> int:
        return prod(self.source.shape)


def plan_weights(file: GgufFile, heads: int, kv_heads: int) -> list[Weight]:
    """What goes where, before a byte is written.

    Raises InputError with every tensor that this architecture does not have in mlx-lm, that is missing,
    or whose quantisation the `gguf` package can't undo.
    """
    problems, weights = list(_unreadable(file)), []
    for tensor in file.tensors.values():
        if tensor.name == ROPE_FREQS:
            continue
        name = _mlx_name(tensor.name, file.architecture)
        if name is None:
            problems.append(Problem("unknown_tensor", tensor.name, f"a tensor of a plain {file.architecture} model"))
        else:
            weights.append(_weight(file.architecture, name, tensor, heads, kv_heads))
    problems += _missing(file)
    if problems:
        raise InputError(
            f"{file.path}: {len(problems)} problems with the tensors",
            problems=problems,
            next_step="use another GGUF file of this model, or its Hugging Face folder",
        )
    return weights


def write_shards(
    file: GgufFile,
    weights: list[Weight],
    folder: Path,
    dtype: str,
    shard_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write model.safetensors, or several shards and their index when more than `shard_bytes` are needed.

    `progress(done, total)` is called in bytes written.
    """
    item, shards = ITEM_BYTES[dtype], [[weights[0]]]
    for weight in weights[1:]:
        if sum(w.size for w in [*shards[-1], weight]) * item > shard_bytes:
            shards.append([])
        shards[-1].append(weight)
    total, done, index = sum(w.size for w in weights) * item, 0, {}
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        name = f"model{part}.safetensors"
        with (folder / name).open("wb") as out:
            out.write(_header(shard, dtype))
            for weight in shard:
                index[weight.name] = name
                for block in _blocks(file, weight):
                    done += out.write(_encode(block, dtype))
                    if progress is not None:
                        progress(done, total)
    if len(shards) > 1:
        document = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document, indent=1))


def _blocks(file: GgufFile, weight: Weight) -> Iterator[Array]:
    """The numbers of a weight in runs of rows that hold at most BLOCK of them (whole where rows move)."""
    rows = weight.source.shape[0]
    step = max(1, BLOCK * rows // weight.size) if len(weight.source.shape) > 1 and not weight.heads else rows
    for first in range(0, rows, step):
        block = file.load(weight.source.name, first, first + step)
        if weight.shift:
            block = block + np.float32(weight.shift)
        yield unpermute(block, weight.heads) if weight.heads else block


def _unreadable(file: GgufFile) -> Iterable[Problem]:
    bad = {kind for kind in {t.type for t in file.tensors.values()} if not can_dequantize(kind)}
    for tensor in file.tensors.values():
        if tensor.type in bad:
            yield Problem(
                "unsupported_quantisation",
                f"{tensor.name} is stored as {tensor.type.name}",
                "a type that the gguf package dequantises (Q4_0 ... Q8_0, K-quants, F16, F32)",
            )


def _mlx_name(name: str, architecture: str) -> str | None:
    """mlx-lm's name of a GGUF tensor; None when the architecture has no such tensor."""
    stem, _, ending = name.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    if ending not in ("weight", "bias"):
        return None
    if block is None:
        return f"{_TOP[stem]}.weight" if stem in _TOP and ending == "weight" else None
    number, part = block.groups()
    known = _BLOCKS[architecture].get(part)
    if known is None or (ending == "bias" and part not in _BIASES.get(architecture, ())):
        return None
    return f"model.layers.{number}.{known}.{ending}"


def _missing(file: GgufFile) -> Iterable[Problem]:
    expected = ["token_embd.weight", "output_norm.weight"]
    for layer in range(int(file.value("{arch}.block_count", 0))):
        expected += [f"blk.{layer}.{part}.weight" for part in _BLOCKS[file.architecture]]
        expected += [f"blk.{layer}.{part}.bias" for part in _BIASES.get(file.architecture, ())]
    for name in expected:
        if name not in file.tensors:
            yield Problem("missing_tensor", f"no {name}", f"a tensor of every {file.architecture} model")


def _weight(architecture: str, name: str, tensor: GgufTensor, heads: int, kv_heads: int) -> Weight:
    if architecture == "llama" and ".q_proj." in name:
        return Weight(name, tensor, heads=heads)
    if architecture == "llama" and ".k_proj." in name:
        return Weight(name, tensor, heads=kv_heads)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        # llama.cpp multiplies by the stored weight, Gemma's own code (and mlx-lm's) by 1 + weight.
        return Weight(name, tensor, shift=-1.0)
    return Weight(name, tensor)


def unpermute(rows: Array, heads: int) -> Array:
    """Rows (heads * D, ...) of a llama query or key projection, in Hugging Face's order.

    llama.cpp rotates neighbouring pairs of a head (x0, x1), Hugging Face's form the two halves of it, so
    the converter to GGUF has interleaved the halves of every head's rows; this takes them apart again.
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _header(weights: list[Weight], dtype: str) -> bytes:
    """The head of a safetensors file: length, then JSON of type, shape and place of every tensor."""
    head: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for weight in weights:
        end = at + weight.size * ITEM_BYTES[dtype]
        head[weight.name] = {
            "dtype": _SAFETENSORS[dtype],
            "shape": list(weight.source.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned, so that readers may map the file
    return struct.pack("<Q", len(text)) + text


def _encode(values: Array, dtype: str) -> memoryview:
    if dtype in ("float32", "float16"):
        return np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # NumPy has no bfloat16: the upper half of a float32, rounded to the nearest, ties to even.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).reshape(-1).view(np.uint8).data
