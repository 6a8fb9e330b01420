"""Type hints to JSON Schema, and JSON values back to the types that a function declares.

`schema_of` and `coerce` are two sides of one table: what the first can describe, the second can make.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import sys
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any, Literal, Union

from calltune.functions.bounds import constraints_of
from calltune.judging import errors_of, make_validator

Schema = dict[str, Any]

PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    decimal.Decimal: {"type": "number"},
    pathlib.Path: {"type": "string"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array", "uniqueItems": True},
    frozenset: {"type": "array", "uniqueItems": True},
    dict: {"type": "object"},
}
ISO_TYPES = (datetime.datetime, datetime.date, datetime.time)
LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
SETS = (set, frozenset, collections.abc.Set)
DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class UnsupportedHint(TypeError):
    """A type hint that has no JSON Schema here; the message says which part of it."""


def schema_of(hint: Any, seen: tuple[Any, ...] = ()) -> Schema:
    """JSON Schema (draft 2020-12) of a type hint; no `$ref`. `seen`: the types that are being described.

    Raises UnsupportedHint. `X | Y` becomes `anyOf`, and so does `X | None`: a null that the function
    accepts is valid.
    """
    hint = unwrap(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:  # first: a note need not be hashable
        note = next((m for m in map(_note, parts[1:]) if m), None)
        schema = schema_of(parts[0], seen)
        return schema | constraints_of(parts[1:], schema.get("type")) | ({"description": note} if note else {})
    if isinstance(hint, typing.Hashable) and hint in PLAIN:
        return dict(PLAIN[hint])
    if hint in seen:
        raise UnsupportedHint(f"{_name(hint)} contains itself")
    if origin is Literal:
        return _enum_schema([v.value if isinstance(v, enum.Enum) else v for v in parts])
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(part, seen) for part in parts]}
    if origin is not None:
        return _container_schema(hint, origin, parts, seen)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_schema([_enum_value(member) for member in hint])
    if is_pydantic(hint):
        return _pydantic_schema(hint)
    if is_record(hint):
        return _record_schema(hint, (*seen, hint))
    raise UnsupportedHint(f"{_name(hint)} has no JSON Schema")


def unwrap(hint: Any) -> Any:
    """Follows NewType and `type X = ...` to what they stand for."""
    while hasattr(hint, "__supertype__") or type(hint).__name__ == "TypeAliasType":
        hint = hint.__supertype__ if hasattr(hint, "__supertype__") else hint.__value__
    return hint


def is_pydantic(hint: Any) -> bool:
    """Whether it is a pydantic model, dataclass or type of its own; pydantic is never imported for the question."""
    marks = ("__get_pydantic_core_schema__", "__pydantic_core_schema__")
    return "pydantic" in sys.modules and isinstance(hint, type) and any(hasattr(hint, mark) for mark in marks)


def _pydantic_schema(hint: Any) -> Schema:
    """The schema of what comes in: required are the fields without default. Raises UnsupportedHint."""
    try:
        schema = sys.modules["pydantic"].TypeAdapter(hint).json_schema()
    except Exception as error:  # of pydantic, or of a package that a type needs
        raise UnsupportedHint(f"{_name(hint)} has no JSON Schema: {error}") from None
    return dict(_inline(schema, schema.get("$defs", {}), ()))


def is_record(hint: Any) -> bool:
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or typing.is_typeddict(hint))


def _container_schema(hint: Any, origin: Any, parts: tuple[Any, ...], seen: tuple[Any, ...]) -> Schema:
    if origin in LISTS:
        return {"type": "array", "items": schema_of(parts[0], seen)}
    if origin in SETS:
        return {"type": "array", "items": schema_of(parts[0], seen), "uniqueItems": True}
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return {"type": "array", "items": schema_of(parts[0], seen)}
    if origin is tuple:
        items = [schema_of(part, seen) for part in parts]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in DICTS:
        if unwrap(parts[0]) is not str:
            raise UnsupportedHint(f"{_name(hint)} has keys that are not strings")
        return {"type": "object", "additionalProperties": schema_of(parts[1], seen)}
    raise UnsupportedHint(f"{_name(hint)} has no JSON Schema")


def _enum_schema(values: list[Any]) -> Schema:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    types_ = list(dict.fromkeys(kinds[type(value)] for value in values if type(value) in kinds))
    return ({"type": types_[0]} if len(types_) == 1 else {}) | {"enum": values}


def _enum_value(member: enum.Enum) -> Any:
    """What stands for a member in JSON: its value where JSON has it, else its name."""
    plain = all(isinstance(other.value, (str, int, float)) for other in type(member))
    value = member.value
    if not plain:
        return member.name
    return next(t(value) for t in (str, bool, int, float) if isinstance(value, t))


def _record_schema(record: Any, seen: tuple[Any, ...]) -> Schema:
    """A dataclass or TypedDict: fields as properties, those without default required, no others."""
    properties, required = {}, []
    for name, (hint, default) in record_fields(record).items():
        properties[name] = schema_of(hint, seen)
        if default is inspect.Parameter.empty:
            required.append(name)
        else:
            properties[name] |= default_of(default)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def record_fields(record: Any) -> dict[str, tuple[Any, Any]]:
    """Name -> (hint, default) of a dataclass or TypedDict; `Parameter.empty` where it is required."""
    hints = typing.get_type_hints(record, include_extras=True)
    if typing.is_typeddict(record):
        keys: frozenset[str] = getattr(record, "__required_keys__", frozenset())
        empty = inspect.Parameter.empty
        return {name: (_bare(hint), empty if name in keys else ...) for name, hint in hints.items()}
    return {f.name: (hints[f.name], _field_default(f)) for f in dataclasses.fields(record) if f.init}


def _bare(hint: Any) -> Any:
    """`Required[X]` and `NotRequired[X]` of a TypedDict without the wrapper."""
    wrapped = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
    return typing.get_args(hint)[0] if wrapped else hint


def _field_default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return inspect.Parameter.empty if item.default_factory is dataclasses.MISSING else item.default_factory()


def default_of(value: Any) -> Schema:
    """`{"default": value}` in JSON's words, or nothing where the value has no JSON form."""
    try:
        return {"default": to_json(value, strict=True)}
    except TypeError:
        return {}


