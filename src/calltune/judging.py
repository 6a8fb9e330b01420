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

from calltune.boundable import ELSEWHERE, beyond, plain_of
from calltune.patterns import Pattern, linear
from calltune.references import REFERENCES, reachable

NO_REGISTRY: Registry[Any] = Registry()
UNITS = 20_000  # of work, each about 10 µs: a check takes a fifth of a second at most, and other threads wait for it
STEPS = 400  # of the engine for patterns, for a unit
MOST_ERRORS = 100
SPARE = 200  # calls that a keyword may need
# Under these a pattern that is taken as fitting could make a value that does not fit pass.
TURNING = frozenset(["not", "if", "oneOf", "contains"])
WHOLE = frozenset(["enum", "const", "not", "oneOf", "required", "pattern", "$ref"])  # an error shows all of them


@dataclass(frozen=True)
class Judged:
    """In what a value does not fit. `why` not all was judged, if so: `patterns`, only because of such as cannot be
    tried in bounded time, all else was judged; `bad`: nobody could judge by this schema."""

    errors: tuple[ValidationError, ...] = ()
    why: str = ""
    bad: bool = False
    patterns: bool = False

    @property
    def fits(self) -> bool:
        """Whether a value fits as far as its patterns can be tried."""
        return not self.errors and (not self.why or self.patterns)


class Unjudged(Exception):
    """Why a check was given up, in words."""


@dataclass
class Bound:
    """What a check by a schema may still do, the patterns that it has made, and why one of them was not tried."""

    schema: Any
    left: int = UNITS
    patterns: dict[str, Pattern | None] = field(default_factory=dict)
    untried: str = ""

    def take(self, units: int) -> None:
        """Raises Unjudged."""
        self.left -= units
        if self.left < 0:
            raise Unjudged("to check it takes too long")

    def pass_over(self, why: str) -> None:
        """Takes a pattern as fitting. Raises Unjudged where that could make others pass."""
        if not self.untried and any(not TURNING.isdisjoint(node) for _, node in reachable(self.schema)):
            raise Unjudged(why)
        self.untried = why


class _UnderWay(threading.local):
    """The bound of the check that this thread is at: jsonschema hands nothing through."""

    bound: Bound | None = None


_under_way = _UnderWay()


def errors_of(validator: Any, value: Any) -> Judged:
    """In what a value does not fit the schema of which `make_validator` made a validator."""
    bounded = isinstance(validator, _Bounded)
    if bounded and (why := beyond(validator.schema)):
        return Judged(why=why)
    found: list[ValidationError] = []
    _under_way.bound = bound = Bound(validator.schema) if bounded else None
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
    untried = bound.untried if bound else ""
    return Judged(tuple(found), untried, patterns=bool(untried))


def make_validator(schema: Mapping[str, Any], *, bounded: bool = False) -> Any:
    """The validator of a schema; `bounded`: that judges in bounded time, whoever made the schema. Its registry is
    empty, so that no `$ref` is ever fetched."""
    if not bounded:
        plain = {key: value for key, value in schema.items() if key != "$schema"}  # else $ref "#" has other rules
        return _Free(plain, registry=NO_REGISTRY)
    return _Bounded(plain_of(schema), registry=NO_REGISTRY)


def _found(pattern: str, text: str) -> bool | None:
    """Whether a pattern is found in a text; None where it cannot be tried in bounded time. Raises Unjudged."""
    bound = _under_way.bound
    if bound is None:
        made = _kept(pattern)
        return made.found(text) if made else re.search(pattern, text) is not None
    if pattern not in bound.patterns:
        made = linear(pattern)
        bound.take(3 + (made.size // 10 if made else 0))
        bound.patterns[pattern] = made
    made = bound.patterns[pattern]
    if made is None:
        return None
    bound.take(1 + made.width * len(text) // STEPS)
    return made.found(text)


def _found_key(pattern: str, key: str) -> bool:
    """Whether a pattern of keys is found in one, which says by what a value is judged. Raises Unjudged."""
    found = _found(pattern, key)
    if found is None:
        raise Unjudged(_untried(pattern))
    return found


def _untried(pattern: str) -> str:
    return f"the pattern {pattern[:80]} cannot be tried in bounded time"


@lru_cache(maxsize=1024)
def _kept(pattern: str) -> Pattern | None:
    return linear(pattern)


# ---- the keywords -------------------------------------------------------------------------------------------------

Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
_PLAIN: Mapping[str, Check] = Draft202012Validator.VALIDATORS


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "string"):
        return
    found = _found(pattern, instance)
    if found is False:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")
    elif found is None and _under_way.bound:
        _under_way.bound.pass_over(_untried(pattern))


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, inner in patterns.items() if validator.is_type(instance, "object") else ():
        for key, value in instance.items():
            if _found_key(pattern, key):
                yield from validator.descend(value, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    patterns = schema.get("patternProperties")
    if not patterns:
        yield from _PLAIN["additionalProperties"](validator, wanted, instance, schema) or ()
        return
    known = schema.get("properties", {})
    extra = [key for key in (instance if validator.is_type(instance, "object") else ())
             if key not in known and not any(_found_key(pattern, key) for pattern in patterns)]  # fmt: skip
    if wanted is False and extra:
        keys, shown = (", ".join(map(repr, sorted(each))) for each in (extra, patterns))
        yield ValidationError(f"{keys} {'does' if len(extra) == 1 else 'do'} not match any of the regexes: {shown}")
    elif wanted is not False:
        for key in extra:
            yield from validator.descend(instance[key], wanted, path=key)


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
            count = len(instance)
            size += count * (count.bit_length() if _sortable(instance) else count)
        if keyword in REFERENCES and isinstance(wanted, str) and not wanted.startswith("#"):
            raise Unjudged(ELSEWHERE)
        assert _under_way.bound is not None
        _under_way.bound.take(1 + size // 20 + (len(wanted) // 100 if isinstance(wanted, dict | list) else 0))
        return check(validator, wanted, instance, schema)

    return counted


def _sortable(items: list[Any]) -> bool:
    """Whether jsonschema sorts items to find two that are the same; others it holds each against each."""
    kinds = set(map(type, items))
    return kinds == {str} or kinds <= {int, float}


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
