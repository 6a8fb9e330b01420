"""Generation: batched, alone and streamed equal mlx-lm's own greedy generation, whatever is shared or padded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import ARCHS, WINDOW, tiny_model

from calltune.engine.decode import Decoder, Sampling, generate_batch, generate_stream, hold_prefix
from calltune.engine.load import LoadedModel, load

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip

TOKENS = 12
NONE: frozenset[int] = frozenset()


@pytest.fixture(scope="module", params=ARCHS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    style = "gemma" if request.param.startswith("gemma") else "chatml"
    return load(str(tiny_model(tmp_path_factory.mktemp("model"), request.param, style)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama")


def prompts(shared: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random prompts of `shared` tokens that are the same, then as many of their own as `lengths` says."""
    rng = np.random.default_rng(seed)
    head = rng.integers(5, 500, shared).tolist()
    return [[*head, 5 + i, *rng.integers(5, 500, n - 1).tolist()] for i, n in enumerate(lengths)]


def reference(loaded: LoadedModel, prompt: Sequence[int], n: int = TOKENS) -> list[int]:
    """mlx-lm's greedy ids."""
    steps = generate_step(mx.array(prompt), loaded.model, max_tokens=n)
    return [int(token) for token, _ in steps]


def same(loaded: LoadedModel, prompt: Sequence[int], found: Sequence[int], expected: Sequence[int]) -> None:
    """Equal ids; where they part, the two candidates must be a tie of the plain logits."""
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a != b:
            logits = loaded.model(mx.array([[*prompt, *expected[:i]]]))[0, -1]
            assert abs(float(logits[a] - logits[b])) < 1e-3, f"token {i}: {a}, mlx-lm has {b}"
            return


@pytest.mark.parametrize("shared", [0, 40], ids=["nothing shared", "prefix shared"])
def test_a_batch_equals_mlx_lm(loaded, shared):
    """Lengths from 1 to 50: the shortest row is nearly all padding; the prefix is longer than Gemma's window."""
    assert shared == 0 or shared > 2 * WINDOW
    asked = prompts(shared, (1, 3, 50, 20, 2))
    decoder = Decoder(loaded.model, NONE)
    replies = generate_batch(decoder, asked, max_tokens=TOKENS)
    assert decoder.sharing and len(decoder.prefix) == shared
    for prompt, reply in zip(asked, replies, strict=True):
        same(loaded, prompt, reply.ids, reference(loaded, prompt))
        assert reply.truncated


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_alone_in_batches_and_streamed_are_one(loaded, fast):
    asked = prompts(40, (4, 30, 9))
    decoder = Decoder(loaded.model, NONE)
    together = generate_batch(decoder, asked, max_tokens=TOKENS, fast=fast)
    pairs = generate_batch(decoder, asked, max_tokens=TOKENS, batch_size=2, fast=fast)
    for prompt, reply, paired in zip(asked, together, pairs, strict=True):
        alone = generate_batch(Decoder(loaded.model, NONE), [prompt], max_tokens=TOKENS, fast=fast)[0]
        streamed = list(generate_stream(decoder, prompt, max_tokens=TOKENS))  # over the prefix that is kept
        fresh = list(generate_stream(Decoder(loaded.model, NONE), prompt, max_tokens=TOKENS))
        for ids in (paired.ids, alone.ids, streamed, fresh):
            same(loaded, prompt, ids, reply.ids)


def test_generation_runs_far_past_the_sliding_window(tmp_path):
    loaded = load(str(tiny_model(tmp_path, "gemma3_text", "gemma")))
    asked = prompts(0, (2, 7))
    for prompt, reply in zip(asked, generate_batch(Decoder(loaded.model, NONE), asked, max_tokens=60), strict=True):
        same(loaded, prompt, reply.ids, reference(loaded, prompt, 60))


