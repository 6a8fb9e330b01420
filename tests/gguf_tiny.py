"""Tiny random GGUF files of each architecture, written with the `gguf` package."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

HIDDEN, HEADS, KV_HEADS, FEED = 64, 4, 2, 96
HEAD_DIM = {"llama": 16, "qwen2": 16, "qwen3": 32, "gemma3": 32}  # the latter two: not hidden / heads
LAYERS = {"llama": 2, "qwen2": 2, "qwen3": 2, "gemma3": 7}  # Gemma: layer 6 of 7 sees everything
WINDOW = 4
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXT = "Hello, world's 42 é東\n\n  ok<|im_end|>"


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte (GPT-2's encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def bpe_tokenizer(writer: GGUFWriter, pre: str = "smollm", pairs: str = "aeS'sl1 \n.") -> int:
    """A byte-level vocabulary whose merges are all pairs of some letters; its size."""
    letters = byte_letters()
    merges = [f"{letters[ord(a)]} {letters[ord(b)]}" for a, b in product(pairs, pairs)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*letters, *(m.replace(" ", "") for m in merges), *special, "<tool>"]
    types = [1] * (len(tokens) - 4) + [3, 3, 3, 4]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 3)
    writer.add_eos_token_id(len(tokens) - 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def spm_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small SentencePiece-style vocabulary with awkward runs of one letter."""
    control, bytes_ = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>"], [f"<0x{b:02X}>" for b in range(256)]
    user = ["\n\n", "  ", "   ", "<b>"]
    words = [
        "ab",
        "abc",
        "bc",
        "ca",
        "aa",
        "aaa",
        "aaaa",
        "▁a",
        "▁ab",
        "▁▁",
        "é▁",
        "ba",
        "bab",
        "abab",
        "cab",
        "▁c",
        "c▁",
        "bcb",
        "cc",
        "ccc",
    ]
    letters = [*"▁abcé\n<>/"]
    tokens = [*control, *bytes_, *user, *words, *letters]
    scores = [0.0] * (len(tokens) - len(words) - len(letters))
    scores += [-float(i) for i in range(len(words))] + [-1000.0] * len(letters)
    types = [3] * 3 + [2] + [3] + [6] * 256 + [4] * len(user) + [1] * (len(words) + len(letters))
    return tokens, scores, types


def spm_tokenizer(writer: GGUFWriter) -> int:
    tokens, scores, types = spm_vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    return len(tokens)


def tiny_tensors(arch: str, vocab: int, seed: int = 0, tied: bool = True) -> dict[str, np.ndarray]:
    """Random tensors in the names and the layout of a GGUF file."""
    rng, dim = np.random.default_rng(seed), HEAD_DIM[arch]

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.15, shape).astype(np.float32)

    def norm(size: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, size).astype(np.float32)

    out = {"token_embd.weight": weight(vocab, HIDDEN), "output_norm.weight": norm(HIDDEN)}
    if not tied:
        out["output.weight"] = weight(vocab, HIDDEN)
    for i in range(LAYERS[arch]):
        block = {
            "attn_norm.weight": norm(HIDDEN),
            "ffn_norm.weight": norm(HIDDEN),
            "attn_q.weight": weight(HEADS * dim, HIDDEN),
            "attn_k.weight": weight(KV_HEADS * dim, HIDDEN),
            "attn_v.weight": weight(KV_HEADS * dim, HIDDEN),
            "attn_output.weight": weight(HIDDEN, HEADS * dim),
            "ffn_gate.weight": weight(FEED, HIDDEN),
            "ffn_up.weight": weight(FEED, HIDDEN),
            "ffn_down.weight": weight(HIDDEN, FEED),
        }
        if arch == "qwen2":
            block |= {
                "attn_q.bias": weight(HEADS * dim),
                "attn_k.bias": weight(KV_HEADS * dim),
                "attn_v.bias": weight(KV_HEADS * dim),
            }
        if arch in ("qwen3", "gemma3"):
            block |= {"attn_q_norm.weight": norm(dim), "attn_k_norm.weight": norm(dim)}
        if arch == "gemma3":
            block |= {"post_attention_norm.weight": norm(HIDDEN), "post_ffw_norm.weight": norm(HIDDEN)}
        out |= {f"blk.{i}.{name}": value for name, value in block.items()}
    return out


def write_tiny(
    path: Path,
    arch: str,
    *,
    tied: bool = True,
    types: dict[str, GGMLQuantizationType] | None = None,
    drop: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
    tokenizer: str = "",
    metadata: dict[str, Any] | None = None,
    pre: str = "",
) -> dict[str, np.ndarray]:
    """Write a tiny random model; returns its tensors as written (before `types` quantises some)."""
    writer = GGUFWriter(path, arch)
    tokenizer = tokenizer or ("spm" if arch == "gemma3" else "bpe")
    vocab = 300
    if tokenizer != "none":
        pre = pre or ("qwen2" if arch == "qwen2" else "smollm")
        vocab = spm_tokenizer(writer) if tokenizer == "spm" else bpe_tokenizer(writer, pre)
    writer.add_block_count(LAYERS.get(arch, 2))
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM.get(arch, 16))
    writer.add_value_length(HEAD_DIM.get(arch, 16))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50_000.0)
    if arch == "gemma3":
        writer.add_sliding_window(WINDOW)
    for key, value in (metadata or {}).items():
        add = {
            str: writer.add_string,
            bool: writer.add_bool,
            float: writer.add_float32,
            int: writer.add_uint32,
            list: writer.add_array,
        }[type(value)]
        add(key, value)
    if tokenizer == "spm" and "tokenizer.ggml.add_space_prefix" not in (metadata or {}):
        writer.add_add_space_prefix(False)
    tensors = {**tiny_tensors(arch if arch in LAYERS else "llama", vocab, tied=tied), **(extra or {})}
    tensors = {name: value for name, value in tensors.items() if name not in drop}
    for name, value in tensors.items():
        kind = (types or {}).get(name)
        if kind is None:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
