"""Arrow tables as plain JSON values: Parquet files, and the rows of the `datasets` library.

Arrow gives every object of a column the keys of all its rows: a call's arguments come with those of every other
tool, as null. Keys that are null are therefore left out, except in columns of the type `arrow.json` (which
`datasets` uses where the rows' objects differ), since these hold each row's own JSON.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.schema import shorten

BATCH = 256  # rows in memory at a time


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, BATCH at a time, through the optional package `pyarrow`. Raises InputError."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        step = "pip install 'calltune[hub]', or write the rows as .jsonl"
        raise InputError(f"{path} cannot be read: Parquet files need the package `pyarrow`", next_step=step) from None
    try:
        with parquet.ParquetFile(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            for batch in file.iter_batches(BATCH):
                yield from (_row(item, kinds, json.loads) for item in batch.to_pylist())
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are of these
        problem = Problem("unreadable_file", f"{path}: {shorten(str(error), 160)}")
        raise InputError(f"{path} cannot be read", problems=[problem]) from None


def is_dataset(items: Any) -> bool:
    """Whether this is an object of the `datasets` library (which need not be installed)."""
    return type(items).__module__.partition(".")[0] == "datasets"


def dataset_rows(items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets` object, which has decoded its JSON columns already."""
    features = getattr(items, "features", None)  # None where a stream does not know them
    kinds = {field.name: field.type for field in features.arrow_schema} if features else {}
    return (_row(item, kinds, lambda value: value) for item in items)


def _row(item: Mapping[str, Any], kinds: Mapping[str, Any], decode: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: _plain(value, kinds.get(key), decode) for key, value in item.items() if value is not None}


def _plain(value: Any, kind: Any, decode: Callable[[Any], Any]) -> Any:
    """A value of the Arrow type `kind` (None: unknown) as JSON; dates and other things that JSON lacks as text."""
    if value is None or isinstance(value, (str, int, float)):
        return decode(value) if value is not None and _is_json(kind) else value
    if _is_json(kind):
        return value
    if isinstance(value, Mapping):
        is_struct = hasattr(kind, "get_field_index")
        kinds = {field.name: field.type for field in map(kind.field, range(kind.num_fields))} if is_struct else {}
        return _row(value, kinds, decode)
    if isinstance(value, (list, tuple)):
        return [_plain(item, getattr(kind, "value_type", None), decode) for item in value]
    return str(value)


def _is_json(kind: Any) -> bool:
    return getattr(kind, "extension_name", None) == "arrow.json"
