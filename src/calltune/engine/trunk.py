"""States of rows above the frozen trunk, kept for the next epoch: on a GPU in a part of its own memory, which saves
the way to the host and back (12 of 67 ms an update of Gemma-2-2B on an H100), then in the host's memory and, if
allowed, on disk.

On disk they lie in a file without a name, which is gone with the process, whatever ends it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from calltune.engine.probe import own_memory
from calltune.platform.machine import memory_bytes
from calltune.render import Example

Key = tuple[str, int]  # the part (train, valid) and the row's index in it
AUTO_SHARE = 4  # of the machine's memory, without a limit of the user's: a quarter
DEVICE_SHARE = 16  # of a GPU's memory


class Piece(NamedTuple):
    """Rows of a part that ran through the trunk together, padded to `width`; `tree`: as one conversation."""

    part: str
    indices: tuple[int, ...]
    width: int
    tree: bool = False


Recompute = Callable[[Piece], Iterable[tuple[Sequence[int], mx.array]]]  # some of its rows at a time, (B, T, D)


@dataclass
class TrunkStore:
    """Rows' states (T, D) by key. `device`, `memory` and `disk` are limits in bytes, filled in that order; what fits
    none is not kept."""

    memory: int
    disk: int = 0
    device: int = 0
    rows: dict[Key, np.ndarray[Any, Any] | mx.array] = field(default_factory=dict)
    device_used: int = 0
    device_peak: int = 0
    memory_used: int = 0
    memory_peak: int = 0
    disk_used: int = 0
    _file: np.memmap[Any, Any] | None = None
    _free: list[tuple[int, int]] = field(default_factory=list)  # (offset, bytes) of forgotten rows on disk
    _places: dict[Key, tuple[int, int]] = field(default_factory=dict)
    _dtype: mx.Dtype = mx.float32
    # Which rows ran together: states depend in their last bits on that, so a resumed run repeats it.
    _ran: dict[Key, Piece] = field(default_factory=dict)
    _awaited: dict[Key, int] = field(default_factory=dict)  # rows that a resumed run has not computed yet: bytes
    recompute: Recompute | None = None

    @property
    def full(self) -> bool:
        return self.memory_used >= self.memory and self.disk_used >= self.disk

    def put(self, keys: Sequence[Key], states: mx.array, lengths: Sequence[int], ran: Piece | None = None) -> None:
        """Keep row i of `states` (B, T, D) without its padding, as far as there is room. `ran`: what ran together, if
        it was not these rows alone."""
        self._dtype = states.dtype
        piece = ran or Piece(keys[0][0], tuple(index for _, index in keys), states.shape[1])
        if self.device_used + states.nbytes <= self.device:
            self._put_on_device(piece, keys, states, lengths)
            return
        whole = np.array(_plain(states))
        for row, key, length in zip(whole, keys, lengths, strict=True):
            size = length * row.shape[-1] * row.itemsize
            if self.holds(key):
                continue
            self._ran[key] = piece
            if self.memory_used + size <= self.memory:
                self.rows[key] = row[:length].copy()
                self.memory_used += size
                self.memory_peak = max(self.memory_peak, self.memory_used)
            elif (place := self._room(size)) is not None:
                view = self._disk()[place : place + size].view(row.dtype).reshape(length, -1)
                view[:] = row[:length]
                self.rows[key], self._places[key] = view, (place, size)
            else:
                del self._ran[key]

    @property
    def holding(self) -> bool:
        """Whether it was filled, by computing or by a resumed run's plan."""
        return bool(self._ran)

    def holds(self, key: Key) -> bool:
        return key in self.rows or key in self._awaited

    def _put_on_device(self, piece: Piece, keys: Sequence[Key], states: mx.array, lengths: Sequence[int]) -> None:
        for i, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if not self.holds(key):
                self._ran[key] = piece
                # A copy: a view would keep the states of all rows of the slice until the last one is forgotten.
                row = mx.take(states[:, :length], mx.array(i), axis=0)
                mx.async_eval(row)
                self.rows[key] = row
                self.device_used += row.nbytes
        self.device_peak = max(self.device_peak, self.device_used)

    def get(self, keys: Sequence[Key], width: int) -> mx.array | None:
        """States (B, width, D) with zeros behind each row, or None where one is not kept."""
        if not all(map(self.holds, keys)):
            return None
        for key in keys:
            if key in self._awaited:
                self._run_again(self._ran[key])
        found = [self.rows.get(key) for key in keys]
        if any(row is None for row in found):
            return None
        if any(isinstance(row, mx.array) for row in found):
            on_device = [row if isinstance(row, mx.array) else _back(mx.array(row), self._dtype) for row in found]
            return mx.stack([mx.pad(row, ((0, width - len(row)), (0, 0))) for row in on_device])
        first = found[0]
        assert first is not None
        out = np.zeros((len(found), width, first.shape[1]), first.dtype)
        for place, row in zip(out, found, strict=True):
            assert row is not None
            place[: len(row)] = row
        return _back(mx.array(out), self._dtype)

    def forget(self, keys: Iterable[Key]) -> None:
        """Free rows that are not needed again."""
        for key in keys:
            row, awaited = self.rows.pop(key, None), self._awaited.pop(key, 0)
            if row is None and not awaited:
                continue
            del self._ran[key]
            if isinstance(row, mx.array):
                self.device_used -= row.nbytes
            elif key in self._places:
                self._free.append(self._places.pop(key))
            else:
                self.memory_used -= awaited if row is None else row.nbytes

    def plan(self) -> dict[str, Any]:
        """Which rows are held, where, and what they ran with, as JSON; the states themselves are computed again."""
        pieces: dict[Piece, list[list[Any]]] = {}
        for key, piece in self._ran.items():
            size = self._awaited.get(key) or self.rows[key].nbytes
            pieces.setdefault(piece, []).append([key[1], size, self._places.get(key)])
        return {
            "pieces": [[*piece, held] for piece, held in pieces.items()],
            "free": self._free, "disk_used": self.disk_used, "dtype": str(self._dtype).removeprefix("mlx.core."),
        }  # fmt: skip

    def arrays(self, most: int) -> dict[str, mx.array]:
        """The states themselves, where they are at most so many bytes: a checkpoint with them goes on at once."""
        if sum(row.nbytes for row in self.rows.values()) > most:
            return {}
        return {
            f"{part}.{index}": _plain(row) if isinstance(row, mx.array) else mx.array(row)
            for (part, index), row in self.rows.items()
        }

    def follow(self, plan: Mapping[str, Any], recompute: Recompute, states: Mapping[str, mx.array]) -> None:
        """Hold what `plan` says. Rows whose `states` are not there are computed by `recompute`, with those that they
        ran with, when they are first asked for."""
        self.recompute, self._dtype = recompute, getattr(mx, plan["dtype"])
        self._free = [(place, size) for place, size in plan["free"]]
        self.disk_used = plan["disk_used"]
        for part, indices, width, tree, held in plan["pieces"]:
            piece = Piece(part, tuple(indices), width, tree)
            for index, size, place in held:
                key = (part, index)
                self._ran[key], self._awaited[key] = piece, size
                if place is None:
                    self.memory_used += size
                else:
                    self._places[key] = (place[0], place[1])
                if (found := states.get(f"{part}.{index}")) is not None:
                    self._keep(key, np.array(found))
        self.memory_peak = max(self.memory_peak, self.memory_used)

    def _run_again(self, piece: Piece) -> None:
        assert self.recompute is not None
        for indices, states in self.recompute(piece):
            self._dtype = states.dtype
            for row, index in zip(np.array(_plain(states)), indices, strict=True):
                key = (piece.part, index)
                if self._ran.get(key) == piece and (size := self._awaited.get(key, 0)):
                    self._keep(key, row[: size // (row.shape[-1] * row.itemsize)].copy())

    def _keep(self, key: Key, row: np.ndarray[Any, Any]) -> None:
        """An awaited row's states, where it has its place."""
        self._awaited.pop(key, None)
        if key in self._places:
            place, size = self._places[key]
            view = self._disk()[place : place + size].view(row.dtype).reshape(row.shape)
            view[:] = row
            row = view
        self.rows[key] = row

    def _room(self, size: int) -> int | None:
        for number, (place, length) in enumerate(self._free):
            if length >= size:
                self._free[number] = (place + size, length - size)
                return place
        if self.disk_used + size > self.disk:
            return None
        self.disk_used += size
        return self.disk_used - size

    def _disk(self) -> np.memmap[Any, Any]:
        if self._file is None:
            with tempfile.TemporaryFile() as file:  # the map keeps it open
                self._file = np.memmap(file, np.uint8, "w+", shape=(self.disk,))  # type: ignore[call-overload]
        return self._file


def _plain(states: mx.array) -> mx.array:
    """As a type that NumPy has: bfloat16 by its bits."""
    return states.view(mx.uint16) if states.dtype == mx.bfloat16 else states


def _back(states: mx.array, dtype: mx.Dtype) -> mx.array:
    return states.view(mx.bfloat16) if dtype == mx.bfloat16 else states


def store_limits(memory: int | None) -> tuple[int, int]:
    """Bytes of states that a store may keep in memory, and of these on a GPU of its own memory; `memory`: as the user
    said, None: a share of the machine's."""
    memory = auto_memory() if memory is None else memory
    return memory, min(memory, auto_device_memory())


def auto_memory() -> int:
    return memory_bytes() // AUTO_SHARE


def auto_device_memory() -> int:
    """Bytes of a GPU's own memory for states; 0 on a CPU and where it shares the host's memory."""
    if mx.default_device() == mx.cpu or mx.metal.is_available():
        return 0
    return own_memory() // DEVICE_SHARE


def trunk_note(
    store: TrunkStore, cut: int, layers: int, width: int, itemsize: int, prefix: int, examples: Sequence[Example],
    epochs: float,
) -> str:  # fmt: skip
    """What the frozen trunk will keep, in words, before it is computed."""
    said = f"frozen trunk: layers 1 to {cut} of {layers} run once a row"
    if epochs <= 1:
        return f"{said}; with one epoch nothing is kept"
    need = sum(len(e) - prefix - 1 for e in examples) * width * itemsize
    room = f"{store.memory / 1e9:.1f} GB of memory" + (f" and {store.disk / 1e9:.1f} of disk" if store.disk else "")
    if need <= store.memory + store.disk:
        where = "memory" if need <= store.memory else "memory and on disk"
        return f"{said}; what they give, {need / 1e9:.2f} GB, is kept in {where}"
    share = (store.memory + store.disk) / need
    return (f"{said}; of what they give, {need / 1e9:.1f} GB, {share:.0%} is kept in {room}, the rest runs anew each "
            "epoch (--trunk-memory-gb, --trunk-disk-gb)")  # fmt: skip
