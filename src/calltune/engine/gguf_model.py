"""A .gguf file -> a plain model folder that mlx-lm, transformers and we ourselves load.

Everything downstream (training, adapters, `mlx_lm.load(folder, adapter_path=...)`) then knows one form.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from calltune.engine.gguf_config import ARCHITECTURES, make_config
from calltune.engine.gguf_file import GgufFile, read_gguf
from calltune.engine.gguf_tokenizer import GgufVocabulary, build_tokenizer, read_vocabulary
from calltune.engine.gguf_weights import ITEM_BYTES, plan_weights, write_shards
from calltune.errors import InputError

SHARD_BYTES = 4_000_000_000
FLOAT32_UP_TO = 1_000_000_000  # parameters


def convert_gguf(
    gguf: Path, folder: Path, *, dtype: str = "auto", progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the model of a .gguf file as a plain folder (config, safetensors, tokenizer).

    `dtype` is that of the stored weights: float32, float16, bfloat16, or auto. A quantised weight is a small
    integer times a half-precision scale, which float32 holds exactly; float16 rounds it by up to 5e-4 of its
    value and bfloat16 by up to 4e-3. Plain `mlx_lm.load` also computes in the stored type, on a CPU many
    times slower in halves than in float32. So auto is float32 up to a billion parameters (SmolLM2-135M:
    538 MB, once, in the cache); above that bfloat16 for Gemma, whose activations overflow float16, and for
    files that hold bfloat16, and float16 for the others.

    The folder appears whole or not at all; one that is there is replaced. `progress(done, total)` counts
    bytes of weights. Raises InputError for a file that is no GGUF, is cut short, or holds an architecture,
    quantisation or tokenizer that is not supported, and for a place that can't be written.
    """
    if dtype != "auto" and dtype not in ITEM_BYTES:
        raise InputError(f"dtype {dtype!r} is not known", next_step=f"use auto, {', '.join(ITEM_BYTES)}")
    file = read_gguf(Path(gguf))
    if file.architecture not in ARCHITECTURES:
        raise InputError(
            f"{gguf}: architecture {file.architecture!r} is not supported",
            next_step=f"use a GGUF file of one of these: {', '.join(ARCHITECTURES)}",
        )
    vocabulary = read_vocabulary(file)
    dtype = _pick_dtype(file) if dtype == "auto" else dtype
    config = make_config(file, vocabulary, dtype)
    weights = plan_weights(file, config["num_attention_heads"], config["num_key_value_heads"])
    with _whole_folder(Path(folder)) as scratch:
        _write_json(scratch / "config.json", config)
        _write_tokenizer(file, vocabulary, config, scratch)
        write_shards(file, weights, scratch, dtype, SHARD_BYTES, progress)


def _pick_dtype(file: GgufFile) -> str:
    if sum(prod(t.shape) for t in file.tensors.values()) <= FLOAT32_UP_TO:
        return "float32"
    brain = any(t.type.name == "BF16" for t in file.tensors.values())
    return "bfloat16" if brain or file.architecture == "gemma3" else "float16"


def _write_tokenizer(file: GgufFile, vocabulary: GgufVocabulary, config: dict[str, Any], folder: Path) -> None:
    named = {
        "bos_token": vocabulary.bos,
        "eos_token": vocabulary.eos,
        "unk_token": vocabulary.unknown,
        "pad_token": vocabulary.padding,
    }
    special = {name: text for name, id in named.items() if (text := vocabulary.text(id)) is not None}
    settings: dict[str, Any] = {
        # Not the model's own class: those rebuild the splitting in ways that differ between versions.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        **special,
    }
    if template := file.value("tokenizer.chat_template"):
        settings["chat_template"] = template
    build_tokenizer(vocabulary).save(str(folder / "tokenizer.json"), pretty=False)
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", special)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place when the block ends well, and goes otherwise."""
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield scratch
        scratch.chmod(0o777 & ~_umask())
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(scratch, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: the model folder can't be written: {error.strerror or error}",
            next_step="free disk space, or choose a place that you may write to",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
