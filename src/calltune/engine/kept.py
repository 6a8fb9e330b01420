"""Keys and values of prefixes, kept over requests: in memory, and on disk for the next process if that is wished."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from calltune.platform.paths import atomic_file

MEMORY = 1 << 30  # bytes of prefixes in memory; the one in use stays whatever its size
FILES = 16  # prefixes on disk


@dataclass
class Kept:
    """The last prefixes that were used, the latest at the end. With `folder`, also on disk there, under a hash of
    `model` (everything that decides keys and values: weights, adapter, precision) and the ids."""

    folder: Path | None = None
    model: str = ""
    memory: int = MEMORY
    entries: dict[tuple[int, ...], list[Any]] = field(default_factory=dict)

    def find(self, ids: tuple[int, ...]) -> list[Any] | None:
        found = self.entries.pop(ids, None)
        if found is None and self.folder is not None:
            found = _read(self._path(ids))
        if found is not None:
            self._remember(ids, found)
        return found

    def add(self, ids: tuple[int, ...], keys_values: list[Any]) -> None:
        self._remember(ids, keys_values)
        if self.folder is not None:
            arrays = {f"{name}{i}": array for i, pair in enumerate(keys_values)
                      for name, array in zip(("keys", "values"), pair, strict=True)}  # fmt: skip
            with atomic_file(self._path(ids)) as file:
                mx.save_safetensors(file, arrays)
            for old in sorted(self.folder.glob("*.safetensors"), key=_used)[:-FILES]:
                old.unlink(missing_ok=True)

    def _remember(self, ids: tuple[int, ...], keys_values: list[Any]) -> None:
        self.entries[ids] = keys_values
        while len(self.entries) > 1 and sum(map(_size, self.entries.values())) > self.memory:
            del self.entries[next(iter(self.entries))]

    def _path(self, ids: Sequence[int]) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(f"{self.model}|{list(ids)}|{mx.__version__}".encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"


def _size(keys_values: list[Any]) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in keys_values)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0


def _read(path: Path) -> list[Any] | None:
    """The keys and values in a file; None where it is not there or not whole."""
    try:
        arrays: Any = mx.load(str(path))
        found = [(arrays[f"keys{i}"], arrays[f"values{i}"]) for i in range(len(arrays) // 2)]
        mx.eval(found)
        os.utime(path)
    except (OSError, RuntimeError, ValueError, KeyError):
        return None
    return found
