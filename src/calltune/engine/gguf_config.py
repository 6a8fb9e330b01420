"""config.json for the model of a GGUF file, and what of its metadata can't be honoured."""

from __future__ import annotations

from typing import Any

import numpy as np

from calltune.engine.gguf_file import GgufFile
from calltune.engine.gguf_tokenizer import CONTROL, USER_DEFINED, GgufVocabulary
from calltune.engine.gguf_weights import ROPE_FREQS
from calltune.errors import InputError

# GGUF's architecture -> (mlx-lm's model_type, Hugging Face's class)
ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
# Tokens that end a turn in some family: generation stops at them too when the vocabulary has them as
# control tokens, as it does in llama.cpp.
END_OF_TURN = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>")


def make_config(file: GgufFile, vocabulary: GgufVocabulary, dtype: str) -> dict[str, Any]:
    """config.json of the model, in Hugging Face's keys as mlx-lm reads them.

    Raises InputError when a key is missing or asks for something that mlx-lm's model does not do.
    """
    model_type, cls = ARCHITECTURES[file.architecture]
    hidden, heads = _whole(file, "embedding_length"), _whole(file, "attention.head_count")
    rows = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    head_dim = _whole(file, "attention.key_length", hidden // heads)
    config: dict[str, Any] = {
        "architectures": [cls],
        "model_type": model_type,
        "torch_dtype": dtype,
        "hidden_size": hidden,
        "num_hidden_layers": _whole(file, "block_count"),
        "intermediate_size": _whole(file, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(file, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _decimal(file.value("{arch}.attention.layer_norm_rms_epsilon", 1e-6)),
        "vocab_size": rows,
        "max_position_embeddings": _whole(file, "context_length"),
        "rope_theta": _decimal(file.value("{arch}.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": end_ids(file, vocabulary),
        "pad_token_id": vocabulary.padding,
        "hidden_act": "gelu_pytorch_tanh" if model_type == "gemma3_text" else "silu",
        "attention_bias": model_type == "qwen2",
    }
    _check(file, config, vocabulary)
    if (scaling := _rope_scaling(file, config)) is not None:
        config["rope_scaling"] = scaling
    if model_type == "gemma3_text":
        config |= _gemma(file, config)
    return config


def end_ids(file: GgufFile, vocabulary: GgufVocabulary) -> list[int]:
    """The ids that end a reply: the file's EOS first, its end of turn, and known ones of the vocabulary."""
    found = [vocabulary.eos, *(file.value(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))]
    named = {
        text: id
        for id, text in enumerate(vocabulary.tokens)
        if text in END_OF_TURN and vocabulary.types[id] in (CONTROL, USER_DEFINED)
    }
    found += [named[text] for text in END_OF_TURN if text in named]
    return list(dict.fromkeys(int(id) for id in found if id is not None))


def _gemma(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    pattern = file.value("{arch}.attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):  # a flag a layer: True slides
        period = pattern.index(False) + 1 if False in pattern else len(pattern) + 1
        if [(i + 1) % period != 0 for i in range(len(pattern))] != [bool(p) for p in pattern]:
            raise _unsupported(file, "an irregular pattern of sliding-window layers")
        pattern = period
    if int(pattern) > config["num_hidden_layers"]:
        raise _unsupported(file, "a Gemma without any layer of full attention")
    return {
        # llama.cpp's rule: only the 27B model (62 layers) scales by hidden size / heads.
        "query_pre_attn_scalar": hidden // heads if config["num_hidden_layers"] == 62 else config["head_dim"],
        "sliding_window": _whole(file, "attention.sliding_window", 512),
        "sliding_window_pattern": int(pattern),
        "rope_local_base_freq": _decimal(file.value("{arch}.rope.freq_base_swa", 10_000.0)),
    }


def _check(file: GgufFile, config: dict[str, Any], vocabulary: GgufVocabulary) -> None:
    """Refuse what the metadata asks for and mlx-lm's model of that name does not do."""
    head_dim = config["head_dim"]
    if _whole(file, "rope.dimension_count", head_dim) != head_dim:
        raise _unsupported(file, "rotary positions on a part of the head")
    if _whole(file, "attention.value_length", head_dim) != head_dim:
        raise _unsupported(file, "values of another size than keys")
    if config["model_type"] == "qwen2" and head_dim * config["num_attention_heads"] != config["hidden_size"]:
        raise _unsupported(file, "a qwen2 whose heads do not fill the hidden size")
    if _whole(file, "expert_count", 0):
        raise _unsupported(file, "a mixture of experts")
    if any(file.value(f"{{arch}}.{place}_logit_softcapping", 0.0) for place in ("attn", "final")):
        raise _unsupported(file, "capped logits")
    if config["vocab_size"] and len(vocabulary.tokens) > config["vocab_size"]:
        raise InputError(
            f"{file.path}: {len(vocabulary.tokens)} tokens, {config['vocab_size']} embeddings",
            next_step="use another GGUF file of this model",
        )


def _rope_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any] | None:
    kind = file.value("{arch}.rope.scaling.type", "linear")
    factor = file.value("{arch}.rope.scaling.factor") or file.value("{arch}.rope.scale_linear") or 1.0
    if ROPE_FREQS in file.tensors:
        return _llama3_scaling(file, config)
    if kind == "linear":
        linear = {"type": "linear", "rope_type": "linear", "factor": _decimal(factor)}
        return None if factor == 1.0 else linear
    if kind == "none":
        return None
    raise _unsupported(file, f"rotary scaling of type {kind!r} (linear and llama3 are)")


def _llama3_scaling(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling, recognised in the table of factors (D / 2,) that the converter made of it."""
    table = file.load(ROPE_FREQS).astype(np.float64)
    dims, base, low, high, context = config["head_dim"], config["rope_theta"], 1.0, 4.0, 8192
    lengths = 2 * np.pi * base ** (np.arange(0, dims, 2) / dims)
    factor = float(table.max())
    smooth = (context / lengths - low) / (high - low)
    expected = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(lengths < context / high, 1.0, np.where(lengths > context / low, factor, expected))
    if table.shape != expected.shape or not np.allclose(table, expected, rtol=1e-3):
        raise _unsupported(file, "a table of rotary frequencies (rope_freqs) that is not Llama 3's")
    return {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": _decimal(factor),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _whole(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.value(f"{{arch}}.{key}", default)
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise _unsupported(file, f"layers that differ in {key}")
        value = value[0]
    if value is None:
        raise InputError(
            f"{file.path}: the metadata lack {file.architecture}.{key}",
            next_step="use another GGUF file of this model",
        )
    if not isinstance(value, int) or value < 0 or (value == 0 and default is None):
        raise InputError(
            f"{file.path}: {file.architecture}.{key} is {value!r}, not a whole number above 0",
            next_step="use another GGUF file of this model",
        )
    return value


def _decimal(value: float) -> float:
    """A float32 of the metadata as the decimal that was meant (1e-05, not 9.999999747378752e-06)."""
    return float(np.format_float_scientific(np.float32(value)))


def _unsupported(file: GgufFile, what: str) -> InputError:
    return InputError(
        f"{file.path}: {what}: not supported for {file.architecture}",
        next_step="use the model's Hugging Face folder, or another model",
    )
