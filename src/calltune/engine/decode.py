"""Generating token ids: prompts in batches over one shared prefix, or one prompt as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from calltune.batching import MIN_PREFIX
from calltune.engine.cpu import fast_cpu
from calltune.engine.decoder import Decoder, forget_prefixes, hold_prefix, use_prefix
from calltune.engine.filling import alike
from calltune.engine.running import Joining, Running
from calltune.engine.sampling import Sampling
from calltune.engine.streams import plain_stream, shared_stream
from calltune.engine.writing import Generated, Guide, Writing

__all__ = [
    "Decoder",
    "Generated",
    "Guide",
    "Sampling",
    "forget_prefixes",
    "generate_batch",
    "generate_stream",
    "hold_prefix",
    "use_prefix",
]


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
    guides = guides or [None] * len(prompts)
    size = batch_size if decoder.sharing else 1
    results: dict[int, Generated] = {}

    def joining(prefix: tuple[int, ...], index: int) -> Joining:
        guide = guides[index]
        writing = Writing(decoder.stop_ids, max_tokens, guide() if guide else None, sampler)
        return Joining(writing, prompts[index], prefix)

    with fast_cpu(fast):
        for group in _groups(prompts, size) if decoder.sharing else [range(len(prompts))]:
            prefix = _share(decoder, [prompts[i] for i in group]) if decoder.sharing else ()
            for index, writing in _side_by_side(Running(decoder, fast=fast), group, partial(joining, prefix), size):
                results[index] = writing.finish()
                if on_done:
                    on_done(index, results[index])
    return [results[i] for i in range(len(prompts))]


def _groups(prompts: Sequence[Sequence[int]], size: int) -> list[Sequence[int]]:
    """Which prompts share batches. Those that begin alike and fill half a batch have batches of their own, so that
    what they share is in memory once and is read once a step."""
    groups = alike(prompts)
    large = [group for group in groups if 2 * len(group) >= size and len(group) > 1]
    rest = [i for group in groups if group not in large for i in group]
    return [*large, *([rest] if rest else [])]


def _side_by_side(
    running: Running, order: Sequence[int], joining: Callable[[int], Joining], size: int
) -> Iterator[tuple[int, Writing]]:
    """Replies as they end. New ones take the places of those that ended when a part of the batch is free: to join
    them costs a copy of all caches."""
    waiting, under_way = list(order), dict[int, Writing]()
    while waiting or under_way:
        room = size - len(under_way)
        if waiting and room >= max(1, size // 4):
            new, waiting = {index: joining(index) for index in waiting[:room]}, waiting[room:]
            under_way |= {index: one.writing for index, one in new.items()}
            running.admit(list(new.values()))
        else:
            running.step()
        running.leave()
        for index in [index for index, writing in under_way.items() if writing.ended]:
            yield index, under_way.pop(index)


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
    stream = shared_stream if decoder.sharing else plain_stream
    for new in stream(decoder, prompt, writing):
        yield from new
    made = writing.finish()
    if on_done:
        on_done(made)


def _share(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Have the longest prefix that all prompts share in the decoder's cache; returns it (or nothing)."""
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(map(len, prompts)) - 1  # the last token of a prompt gives the first logits
    length = next((i for i in range(min(limit, len(low), len(high))) if low[i] != high[i]), limit)
    kept = decoder.prefix
    if len(kept) >= MIN_PREFIX and length >= len(kept) and low[: len(kept)] == kept:
        return kept
    if length < MIN_PREFIX:
        return ()
    hold_prefix(decoder, low[:length])
    return decoder.prefix
