"""What calltune tells the allocators before MLX is there, each seen in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from calltune.platform import allocator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")

CHILD = """
import os
import calltune.engine
import numpy as np

def faults():  # pages that were cleared for this process (proc(5))
    return int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[7])

def arrays(count):  # six of 24 MB at a time, freed before the next six are asked for
    for _ in range(count):
        held = [np.ones(6 << 20, np.float32) for _ in range(6)]
        del held

arrays(3)
before = faults()
arrays(10)
print(os.environ.get("MLX_MAX_MB_PER_BUFFER"), faults() - before)
"""


def child(**more: str) -> tuple[str, int]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "MLX_MAX_MB", "CALLTUNE_ALLOC"))}
    own["NUMPY_MADVISE_HUGEPAGE"] = "0"  # a huge page would be one fault instead of 512
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=own | more, capture_output=True, text=True, check=True, timeout=120
    )
    waiting, faults = done.stdout.split()
    return waiting, int(faults)


def test_freed_memory_is_kept_and_little_waits_for_a_gpu():
    waiting, faults = child()
    assert waiting == "100"
    assert faults < 1000


def test_what_the_user_set_stays():
    waiting, faults = child(MLX_MAX_MB_PER_BUFFER="333", MALLOC_MMAP_THRESHOLD_="65536")
    assert waiting == "333"
    assert faults > 5000  # each array's pages are cleared again


def test_it_can_be_left_out():
    waiting, faults = child(CALLTUNE_ALLOCATOR="none")
    assert waiting == "None"
    assert faults > 5000


def test_training_lets_less_wait_and_a_peer_gets_what_its_users_have(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator, "_ours", [])
    monkeypatch.delenv(allocator.WAITING, raising=False)
    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    allocator.expect_training()
    assert os.environ[allocator.WAITING] == "30"
    assert allocator.WAITING not in allocator.user_environment()
    monkeypatch.setattr(allocator, "_ours", [])
    monkeypatch.setenv(allocator.WAITING, "77")
    allocator.expect_training()
    assert allocator.user_environment()[allocator.WAITING] == "77"
