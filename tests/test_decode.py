"""Generation: batched, alone and streamed equal mlx-lm's own greedy generation, whatever is shared or padded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import ARCHS, WINDOW, tiny_model

from calltune.engine.decode import Decoder, Sampling, generate_batch, generate_stream, hold_prefix
from calltune.engine.filling import buckets
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


def test_prompts_that_share_parts_and_rows_that_take_others_places(loaded):
    """Requests of one beginning in two groups, of which one shares more, and others; more of them than places."""
    rng = np.random.default_rng(1)
    head, more = rng.integers(5, 500, 40).tolist(), rng.integers(5, 500, 45).tolist()
    asked = [[*head, *more, 5 + i, *rng.integers(5, 500, 2 + i).tolist()] for i in range(3)]
    asked += [[*head, 30 + i, *rng.integers(5, 500, 70 + i).tolist()] for i in range(2)] + prompts(0, (3, 50, 51, 20))
    free = [reference(loaded, prompt) for prompt in asked]
    stops = frozenset(ids[i % 5 + 1] for i, ids in enumerate(free))  # so that rows end at different times
    for size in (4, 3, 16):
        replies = generate_batch(Decoder(loaded.model, stops), asked, max_tokens=TOKENS, batch_size=size)
        for prompt, ids, reply in zip(asked, free, replies, strict=True):
            expected = ids[: next((i for i, token in enumerate(ids) if token in stops), TOKENS)]
            same(loaded, prompt, reply.ids, expected)


def test_what_prompts_share_is_run_over_once(llama, monkeypatch):
    loaded, shapes = load(str(llama)), []
    run = Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda *a: shapes.append(a[1].shape) or run(*a))
    asked = [*prompts(100, (4, 6, 5), 1), *prompts(100, (4, 5), 2), *prompts(0, (300,), 3)]
    generate_batch(Decoder(loaded.model, NONE), asked, max_tokens=1)
    assert sum(rows * width for rows, width in shapes) < 100 + 18 + 100 + 10 + 300 + 10


def test_runs_over_rows_of_different_lengths_cost_the_least():
    assert buckets([10, 500, 11, 480], 32) == [[0, 2], [3, 1]]
    assert buckets([10, 500, 11, 480], 2000) == [[0, 2, 3, 1]]
    assert buckets([7], 32) == [[0]] and buckets([], 32) == []


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0, seed=3), Sampling(0.7, top_p=0.6, seed=3), Sampling(2.0, top_k=2)]
)
def test_drawn_tokens_have_the_probabilities_of_the_logits(sampling):
    logits = np.array([1.0, 3.0, -np.inf, 2.0, 0.0], np.float32)
    weights = np.exp(logits / sampling.temperature)
    weights /= weights.sum()
    order = np.argsort(-weights)
    kept = order[: sampling.top_k or 5]
    if sampling.top_p < 1:
        kept = order[: 1 + int(np.searchsorted(np.cumsum(weights[order]), sampling.top_p))]
    expected = np.where(np.isin(np.arange(5), kept), weights, 0)
    for allowed in (None, np.array([[False, True, True, False, True]] * 4000)):
        drawn = sampling.sampler()(mx.array(np.tile(logits, (4000, 1))), allowed)
        if allowed is not None and sampling.top_k == 0 and sampling.top_p == 1:
            expected = np.where(allowed[0], weights, 0)
        elif allowed is not None:
            assert set(drawn) <= {1, 4}
            continue
        found = np.bincount(drawn, minlength=5) / 4000
        assert np.abs(found - expected / expected.sum()).max() < 0.04


def test_the_likeliest_of_the_allowed_tokens():
    logits = mx.array([[1.0, 3.0, 2.0], [5.0, 3.0, 4.0]])
    assert Sampling().sampler()(logits, None) == [1, 0]
    assert Sampling().sampler()(logits, np.array([[True, False, True], [False, True, True]])) == [2, 2]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 5e-4])
@pytest.mark.parametrize("where", ["_on_cpu", "_on_gpu", "sampler"])
def test_a_temperature_that_would_overflow_takes_the_likeliest(temperature, where):
    logits = mx.array([[0.0, 40.0, -3.0], [9.0, 8.0, 9.5]])
    assert getattr(Sampling(temperature, top_p=0.9, seed=0), where)()(logits, None) == [1, 2]
