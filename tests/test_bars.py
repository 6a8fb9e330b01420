"""Progress as plain lines and as bars; what is shown of a streamed reply."""

from __future__ import annotations

import io
import sys

import pytest

from calltune.cli import bars as bars_module
from calltune.cli.bars import Bars
from calltune.cli.stream import Screen
from calltune.serve.stream import Deltas


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bars_module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_at_intervals_with_the_time_left(capsys, clock):
    with Bars(interval=15) as bars:
        bars.start("training", 10)
        for step in range(10):
            clock[0] += 10
            bars.advance("training", loss=f"{1 - step / 10:.1f}")
        bars.finish("training")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 10 to do"
    assert lines[1] == "training: 2 of 10, 1:20 left, loss 0.9"
    assert lines[-1] == "training: done in 1:40"
    assert len(lines) == 6


def test_no_time_left_is_told_of_too_little(capsys, clock):
    bars = Bars(interval=1)
    bars.start("answers", 100)
    clock[0] += 30
    bars.advance("answers", 3)
    clock[0] += 30
    bars.advance("answers", 30)
    assert capsys.readouterr().err.splitlines()[1:] == ["answers: 3 of 100", "answers: 33 of 100, 2:02 left"]


def test_unknown_steps_are_ignored(capsys):
    bars = Bars()
    bars.advance("never started")
    bars.finish("never started")
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_colour", [True, False])
def test_bars_in_a_terminal(monkeypatch, no_colour):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with Bars() as bars:
        bars.start("training", 4)
        bars.advance("training", 2, loss="1.0")
        bars.say("a [word] in brackets")
        bars.finish("training")
        bars.say("after")
    text = screen.getvalue()
    assert "4/4" in text
    assert "loss 1.0" in text
    assert "a [word] in brackets" in text
    assert text.endswith("after\n")
    assert ("\x1b[3" in text or "\x1b[38" in text) is not no_colour


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not Bars().live


def shown(*pieces: str, format: str = "hermes", colour: bool = False) -> str:
    deltas, screen = Deltas(format, bound=False, tell_unread=False), Screen(io.StringIO(), colour)
    for piece in pieces:
        screen.show(deltas.feed(piece))
    screen.show(deltas.close())
    screen.end()
    return screen.out.getvalue()


REPLY = '<think>\na plan\n</think>\n<tool_call>\n{"name": "f"}\n</tool_call>\nwords <b> & 1 < 2'


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 100])
def test_streamed_markup_is_left_out_however_it_is_cut(size):
    pieces = [REPLY[i : i + size] for i in range(0, len(REPLY), size)]
    assert shown(*pieces) == "a plan\nwords <b> & 1 < 2\n"
    assert shown(*pieces, colour=True).count("\x1b[2m") >= 1


def test_what_looks_like_a_marker_at_the_end_is_shown():
    assert shown("a <tool") == "a <tool\n"
    assert shown("<think>open <") == "open <\n"
    assert shown("") == ""
    assert shown("[THINK]A plan.[/THINK]words[TOOL_CALLS]f[ARGS]{}", format="mistral") == "A plan.\nwords\n"


def test_what_was_done_before_does_not_count_as_speed(capsys, clock):
    """A run that goes on after 90 of 100 updates: the time left follows from the new ones."""
    bars = Bars(interval=1.0)
    bars.start("training", 100)
    bars.advance("training", 90)
    for _ in range(5):
        clock[0] += 10
        bars.advance("training")
    said = capsys.readouterr().err
    assert "training: 95 of 100, 0:50 left" in said
