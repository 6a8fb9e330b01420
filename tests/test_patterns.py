"""Patterns by the linear engine: what they find, what they cannot say, and how large they are."""

from __future__ import annotations

import re
import time

import pytest

from calltune.patterns import LONGEST, linear, states

SAID = [
    ("b", ["abc", "xyz", ""]),
    ("^b$", ["b", "ab", "b "]),
    ("", ["", "x"]),
    (r"^\w+@\w+\.com$", ["a@b.com", "a@b.org", "é@b.com"]),
    (r"^(?=.*\d)(?=.*[a-z])(?!admin).{3,}$", ["ab1", "admin1", "abc", "a1"]),
    ("^(?!a|b)", ["a", "c", ""]),
    (r"^(?=[)(]\))x?", ["))", "(x", "()"]),
    ("(?i)abc", ["xABCx", "ab"]),
    (r"[\[\]&-]", ["[", "&", "x"]),
    (r"\/\-\.", ["/-.", "/x"]),
    (r"^[*+]+\++$", ["*+", "a+"]),
]


@pytest.mark.parametrize(("pattern", "texts"), SAID)
def test_a_pattern_is_found_where_python_finds_it(pattern, texts):
    made = linear(pattern)
    assert made is not None
    assert [made.found(text) for text in texts] == [re.search(pattern, text) is not None for text in texts]


@pytest.mark.parametrize("pattern", [
    "a(?=b)", "(?<=a)b", r"(a)\1", "^(?=a)b|c", "^(?=a){2}b", r"a\Z", "[[]", "[a&&b]", r"\<a", "(?x)a", "(", "\ud800",
    "a++b", "a*+", "a?+", "a{2}+", "x" * (LONGEST + 1), r"(\w{50}){50}",
])  # fmt: skip
def test_what_the_engine_cannot_say_or_reads_otherwise_is_left_to_others(pattern):
    assert linear(pattern) is None


def test_the_end_of_a_text_is_behind_its_last_line_break():
    """As ECMA's, by which JSON Schema's patterns go; Python's `$` also stands before it."""
    made = linear("^b$")
    assert made is not None and not made.found("b\n")


def test_half_of_a_surrogate_pair_in_a_text_is_a_character():
    made = linear("^a.b$")
    assert made is not None and made.found("a\ud800b")


@pytest.mark.parametrize(("pattern", "least"), [
    ("a{30000}", 30_000), ("(abc){10}?{10}", 300), ("a+{1000}", 1000), ("((a{9}){9}){9}", 729), ("a{2,}", 3),
    ("(?P<n>a|b){100}", 200), ("[a-z]{3}|[]x{9}]{4}", 7), (r"\d{20}", 20), ("(a{5}(b", 6), ("[({9}]a{7}", 8),
])  # fmt: skip
def test_states_are_never_far_too_few(pattern, least):
    size, width = states(pattern)
    assert least <= width <= size


def test_slow_patterns_are_quick():
    begun = time.perf_counter()
    for pattern in ("^(a+)+$", "(a*)*b", "^(a|a)*$", "(.*a){20}x$"):
        made = linear(pattern)
        assert made is not None and not made.found("a" * 5_000 + "!")
    assert time.perf_counter() - begun < 5