def test_replies_end_at_a_stop_token_which_is_left_out(llama):
    loaded = load(str(llama))
    asked = prompts(40, (3, 12, 7))
    free = [reference(loaded, p) for p in asked]
    stop = free[1][3]  # what the middle row writes fourth
    replies = generate_batch(Decoder(loaded.model, frozenset({stop})), asked, max_tokens=TOKENS)
    for ids, reply, prompt in zip(free, replies, asked, strict=True):
        expected = ids[: ids.index(stop)] if stop in ids else ids
        same(loaded, prompt, reply.ids, expected)
        assert reply.truncated == (stop not in ids)
        assert list(generate_stream(Decoder(loaded.model, frozenset({stop})), prompt, max_tokens=TOKENS)) == expected
    assert not replies[1].truncated and any(r.truncated for r in replies)


def test_a_first_token_that_stops_gives_an_empty_reply(llama):
    loaded = load(str(llama))
    prompt = prompts(0, (5,))[0]
    stop = reference(loaded, prompt, 1)[0]
    reply = generate_batch(Decoder(loaded.model, frozenset({stop})), [prompt])[0]
    assert reply.ids == () and not reply.truncated


def test_the_limit_of_tokens_holds_and_is_told(llama):
    loaded = load(str(llama))
    asked = prompts(0, (5, 9))
    for sharing in (True, False):
        for reply in generate_batch(Decoder(loaded.model, NONE, sharing=sharing), asked, max_tokens=1):
            assert len(reply.ids) == 1 and reply.truncated


def test_models_whose_layers_keep_something_else_run_one_by_one(llama):
    loaded = load(str(llama))
    asked = prompts(40, (3, 12))
    replies = generate_batch(Decoder(loaded.model, NONE, sharing=False), asked, max_tokens=TOKENS)
    for prompt, reply in zip(asked, replies, strict=True):
        assert list(reply.ids) == reference(loaded, prompt)
        assert list(generate_stream(Decoder(loaded.model, NONE, sharing=False), prompt, max_tokens=TOKENS)) == list(
            reply.ids
        )


def test_equal_prompts_and_replies_in_the_order_asked(llama):
    loaded = load(str(llama))
    one = prompts(40, (20,))[0]
    asked = [one, one[:45], one]
    told: list[int] = []
    replies = generate_batch(
        Decoder(loaded.model, NONE), asked, max_tokens=TOKENS, batch_size=2, on_done=lambda i, _: told.append(i)
    )
    assert sorted(told) == [0, 1, 2]
    assert replies[0] == replies[2]
    for prompt, reply in zip(asked, replies, strict=True):
        same(loaded, prompt, reply.ids, reference(loaded, prompt))


def test_another_prefix_takes_the_place_of_the_kept_one(llama):
    loaded = load(str(llama))
    decoder = Decoder(loaded.model, NONE)
    for seed in (0, 1, 0):
        asked = prompts(40, (3, 8), seed)
        for prompt, reply in zip(asked, generate_batch(decoder, asked, max_tokens=4), strict=True):
            same(loaded, prompt, reply.ids, reference(loaded, prompt, 4))
    hold_prefix(decoder, asked[0])  # all of a prompt is kept: its last token must still be run
    assert list(generate_stream(decoder, asked[0], max_tokens=4)) == reference(loaded, asked[0], 4)
    assert list(generate_stream(decoder, asked[0][:10], max_tokens=4)) == reference(loaded, asked[0][:10], 4)


def test_no_prompts_no_replies(llama):
    assert generate_batch(Decoder(load(str(llama)).model, NONE), []) == []


def test_sampling_follows_its_seed(llama):
    loaded = load(str(llama))
    asked = prompts(0, (5, 9))
    made = [
        [
            r.ids
            for r in generate_batch(
                Decoder(loaded.model, NONE),
                asked,
                max_tokens=20,
                sampling=Sampling(temperature=1.0, top_p=0.95, seed=seed),
            )
        ]
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]
