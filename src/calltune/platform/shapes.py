"""Configurations of known model shapes, as in their config.json on the hub; the tiny ones are for tests."""

from __future__ import annotations

from typing import Any

from calltune.errors import InputError

# The fields that mlx-lm and transformers read. Sources: google/gemma-2-2b, HuggingFaceTB/SmolLM2-135M,
# Qwen/Qwen3-0.6B, google/gemma-3-270m.
SHAPES: dict[str, dict[str, Any]] = {
    "gemma-2-2b": {
        "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304,
        "num_hidden_layers": 26, "intermediate_size": 9216, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "rms_norm_eps": 1e-6, "vocab_size": 256000, "max_position_embeddings": 8192,
        "rope_theta": 10000.0, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "sliding_window": 4096, "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "num_hidden_layers": 30,
        "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "rms_norm_eps": 1e-5, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024,
        "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "rms_norm_eps": 1e-6, "vocab_size": 151936, "max_position_embeddings": 40960,
        "rope_theta": 1000000.0, "tie_word_embeddings": True,
    },
    "gemma-3-270m": {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 640,
        "num_hidden_layers": 18, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 256, "rms_norm_eps": 1e-6, "vocab_size": 262144, "max_position_embeddings": 32768,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256,
        "sliding_window": 512, "sliding_window_pattern": 6, "tie_word_embeddings": True,
    },
}  # fmt: skip
TINY = {
    "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
}  # fmt: skip
for _tiny, _whole in (("llama", "smollm2-135m"), ("qwen3", "qwen3-0.6b"), ("gemma2", "gemma-2-2b"),
                      ("gemma3", "gemma-3-270m")):  # fmt: skip
    SHAPES[f"tiny-{_tiny}"] = SHAPES[_whole] | TINY
SHAPES["tiny-gemma3"] |= {"sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}
SHAPES["tiny-gemma2"] |= {"query_pre_attn_scalar": 16}


def shape_config(name: str, vocabulary: int = 0) -> dict[str, Any]:
    """The configuration of a shape, with a vocabulary of at least `vocabulary`. Raises InputError."""
    if name not in SHAPES:
        raise InputError(f"there is no shape {name!r}", next_step=f"take one of: {', '.join(SHAPES)}")
    config = SHAPES[name]
    return config | {"vocab_size": max(config["vocab_size"], vocabulary)}
