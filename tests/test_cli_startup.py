"""What the command line imports, and how it ends: exit codes and the words for each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from calltune import cli
from calltune.errors import CannotFinish, CheckFailed, InputError

HEAVY = ("mlx", "mlx_lm", "transformers", "numpy", "jsonschema")
LOADED = f"print([m for m in sys.modules if m.split('.')[0] in {HEAVY!r}])"


def loaded_after(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}; {LOADED}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_help_imports_nothing_heavy():
    assert loaded_after("from calltune.cli import main; main(['--help'])") == "[]"


def test_import_calltune_imports_nothing_heavy():
    assert loaded_after("import calltune; dir(calltune)") == "[]"


def test_help_of_the_slow_commands_imports_no_mlx():
    code = "from calltune.cli import main; [main([c, '--help']) for c in ('demo', 'train', 'eval', 'call', 'chat')]"
    found = loaded_after(code)
    assert "'mlx" not in found
    assert "transformers" not in found


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "example" in out
    assert f"calltune {command}" in out or f"| calltune {command}" in out


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("calltune ")
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"    {name} " in listed for name in cli.COMMANDS)


def test_absent_commands_are_absent(capsys):
    for name in ("export",):
        assert cli.main([name]) == 2
        assert f"there is no command '{name}'" in capsys.readouterr().err


def test_unknown_command_suggests_the_near_one(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_no_command(capsys):
    assert cli.main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_unknown_flag_suggests_the_near_one(capsys):
    assert cli.main(["train", "--bach-size", "3", "--lerning-rate=2"]) == 2
    said = capsys.readouterr().err
    assert "--bach-size (expected --batch-size?)" in said
    assert "--lerning-rate (expected --learning-rate?)" in said


def test_flags_are_not_guessed_from_their_first_letters(capsys):
    assert cli.main(["train", "--batch", "3"]) == 2
    assert "unknown_setting: --batch" in capsys.readouterr().err


def raise_in_command(monkeypatch, error: BaseException) -> None:
    import calltune.cli.parse

    def run(args: object) -> int:
        raise error

    monkeypatch.setattr(calltune.cli.parse, "run", run)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("wrong thing", next_step="do this"), 2, "wrong thing\n  next: do this"),
        (CheckFailed("too low"), 1, "too low"),
        (CannotFinish("no number"), 3, "no number"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.Terminated(), 143, "terminated"),
        (OSError(28, "No space left on device", "big.bin"), 2, "big.bin: no disk space left"),
        (PermissionError(13, "Permission denied", "x"), 2, "x: no permission"),
        (MemoryError(), 3, "not enough memory"),
        (RuntimeError("[malloc] Unable to allocate 9 bytes"), 3, "not enough memory"),
        (ValueError("two\nlines"), 3, "a bug of ours: ValueError: two lines"),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, words):
    raise_in_command(monkeypatch, error)
    assert cli.main(["parse"]) == code
    out = capsys.readouterr()
    assert words in out.err
    assert "Traceback" not in out.err
    assert out.out == ""


def test_debug_shows_the_traceback(monkeypatch, capsys):
    raise_in_command(monkeypatch, ValueError("a bug"))
    monkeypatch.setenv("CALLTUNE_DEBUG", "1")
    assert cli.main(["parse"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_nobody_reads_the_output(tmp_path):
    """A pipe that is closed early, as by `| head -n 1`, is no error to be told."""
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"id": 1, "raw_output": "some words"}\n' * 20_000)
    command = f"{sys.executable} -m calltune parse < {lines} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


def test_terminated_process_ends_with_143():
    code = "import os, signal, sys; from calltune.cli import main, parse\n"
    code += "parse.run = lambda args: os.kill(os.getpid(), signal.SIGTERM)\nsys.exit(main(['parse']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (143, "terminated; what was finished is kept")


def test_unsupported_machine_stops_in_one_line(monkeypatch, capsys):
    from calltune.platform import machine

    monkeypatch.setattr(machine.platform, "system", lambda: "Windows")
    assert cli.main(["parse"]) == 2
    said = capsys.readouterr().err
    assert "WSL2" in said
    assert len(said.splitlines()) == 1
    assert cli.main(["--version"]) == 0


def test_missing_mlx_build_stops_in_one_line(monkeypatch, capsys):
    from calltune.platform import mlx_build

    monkeypatch.setattr(mlx_build, "_is_installed", lambda name: name == "mlx")
    monkeypatch.setattr(mlx_build, "_built_from_source", lambda: False)
    monkeypatch.setattr(mlx_build.sys, "platform", "linux")
    assert cli.main(["parse"]) == 2
    said = capsys.readouterr().err
    assert "pip install" in said
    assert len(said.splitlines()) == 1
