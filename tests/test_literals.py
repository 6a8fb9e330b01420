"""Values in Python's words are read as Python reads them, whatever way is taken (data sets write both)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calltune.formats.literals import read_value

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12)
TEXTS = st.sampled_from(
    ["it's", 'say "x"', "None", "True or False", "a\\b", "a\nb", "'", '"', "x': 1", "[", "</tools>"]
)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(VALUES)
def test_a_value_as_python_or_as_json_is_read_back(value):
    if isinstance(value, (list, dict)):
        text = repr(value)
        assert read_value(text) == value
        assert read_value(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': None, 'None': True}", {"a": None, "None": True}),
        ("{'a': \"it's\", 'b': 'x'}", {"a": "it's", "b": "x"}),
        ("{'a': 'say \"x\"', 'b': null}", {"a": 'say "x"', "b": None}),
        ("{'a': 'b\\'c'}", {"a": "b'c"}),
        ("['True', True, 'not None']", ["True", True, "not None"]),
        ("('a', 'b',)", ["a", "b"]),
        ("{'a': 'b' 'c'}", {"a": "bc"}),
    ],
)
def test_values_in_pythons_words(text, value):
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["{'a': 'b\nc'}", "{'a': 'b}", "{'a': 1, 'a': 2}", "{'a': NaN}", "{'a': xTrue}"])
def test_what_python_would_not_take_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=r"JSON|twice|literal"):
        read_value(text)
