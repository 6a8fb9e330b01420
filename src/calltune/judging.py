"""Checking values by JSON Schema with jsonschema, also by schemas that strangers send: in bounded time.

`pattern` and its like go by the linear engine (patterns.py) first, everywhere. Where `bounded` is asked for, Python's
`re` never runs, and the work is counted: a schema of 2 kB can ask for more than all time (`allOf` of two references
to an `allOf` of two references to ...). What is not judged then is told.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from calltune.patterns import Pattern, linear
from calltune.references import REFERENCES

NO_REGISTRY: Registry[Any] = Registry()
UNITS = 20_000  # of work, each about 10 µs: a check takes a fifth of a second at most, and other threads wait for it
STEPS = 400  # of the engine for patterns, for a unit
MOST_ERRORS = 100
SPARE = 200  # calls that a keyword may need
# What jsonschema looks for by going over the whole schema each time, or judges by other rules than these.
BEYOND = ("$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$schema", "$id")
WHOLE = frozenset(["enum", "const", "not", "oneOf", "required", "pattern", "$ref"])  # an error shows all of them


@dataclass(frozen=True)
class Judged:
    """In what a value does not fit. `why` not all was judged, if so; `bad`: nobody could judge by this schema."""

    errors: tuple[ValidationError, ...] = ()
    why: str = ""
    bad: bool = False


class Unjudged(Exception):
    """Why a check was given up, in words."""


@dataclass
class Bound:
    """What a check may still do, and the patterns that it has made."""

    left: int = UNITS
    patterns: dict[str, Pattern] = field(default_factory=dict)

    def take(self, units: int) -> None:
        """Raises Unjudged."""
        self.left -= units
        if self.left < 0:
            raise Unjudged("to check it takes too long")


class _UnderWay(threading.local):
    """The bound of the check that this thread is at: jsonschema hands nothing through."""

    bound: Bound | None = None


_under_way = _UnderWay()


def errors_of(validator: Any, value: Any) -> Judged:
    """In what a value does not fit the schema of which `make_validator` made a validator."""
    bounded = isinstance(validator, _Bounded)
    if bounded and (why := _beyond(validator.schema)):
        return Judged(why=why)
    found: list[ValidationError] = []
    _under_way.bound = Bound() if bounded else None
    try:
        found.extend(islice(validator.iter_errors(value), MOST_ERRORS if bounded else None))
    except Unjudged as error:
        return Judged(tuple(found), str(error))
    except RecursionError:
        return Judged(tuple(found), "the schema is nested too deep, or leads back to itself", bad=True)
    except Exception as error:  # an unresolvable $ref, a bad pattern, an unknown type: each another kind
        return Judged(tuple(found), str(error) or type(error).__name__, bad=True)
    finally:
        _under_way.bound = None
    return Judged(tuple(found))


def make_validator(schema: Mapping[str, Any], *, bounded: bool = False) -> Any:
    """The validator of a schema; `bounded`: that judges in bounded time, whoever made the schema. Its registry is
    empty, so that no `$ref` is ever fetched."""
    plain = {key: value for key, value in schema.items() if key != "$schema"}  # else $ref "#" changes to other rules
    return (_Bounded if bounded else _Free)(plain, registry=NO_REGISTRY)


def _beyond(schema: Any) -> str:
    """What of a schema is not judged in bounded time, in words; values are looked at too, as any $ref may lead to
    them."""
    words, stack = set[str](), [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            words.update(node)
            for word in BEYOND:
                if isinstance(node.get(word), str) and (node is not schema or word not in ("$schema", "$id")):
                    return f"it has {word}"
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    if {"unevaluatedProperties", "patternProperties"} <= words:
        return "it has unevaluatedProperties and patternProperties"
    return ""


def _found(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text. Raises Unjudged."""
    bound = _under_way.bound
    if bound is None:
        made = _kept(pattern)
        return made.found(text) if made else re.search(pattern, text) is not None
    made = bound.patterns.get(pattern)
    if made is None:
        made = linear(pattern)
        if made is None:
            raise Unjudged(f"the pattern {pattern[:80]} cannot be tried in bounded time")
        bound.take(3 + made.size // 10)
        bound.patterns[pattern] = made
    bound.take(1 + made.width * len(text) // STEPS)
    return made.found(text)


@lru_cache(maxsize=1024)
def _kept(pattern: str) -> Pattern | None:
    return linear(pattern)


# ---- the keywords -------------------------------------------------------------------------------------------------

Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
_PLAIN: Mapping[str, Check] = Draft202012Validator.VALIDATORS


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, inner in patterns.items() if validator.is_type(instance, "object") else ():
        for key, value in instance.items():
            if _found(pattern, key):
                yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    patterns = schema.get("patternProperties")
    if not patterns:
        yield from _PLAIN["additionalProperties"](validator, wanted, instance, schema) or ()
        return
    known = schema.get("properties", {})
    for key, value in instance.items() if validator.is_type(instance, "object") else ():
        if key in known or any(_found(pattern, key) for pattern in patterns):
            continue
        if wanted is False:
            yield ValidationError(f"{key!r} does not match any of the regexes: {', '.join(map(repr, patterns))}")
        else:
            yield from validator.descend(value, wanted, path=key)


def _ending(check: Check) -> Check:
    """The check of a reference, which ends where it leads on and on."""

    def ending(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        _check_depth()
        return check(validator, wanted, instance, schema)

    return ending


def _counted(keyword: str, check: Check) -> Check:
    """The check of a keyword, its work counted."""

    def counted(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        _check_depth()
        size = _size(instance) + (_size(wanted) if keyword in WHOLE else 0)
        if keyword == "uniqueItems" and isinstance(instance, list):
            size += len(instance) ** 2  # where they cannot be sorted
        assert _under_way.bound is not None
        _under_way.bound.take(1 + size // 20 + (len(wanted) // 100 if isinstance(wanted, dict | list) else 0))
        return check(validator, wanted, instance, schema)

    return counted


def _check_depth() -> None:
    """Raises RecursionError where the stack is nearly full: where it is full, jsonschema's library of maps may raise
    what is no Exception, and end the thread."""
    try:
        sys._getframe(sys.getrecursionlimit() - SPARE)
    except ValueError:
        return
    raise RecursionError


def _size(value: Any) -> int:
    """About how many simple values a value consists of; 50 characters are one."""
    if isinstance(value, str):
        return len(value) // 50
    if isinstance(value, Mapping):
        return len(value) + sum(map(_size, value.values()))
    return len(value) + sum(map(_size, value)) if isinstance(value, list) else 0


_OWN: dict[str, Check] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    **{keyword: _ending(_PLAIN[keyword]) for keyword in REFERENCES},
}
_Free: Any = extend(Draft202012Validator, _OWN)  # type: ignore[no-untyped-call]
_Bounded: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {keyword: _counted(keyword, check) for keyword, check in {**_PLAIN, **_OWN}.items()}
)
