"""scripts/setup.sh: the right extra for the machine, and one plain line where it cannot go on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fakes a Linux machine")


class FakeMachine:
    """A project copy and a folder of programs that stand before the real ones."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "project", folder / "bin"
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", self.root / "scripts")
        self.bin.mkdir()
        self.program("uname", 'case "$1" in -m) echo x86_64;; *) echo Linux;; esac')
        self.program("getconf", "echo glibc 2.36")
        self.program("nvidia-smi", "exit 9")
        self.python()

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def python(self, version: str = "3.12", old: bool = False, bare: bool = False) -> None:
        """A python3 that makes a .venv whose python writes its arguments into `installed`."""
        self.program("venv-python", f'echo "$*" >> {self.root}/installed')
        self.program(
            "python3",
            f"""case "$1$2" in
            *print*) echo {version};;
            *version_info*) exit {int(old)};;
            *ensurepip*) exit {int(bare)};;
            -mvenv) mkdir -p "$3/bin"; cp {self.bin}/venv-python "$3/bin/python";;
            esac""",
        )
        for name in ("python", "python3.11", "python3.12", "python3.13"):
            self.program(name, "exit 127")

    def setup(self, *extras: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "EXTRA", "VENV")}
        path = {"PATH": f"{self.bin}:/usr/bin:/bin"}
        script = ["sh", str(self.root / "scripts" / "setup.sh"), *extras]
        return subprocess.run(script, env=clean | path | environment, capture_output=True, text=True, check=False)

    def installed(self) -> str:
        return (self.root / "installed").read_text().strip().splitlines()[-1].split()[-1]


@pytest.fixture
def fake(tmp_path):
    return FakeMachine(tmp_path)


@pytest.mark.parametrize(
    ("driver", "extra"),
    [("echo 580.65.06", "cuda13"), ("echo 570.1", "cuda12"), ("echo 535.1", "cpu"), ("exit 9", "cpu")],
)
def test_the_driver_picks_the_extra(fake, driver, extra):
    fake.program("nvidia-smi", driver)
    done = fake.setup("test")
    assert done.returncode == 0, done.stderr
    assert fake.installed() == f".[{extra},test]"
    assert ("is older than 550" in done.stderr) == ("535" in driver)


def test_the_user_may_pick_the_extra(fake):
    fake.setup(EXTRA="cuda12")
    assert fake.installed() == ".[cuda12]"


def test_a_mac_needs_no_extra(fake):
    fake.program("uname", 'case "$1" in -m) echo arm64;; *) echo Darwin;; esac')
    assert fake.setup().returncode == 0
    assert fake.installed() == "."
    fake.setup("test")
    assert fake.installed() == ".[test]"


def test_another_build_of_mlx_starts_from_nothing(fake):
    fake.setup()
    mark = fake.root / ".venv" / "mark"
    mark.write_text("")
    fake.setup("test")
    assert mark.exists()
    fake.setup(EXTRA="cuda13")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("system", "arch", "glibc", "words"),
    [
        ("MINGW64_NT-10.0", "x86_64", "echo", "WSL2"),
        ("Darwin", "x86_64", "echo", "Linux container"),
        ("Linux", "riscv64", "echo glibc 2.39", "not supported"),
        ("Linux", "x86_64", "echo glibc 2.31", "glibc 2.31 is older than 2.35"),
        ("Linux", "aarch64", "echo glibc 2.4", "is older"),
        ("Linux", "x86_64", "exit 1", "musl"),
    ],
)
def test_an_unsupported_machine_stops_with_one_line(fake, system, arch, glibc, words):
    fake.program("uname", f'case "$1" in -m) echo {arch};; *) echo {system};; esac')
    fake.program("getconf", glibc)
    fake.program("sysctl", "exit 1")
    done = fake.setup()
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (fake.root / ".venv").exists()


def test_python_that_is_too_old(fake):
    fake.python("3.9", old=True)
    done = fake.setup()
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed; python3 is 3.9;" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_newer_python_of_another_name_is_found(fake):
    fake.python("3.12")
    shutil.move(fake.bin / "python3", fake.bin / "python3.12")
    fake.program("python3", 'case "$1$2" in *print*) echo 3.9;; *) exit 1;; esac')
    assert fake.setup().returncode == 0
    assert fake.installed() == ".[cpu]"


def test_python_without_venv(fake):
    fake.python("3.12", bare=True)
    done = fake.setup()
    assert done.returncode == 2
    assert "apt install python3.12-venv" in done.stderr
    assert len(done.stderr.splitlines()) == 1
