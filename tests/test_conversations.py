"""Examples of one conversation: found, kept in one batch, and run as a tree with the plain loss and gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from chat_templates import QWEN3
from hypothesis import given
from hypothesis import strategies as st
from plain_step import ALL_KEYS, adapted, close, plain
from tiny import ARCHS, CITIES, long_row, tiny_model

from calltune.batching import MIN_PREFIX, make_batch, plan_epoch
from calltune.conversations import conversation_groups, parted, shared_tree
from calltune.engine import cpu_layers, ranks, step
from calltune.engine.adapter import AdapterSettings
from calltune.engine.plan import Speed, plan_step
from calltune.engine.step import batch_losses, loss_and_grad, pieces_of
from calltune.engine.trunk_states import store_trunk
from calltune.progress import Silent
from calltune.render import Example, Span
from calltune.schema import Conversation, Message
from calltune.settings import TrainSettings
from calltune.train import train

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

VOCABULARY = 300


def ids(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist())


def conversation(name: str, seed: int, turns: int = 3, start: tuple[int, ...] = ()) -> list[Example]:
    """As of a template that drops earlier plans: an example a turn, the answers before it without theirs."""
    before, examples = (*start, *ids(seed, 40)), []
    for turn in range(turns):
        plan, answer, question = (ids(seed * 100 + 10 * turn + k, n) for k, n in ((1, 9), (2, 35), (3, 7 + turn)))
        stop = len(before) + len(plan) + len(answer)
        span = (Span(len(before), len(before) + len(plan), "think"), Span(len(before) + len(plan), stop, "answer"))
        examples.append(Example((*before, *plan, *answer), span, name))
        before = (*before, *answer, *question)
    return examples


SINGLE = Example(ids(77, 60), (Span(50, 60, "answer"),), "single")
SHARED = ids(5, 44)
ROWS = [*conversation("a", 1), SINGLE, *conversation("b", 2, 2)]
# The same behind tokens that all rows share, as tools are.
PREFIXED = [*conversation("a", 1, start=SHARED), *conversation("b", 2, 2, start=SHARED),
            Example((*SHARED, *ids(78, 30)), (Span(60, 74, "answer"),), "single")]  # fmt: skip


# ---- which rows, which tokens ---------------------------------------------------------------------------------


def test_neighbours_with_one_id_and_a_common_start_are_one_conversation():
    assert conversation_groups(ROWS) == (0, 0, 0, 3, 4, 4)
    assert conversation_groups([SINGLE, ROWS[0]]) is None
    strangers = [Example(e.ids, e.spans, "same") for e in (SINGLE, ROWS[0])]
    assert conversation_groups(strangers) is None  # one id, but nothing in common
    nameless = [Example(e.ids, e.spans) for e in ROWS[:3]]
    assert conversation_groups(nameless) is None


def test_the_tree_of_three_turns_runs_each_token_once():
    batch = make_batch(ROWS, range(3))
    tree = shared_tree(batch)
    assert tree is not None
    first, second = tree, tree.children[0]
    # The last token before a plan predicts it, and is every row's own.
    assert (first.start, first.stop, first.leaves) == (0, 39, (0,))
    assert (second.start, second.stop, second.leaves) == (39, 40 + 35 + 7 - 1, (1, 2))
    assert not second.children


@given(turns=st.integers(2, 5), seed=st.integers(0, 50))
def test_what_is_shared_is_the_same_in_all_rows_and_predicts_nothing_trained(turns, seed):
    rows = conversation("x", seed, turns)
    batch = make_batch(rows, range(turns))
    tree = shared_tree(batch)
    assert tree is not None
    leaves = [row for node in tree.nodes() for row in node.leaves]
    assert sorted(leaves) == list(range(turns))
    for node in tree.nodes():
        part = batch.ids[list(node.rows), node.start : node.stop]
        assert (part == part[0]).all() and (part >= 0).all()
        assert node.stop == node.start or node.stop - node.start >= MIN_PREFIX
        for row in node.rows:
            assert batch.columns[batch.rows == row].min() >= node.stop
        for child in node.children:
            assert child.start == node.stop and set(child.rows) <= set(node.rows)


def test_rows_without_anything_in_common_stay_together():
    batch = make_batch([SINGLE, *conversation("a", 1, 1)], (0, 1), groups=(0, 1))
    assert parted(batch) == ([], batch)
    conversations, rest = parted(make_batch(ROWS, (3, 0, 4, 1, 5, 2), groups=conversation_groups(ROWS)))
    assert [part.indices for part, _ in conversations] == [(0, 1, 2), (4, 5)]
    assert rest is not None and rest.indices == (3,)


# ---- batches --------------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=40)


@given(sizes=SIZES, size=st.integers(1, 8), seed=st.integers(0, 3))
def test_a_conversation_stays_in_one_batch_and_every_row_comes_once(sizes, size, seed):
    groups = [number for number, count in enumerate(sizes) for _ in range(count)]
    lengths = [10 + i % 7 for i in range(len(groups))]
    batches = plan_epoch(lengths, size, seed, groups=groups)
    assert sorted(i for batch in batches for i in batch) == list(range(len(groups)))
    assert batches == plan_epoch(lengths, size, seed, groups=groups)
    assert len(batches) == len(plan_epoch(lengths, size, seed + 1, groups=groups))  # the data cursor
    for group in set(groups):
        assert sum(any(groups[i] == group for i in batch) for batch in batches) == 1
    for batch in batches:
        assert len(batch) <= size or len({groups[i] for i in batch}) == 1
    assert len(batches) >= math.ceil(len(groups) / size) if max(sizes) <= size else True


def test_another_seed_gives_other_company():
    groups = [number for number in range(30) for _ in range(1 + number % 2)]
    plans = [plan_epoch([10] * len(groups), 4, seed, groups=groups) for seed in (0, 1)]
    assert sorted(map(sorted, plans[0])) != sorted(map(sorted, plans[1]))


def test_each_rank_has_whole_conversations(monkeypatch):
    groups = (7, 3, 7, 9, 3, 7)
    monkeypatch.setattr(ranks, "size", lambda: 2)
    batch = make_batch([SINGLE] * 6, range(6), groups=groups)
    seen: list[int] = []
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        own = ranks.share(batch)
        assert own is not None and list(own.indices) == ranks.own_rows(range(6), groups)
        seen += own.indices
        assert {groups[i] for i in own.indices} == ({7, 9} if rank == 0 else {3})
    assert sorted(seen) == list(range(6))
    assert ranks.own_rows(range(6), None) == [1, 3, 5]  # without conversations every second row


# ---- loss and gradients ---------------------------------------------------------------------------------------

SWITCHES = {
    "all": Speed(),
    "no_trunk": Speed(frozen_trunk=False),
    "no_cpu": Speed(fast_cpu=False),
    "compiled": Speed(fast_cpu=False, compile=True),  # too little is shared to leave the compiled step
    "compiled_tree": Speed(fast_cpu=False, compile=True),
    "checkpoint": Speed(checkpoint=True),
    "no_cpu_checkpoint": Speed(fast_cpu=False, checkpoint=True, frozen_trunk=False),
    "cpu_layers": Speed(cpu_layers=True),
    "trunk_not_kept": Speed(trunk_bytes=0),
}


# Every saving on one architecture, the usual ones on the others; the rest in `make test-all`.
CASES = [pytest.param(arch, switch, marks=() if arch == "llama" or switch == "all" else
                      pytest.mark.slow) for arch in ARCHS for switch in SWITCHES]  # fmt: skip


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A model of an architecture, and its losses and gradients the plain way; made once each."""

    @cache
    def made(arch: str) -> Any:
        folder = tmp_path_factory.mktemp("model") / arch
        loaded = adapted(tiny_model(folder, arch, "gemma" if arch.startswith("gemma") else "chatml"), ALL_KEYS)
        return loaded, {name: plain(loaded.model, rows) for name, rows in (("own", ROWS), ("prefixed", PREFIXED))}

    return made


