"""Values as models and data sets write them: JSON, Python literals, and mixtures of the two.

Limits instead of trust: a value is data from outside, and neither depth nor length may blow up.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any, NoReturn

MAX_DEPTH = 100  # levels of brackets; CPython's own parser ends at 200
MAX_LITERAL = 2_000_000  # characters given to Python's parser, which needs about 100 bytes for each

# A string of either quote, a bracket, or a quote that never closes. Possessive: linear in the text.
TOKEN = re.compile(
    r""" "[^"\\]*+(?:\\.[^"\\]*+)*" | '[^'\\]*+(?:\\.[^'\\]*+)*' | [{}\[\]"'] """, re.DOTALL | re.VERBOSE
)
NAMES = {"None": None, "True": True, "False": False, "null": None, "true": True, "false": False}


def balanced_end(text: str, start: int) -> int | None:
    """Index after the bracket that closes the one at `start`; None if there is none. Strings are skipped
    whole, so brackets, quotes and markers inside them do not count (T35). Raises ValueError when the
    value is nested deeper than MAX_DEPTH."""
    depth = 0
    for match in TOKEN.finditer(text, start):
        first = match[0][0]
        if first in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        elif first in "}]":
            depth -= 1
            if depth == 0:
                return match.end()
        elif len(match[0]) == 1:
            return None
    return None


def read_json(text: str) -> Any:
    """The JSON value that `text` is; like `json.loads`, but NaN, infinities, a key given twice and a
    nesting deeper than MAX_DEPTH are a ValueError as well, and raw newlines in strings are accepted."""
    try:
        return _allowed(_DECODER.decode(text), text)
    except RecursionError:
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels") from None


def read_value(text: str) -> Any:
    """The JSON value that `text` is, written as JSON or as a Python literal (quotes of both kinds, None,
    True, tuples, a trailing comma; also mixed with true, false and null). Raises ValueError with the reason.

    Not accepted: what `read_json` refuses too.
    """
    stripped = text.strip()
    if len(stripped) > MAX_DEPTH and stripped.count("{") + stripped.count("[") > MAX_DEPTH and stripped[0] in "{[":
        balanced_end(stripped, 0)  # raises if it is too deep for the parsers below
    reason = ""
    if not _is_python(stripped):
        try:
            return _allowed(_decode(stripped), stripped)
        except _Refused:
            raise
        except (ValueError, RecursionError) as error:
            reason = str(error)
    if stripped[:1] not in ("{", "[", "(", "'", '"') and stripped not in NAMES:
        raise ValueError(f"not JSON: {reason or _why_not_json(stripped)}")
    if (value := _by_words(stripped)) is not _NOT:
        return _allowed(value, stripped)
    if len(stripped) > MAX_LITERAL:
        raise ValueError(f"not JSON: {reason or _why_not_json(stripped)}; too long for a Python literal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # an unknown escape keeps its backslash
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(stripped, mode="eval")
        return _allowed(_from_tree(tree.body), stripped)
    except _Refused:
        raise
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"neither JSON ({reason or _why_not_json(stripped)}) nor a Python literal") from None


def _is_python(text: str) -> bool:
    """Whether an apostrophe stands before any double quote, so outside of JSON's strings: no JSON for certain."""
    apostrophe = text.find("'") if text[:1] in ("{", "[") else -1
    return apostrophe >= 0 and text.find('"', 0, apostrophe) < 0


def _why_not_json(text: str) -> str:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


_NOT = object()
# No group is repeated possessively here or elsewhere: Python before 3.11.5 then matches wrongly (gh-101955).
# Three alternatives: a run without a double quote or backslash, in which each apostrophe is the end of a string; a
# string of either quote that is not so plain. What is in none of them stays as it is, and is no JSON.
_PYTHON_PIECE = re.compile(
    r""" ((?:[^'"\\]++|'[^'"\\\n]*+')+) | "[^"\\\n]*+(?:\\.[^"\\\n]*+)*" | '[^'\\\n]*+(?:\\.[^'\\\n]*+)*' """,
    re.VERBOSE,
)
_PYTHON_NAME = re.compile(r"\b(?:None|True|False)\b")
_NAMES_IN_JSON = {"None": "null", "True": "true", "False": "false"}


def _by_words(text: str) -> Any:
    """A Python literal read as JSON after its strings and names are put into JSON's words, ten times as fast as
    Python's own parser, which gets what this cannot read (`_NOT`): tuples, joined strings, commas at the end."""
    try:
        return _decode(_PYTHON_PIECE.sub(_json_piece, text))
    except _Refused:
        raise
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return _NOT


def _json_piece(match: re.Match[str]) -> str:
    plain = match[1]
    if plain is None:
        return _json_string(match[0])
    if "None" in plain or "True" in plain or "False" in plain:
        parts = plain.split("'")  # outside of strings, and inside, by turns
        parts[::2] = [_PYTHON_NAME.sub(lambda name: _NAMES_IN_JSON[name[0]], part) for part in parts[::2]]
        return '"'.join(parts)
    return plain.replace("'", '"')


def _json_string(word: str) -> str:
    if "\\" in word or (word[0] == "'" and '"' in word):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return json.dumps(ast.literal_eval(word))
    return f'"{word[1:-1]}"'


class _Refused(ValueError):
    """Readable, but not to be accepted: no second reading is tried."""


def too_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than MAX_DEPTH (or contain themselves)."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for node in level
            if isinstance(node, (dict, list, tuple))
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, (dict, list, tuple))
        ]
        if not level:
            return False
    return True


def is_whole_text(value: Any) -> bool:
    """False where a string holds half a surrogate pair, which JSON can say and UTF-8 cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _allowed(value: Any, text: str) -> Any:
    """The value read from `text`, unless it is too deep."""
    if len(text) <= MAX_DEPTH:  # each level takes a character
        return value
    if text.count("{") + text.count("[") + text.count("(") > MAX_DEPTH and too_deep(value):
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"the key {twice!r} is given twice")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise _Refused(f"{text[:40]} is too large for a number")
    return number


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON value")


# strict=False: models write raw newlines and tabs into strings
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant, strict=False)


_scan_once = _DECODER.scan_once  # type: ignore[attr-defined]


def _decode(text: str) -> Any:
    """`_DECODER.decode` of a text without space around it; its own way takes twice as long for short ones."""
    try:
        value, end = _scan_once(text, 0)
    except StopIteration:
        end, value = -1, None
    return value if end == len(text) else _DECODER.decode(text)  # which says what is wrong


def _from_tree(node: ast.expr) -> Any:
    """A value of the syntax tree; only what JSON can say. Raises ValueError."""
    match node:
        case ast.Constant(value=bool() | str() | None as value):
            return value
        case ast.Constant(value=int() | float() as value):
            return _finite(repr(value)) if isinstance(value, float) else value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_from_tree(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return _unique([(_key(k), _from_tree(v)) for k, v in zip(keys, values, strict=True)])
    raise ValueError(f"{type(node).__name__} is no literal")


def _key(node: ast.expr | None) -> str:
    key = None if node is None else _from_tree(node)
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ValueError("a key is a string")
    return str(key)


def value_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start` with a bracket or a quote, and the index after it. Raises ValueError as
    `read_value`; its last argument is the index up to which the text was looked at."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return _allowed(value, text[start:end]), end
    except _Refused as error:
        raise ValueError(str(error), balanced_end(text, start) or len(text)) from None
    except (ValueError, RecursionError):
        pass
    try:
        end = balanced_end(text, start) or 0
    except ValueError as error:
        raise ValueError(str(error), len(text)) from None
    if not end:
        raise ValueError("brackets or quotes that do not close", len(text))
    try:
        return read_value(text[start:end]), end
    except ValueError as error:
        raise ValueError(str(error), end) from None
