"""Generating token ids: prompts in batches over one shared prefix, or one prompt as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from calltune.batching import MIN_PREFIX
from calltune.engine.batch import Batch
from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.filling import RUN_COST, Filler, alike
from calltune.engine.kept import Kept
from calltune.engine.parts import Parts, attention_tolerance, find_parts, logit_difference, run_body, run_head
from calltune.engine.prefix import Decoding, KeyValues, Recorder, Slots, supports_sharing
from calltune.engine.sampling import Sampling
from calltune.engine.writing import Generated, Guide, Writing, choose

__all__ = [
    "Decoder",
    "Generated",
    "Guide",
    "Sampling",
    "generate_batch",
    "generate_stream",
    "hold_prefix",
    "use_prefix",
]


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


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = 256,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    guides: Sequence[Callable[[], Guide] | None] | None = None,
    on_done: Callable[[int, Generated], None] | None = None,
    fast: bool = True,
) -> list[Generated]:
    """A reply for each prompt, in the order of the prompts. `on_done(index, reply)` is called as they end.

    Prompts run side by side over the prefix that all of them share. `guides` make what binds replies to a form, when
    their turn has come.
    """
    sampler = (sampling or Sampling()).sampler()
    results: dict[int, Generated] = {}
    if not prompts:
        return []
    guides = guides or [None] * len(prompts)
    with fast_cpu(fast):
        if not decoder.sharing:
            for index, prompt in enumerate(prompts):
                writing = Writing(decoder.stop_ids, max_tokens, _made(guides[index]), sampler)
                for _ in plain_stream(decoder, prompt, writing):
                    pass
                results[index] = writing.finish()
                if on_done:
                    on_done(index, results[index])
            return [results[i] for i in range(len(prompts))]
        for group in _groups(prompts, batch_size):
            start = _share(decoder, [prompts[i] for i in group])

            def begin(index: int, start: int = start) -> Writing:
                writing = Writing(decoder.stop_ids, max_tokens, _made(guides[index]), sampler)
                writing.begin(prompts[index][start:])
                return writing

            for index, writing in _batched(decoder, start, group, begin, batch_size):
                results[index] = writing.finish()
                if on_done:
                    on_done(index, results[index])
    return [results[i] for i in range(len(prompts))]


def _groups(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Which prompts share batches. Those that begin alike and fill half a batch have batches of their own, so that
    what they share is in memory once and is read once a step."""
    groups = alike(prompts)
    large = [group for group in groups if 2 * len(group) >= size and len(group) > 1]
    rest = [i for group in groups if group not in large for i in group]
    return large + ([rest] if rest else [])


def _made(guide: Callable[[], Guide] | None) -> Guide | None:
    return guide() if guide else None


