"""Generating token ids: prompts in batches over one shared prefix, or one prompt as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from calltune.batching import MIN_PREFIX
from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.parts import Parts, find_parts, run_body, run_head
from calltune.engine.prefix import Decoding, Recorder, supports_sharing

Sampler = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def sampler(self) -> Sampler:
        if self.seed is not None:
            mx.random.seed(self.seed)
        if self.temperature == 0:
            return lambda logits: mx.argmax(logits, axis=-1)
        make: Sampler = make_sampler(temp=self.temperature, top_p=self.top_p, top_k=self.top_k)
        return lambda logits: make(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


@dataclass(frozen=True)
class Generated:
    """Ids that the model wrote, the stop token left out. `truncated`: the limit ended it."""

    ids: tuple[int, ...]
    truncated: bool


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
    form: Form = FORMS[0]

    def __post_init__(self) -> None:
        self.parts = find_parts(self.model)
        if not self.sharing or self.parts is None or not supports_sharing(self.model):
            self.sharing = False
            return
        fitting = next((form for form in FORMS if _fits(self.model, self.parts, form)), None)
        self.sharing, self.form = fitting is not None, fitting or self.form

    def caches(self, start: int, pads: mx.array) -> list[Decoding]:
        """New caches of every layer for rows after the kept prefix (`start` > 0) or after nothing."""
        assert self.parts is not None
        prefix = self.keys_values if start else [None] * len(self.parts.layers)
        return _caches(prefix, pads, self.form)


def _caches(prefix: Sequence[Any], pads: mx.array, form: Form) -> list[Decoding]:
    split = form.split and is_fast()
    return [Decoding(pair, pads, split=split, grouped_mask=form.grouped_mask) for pair in prefix]


def _fits(model: nn.Module, parts: Parts, form: Form, tolerance: float = 2e-2) -> bool:
    """Whether two rows, one of them padded, after a shared token have their plain logits in this form."""
    rows = [[1, 2, 3, 4], [1, 5, 6]]
    try:
        with fast_cpu():
            shared = [Recorder() for _ in parts.layers]
            run_body(parts, mx.array([[1]]), shared)
            caches = _caches([cache.keys_values for cache in shared], mx.array([0, 1]), form)
            hidden = run_body(parts, mx.array([[2, 3, 4], [0, 5, 6]]), caches)
            ours = run_head(parts, hidden[:, -1:])[:, 0].astype(mx.float32)
        plain = mx.concatenate([model(mx.array([row]))[:, -1] for row in rows]).astype(mx.float32)
        worst = (mx.abs(plain - ours).max() / mx.maximum(mx.abs(plain).max(), 1e-6)).item()
    except Exception:  # an architecture that is built otherwise may fail anywhere
        return False
    return bool(worst <= tolerance)


def generate_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = 256,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    on_done: Callable[[int, Generated], None] | None = None,
    fast: bool = True,
) -> list[Generated]:
    """A reply for each prompt, in the order of the prompts. `on_done(index, reply)` is called as they end.

    Prompts run in batches of like length over the prefix that all of them share.
    """
    sampler = (sampling or Sampling()).sampler()
    results: dict[int, Generated] = {}
    if not prompts:
        return []

    def done(index: int, ids: list[int], truncated: bool) -> None:
        results[index] = Generated(tuple(ids), truncated)
        if on_done:
            on_done(index, results[index])

    with fast_cpu(fast):
        if not decoder.sharing:
            for index, prompt in enumerate(prompts):
                done(index, *_collect(_plain_stream(decoder, prompt, sampler), decoder.stop_ids, max_tokens))
            return [results[i] for i in range(len(prompts))]
        start = _share(decoder, prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for k in range(0, len(order), batch_size):
            _run_batch(decoder, prompts, order[k : k + batch_size], start, sampler, max_tokens, done)
    return [results[i] for i in range(len(prompts))]


def generate_stream(
    decoder: Decoder, prompt: Sequence[int], *, max_tokens: int = 512, sampling: Sampling | None = None
) -> Iterator[int]:
    """Ids one by one as they are made; the stop token ends it and is left out."""
    sampler = (sampling or Sampling()).sampler()
    stream = _shared_stream(decoder, prompt, sampler) if decoder.sharing else _plain_stream(decoder, prompt, sampler)
    for count, token in enumerate(stream):
        if token in decoder.stop_ids or count == max_tokens:
            return
        yield token


def _collect(stream: Iterator[int], stop_ids: frozenset[int], limit: int) -> tuple[list[int], bool]:
    ids: list[int] = []
    for token in stream:
        if token in stop_ids:
            return ids, False
        ids.append(token)
        if len(ids) >= limit:
            break
    return ids, True


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


def hold_prefix(decoder: Decoder, prefix: Sequence[int]) -> None:
    """Compute the keys and values of `prefix` and keep them; the ones kept before are let go."""
    parts = decoder.parts
    if parts is None or not decoder.sharing:
        return
    caches = [Recorder() for _ in parts.layers]
    run_body(parts, mx.array([list(prefix)]), caches)
    decoder.keys_values = [cache.keys_values for cache in caches]
    decoder.prefix = tuple(prefix)
    mx.eval(decoder.keys_values)


def _run_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    indices: list[int],
    start: int,
    sampler: Sampler,
    max_tokens: int,
    done: Callable[[int, list[int], bool], None],
) -> None:
    """Prefill and decode one batch, padded on the left; rows leave as they end."""
    parts = decoder.parts
    assert parts is not None
    bodies = [list(prompts[i][start:]) for i in indices]
    width = max(map(len, bodies))
    pads = mx.array([width - len(body) for body in bodies])
    caches = decoder.caches(start, pads)
    ids = mx.array([[0] * (width - len(body)) + body for body in bodies])
    written: list[list[int]] = [[] for _ in indices]
    alive = list(range(len(indices)))
    while alive:
        hidden = run_body(parts, ids, caches)[:, -1:]
        tokens = sampler(run_head(parts, hidden)[:, -1]).tolist()
        kept = []
        for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
            if token in decoder.stop_ids:
                done(indices[row], written[row], False)
                continue
            written[row].append(token)
            if len(written[row]) >= max_tokens:
                done(indices[row], written[row], True)
            else:
                kept.append(place)
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            for cache in caches:
                cache.keep(mx.array(kept, mx.int32))
        ids = mx.array([[tokens[place]] for place in kept])


def _shared_stream(decoder: Decoder, prompt: Sequence[int], sampler: Sampler) -> Iterator[int]:
    """One prompt over the kept prefix, if it starts with it."""
    parts = decoder.parts
    assert parts is not None
    start = len(decoder.prefix)
    if not start or tuple(prompt[:start]) != decoder.prefix or len(prompt) <= start:
        start = 0
    ids = mx.array([list(prompt[start:])])
    caches: list[Decoding] | None = None
    while True:
        with fast_cpu():  # entered anew for each token, so that it is not left on between them
            caches = caches or decoder.caches(start, mx.array([0]))
            hidden = run_body(parts, ids, caches)[:, -1:]
            token = int(sampler(run_head(parts, hidden)[:, -1]).item())
        yield token
        ids = mx.array([[token]])


def _plain_stream(decoder: Decoder, prompt: Sequence[int], sampler: Sampler) -> Iterator[int]:
    """mlx-lm's own caches, for models whose layers keep more than keys and values."""
    cache = make_prompt_cache(decoder.model)
    ids = mx.array([list(prompt)])
    while True:
        logits = decoder.model(ids, cache=cache)[:, -1]
        token = int(sampler(logits).item())
        yield token
        ids = mx.array([[token]])