def batch_groups(rows: list[Example], prefix: tuple[int, ...]) -> tuple[int, ...] | None:
    return conversation_groups(rows, len(prefix))


def ours(loaded: Any, rows: list[Example], prefix: tuple[int, ...], speed: Speed, order: Sequence[int]) -> Any:
    plan = plan_step(loaded.model, prefix, speed, loaded.vocabulary, dropout=0.0, trees=True)
    assert plan.trees and not plan.notes and plan.prefix == prefix
    loaded.model.train()
    batch = make_batch(rows, order, len(prefix), batch_groups(rows, prefix))
    with plan.context():
        pieces = pieces_of(plan, batch)
        if plan.speed.trunk_bytes is None:  # the trunk of conversations is a tree as well
            store_trunk(plan, rows, order, groups=batch_groups(rows, prefix))
            assert len(plan.store.rows) == (len(rows) if plan.cut else 0)
        (_, losses), grads = loss_and_grad(plan)(batch, batch.trained)
        losses = np.array(losses)
        mx.eval(grads)
        again = np.array(batch_losses(plan, batch))
    np.testing.assert_allclose(again, losses, rtol=1e-4, atol=1e-5)
    return plan, pieces, losses, dict(tree_flatten(grads))


def in_order(losses: np.ndarray, rows: Sequence[Example], order: Sequence[int]) -> np.ndarray:
    bounds = np.cumsum([0, *(e.trained for e in rows)])
    return np.concatenate([losses[bounds[i] : bounds[i + 1]] for i in order])


