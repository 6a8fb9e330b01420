"""Models from wherever they are: a folder, a built-in name, a .gguf file, the hub; in the right precision."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.utils import dequantize_model, load_config, load_model

from calltune.engine.gguf_model import convert_gguf
from calltune.engine.probe import own_memory
from calltune.errors import InputError
from calltune.platform.builtin import BUILTIN_MODELS, fetch_builtin
from calltune.platform.machine import memory_bytes
from calltune.platform.paths import cache_dir
from calltune.tokenizer import Tokenizer, load_tokenizer

Dtype = Literal["auto", "float32", "bfloat16", "float16", "quantized"]
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
HUB_FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. `folder` is plain (config, safetensors, tokenizer): mlx-lm loads it as well."""

    model: nn.Module
    tokenizer: Tokenizer
    folder: Path
    name: str
    dtype: str
    note: str  # how the precision was chosen, in words
    vocabulary: int


def load(name: str, dtype: Dtype = "auto") -> LoadedModel:
    """A model with its tokenizer, evaluated, frozen and in evaluation mode. Raises InputError."""
    folder = model_folder(name)
    tokenizer = load_tokenizer(folder)
    model, config = _build(folder)
    chosen, note = choose_dtype(dtype, config, _parameters(model))
    if chosen != "quantized":
        if "quantization" in config:
            model = dequantize_model(model)
        target = DTYPES[chosen]
        cast = tree_map(lambda p: p.astype(target) if mx.issubdtype(p.dtype, mx.floating) else p, model.parameters())
        model.update(cast)
    mx.eval(model.parameters())
    model.freeze()
    model.eval()
    vocabulary = int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0))
    return LoadedModel(model, tokenizer, folder, name, chosen, note, vocabulary)


def lazy_model(name: str, dtype: Dtype = "auto") -> tuple[nn.Module, Tokenizer, str, bool]:
    """A model whose weights are not read, its tokenizer, the precision it would compute in, and whether its weights
    are quantised. Raises InputError."""
    folder = model_folder(name)
    model, config = _build(folder)
    chosen, _ = choose_dtype(dtype, config, _parameters(model))
    return model, load_tokenizer(folder), chosen, "quantization" in config


def model_folder(name: str) -> Path:
    """The plain folder of a model, made or fetched on first use and cached. Raises InputError."""
    path = Path(name).expanduser()
    if name in BUILTIN_MODELS:
        return _converted(fetch_builtin(name), name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {path}", next_step="check the path of the GGUF file")
        facts = f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        return _converted(path, f"{path.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"the folder {path} is not a model: it has no config.json",
                             next_step="name a folder in Hugging Face or mlx-lm form")  # fmt: skip
        return path.resolve()
    if HUB_NAME.fullmatch(name) and not path.exists():
        return _from_hub(name)
    names = ", ".join(BUILTIN_MODELS)
    raise InputError(f"there is no model {name!r}: no such folder or file, and not a built-in ({names})",
                     next_step="give a folder, a .gguf file, a built-in name or a hub name (org/model)")  # fmt: skip


def choose_dtype(dtype: Dtype, config: dict[str, Any], parameters: int) -> tuple[str, str]:
    """The precision to compute in and why. On a CPU only float32 matrix products are fast; on GPUs bfloat16
    is, and a 4-bit base trains 2.6 times slower, so weights stay quantised only where memory demands it."""
    if dtype != "auto":
        return dtype, "as asked"
    chosen = "float32" if mx.default_device() == mx.cpu else "bfloat16"
    need = parameters * (4 if chosen == "float32" else 2)
    have = device_memory()
    if "quantization" in config and need > 0.6 * have:
        return "quantized", f"kept quantised: {chosen} would need {need / 1e9:.1f} of {have / 1e9:.1f} GB"
    return chosen, "the fast precision of this device" + (", dequantised" if "quantization" in config else "")


def device_memory() -> int:
    """Bytes that models and training may take: of the device, or of the machine."""
    if mx.default_device() == mx.cpu:
        return memory_bytes()
    return int(mx.device_info().get("max_recommended_working_set_size") or own_memory() or memory_bytes())


def _parameters(model: nn.Module) -> int:
    from mlx_lm.utils import get_total_parameters

    return int(get_total_parameters(model))


def _build(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    if not list(folder.glob("model*.safetensors")):
        raise InputError(f"the model folder {folder} has no model*.safetensors",
                         next_step="calltune reads safetensors only; convert the weights to that form")  # fmt: skip
    try:
        load_config(folder)
        model, config = load_model(folder, lazy=True)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise InputError(
            f"the model in {folder} could not be loaded: {error}",
            next_step="check that the files are whole and the architecture is one of mlx-lm's",
        ) from error
    return model, config


def _converted(gguf: Path, name: str) -> Path:
    """The plain folder made from a GGUF file, once: adapters name it, and mlx-lm loads it (DESIGN)."""
    folder = cache_dir() / "converted" / name
    if not (folder / "config.json").exists():
        convert_gguf(gguf, folder)
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # network, name, licence: the library has a kind for each
        try:
            return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=True))
        except Exception:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the model {name} could not be fetched from the hub: {reason}",
                next_step="check the name and the network, or use a folder or a built-in model "
                f"({', '.join(BUILTIN_MODELS)}: `calltune fetch NAME`)",
            ) from error


def context_length(folder: Path) -> int | None:
    """How many tokens a model was made for, prompt and reply together; None where its configuration does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "max_position_embeddings" not in config:
        config = config.get("text_config", {})
    found = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if found and original and factor and "yarn" in (scaling.get("type"), scaling.get("rope_type")):
        # Qwen's files with YaRN name the length without it
        found = max(found, original * factor)
    return int(found) if found else None


def warm(model: nn.Module) -> None:
    """Runs a model once. What it computes at its first run only (rotary frequencies) belongs to the thread that did,
    until it is evaluated: MLX's streams are a thread's own."""
    mx.eval(model(mx.array([[1]])))