def _batched(
    decoder: Decoder,
    start: int,
    order: Sequence[int],
    begin: Callable[[int], Writing],
    size: int,
) -> Iterator[tuple[int, Writing]]:
    """Replies as they end. New rows take the places of those that ended when a part of the batch is free: to join
    them costs a copy of all caches."""
    batch = new_batch(decoder, start)
    waiting, under_way = list(order), dict[int, Writing]()
    while waiting or batch.rows:
        room = size - len(batch.rows)
        if waiting and (room >= max(1, size // 4) or not batch.rows):
            new, waiting = waiting[:room], waiting[room:]
            under_way |= {index: begin(index) for index in new}
            batch.admit(new, [under_way[index] for index in new])
            ended = [index for index in new if index not in batch.indices]  # before the model ran
        else:
            batch.step()
            ended = []
        for index in [*ended, *batch.leave()]:
            yield index, under_way.pop(index)


def new_batch(decoder: Decoder, start: int) -> Batch:
    """An empty batch of rows after the first `start` tokens of the prefix that the decoder holds (0: none)."""
    parts = decoder.parts
    assert parts is not None
    prefix = decoder.keys_values if start else None
    cost = RUN_COST["cpu" if mx.default_device() == mx.cpu else "gpu"]
    filler = Filler(lambda ids, caches: run_body(parts, ids, caches), decoder.caches, prefix, start, cost)
    return Batch(parts, decoder.caches, filler)


def generate_stream(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    max_tokens: int = 512,
    sampling: Sampling | None = None,
    guide: Guide | None = None,
    on_done: Callable[[Generated], None] | None = None,
) -> Iterator[int]:
    """Ids one by one as they are made; the stop token ends it and is left out. `on_done` is told the whole."""
    writing = Writing(decoder.stop_ids, max_tokens, guide, (sampling or Sampling()).sampler())
    stream = _shared_stream if decoder.sharing else plain_stream
    yield from stream(decoder, prompt, writing)
    made = writing.finish()
    if on_done:
        on_done(made)


def _share(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> int:
    """Have the longest prefix that all prompts share in the decoder's cache; returns its length (or 0)."""
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(map(len, prompts)) - 1  # the last token of a prompt gives the first logits
    length = next((i for i in range(min(limit, len(low), len(high))) if low[i] != high[i]), limit)
    kept = decoder.prefix
    if len(kept) >= MIN_PREFIX and length >= len(kept) and low[: len(kept)] == kept:
        return len(kept)
    if length < MIN_PREFIX:
        return 0
    hold_prefix(decoder, low[:length])
    return length


def use_prefix(decoder: Decoder, prefix: Sequence[int]) -> None:
    """Have a prefix in the decoder's cache for the next prompt, if that is worth it and not so already."""
    if decoder.sharing and len(prefix) >= MIN_PREFIX and tuple(prefix) != decoder.prefix:
        with fast_cpu():
            hold_prefix(decoder, prefix)


def hold_prefix(decoder: Decoder, prefix: Sequence[int]) -> None:
    """Have the keys and values of `prefix`: those that were kept, else computed now and kept."""
    if decoder.parts is not None and decoder.sharing:
        decoder.keys_values, decoder.prefix = keys_values_of(decoder, tuple(prefix)), tuple(prefix)


def keys_values_of(decoder: Decoder, ids: tuple[int, ...]) -> list[Any]:
    """The keys and values of a prefix: those that were kept, else computed now and kept."""
    found = decoder.kept.find(ids)
    if found is None:
        assert decoder.parts is not None
        caches = [Recorder() for _ in decoder.parts.layers]
        run_body(decoder.parts, mx.array([list(ids)]), caches)
        found = [cache.keys_values for cache in caches]
        mx.eval(found)
        decoder.kept.add(ids, found)
    return found


def forget_prefixes(decoder: Decoder) -> None:
    """Keep no prefix's keys and values: they are of weights that have changed since."""
    decoder.prefix, decoder.keys_values, decoder.kept = (), [], Kept()


def _shared_stream(decoder: Decoder, prompt: Sequence[int], writing: Writing) -> Iterator[int]:
    """One prompt over the kept prefix, if it starts with it."""
    parts = decoder.parts
    assert parts is not None
    start = len(decoder.prefix)
    if not start or tuple(prompt[:start]) != decoder.prefix or len(prompt) <= start:
        start = 0
    slots = Slots(1, start)
    caches: list[Decoding] | None = None
    writing.begin(prompt[start:])
    yield from list(writing.ids)
    while not writing.ended:
        with fast_cpu():  # entered anew for each step, so that it is not left on between them
            caches = caches or decoder.caches(decoder.keys_values if start else None, slots)
            slots.extend([0], len(writing.queue))
            hidden = run_body(parts, mx.array([writing.queue]), caches)[:, -1:]
            new = _step(writing, run_head(parts, hidden)[:, -1])
        yield from new


def _step(writing: Writing, logits: mx.array) -> list[int]:
    """Chooses a token; returns the ids that are new."""
    before = len(writing.ids)
    writing.queue = []
    writing.add(choose(logits, [writing])[0])
    return writing.ids[before:]


def plain_stream(decoder: Decoder, prompt: Sequence[int], writing: Writing) -> Iterator[int]:
    """mlx-lm's own caches, for models whose layers keep more than keys and values."""
    cache = make_prompt_cache(decoder.model)
    writing.begin(prompt)
    yield from list(writing.ids)
    while not writing.ended:
        logits = decoder.model(mx.array([writing.queue]), cache=cache)[:, -1]
        yield from _step(writing, logits)
