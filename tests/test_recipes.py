"""Settings that suit functions of one's own, where the user gives no others."""

import pytest

from calltune.prepare import read_parts
from calltune.recipes import TOGETHER, TOOLS_RECIPE, with_recipe
from calltune.settings import TrainSettings, resolve


def test_tools_bring_their_recipe():
    settings = resolve(TrainSettings, with_recipe({"model": "m", "tools": "f.py"}), "a test")
    assert (settings.rows, settings.optimizer, settings.keys) == (1600, "muon", ("all",))


def test_what_is_given_wins():
    settings = resolve(TrainSettings, with_recipe({"tools": "f.py", "rows": 10, "num_layers": 2}), "a test")
    assert (settings.rows, settings.num_layers, settings.learning_rate) == (10, 2, 2e-3)


def test_rows_of_ones_own_keep_the_plain_defaults():
    assert with_recipe({"data": "rows.jsonl"}) == {"data": "rows.jsonl"}
    assert with_recipe({"tools": "f.py", "data": "rows.jsonl"}) == {"tools": "f.py", "data": "rows.jsonl"}


@pytest.mark.parametrize("name", sorted(TOGETHER))
def test_an_optimizer_is_not_given_the_rate_of_another(name):
    found = with_recipe({"tools": "f.py", name: 1})
    assert not (TOGETHER - {name}) & found.keys()
    assert found["rows"] == TOOLS_RECIPE["rows"]


def test_rows_made_from_tools_go_on_after_the_call(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(
        "from calltune import tool\n\n"
        "@tool(pure=True)\n"
        "def double(number: int) -> int:\n    '''Double a number.'''\n    return 2 * number\n\n"
        "@tool\n"
        "def open_door(room: str) -> dict:\n    '''Open the door of a room.'''\n    raise RuntimeError('never run')\n"
    )
    parts = read_parts(TrainSettings(**with_recipe({"model": "m", "tools": str(path), "rows": 120})))
    longer = [row for row in parts.train if row.meta.get("results")]
    assert longer and not any(row.meta.get("results") for row in (*parts.valid, *parts.test))
    for row in longer:
        calls, told = row.messages[1].calls, [m.content for m in row.messages if m.role == "tool"]
        assert {call.name for call in calls} == {"double"}
        assert told == [str(2 * call.arguments["number"]) for call in calls]
    assert any("go on after the call; none for open_door" in note for note in parts.notes)
    plain = read_parts(TrainSettings(**with_recipe({"model": "m", "tools": str(path), "rows": 120, "results": 0.0})))
    assert not any(row.meta.get("results") for row in plain.train)


def test_functions_of_ones_own_come_after_practice_but_in_short_trainings():
    assert with_recipe({"tools": "f.py"})["practice"]
    assert "practice" not in with_recipe({"tools": "f.py", "rows": 100})
    assert "practice" not in with_recipe({"tools": "f.py", "iters": 3})
    assert with_recipe({"tools": "f.py", "rows": 100, "practice": True})["practice"]
    assert "practice" not in with_recipe({"tools": "f.py", "fine_tune": "full"})
    assert with_recipe({"tools": "f.py", "practice": False})["practice"] is False
