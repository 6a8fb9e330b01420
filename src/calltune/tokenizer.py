"""A model's tokenizer as calltune needs it: ids with offsets, stop ids, the template that came with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calltune.errors import InputError
from calltune.schema import GUARD

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


UNUSED = re.compile(r"unused_?\d+|reserved_special_token")  # Gemma has 6,242 of these; they mean nothing
AROUND = re.compile(r"tool|think|turn|call|response|function")
Encoded = tuple[list[int], list[tuple[int, int]]]


@dataclass(frozen=True)
class Tokenizer:
    """`inner` is a transformers fast tokenizer. Text is always encoded as it stands: special tokens in it are
    read as such, and none is added (trap T02: what writes a BOS is the template, in training as in use). GUARD in a
    text is left out; no token reaches over it."""

    inner: Any
    stop_ids: frozenset[int]
    template: str | None = None

    def encode(self, text: str) -> list[int]:
        if GUARD in text:
            return [token for part in text.split(GUARD) for token in self.encode(part)]
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, text: str) -> Encoded:
        """Ids and, for each, the half-open range of characters (without GUARD) that it stands for."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        place = 0
        for part in text.split(GUARD):
            encoded = self._backend.encode(part, add_special_tokens=False)
            ids += encoded.ids
            offsets += [(start + place, end + place) for start, end in encoded.offsets] if place else encoded.offsets
            place += len(part)
        return ids, offsets

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all cores."""
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [
            self.encode(text) if GUARD in text else encoded.ids for text, encoded in zip(texts, found, strict=True)
        ]

    def encode_many_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        found = self._backend.encode_batch(texts, add_special_tokens=False)
        return [self.encode_with_offsets(text) if GUARD in text else (encoded.ids, encoded.offsets)
                for text, encoded in zip(texts, found, strict=True)]  # fmt: skip

    @cached_property
    def longest_token(self) -> int:
        """Characters (of byte-level tokens: bytes) of the longest token: so many stand for one token at most."""
        return max(len(token) for token in self.inner.get_vocab())

    @cached_property
    def control_texts(self) -> re.Pattern[str] | None:
        """Finds the texts of tokens that steer: the special ones and those that end a reply."""
        added = self.inner.added_tokens_decoder
        ids = {*self.inner.all_special_ids, *self.stop_ids, *(i for i, token in added.items() if token.special)}
        return _any_of(str(added[i]) for i in ids if i in added and not UNUSED.search(str(added[i])))

    @cached_property
    def marker_texts(self) -> re.Pattern[str] | None:
        """Finds these, and those of tokens around calls, results and plans, which need not be special ones. Others
        that are read as one wherever they stand (Gemma has HTML's tags) steer nothing."""
        control = self.control_texts
        texts = map(str, self.inner.added_tokens_decoder.values())
        return _any_of(text for text in texts if AROUND.search(text) or (control and control.fullmatch(text)))

    @property
    def _backend(self) -> Any:
        """The fast tokenizer itself: transformers' way to it costs a quarter of the time on texts of a row."""
        return self.inner.backend_tokenizer

    def decode(self, ids: Sequence[int], *, keep_special: bool = True) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=not keep_special)
        return text

    def has_token(self, text: str) -> bool:
        """Whether `text` is one token of the vocabulary (a turn marker, say)."""
        return len(self.encode(text)) == 1

    def special_variables(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and so on, as chat templates expect them."""
        return {key: str(value) for key, value in self.inner.special_tokens_map.items() if isinstance(value, str)}


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """The longest first; a single character cannot be cut and is left out, and so is white space. Texts are grouped
    by how they begin: Gemma has thousands, and a search tries every branch at every character."""
    groups: dict[str, list[str]] = {}
    for text in sorted({text for text in texts if len(text.strip()) > 1}, key=len, reverse=True):
        groups.setdefault(text[:3], []).append(re.escape(text[3:]))
    if not groups:
        return None
    first = "".join(sorted({re.escape(begin[0]) for begin in groups}))
    branches = (f"{re.escape(begin)}(?:{'|'.join(groups[begin])})" for begin in sorted(groups, key=len, reverse=True))
    return re.compile(f"(?=[{first}])(?:{'|'.join(branches)})")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, without the folder's own code. Raises InputError when there is none."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise InputError(
            f"the model folder {folder} has no tokenizer (looked for {', '.join(TOKENIZER_FILES)})",
            next_step="copy the tokenizer files of the model there, or name another folder",
        )
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        inner = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds; all mean the same to the user
        raise InputError(
            f"the tokenizer in {folder} could not be read: {error}",
            next_step="check tokenizer.json and tokenizer_config.json, or fetch the model again",
        ) from error
    if not inner.is_fast:
        raise InputError(
            f"the tokenizer in {folder} has no fast form, which the loss spans need",
            next_step="save it once with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    inner.backend_tokenizer.no_truncation()  # some tokenizer.json files bring a limit
    inner.backend_tokenizer.no_padding()
    return Tokenizer(inner, frozenset(_stop_ids(folder, inner)), _template(inner))


def _template(inner: Any) -> str | None:
    """The chat template; of several named ones that for tools, else the default."""
    found = inner.chat_template
    if isinstance(found, dict):
        found = found.get("tool_use") or found.get("default")
    return found or None


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}", next_step="fetch or copy that file again") from error
    return value


def _stop_ids(folder: Path, inner: Any) -> set[int]:
    """Every id that ends a turn, from the tokenizer, config.json and generation_config.json."""
    found = {inner.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.exists():
            ids = _read(path).get("eos_token_id")
            found |= set(ids) if isinstance(ids, list) else {ids}
    return {i for i in found if isinstance(i, int)}
