"""The three parts of a data set, and which of them a value or a pattern belongs to."""

from __future__ import annotations

import zlib
from typing import Literal

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
# Shares of the hash's 100 buckets: most values train, since copying is learned from their variety.
TRAIN_BELOW, VALID_BELOW = 65, 74


def part_of(text: str) -> Part:
    """The part that a value belongs to: by its lower-case text alone, the same on every machine."""
    bucket = zlib.crc32(b"slot:" + text.lower().encode()) % 100
    return "train" if bucket < TRAIN_BELOW else "valid" if bucket < VALID_BELOW else "test"