def _inline(schema: Any, definitions: Mapping[str, Any], seen: tuple[str, ...]) -> Any:
    """Pydantic's schema with `$ref` replaced by what it names, so that it can stand inside another."""
    if isinstance(schema, list):
        return [_inline(item, definitions, seen) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in seen:
            raise UnsupportedHint(f"{name} contains itself")
        rest = {k: v for k, v in schema.items() if k != "$ref"}
        return {**_inline(definitions[name], definitions, (*seen, name)), **rest}
    result = {k: _inline(v, definitions, seen) for k, v in schema.items() if k != "$defs"}
    if isinstance(result.get("title"), str):  # pydantic's echo of the name: tokens that say nothing
        del result["title"]
    return result


def _note(item: Any) -> str | None:
    """The words of `Annotated[str, "words"]`, pydantic's Field(description=...) or typing's Doc."""
    if isinstance(item, str):
        return item
    words = getattr(item, "description", None) or getattr(item, "documentation", None)
    return words if isinstance(words, str) else None


def _name(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or str(hint)


def coerce(value: Any, hint: Any) -> Any:
    """A JSON value as the declared type. Raises ValueError, TypeError or LookupError where it is not one.

    The value is taken to fit `schema_of(hint)`: this makes objects, it does not check again.
    """
    hint = unwrap(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return coerce(value, parts[0])
    if origin in (Union, types.UnionType):
        return _coerce_union(value, parts)
    if origin is Literal:
        members = [p for p in parts if isinstance(p, enum.Enum) and p.value == value]
        return members[0] if members else value
    if hint is float:
        return float(value)
    if hint is int:  # JSON Schema takes 3.0 for an integer
        return int(value)
    if hint in ISO_TYPES:
        return hint.fromisoformat(value)
    if hint is decimal.Decimal:
        return decimal.Decimal(str(value))
    if hint in (uuid.UUID, pathlib.Path, set, frozenset, tuple):
        return hint(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next(member for member in hint if _enum_value(member) == value)
    if is_pydantic(hint):
        return sys.modules["pydantic"].TypeAdapter(hint).validate_json(json.dumps(value))  # strict models too
    if is_record(hint):
        hints = {name: pair[0] for name, pair in record_fields(hint).items()}
        return hint(**{name: coerce(item, hints[name]) for name, item in value.items()})
    return _coerce_container(value, origin, parts) if origin is not None else value


def _coerce_union(value: Any, parts: tuple[Any, ...]) -> Any:
    """The first member whose schema takes the value and whose type can be made of it."""
    for part in parts:
        if errors_of(make_validator(schema_of(part), bounded=True), value).fits:
            try:
                return coerce(value, part)
            except (ValueError, TypeError, LookupError):
                continue
    raise ValueError(f"{value!r} fits none of {', '.join(_name(part) for part in parts)}")


def _coerce_container(value: Any, origin: Any, parts: tuple[Any, ...]) -> Any:
    if origin in DICTS:
        return {key: coerce(item, parts[1]) for key, item in value.items()}
    if origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
        return tuple(coerce(item, part) for item, part in zip(value, parts, strict=True))
    items = [coerce(item, parts[0]) for item in value]
    if origin in SETS:
        return frozenset(items) if origin is frozenset else set(items)
    return tuple(items) if origin is tuple else items


def to_json(value: Any, *, strict: bool = False) -> Any:
    """Any result in JSON's types. What JSON has no form for becomes its `str` (`strict`: TypeError)."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return _enum_value(value)
    if isinstance(value, (float, decimal.Decimal)):
        number = float(value)
        finite = number - number == 0  # NaN and the infinities are no JSON
        return number if finite else str(number)
    if isinstance(value, ISO_TYPES):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name), strict=strict) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump") and is_pydantic(type(value)):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): to_json(item, strict=strict) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((to_json(item, strict=strict) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [to_json(item, strict=strict) for item in value]
    if strict and not isinstance(value, (uuid.UUID, pathlib.Path)):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return str(value)