@pytest.mark.parametrize("rows", ["own", "prefixed"])
@pytest.mark.parametrize(("arch", "switch"), CASES)
def test_conversations_have_the_plain_loss_and_gradients(model_of, arch, switch, rows, monkeypatch):
    monkeypatch.setattr(cpu_layers, "SMALLEST", 1)
    monkeypatch.setattr(step, "COMPILED_GAIN", 1.0 if switch == "compiled_tree" else 0.1)
    loaded, expected = model_of(arch)
    examples, prefix = (ROWS, ()) if rows == "own" else (PREFIXED, SHARED)
    order = (3, 4, 0, 1, 5, 2)
    plan, pieces, losses, grads = ours(loaded, examples, prefix, SWITCHES[switch], order)
    assert plan.cut == (2 if SWITCHES[switch].frozen_trunk else 0)
    assert sum(piece.tree is not None for piece in pieces) == (0 if switch == "compiled" else 2)
    np.testing.assert_allclose(losses, in_order(expected[rows][0], examples, order), rtol=1e-4, atol=1e-5)
    close(grads, expected[rows][1])


def test_a_conversation_runs_each_token_once(tmp_path):
    loaded = adapted(tiny_model(tmp_path / "m"), AdapterSettings(num_layers=2, rank=4))
    rows = conversation("long", 3, 5)
    plan = plan_step(loaded.model, (), Speed(), loaded.vocabulary, dropout=0.0, trees=True)
    with plan.context():
        (piece,) = pieces_of(plan, make_batch(rows, range(5), groups=(0,) * 5))
    cells, real = piece.cells()
    plans = 9 * 5
    assert real < len(rows[-1]) + plans + 36 * 4 + 5  # all of the last turn, the plans and answers of the others
    assert cells < 0.7 * sum(map(len, rows))


@pytest.mark.parametrize("speed", [Speed(shared_prefix=False), Speed(selecting_head=False)], ids=["off", "plain"])
def test_the_switch_leaves_it_out(tmp_path, speed):
    loaded = adapted(tiny_model(tmp_path / "m"))
    plan = plan_step(loaded.model, (), speed, loaded.vocabulary, dropout=0.0, trees=True)
    assert not plan.trees
    batch = make_batch(ROWS, range(6), groups=conversation_groups(ROWS))
    with plan.context():
        assert not any(piece.tree for piece in pieces_of(plan, batch))
        losses = np.array(batch_losses(plan, batch))
    np.testing.assert_allclose(losses, plain(loaded.model, ROWS)[0], rtol=1e-4, atol=1e-5)


def test_dropout_leaves_it_out_and_says_so(tmp_path):
    loaded = adapted(tiny_model(tmp_path / "m"))
    plan = plan_step(loaded.model, (), Speed(), loaded.vocabulary, dropout=0.1, trees=True)
    assert not plan.trees and any("dropout" in note for note in plan.notes)


# ---- a run ----------------------------------------------------------------------------------------------------


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def talks(count: int) -> list[Conversation]:
    """Two questions and a call in between, with plans that Qwen3's template drops later; each with its own start."""
    rows = []
    for city in CITIES[:count]:
        row = long_row(city)
        system = Message("system", f"{city}: be brief. " * 3)
        rows.append(Conversation((system, *row.messages[1:]), row.tools, f"talk-{city}", {}))
    return rows


def test_a_run_with_conversations_is_the_run_without_sharing(tmp_path):
    model = str(tiny_model(tmp_path / "model", "qwen3", layers=3, template=QWEN3))
    said, lines = [], []
    for shared in (True, False):
        out = tmp_path / str(shared)
        settings = TrainSettings(
            model=model, out=str(out), shared_prefix=shared, num_layers=2, rank=4, test=0.0, valid=0.0,
            batch_size=64, epochs=3, learning_rate=1e-2, steps_per_report=1,
        )  # fmt: skip
        told = Said()
        train(settings, talks(4), progress=told)
        said.append(" ".join(told.lines))
        lines.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert "4 conversations have several examples" in said[0] and "several examples" not in said[1]
    for with_, without in zip(*lines, strict=True):
        assert with_["train_loss"] == pytest.approx(without["train_loss"], rel=1e-4)
        assert with_["gradient_norm"] == pytest.approx(without["gradient_norm"], rel=1e-3)
        assert (with_["rows"], with_["tokens"]) == (without["rows"], without["tokens"])
        assert with_["cells"] < 0.8 * without["cells"] and 0 <= with_["padding"] < 1
