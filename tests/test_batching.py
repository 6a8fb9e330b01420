"""Examples into batches: what is a target, what is shared, and that every row comes once an epoch."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltune.batching import (
    KINDS,
    LENGTH_STEP,
    MIN_PREFIX,
    Batch,
    common_prefix,
    make_batch,
    plan_epoch,
    plan_training,
    slices,
)
from calltune.render import Example, Span

LENGTHS = st.lists(st.integers(3, 400), min_size=1, max_size=60)


def example(length: int, *spans: tuple[int, int, str], first: int = 0) -> Example:
    return Example(
        tuple(range(first, first + length)), tuple(Span(*s) for s in spans) or (Span(length - 2, length, "answer"),)
    )


def test_targets_are_the_trained_tokens_one_place_before():
    rows = [example(10, (4, 6, "name"), (7, 10, "answer")), example(6, (5, 6, "syntax"), first=100)]
    batch = make_batch(rows, (0, 1))
    assert batch.ids.shape == (2, LENGTH_STEP) and batch.ids.dtype == np.int32
    assert batch.ids[0, :9].tolist() == list(range(9)) and batch.ids[1, :5].tolist() == list(range(100, 105))
    assert batch.rows.tolist() == [0] * 5 + [1]
    assert batch.columns.tolist() == [3, 4, 6, 7, 8, 4]
    assert batch.targets.tolist() == [4, 5, 7, 8, 9, 105]
    assert [KINDS[k] for k in batch.kinds] == ["name"] * 2 + ["answer"] * 3 + ["syntax"]
    assert (batch.trained, batch.real, batch.indices) == (6, 14, (0, 1))


def test_a_batch_without_its_prefix_has_the_same_targets():
    rows = [example(60, (40, 44, "name"), (50, 60, "answer")), example(48, (40, 48, "answer"))]
    whole, cut = make_batch(rows, (1, 0)), make_batch(rows, (1, 0), prefix=33)
    assert cut.targets.tolist() == whole.targets.tolist() and cut.rows.tolist() == whole.rows.tolist()
    assert (whole.columns - cut.columns == 33).all() and cut.prefix == 33
    assert cut.ids.min() >= -1 and (cut.columns >= 0).all()


@given(lengths=LENGTHS)
def test_trap_t11_padding_is_never_a_target(lengths):
    rows = [example(n) for n in lengths]
    batch = make_batch(rows, range(len(rows)))
    assert batch.trained == sum(e.trained for e in rows)
    assert (batch.ids[batch.rows, batch.columns] >= 0).all()  # every position that predicts is a real token
    assert (batch.ids >= 0).sum() == sum(lengths) - len(lengths)
    assert batch.ids.shape[1] % LENGTH_STEP == 0


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 3))
def test_trap_t06_t25_every_row_once_an_epoch(lengths, size, seed):
    batches = plan_epoch(lengths, size, seed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)  # one may be short


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 3), tokens=st.sampled_from([0, 64, 1000]))
def test_batches_by_length_or_by_tokens_hold_every_row_once(lengths, size, seed, tokens):
    batches = plan_epoch(lengths, size, seed, tokens=tokens, by_length=True)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == len(plan_epoch(lengths, size, seed + 1, tokens=tokens, by_length=True))  # the cursor
    for batch in batches if tokens else ():
        widest = -(-max(lengths[i] for i in batch) // LENGTH_STEP) * LENGTH_STEP
        assert len(batch) == 1 or len(batch) * widest <= tokens


def test_batches_of_one_length_have_less_padding_and_fewer_shapes_and_an_order_by_seed():
    lengths = [int(n) for n in np.random.default_rng(0).gamma(4, 220, 600) + 60]
    rows = [example(n + 1) for n in lengths]

    def made(**how: Any) -> list[Batch]:
        return [make_batch(rows, indices) for indices in plan_epoch(lengths, 4, **how)]

    random, sort, filled = made(seed=0), made(seed=0, by_length=True), made(seed=0, tokens=8192)

    def padding(batches: list[Batch]) -> float:
        return 1 - sum(b.real for b in batches) / sum(b.ids.size for b in batches)

    assert padding(sort) < 0.05 > padding(filled) and padding(random) > 0.2
    assert {b.indices for b in filled} != {b.indices for b in made(seed=1, tokens=8192)}
    first, second = (max(lengths[i] for i in b.indices) for b in filled[:2])
    assert [b.indices for b in filled] != sorted((b.indices for b in filled), key=lambda i: lengths[i[-1]])
    assert first != second


def test_trap_t06_fewer_rows_than_the_batch_are_one_batch():
    assert plan_epoch([5, 6], 8, 0) in ([(0, 1)], [(1, 0)])


def test_trap_t01_rows_are_sorted_by_their_number_of_tokens():
    """Two lengths mixed half and half: sorted by keys of the row, as it was, a third is padding."""
    lengths = [100, 400] * 40
    rows = [example(n) for n in lengths]
    batches = [make_batch(rows, indices) for indices in plan_epoch(lengths, 8, seed=0)]
    pieces = [piece for batch in batches for piece in slices(batch, 512)]
    padding = 1 - sum(b.real for b in pieces) / sum(b.ids.size for b in pieces)
    assert padding < 0.05
    as_they_come = [make_batch(rows, range(k, k + 8)) for k in range(0, 80, 8)]
    assert 1 - sum(b.real for b in as_they_come) / sum(b.ids.size for b in as_they_come) > 0.3


def test_order_and_company_change_with_the_seed_only():
    lengths = [50] * 40
    assert plan_epoch(lengths, 4, 7) == plan_epoch(lengths, 4, 7) != plan_epoch(lengths, 4, 8)
    assert {frozenset(b) for b in plan_epoch(lengths, 4, 7)} != {frozenset(b) for b in plan_epoch(lengths, 4, 8)}


@given(lengths=LENGTHS, size=st.integers(1, 9), start=st.integers(0, 40))
def test_the_cursor_is_one_number(lengths, size, start):
    """Taken up at any batch, the order goes on as if never interrupted; each epoch holds every row."""
    steps = 40 + 2 * math.ceil(len(lengths) / size)
    straight = list(islice(plan_training(lengths, size, 3), start + steps))
    assert list(islice(plan_training(lengths, size, 3, start=start), steps)) == straight[start:]
    first = [i for epoch, batch in straight for i in batch if epoch == 1]
    if straight[-1][0] > 1:
        assert sorted(first) == list(range(len(lengths)))


def test_the_common_prefix_ends_before_what_predicts_a_target():
    same = tuple(range(100))
    rows = [
        Example((*same, 1, 2), (Span(101, 102, "answer"),)),
        Example((*same, 5, 6, 7), (Span(101, 103, "answer"),)),
    ]
    assert common_prefix(rows) == same
    early = [*rows, Example((*same, 9), (Span(60, 62, "name"), Span(100, 101, "answer")))]
    assert common_prefix(early) == same[:59]  # token 59 predicts 60
    one = common_prefix(rows[:1])
    assert one == rows[0].ids[:100]


@pytest.mark.parametrize("shared", [0, MIN_PREFIX - 1])
def test_short_prefixes_are_not_worth_it(shared):
    head = tuple(range(shared))
    rows = [Example((*head, 900 + i, 1, 2), (Span(shared + 2, shared + 3, "answer"),)) for i in range(3)]
    assert common_prefix(rows) == () == common_prefix([])


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=60), min_size=1, max_size=6))
def test_the_common_prefix_is_shared_by_all(tails):
    rows = [Example((*range(2, 50), *t), (Span(46 + len(t), 48 + len(t), "answer"),)) for t in tails]
    prefix = common_prefix(rows)
    assert len(prefix) >= MIN_PREFIX
    assert all(e.ids[: len(prefix)] == prefix and len(prefix) < e.first_loss for e in rows)
