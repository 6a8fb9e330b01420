"""Bounds of values in `Annotated[...]`, as annotated_types and pydantic's Field have them, in JSON Schema's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum",
          "multiple_of": "multipleOf", "pattern": "pattern"}  # fmt: skip
SIZES = {"string": "Length", "array": "Items", "object": "Properties"}


def constraints_of(notes: Sequence[Any], kind: Any) -> dict[str, Any]:
    """What the notes of a hint say of its values. `kind`: the schema's type; where it has none (a union) a size is
    said for every kind of value that has one."""
    found: dict[str, Any] = {}
    for note in [inner for item in notes for inner in (item, *(getattr(item, "metadata", None) or ()))]:
        for name, word in BOUNDS.items():
            value = getattr(note, name, None)
            if isinstance(value, (int, float, str)) and not isinstance(note, (str, type)):
                found[word] = value
        for end in ("min", "max"):
            size = getattr(note, f"{end}_length", None)
            if isinstance(size, int) and not isinstance(note, type):
                found |= {f"{end}{word}": size for name, word in SIZES.items() if kind in (name, None)}
    return found
