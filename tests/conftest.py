"""Hypothesis makes the same examples every time, so that `make test` does not fail by chance; the nightly forms
look for new ones (`derandomize=False`)."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True)
settings.load_profile("steady")

# A shell's background jobs ignore Ctrl-C, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model with data and a trained run, for the tests of the commands (cli_place.py)."""
    from cli_place import make_place

    return make_place(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tiny tokenizer with ChatML's turns."""
    from tiny import tiny_tokenizer

    from calltune.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def template(tokenizer):
    """The template that is chosen for it."""
    from calltune.template import choose_template

    return choose_template(tokenizer)
