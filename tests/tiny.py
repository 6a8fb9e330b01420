"""Tiny random models, tokenizers and rows made in process: no hub, no download, seconds of time.

The models are folders in Hugging Face form with every trait of their architecture that the engine has to get
right: grouped queries everywhere, q/k norms in Qwen3, soft-capped logits in Gemma 2, a small sliding window in
Gemma 3.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from calltune.schema import Conversation, Message, Tool, ToolCall

Style = Literal["chatml", "gemma"]
ARCHS = ("llama", "qwen3", "gemma2", "gemma3_text")
SPECIAL = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "gemma": ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
}
BOS = {"chatml": "<|endoftext|>", "gemma": "<bos>"}
EOS = {"chatml": "<|im_end|>", "gemma": "<eos>"}
WINDOW = 16  # of the sliding layers of gemma3_text

CITIES = ("Paris", "London", "Berlin", "Madrid", "Rome", "Oslo", "Vienna", "Lisbon", "Athens", "Prague")
ASKS = ("What is the weather in {}?", "Is it cold in {} now?", "Tell me how warm it is in {}.")
CHATS = ("Thank you!", "Who are you?", "Tell me a joke.", "Good morning.")

WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
)
TIME = Tool(
    "get_time",
    "The time in a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TOOLS = (WEATHER, TIME)
CORPUS = (
    *(ask.format(city) for ask in ASKS for city in CITIES),
    *CHATS,
    *(json.dumps(tool.to_openai()["function"], separators=(",", ":")) for tool in TOOLS),
    'You can call these functions:\n<tools>\n</tools>\nTo call a function, write\n<tool_call>\n{"name": NAME, '
    '"arguments": {...}}\n</tool_call>\nFirst plan between <think> and </think>. If no function fits, answer '
    "in words.",
    '<think>\nThe user wants the weather: get_weather.\n</think>\n<tool_call>\n{"name": "get_weather", "arguments": '
    '{"city": "Paris"}}\n</tool_call><tool_response>\n{"result": 21}\n</tool_response>',
    "system\nuser\nassistant\nmodel\ntool\nhuman\n",
)


def tiny_tokenizer(folder: Path, style: Style = "chatml", template: str | None = None, vocabulary: int = 512) -> Any:
    """A byte-level BPE of about `vocabulary` tokens, saved in `folder`; returns the `tokenizers` object.

    Every text encodes (all 256 bytes are tokens) and decodes back. Special tokens are the style's turn markers.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL[style]]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS[style],
        "eos_token": EOS[style],
        "pad_token": SPECIAL[style][0],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def model_config(arch: str, vocabulary: int, layers: int, hidden: int) -> dict[str, Any]:
    """config.json of a small model: 4 heads of 16, 2 of keys and values."""
    config = {
        "model_type": arch,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    names = {
        "llama": "LlamaForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "gemma2": "Gemma2ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
    }
    extra: dict[str, dict[str, Any]] = {
        "gemma2": {"query_pre_attn_scalar": 16, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
        "gemma3_text": {
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "rope_local_base_freq": 1000.0,
        },
    }
    return config | {"architectures": [names[arch]]} | extra.get(arch, {})


def tiny_model(
    folder: Path,
    arch: str = "llama",
    style: Style = "chatml",
    layers: int = 4,
    hidden: int = 64,
    *,
    template: str | None = None,
    seed: int = 0,
    tied: bool = True,
) -> Path:
    """A model folder with seeded random weights that `mlx_lm.load` reads. `arch` is one of ARCHS."""
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    from calltune import engine  # noqa: F401  (loads the BLAS: before MLX, as everywhere)

    one_blas_thread()
    tokenizer = tiny_tokenizer(folder, style, template)
    config = model_config(arch, tokenizer.get_vocab_size(), layers, hidden) | {
        "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.token_to_id(BOS[style]),
        "eos_token_id": tokenizer.token_to_id(EOS[style]),
    }
    kind, arguments = _get_classes(config)
    model = kind(arguments.from_dict(config))
    rng = np.random.default_rng(seed)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if arch == "gemma3_text" and tied and name == "lm_head.weight":
            continue  # the model ties it when it is absent
        noise = rng.normal(0, 1, value.shape).astype(np.float32)
        norm = 0.0 if arch.startswith("gemma") else 1.0  # Gemma adds the one itself
        scaled = norm + 0.2 * noise if value.ndim == 1 else noise * (1.5 / value.shape[-1] ** 0.5)
        weights[name] = mx.array(scaled)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@cache
def one_blas_thread() -> None:
    """Tiny products gain nothing from a BLAS's threads, which on busy cores wait for each other (10x slower)."""
    import numpy  # noqa: F401  (brings a BLAS of its own)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, "blas")


def weather_call(city: str, name: str = "get_weather", **more: Any) -> ToolCall:
    return ToolCall(name, {"city": city, **more})


def weather_rows(
    n: int, *, think: bool = True, no_call: int = 4, tools: Sequence[Tool] = TOOLS
) -> list[Conversation]:
    """`n` conversations of one request each, all with the same tools; every `no_call`th needs no call (0: none)."""
    rows = []
    for i in range(n):
        if no_call and i % no_call == no_call - 1:
            plan, reply = "No function fits.", Message("assistant", "Hello!")
            question, category = CHATS[i // no_call % len(CHATS)], "no_call"
        else:
            city = CITIES[i % len(CITIES)]
            plan, reply = "get_weather", Message("assistant", calls=(weather_call(city),))
            question, category = ASKS[i // len(CITIES) % len(ASKS)].format(city), "call"
        reply = Message("assistant", reply.content, plan if think else None, reply.calls)
        rows.append(
            Conversation((Message("user", question), reply), tuple(tools), f"row-{i}", {"category": category})
        )
    return rows


def long_row(city: str = "Paris", *, think: bool = True) -> Conversation:
    """Question, call, result, answer, question, answer: three assistant turns."""
    plan = (lambda text: text) if think else (lambda _: None)
    return Conversation(
        (
            Message("system", "Be brief."),
            Message("user", f"What is the weather in {city}?"),
            Message("assistant", "", plan("get_weather"), (weather_call(city),)),
            Message("tool", '{"result": 21}', name="get_weather", call_id="call_0"),
            Message("assistant", "21 degrees.", plan("I have the result.")),
            Message("user", "Thank you!"),
            Message("assistant", "You are welcome.", plan("No function fits.")),
        ),
        TOOLS,
        "long",
    )
