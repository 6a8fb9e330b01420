"""One reply alone, run by run: over a kept prefix, or with mlx-lm's own caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from calltune.engine.cpu import fast_cpu
from calltune.engine.decoder import Decoder
from calltune.engine.parts import run_head
from calltune.engine.prefix import Decoding, Slots
from calltune.engine.writing import Writing, choose


def shared_stream(decoder: Decoder, prompt: Sequence[int], writing: Writing) -> Iterator[list[int]]:
    """The new ids of each run, of one prompt over the kept prefix, if it starts with it."""
    assert decoder.parts is not None
    start = len(decoder.prefix)
    if not start or tuple(prompt[:start]) != decoder.prefix or len(prompt) <= start:
        start = 0
    slots = Slots(1, start)
    caches: list[Decoding] | None = None
    writing.begin(prompt[start:])
    yield list(writing.ids)
    while not writing.ended:
        with fast_cpu():  # entered anew for each step, so that it is not left on between them
            caches = caches or decoder.caches(decoder.keys_values if start else None, slots)
            slots.extend([0], len(writing.queue))
            hidden = decoder.run(mx.array([writing.queue]), caches)[:, -1:]
            new = _step(writing, run_head(decoder.parts, hidden)[:, -1])
        yield new


def plain_stream(
    decoder: Decoder, prompt: Sequence[int], writing: Writing, piece: int | None = None
) -> Iterator[list[int]]:
    """The new ids of each run, for models whose layers keep more than keys and values. None are new after the runs
    over a prompt's first parts, of `piece` tokens each (None: it is one run)."""
    cache = make_prompt_cache(decoder.model)
    writing.begin(prompt)
    yield list(writing.ids)
    while not writing.ended:
        while piece and len(writing.queue) > piece:
            part, writing.queue = writing.queue[:piece], writing.queue[piece:]
            decoder.model(mx.array([part]), cache=cache)
            mx.eval([layer.state for layer in cache])
            yield []
        logits = decoder.model(mx.array([writing.queue]), cache=cache)[:, -1]
        yield _step(writing, logits)


def _step(writing: Writing, logits: mx.array) -> list[int]:
    """Chooses a token; returns the ids that are new."""
    before = len(writing.ids)
    writing.queue = []
    writing.add(choose(logits, [writing])[0])
    return writing.ids[before:]
