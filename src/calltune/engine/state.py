"""Arrays on disk and the optimizer's state as arrays: what a checkpoint needs of MLX.

The random state needs no place of its own: it is set anew for every update from the seed and the update's number, so
that it follows from the data cursor (`seed_update`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_flatten, tree_unflatten

from calltune.engine import ranks
from calltune.platform.paths import atomic_file


def write_arrays(path: Path, arrays: dict[str, mx.array]) -> str:
    """A safetensors file, whole or not at all (T10); returns its SHA-256. Raises InputError where the disk refuses.

    Through Python's file: MLX's own writer tells a full disk as a RuntimeError without a reason.
    """
    with atomic_file(path) as file:
        hashing = _Hashing(file)
        mx.save_safetensors(hashing, arrays)
    return hashing.digest.hexdigest()


def read_arrays(path: Path) -> dict[str, mx.array]:
    """Raises OSError, RuntimeError or ValueError for a file that is missing or no safetensors file."""
    arrays: Any = mx.load(str(path))
    mx.eval(arrays)
    found: dict[str, mx.array] = arrays
    return found


class _Hashing:
    """A file that is hashed as it is written, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def optimizer_arrays(optimizer: optimizers.Optimizer) -> dict[str, mx.array]:
    """All that the optimizer remembers: steps, rate, moments."""
    return dict(tree_flatten(optimizer.state))


def restore_optimizer(optimizer: optimizers.Optimizer, arrays: dict[str, mx.array]) -> None:
    optimizer.state = tree_unflatten(list(arrays.items()))


def restore_weights(model: nn.Module, arrays: dict[str, mx.array]) -> None:
    """Trained arrays into a model that has the same adapter."""
    model.update(tree_unflatten(list(arrays.items())))
    mx.eval(model.trainable_parameters())


def finite(tree: Any) -> mx.array:
    """Whether all numbers of a tree of arrays are, as an array."""
    return mx.stack([mx.isfinite(array).all() for _, array in tree_flatten(tree)]).all()


def seed_update(seed: int, update: int) -> None:
    """Dropout of update number `update`, another one in each process: the same after a resume as without one."""
    words = hashlib.sha256(f"{seed} {update} {ranks.rank()}".encode()).digest()
    mx.random.seed(int.from_bytes(words[:8], "little"))
