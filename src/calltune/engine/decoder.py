"""A model as decoding needs it, and the prefixes whose keys and values it keeps."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from calltune.batching import MIN_PREFIX
from calltune.engine.batch import Batch
from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.filling import Filler
from calltune.engine.kept import Kept
from calltune.engine.parts import Parts, attention_tolerance, find_parts, logit_difference, run_body, run_head
from calltune.engine.pieces import RUN_COST, device_kind, finished, run_over
from calltune.engine.prefix import Decoding, KeyValues, Recorder, Slots, supports_sharing


@dataclass(frozen=True)
class Form:
    """What a model's attention takes: `Split` keys where fast_cpu is active, and masks of 4 or 5 axes."""

    split: bool
    grouped_mask: bool


# Gemma 2 in mlx-lm does its own soft-capped attention, with the heads of a group on an axis of their own.
FORMS = (Form(True, False), Form(False, False), Form(False, True))


@dataclass
class Decoder:
    """A model with what decoding keeps between calls: the keys and values of the last shared prefix.

    `sharing` is off where the model in parts, with these caches, does not give its plain logits (a probe of
    two short rows): then prompts run one by one with mlx-lm's own caches.
    """

    model: nn.Module
    stop_ids: frozenset[int]
    parts: Parts | None = None
    sharing: bool = True
    prefix: tuple[int, ...] = ()
    keys_values: list[Any] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)
    form: Form = FORMS[0]

    def __post_init__(self) -> None:
        self.parts = find_parts(self.model)
        if not self.sharing or self.parts is None or not supports_sharing(self.model):
            self.sharing = False
            return
        fitting = next((form for form in FORMS if _fits(self.model, self.parts, form)), None)
        self.sharing, self.form = fitting is not None, fitting or self.form

    def run(self, ids: mx.array, caches: Sequence[Decoding]) -> mx.array:
        """Hidden states (B, n, D) of ids (B, n), whose keys and values the caches take up."""
        assert self.parts is not None
        return run_body(self.parts, ids, caches)

    def caches(self, prefix: KeyValues | None, slots: Slots) -> list[Decoding]:
        """New caches of every layer for rows after these keys and values, or after nothing."""
        assert self.parts is not None
        return _caches(prefix or [None] * len(self.parts.layers), slots, self.form)


def _caches(prefix: Sequence[Any], slots: Slots, form: Form) -> list[Decoding]:
    split = form.split and is_fast()
    return [Decoding(pair, slots, split=split, grouped_mask=form.grouped_mask) for pair in prefix]


def _fits(model: nn.Module, parts: Parts, form: Form) -> bool:
    """Whether two rows, one of them padded, after a shared token have their plain logits in this form."""
    rows = [[1, 2, 3, 4], [1, 5, 6, 7]]
    try:
        with fast_cpu():
            shared = [Recorder() for _ in parts.layers]
            run_body(parts, mx.array([[1]]), shared)
            slots = Slots(2, 1)
            caches = _caches([cache.keys_values for cache in shared], slots, form)
            for ids, pads in (([[2, 3], [0, 5]], (0, 1)), ([[0, 4], [6, 7]], (1, 0))):
                slots.extend(pads, 2)
                hidden = run_body(parts, mx.array(ids), caches)
            ours = run_head(parts, hidden[:, -1:])[:, 0]
        plain = mx.concatenate([model(mx.array([row]))[:, -1] for row in rows])
        return logit_difference(plain, ours) <= attention_tolerance(plain)
    except Exception:  # an architecture that is built otherwise may fail anywhere
        return False


def new_batch(decoder: Decoder, prefix: KeyValues | None, start: int, piece: int | None = None) -> Batch:
    """An empty batch of rows after a prefix of `start` tokens (None, 0: after nothing). `piece`: see Filler."""
    assert decoder.parts is not None
    filler = Filler(decoder.run, decoder.caches, prefix, start, RUN_COST[device_kind()], piece)
    return Batch(decoder.parts, decoder.caches, filler)


def use_prefix(decoder: Decoder, prefix: Sequence[int]) -> None:
    """Have a prefix in the decoder's cache for the next prompt, if that is worth it and not so already."""
    if decoder.sharing and len(prefix) >= MIN_PREFIX and tuple(prefix) != decoder.prefix:
        with fast_cpu():
            hold_prefix(decoder, prefix)


def hold_prefix(decoder: Decoder, prefix: Sequence[int]) -> None:
    """Have the keys and values of `prefix`: those that were kept, else computed now and kept."""
    if decoder.parts is not None and decoder.sharing:
        ids = tuple(prefix)
        found = decoder.kept.find(ids)
        decoder.keys_values = found if found is not None else finished(compute_prefix(decoder, ids))
        decoder.prefix = ids


def compute_prefix(
    decoder: Decoder, ids: tuple[int, ...], piece: int | None = None
) -> Generator[None, None, KeyValues]:
    """The keys and values of a prefix, which are kept. Pauses as `run_over` does."""
    caches = decoder.caches(None, Slots(1))
    yield from run_over(decoder.run, [ids], caches, piece)
    found = [cache.whole() for cache in caches]
    mx.eval(found)
    decoder.kept.add(ids, found)
    return found


def forget_prefixes(decoder: Decoder) -> None:
    """Keep no prefix's keys and values: they are of weights that have changed since."""
    decoder.prefix, decoder.keys_values, decoder.kept = (), [], Kept()
