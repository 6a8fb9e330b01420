"""Splits that stay where they are when rows are added, and leaks between the parts."""

import pytest
from tiny import weather_rows

from calltune.builtin import builtin_data
from calltune.data.likeness import like_keys, request_words
from calltune.data.phrasing import phrasing, rank
from calltune.data.split import Split, leaks_between, split_rows
from calltune.schema import Conversation, Message, Tool, ToolCall


def asked(text, name="f", **arguments):
    reply = Message("assistant", calls=(ToolCall(name, arguments),))
    return Conversation((Message("user", text), reply), (Tool("f"), Tool("g"), Tool(name)), text)


def numbered(n, tools=20):
    return [asked(f"Do the thing number {i}", f"tool_{i % tools}", n=i) for i in range(n)]


def place(split):
    return {row.id: part for part in ("train", "valid", "test") for row in getattr(split, part)}


@pytest.mark.parametrize("by", ["row", "phrasing"])
def test_a_stable_split_keeps_every_row_in_its_part_when_rows_are_added_or_moved(by):
    rows = numbered(2000) if by == "row" else list(builtin_data(sizes=(600, 10, 10)).train)
    before = place(split_rows(rows[: len(rows) // 2], 0.2, 0.1, seed=1, by=by, stable=True))
    after = place(split_rows(rows[::-1], 0.2, 0.1, seed=1, by=by, stable=True))
    assert {key: after[key] for key in before} == before
    assert set(before.values()) == {"train", "valid", "test"}
    if by == "row":
        shares = [list(after.values()).count(part) / 2000 for part in ("test", "valid")]
        assert shares == [pytest.approx(0.2, abs=0.03), pytest.approx(0.1, abs=0.03)]


def test_an_exact_split_moves_few_rows_when_rows_are_added():
    rows = numbered(2000)
    before, after = place(split_rows(rows[:1800], seed=1)), place(split_rows(rows, seed=1))
    assert sum(after[key] != part for key, part in before.items()) < 20
    assert list(after.values()).count("test") == 200


def test_tools_that_are_held_out_stay_held_out_when_rows_are_added():
    rows = numbered(400)
    first = split_rows(rows[:380], by="tool", stable=True)
    second = split_rows(rows, by="tool", stable=True)
    assert first.held_out == second.held_out != ()
    for row in (*second.train, *second.valid):
        assert not {t.name for t in row.tools} & set(second.held_out)


def test_rows_of_one_wording_stay_together():
    verbs = ["Dim", "Light", "Clean", "Sell", "Paint", "Move", "Find", "Hide", "Take", "Break"]
    rooms = ("the kitchen", "Rome", "bedroom 7")
    rows = [asked(f"{verb} the lamp in {room}", room=room) for verb in verbs for room in rooms]
    assert len({phrasing(row) for row in rows}) == 10
    split = split_rows(rows, 0.2, 0.1, by="phrasing")
    assert len(split.test) == 6 and len(split.valid) == 3
    wordings = [{phrasing(row) for row in part} for part in (split.train, split.valid, split.test)]
    assert not wordings[0] & wordings[1] | wordings[0] & wordings[2] | wordings[1] & wordings[2]


def test_made_rows_are_grouped_by_their_template():
    rows = builtin_data(sizes=(400, 10, 10)).train
    split = split_rows(rows, 0.2, 0.1, by="phrasing")
    kinds = [{row.meta["template"] for row in part} for part in (split.train, split.test)]
    assert not kinds[0] & kinds[1] and len(split.test) >= 80


def test_ranks_are_the_same_on_every_machine():
    assert rank(0, "a") == pytest.approx(0.716967520252, abs=1e-11)
    assert 0 <= rank(1, "\ud800") < 1


def test_leaks_between_the_parts_are_found():
    train = [asked("Please dim the lamp to 4", n=4), asked("Dim the lamp to 5", n=5), asked("Sell the lamp", "g")]
    split = Split(tuple(train), (), (asked("dim the LAMP to 4!", n=4),), ("g",))
    keys = lambda row: [*like_keys(row, request_words(row))]  # noqa: E731
    found = leaks_between(Split(split.train[:2], (), split.test), "row", keys)
    assert found == {0: "says nearly the same as a held-out row"}
    assert set(leaks_between(split, "row", keys)) == {0, 1, 2}  # all offer the held-out tool g
    worded = leaks_between(Split(split.train[:2], (), (asked("Dim the lamp to 9", n=9),)), "phrasing", keys)
    assert worded == {0: "is worded as a held-out row", 1: "is worded as a held-out row"}


def test_rows_that_say_the_same_are_in_one_part_of_a_stable_split():
    rows = weather_rows(300)
    twice = [*rows, *(Conversation(r.messages, r.tools, f"{r.id} again") for r in rows)]
    parts = place(split_rows(twice, 0.3, 0.2, stable=True))
    assert all(parts[row.id] == parts[f"{row.id} again"] for row in rows)
