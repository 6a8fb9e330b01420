"""The BLAS that MLX gets on a Linux CPU: which one, right results, threads, warnings, speed."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from calltune.errors import InputError
from calltune.platform import blas, mlx_build, openblas
from calltune.platform.paths import sha256_file

linux_cpu = pytest.mark.skipif(
    not sys.platform.startswith("linux") or mlx_build.installed_builds() != ("mlx-cpu",),
    reason="only MLX's CPU build on Linux takes its BLAS from outside",
)
packaged = pytest.mark.skipif(openblas.find_library() is None, reason="scipy-openblas32 is not installed")

PRODUCT = """
import hashlib, json, time
{imports}
import mlx.core as mx
import numpy as np
a = mx.array(np.random.default_rng(0).normal(size=(512, 576)).astype(np.float32))
b = mx.array(np.random.default_rng(1).normal(size=(576, 1536)).astype(np.float32))
mx.eval(a @ b)
times = []
for _ in range({repeat}):
    start = time.perf_counter(); mx.eval(a @ b); times.append(time.perf_counter() - start)
exact = np.array(a).astype(np.float64) @ np.array(b).astype(np.float64)
error = float(np.abs(np.array(a @ b) - exact).max())
print(json.dumps({{"gflops": 2 * 512 * 576 * 1536 / min(times) / 1e9, "error": error, "blas": BLAS}}))
"""
WITH = "from calltune.engine import BLAS as _B; BLAS = _B.source"
WITHOUT = "BLAS = 'none'"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if k not in blas._THREAD_VARIABLES and k != blas.VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=known | environment, check=False
    )


def product(imports: str, repeat: int) -> dict:
    done = python(PRODUCT.format(imports=imports, repeat=repeat))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def fresh(monkeypatch):
    """load_blas() as in a new process; `mlx.core` and a loaded BLAS of this one are hidden."""
    monkeypatch.delenv(blas.VARIABLE, raising=False)
    monkeypatch.setattr(blas, "_in_process", lambda: None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    blas.load_blas.cache_clear()
    yield monkeypatch
    blas.load_blas.cache_clear()


@linux_cpu
@packaged
def test_results_agree_within_float_error():
    ours = product(WITH, repeat=1)
    assert ours["blas"] in ("scipy-openblas32", "environment")
    # 576 products of unit normals: float32 keeps about 1e-5 of a sum of size 24
    assert ours["error"] < 5e-4


@linux_cpu
@packaged
@pytest.mark.slow
def test_matmul_is_ten_times_faster_with_the_blas():
    ours, plain = product(WITH, repeat=30), product(WITHOUT, repeat=5)
    assert ours["error"] < 5e-4
    assert plain["error"] < 5e-4
    assert ours["gflops"] >= 10 * plain["gflops"], (ours, plain)


@linux_cpu
@packaged
def test_the_package_is_chosen_and_cached_by_hash(tmp_path):
    code = (
        "import dataclasses, json; from calltune.platform.blas import load_blas\n"
        "print(json.dumps(dataclasses.asdict(load_blas())))"
    )
    loaded = json.loads(python(code, CALLTUNE_CACHE=str(tmp_path)).stdout)
    assert loaded["source"] == "scipy-openblas32"
    assert loaded["warning"] is None
    assert loaded["library"].startswith("OpenBLAS")
    copy = Path(loaded["path"])
    assert copy.parent == tmp_path / "blas"
    assert sha256_file(openblas.find_library())[:32] in copy.name
    assert sorted(path.suffix for path in copy.parent.iterdir()) == [".json", ".so"]
    made = copy.stat().st_mtime_ns
    assert json.loads(python(code, CALLTUNE_CACHE=str(tmp_path)).stdout) == loaded
    assert copy.stat().st_mtime_ns == made


@linux_cpu
@packaged
def test_two_processes_make_the_copy_at_once(tmp_path):
    code = "from calltune.platform.blas import load_blas; print(load_blas().source)"
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: python(code, CALLTUNE_CACHE=str(tmp_path)), range(2)))
    assert [d.stdout.strip() for d in done] == ["scipy-openblas32"] * 2, [d.stderr for d in done]
    assert len(list((tmp_path / "blas").glob("*.so"))) == 1
    assert not list((tmp_path / "blas").glob(".*"))


@linux_cpu
@packaged
def test_a_cache_that_cannot_be_written_falls_back_to_a_private_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")  # also for root, whom permissions do not stop
    code = (
        "from calltune.platform.blas import load_blas; import os; b = load_blas();"
        "print(b.source, os.path.exists(b.path))"
    )
    done = python(code, CALLTUNE_CACHE=str(tmp_path / "file"))
    assert done.stdout.split() == ["scipy-openblas32", "False"], done.stderr


@packaged
def test_a_full_disk_is_seen_before_a_broken_copy_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(openblas.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match="no space left"):
        openblas._make(openblas.find_library(), tmp_path / "blas" / "x.so")
    assert list((tmp_path / "blas").iterdir()) == []


@linux_cpu
def test_a_named_library_that_is_not_there(fresh):
    fresh.setenv("CALLTUNE_BLAS", "/no/such/libblas.so")
    with pytest.raises(InputError, match=r"CALLTUNE_BLAS=/no/such/libblas\.so: no such file") as caught:
        blas.load_blas()
    assert "unset CALLTUNE_BLAS" in caught.value.next_step


@linux_cpu
def test_a_named_file_that_is_no_library(fresh, tmp_path):
    wrong = tmp_path / "lib.so"
    wrong.write_text("not a library")
    fresh.setenv("CALLTUNE_BLAS", str(wrong))
    with pytest.raises(InputError, match="cannot be loaded"):
        blas.load_blas()


@linux_cpu
@packaged
def test_a_named_library_without_plain_symbols(fresh):
    fresh.setenv("CALLTUNE_BLAS", str(openblas.find_library()))
    with pytest.raises(InputError, match="no `cblas_sgemm`"):
        blas.load_blas()


@linux_cpu
@packaged
def test_a_wrong_product_is_not_trusted_and_mlx_cannot_bind_to_it():
    code = (
        "import ctypes; from calltune.platform import blas\n"
        "blas._multiplies = lambda _: False\n"
        "print(blas.load_blas().source, hasattr(ctypes.CDLL(None), 'cblas_sgemm'))"
    )
    done = python(code)
    assert done.stdout.split() == ["none", "False"]
    assert "wrong matrix product and is not used" in done.stderr
    assert "pip install scipy-openblas32" in done.stderr


@linux_cpu
def test_without_any_blas_a_plain_warning_names_cost_and_remedy(fresh, caplog):
    fresh.setattr(blas, "_scipy", lambda: None)
    fresh.setattr(blas, "_system", lambda: None)
    with caplog.at_level(logging.WARNING, "calltune"):
        first, second = blas.load_blas(), blas.load_blas()
    assert first is second
    assert len(caplog.records) == 1
    assert "25-85x slower" in caplog.text
    assert "pip install scipy-openblas32 lief" in caplog.text


@linux_cpu
def test_mlx_imported_first_warns_once_with_the_remedy():
    code = "import mlx.core\nfrom calltune.engine import BLAS\nimport calltune.engine\nprint(BLAS.source)"
    done = python(code)
    assert done.stdout.strip() == "none"
    assert done.stderr.count("MLX was imported before calltune") == 1
    assert "import calltune.engine first" in done.stderr


@linux_cpu
def test_threads_follow_affinity_quota_and_the_users_variable(monkeypatch):
    for name in blas._THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(blas, "usable_cores", lambda: 6)
    assert blas.thread_count() == 6
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    assert blas.thread_count() == 4
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "64")
    assert blas.thread_count() == 6


@linux_cpu
@packaged
def test_the_library_runs_with_the_cores_of_the_process():
    code = (
        "import os, ctypes; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from calltune.platform.blas import load_blas; b = load_blas()\n"
        "print(b.threads, ctypes.CDLL(b.path).scipy_openblas_get_num_threads())"
    )
    done = python(code)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_variables_that_slow_the_library_are_named(monkeypatch):
    monkeypatch.setattr(blas, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    found = [problem.found for problem in blas.blas_environment()]
    assert any("OMP_NUM_THREADS=1" in text for text in found)
    assert any("OPENBLAS_CORETYPE=Prescott" in text for text in found)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    found = [problem.found for problem in blas.blas_environment()]
    assert not any("OMP_NUM_THREADS" in text or "CORETYPE" in text for text in found)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ((), ["MLX is not installed", "pip install"]),
        (
            ("mlx", "mlx-cpu", "mlx-cuda-12"),
            ["mlx-cpu and mlx-cuda-12", "pip uninstall -y mlx-cpu mlx-cuda-12"],
        ),
        (("mlx",), ["no computing library", "'.[cpu]'"]),
    ],
)
def test_a_wrong_set_of_mlx_packages_is_told_in_one_line(monkeypatch, installed, words):
    monkeypatch.setattr(mlx_build.sys, "platform", "linux")
    monkeypatch.setattr(mlx_build, "_is_installed", lambda name: name in installed)
    monkeypatch.setattr(mlx_build, "_built_from_source", lambda: False)
    monkeypatch.setattr(mlx_build.util, "find_spec", lambda _: None)
    with pytest.raises(InputError) as caught:
        mlx_build.check_mlx_installed()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("build", [("mlx", "mlx-cpu"), ("mlx", "mlx-cuda-13")])
def test_one_build_of_mlx_is_right(monkeypatch, build):
    monkeypatch.setattr(mlx_build, "_is_installed", lambda name: name in build)
    mlx_build.check_mlx_installed()


def test_the_command_that_starts_does_not_pay_for_the_copy_again(tmp_path):
    code = (
        "import sys, time; from calltune.platform.blas import load_blas\n"
        "start = time.perf_counter(); load_blas(); print(time.perf_counter() - start, 'lief' in sys.modules)"
    )
    python(code, CALLTUNE_CACHE=str(tmp_path))
    seconds, lief = python(code, CALLTUNE_CACHE=str(tmp_path)).stdout.split()
    assert lief == "False"
    assert float(seconds) < 0.1  # measured: 0.007
