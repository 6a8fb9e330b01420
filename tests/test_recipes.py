"""Settings that suit functions of one's own, where the user gives no others."""

import pytest

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
