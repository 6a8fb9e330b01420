"""Replaced functions with several threads: each sees what it asked for, and the last to leave puts back."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import mlx.core as mx
import pytest

from calltune.engine.attention import Split
from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.swaps import Swaps


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def place(said) -> tuple[SimpleNamespace, Swaps]:
    owner = SimpleNamespace(name=lambda: "plain")
    swaps = Swaps([(owner, "name", lambda plain: lambda: "quick for " + plain())],
                  first=lambda: said.append("first"), last=lambda: said.append("last"))  # fmt: skip
    return owner, swaps


def in_a_thread(work) -> None:
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # told in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and not failed, failed


def test_a_thread_that_leaves_takes_nothing_from_another(place, said):
    owner, swaps = place

    def other() -> None:
        assert owner.name() == "plain" and not swaps.here
        with swaps.within():
            assert owner.name() == "quick for plain"
        assert owner.name() == "plain"

    before = owner.name
    with swaps.within():
        in_a_thread(other)
        assert owner.name() == "quick for plain" and said == ["first"]
        with swaps.within():
            pass
        assert owner.name() == "quick for plain"
    assert owner.name is before and said == ["first", "last"] and not swaps.here


def test_an_error_within_puts_back(place, said):
    owner, swaps = place
    with pytest.raises(KeyError), swaps.within():
        raise KeyError
    assert owner.name() == "plain" and said == ["first", "last"]


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="the quick forms are the CPU's")
def test_a_reply_beside_another_threads_keeps_its_attention():
    """The caller that ended put MLX's attention back under the one in another thread, and MLX's knows no Split."""
    q = mx.random.normal((2, 2, 1, 16))
    keys = Split(mx.random.normal((1, 2, 5, 16)), mx.random.normal((2, 2, 3, 16)))

    def other() -> None:
        assert not is_fast()
        with fast_cpu():
            assert is_fast()

    with fast_cpu():
        in_a_thread(other)
        assert is_fast()
        got = mx.fast.scaled_dot_product_attention(q, keys, keys, scale=0.25)
    want = mx.fast.scaled_dot_product_attention(q, keys.joined(), keys.joined(), scale=0.25)
    assert mx.allclose(got, want, atol=1e-5).item()
