"""Reading a .gguf file: its metadata and where its tensors lie, without loading them.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3). The reader of
the `gguf` package makes a NumPy view for every string: 15 s for a vocabulary of 262,144 tokens, this
one takes half a second. Block sizes and the arithmetic of the quantisations are the package's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quant_shape_to_byte_shape

from calltune.errors import InputError

_STRING, _ARRAY = 8, 9
# GGUF value type -> struct code, little endian
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


Array = np.ndarray[Any, Any]
_PLAIN: dict[GGMLQuantizationType, Any] = {
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F64: np.float64,
}


@dataclass(frozen=True)
class GgufTensor:
    """Place and form of one tensor; `shape` in NumPy's order (rows first), `offset` in bytes of the file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A .gguf file whose header was read: `metadata` by key, `tensors` by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str, default: Any = None) -> Any:
        """The metadata `key`, with `{arch}` in it standing for the architecture's name."""
        return self.metadata.get(key.replace("{arch}", self.architecture), default)

    def load(self, name: str, first: int = 0, last: int | None = None) -> Array:
        """The tensor `name` dequantised to float32, in `shape`; of a matrix the rows [first, last) alone."""
        tensor = self.tensors[name]
        shape, offset, n_bytes = tensor.shape, tensor.offset, tensor.n_bytes
        if len(shape) > 1:
            row_bytes = n_bytes // shape[0]
            shape = ((shape[0] if last is None else min(last, shape[0])) - first, *shape[1:])
            offset, n_bytes = offset + first * row_bytes, shape[0] * row_bytes
        raw = np.fromfile(self.path, np.uint8, count=n_bytes, offset=offset)
        if tensor.type in _PLAIN:
            plain: Array = raw.view(_PLAIN[tensor.type]).reshape(shape)
            return plain.astype(np.float32, copy=False)
        rows = raw.reshape(quant_shape_to_byte_shape(shape, tensor.type))
        values: Array = dequantize(rows, tensor.type).reshape(shape)
        return values


def can_dequantize(kind: GGMLQuantizationType) -> bool:
    """Whether numbers of this type can be read, found by undoing one block of zeros."""
    try:
        if kind not in _PLAIN:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a .gguf file and check that its tensors are all there.

    Raises InputError when the file is missing, is no GGUF, is cut short, or is one part of several.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", next_step="give the path of a .gguf file")
    try:
        file = _read(path)
    except _Damaged as problem:
        raise InputError(
            f"{path}: not a readable GGUF file: {problem}",
            next_step="download it again and compare its SHA-256 with the publisher's",
        ) from None
    size = path.stat().st_size
    end = max((t.offset + t.n_bytes for t in file.tensors.values()), default=0)
    if end > size:
        raise InputError(
            f"{path}: the file is cut short: {size:,} bytes where its header promises {end:,}",
            next_step="download it again",
        )
    if int(file.value("split.count", 0) or 0) > 1:
        raise InputError(
            f"{path}: one part of a model of {file.value('split.count')} files",
            next_step="join the parts with `llama-gguf-split --merge` and give the joined file",
        )
    return file


class _Damaged(Exception):
    """What is wrong with the header, in words."""


class _Cursor:
    """Reads values from the start of a file on; keeps a position instead of copying."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, np.uint8, mode="r").data
        self.at = 0

    def bytes(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise _Damaged(f"it ends inside its header, at byte {len(self.data):,}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.bytes(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        # Vocabularies may hold tokens that are no whole characters: they must not stop the reading.
        return bytes(self.bytes(self.number("Q"))).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                code = _SCALARS[inner]
                return list(struct.unpack(f"<{count}{code}", self.bytes(count * struct.calcsize(code))))
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise _Damaged(f"unknown type {kind} of a metadata value at byte {self.at:,}")
        return self.number(_SCALARS[kind])


def _read(path: Path) -> GgufFile:
    if path.stat().st_size < 24:
        raise _Damaged("it is shorter than a header")
    cursor = _Cursor(path)
    if bytes(cursor.bytes(4)) != b"GGUF":
        raise _Damaged("it does not begin with the letters GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise _Damaged(f"its version is {version}; versions 2 and 3 (little endian) can be read")
    n_tensors, n_values = cursor.number("Q"), cursor.number("Q")
    metadata = {}
    for _ in range(n_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    found = list(_tensor_headers(cursor, n_tensors))
    alignment = int(metadata.get("general.alignment", 32)) or 32
    start = -(-cursor.at // alignment) * alignment
    tensors = {t.name: GgufTensor(t.name, t.shape, t.type, start + t.offset, t.n_bytes) for t in found}
    return GgufFile(path, metadata, tensors)


def _tensor_headers(cursor: _Cursor, count: int) -> Iterator[GgufTensor]:
    """Tensors with offsets that still count from the start of the data part."""
    for _ in range(count):
        name = cursor.string()
        n_dims = cursor.number("I")
        if n_dims > 4:
            raise _Damaged(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(n_dims))[::-1]
        code, offset = cursor.number("I"), cursor.number("Q")
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            raise _Damaged(f"tensor {name!r} has the unknown quantisation {code}") from None
        block, size = GGML_QUANT_SIZES[kind]
        yield GgufTensor(name, shape, kind, offset, prod(shape) // block * size)
