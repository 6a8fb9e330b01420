"""Calls drawn at temperature 1 under the schemas of BFCL are valid, whatever model draws them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model

from calltune.bench.bound import Validity, bfcl_requests, validity
from calltune.builtin import builtin_data
from calltune.caller import Caller, load
from calltune.demo import DEMO_SETTINGS, QUICK_SIZES
from calltune.engine.decode import Sampling
from calltune.grammar import Rules
from calltune.schema import Reply, Tool, ToolCall
from calltune.train import train

DATA = Path(__file__).parent / "data" / "bfcl"
RUN = os.environ.get("CALLTUNE_TEST_RUN")  # a run of the built-in model; without it one is trained
EACH = 16  # replies to one request, side by side: they share its prompt


def count(caller: Caller, calls: int, seed: int, place: Path | None = None, each: int = EACH) -> Validity:
    """What becomes of that many calls, drawn request by request."""
    requests = bfcl_requests(calls, seed, place, each)
    found: list[Reply] = []
    for start in range(0, calls, 10 * each):
        piece = requests[start : start + 10 * each]
        found += caller.batch(piece, max_tokens=200, batch_size=16, rules=Rules("required", False),
                              sampling=Sampling(temperature=1.0, seed=seed + start))  # fmt: skip
    assert len(found) == calls
    return validity(found, [tools for _, tools in requests])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return load(tiny_model(tmp_path_factory.mktemp("model")), think=False)


@pytest.mark.parametrize(("calls", "each"), [(16, 1), (16, 4), pytest.param(48, 1, marks=pytest.mark.slow),
                                             pytest.param(48, 4, marks=pytest.mark.slow)])  # fmt: skip
def test_calls_of_a_random_model_are_valid(tiny, calls, each):
    found = count(tiny, calls, 0, DATA, each)
    assert not found.invalid and found.valid, found


def test_what_is_counted_as_what():
    tool = Tool("f", "", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    replies = [
        Reply(calls=(ToolCall("f", {"n": 1}),)),
        Reply(calls=(ToolCall("f", {"n": 1}),), truncated=True),
        Reply(calls=(ToolCall("f", {}),), notes=("not enforced",)),
        Reply(calls=(ToolCall("f", {}),)),
        Reply(content="words", raw="words"),
    ]
    found = validity(replies, [[tool]] * 5)
    assert (found.valid, found.cut, found.unenforced, len(found.invalid)) == (1, 1, 1, 2)
    assert "missing_argument" in found.invalid[0] and "no call: 'words'" in found.invalid[1]
    assert str(found) == "1 valid, 1 cut by the limit, 1 unenforced, 2 invalid"


def model(kind: str, folder: Path, sizes: tuple[int, int, int] = QUICK_SIZES) -> Caller:
    """The built-in model, or tuned as by `calltune demo --quick` (`sizes`: with other numbers of rows)."""
    if kind == "base":
        return load("smollm2-135m", think=False)
    if RUN:
        return load(RUN)
    settings = replace(DEMO_SETTINGS, out=str(folder / "run"))
    return load(train(settings, builtin_data(sizes=sizes)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "tuned"])
def test_32_calls_of_a_real_model_are_valid(kind, tmp_path):
    found = count(model(kind, tmp_path, (48, 8, 8)), 32, 1)
    assert not found.invalid and found.valid > 16, found


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["base", "tuned"])
def test_2_000_calls_of_a_real_model_are_valid(kind, tmp_path, capsys):
    found = count(model(kind, tmp_path), 2_000, 2)
    with capsys.disabled():
        print(f"\n2,000 calls of the {kind} model: {found}")
    assert not found.invalid and found.valid > 1_000, found
