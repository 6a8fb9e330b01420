"""`calltune doctor`: this machine, its BLAS and how fast it multiplies, what to install, what fits."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.platform.blas import blas_environment, load_blas
from calltune.platform.builtin import list_cached
from calltune.platform.gpu import DRIVER_CUDA12, nvidia_gpu
from calltune.platform.machine import check_supported, machine
from calltune.platform.mlx_build import installed_builds
from calltune.platform.paths import cache_dir, check_writable
from calltune.recipes import with_recipe
from calltune.schema import read_tools
from calltune.settings import TrainSettings, read_yaml, resolve

SLOW_GFLOPS = 20.0  # the reference BLAS gives 3-7, an optimised one 40 and more on a single core
_BROKEN = ("unsupported", "mlx")  # kinds of problems with which nothing runs


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        description="Looks at this machine and measures how fast MLX multiplies on it.",
        epilog="examples:\n  calltune doctor --json\n  calltune doctor --fit smollm2-135m rows.jsonl\n"
        "  calltune doctor --fit google/gemma-2-2b-it rows.jsonl --memory 16 --config mine.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fit", nargs=2, metavar=("MODEL", "DATA"),
                        help="instead: predict the peak memory of `calltune train` on DATA (or a file of "
                             "functions or tools) with its defaults, and what would fit; loads no weights",
                        )  # fmt: skip
    parser.add_argument("--memory", type=float, metavar="GB", help="with --fit: for a machine with so much of it")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="with --fit: settings of the run")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: calltune runs here (there may be advice); 1: it cannot, and `problems` says why. With --fit 1 means that
    the run does not fit."""
    if args.fit:
        return _fit(args)
    if args.memory is not None or args.config:
        raise InputError("--memory and --config go with --fit", next_step="`calltune doctor --fit MODEL DATA` first")
    report = diagnose()
    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        print(_text(report))
    return 1 if any(problem["kind"] in _BROKEN for problem in report["problems"]) else 0


def _fit(args: argparse.Namespace) -> int:
    model, data = args.fit
    given = read_yaml(args.config) if args.config else {}
    given = {key.replace("-", "_"): value for key, value in given.items()}
    for name in ("data", "tools"):
        given.pop(name, None)
    given |= {"model": model, ("tools" if _are_tools(Path(data)) else "data"): data}
    settings = resolve(TrainSettings, with_recipe(given), str(args.config or "the flags"), "train")
    from calltune.caller import find_run
    from calltune.fit import fit

    if run := find_run(model):
        settings = replace(settings, model=run.base)
    report = fit(settings, args.memory)
    print(json.dumps(report, ensure_ascii=False, indent=1) if args.json else _fit_text(report))
    return 0 if report["fits"] else 1


def _are_tools(path: Path) -> bool:
    """Whether the file holds tools: functions, or OpenAI dictionaries instead of rows."""
    if path.suffix != ".json" or not path.is_file():
        return path.suffix == ".py"
    try:
        return bool(read_tools(path.read_text(encoding="utf-8")))
    except (InputError, OSError, ValueError):
        return False  # rows, of which the reader says what is wrong with them


def _fit_text(report: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {size:.2f}" for name, size in report["parts_gb"].items() if size >= 0.005)
    lines = [
        f"model     {report['model']}, {report['dtype']} on the {report['device']}",
        f"rows      {report['rows']}, the longest {report['longest']} tokens",
        f"peak      about {report['predicted_gb']:.2f} GB ({parts})",
        f"memory    {report['memory_gb']:.2f} GB, of which {report['room']:.0%} may be planned with",
        f"fits      {'yes' if report['fits'] else 'no'}",
    ]
    if report["fits"]:
        return "\n".join(lines)
    if not report["proposals"]:
        return "\n".join([*lines, "No settings would fit: take a smaller or a quantised model, or more memory."])
    lines += ["", "would fit, by what it costs in speed:"]
    for item in report["proposals"]:
        dropped = f", drops {item['dropped_rows']} longer rows" if item["dropped_rows"] else ""
        lines.append(f"  {item['flags']:44} {item['predicted_gb']:.2f} GB{dropped}")
    return "\n".join(lines)


def diagnose() -> dict[str, Any]:
    """Everything that `doctor` tells, as one JSON document. Never raises for a broken set-up."""
    problems: list[Problem] = []
    host = machine()
    report: dict[str, Any] = host.to_dict()
    try:
        check_supported()
    except InputError as error:
        problems.append(Problem("unsupported", error.message))
    report["blas"] = _blas(report, problems)
    problems += _gpu_advice(host.device) + blas_environment() + _cache_problems()
    report["fits"] = _what_fits(report["device"], report["device_memory_gb"] or host.memory_gb)
    report["cache"] = {
        "path": str(cache_dir()),
        "models": [vars(item) for item in list_cached() if item.kind != "blas"],
    }
    report["problems"] = [problem.to_dict() for problem in problems]
    return report


def _blas(report: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The BLAS with its measured speed; also sets what MLX itself says of the device."""
    report["device_memory_gb"] = 0.0
    try:
        blas = load_blas()
        from calltune.engine.probe import measure_matmul, mlx_device
    except InputError as error:
        problems.append(Problem("mlx", error.message, error.next_step))
        return {
            "library": None,
            "source": "none",
            "path": None,
            "threads": 0,
            "gflops": None,
            "warning": None,
        }
    except (ImportError, OSError) as error:
        problems.append(Problem("mlx", f"MLX does not load: {error}", "a fresh environment (`make demo`)"))
        return {
            "library": None,
            "source": "none",
            "path": None,
            "threads": 0,
            "gflops": None,
            "warning": None,
        }
    report["device"], report["device_name"], report["device_memory_gb"] = mlx_device()
    speed = measure_matmul()
    if blas.warning:
        problems.append(Problem("slow_blas", blas.warning))
    elif speed.device == "cpu" and speed.gflops < SLOW_GFLOPS:
        found = f"{speed.gflops} GFLOP/s with {blas.library}"
        problems.append(Problem("slow_blas", found, f"over {SLOW_GFLOPS:.0f}: is the machine busy?"))
    return vars(blas) | {"gflops": speed.gflops, "shape": list(speed.shape), "dtype": "float32"}


def _gpu_advice(device: str) -> list[Problem]:
    """An NVIDIA GPU that MLX's build here cannot use."""
    gpu = nvidia_gpu() if device == "cpu" else None
    if gpu is None:
        return []
    if gpu.extra is None:
        found = f"{gpu.name} is not used: its driver {gpu.driver} is too old for MLX"
        return [Problem("unused_gpu", found, f"driver {DRIVER_CUDA12} or newer, then '.[cuda12]'")]
    builds = " ".join(installed_builds()) or "mlx-cpu"
    step = f"`pip uninstall -y {builds}`, then `pip install '.[{gpu.extra}]'` in calltune's folder"
    return [Problem("unused_gpu", f"{gpu.name} is not used by this build of MLX", step)]


def _cache_problems() -> list[Problem]:
    try:
        check_writable(cache_dir())
        free = shutil.disk_usage(cache_dir()).free / 1e9
    except InputError as error:
        return [Problem("cache", error.message, error.next_step)]
    if free < 2:
        return [Problem("cache", f"{free:.1f} GB free at {cache_dir()}", "2 GB for models and runs")]
    return []


def _what_fits(device: str, memory_gb: float) -> dict[str, Any]:
    """A rough upper bound: weights in the dtype of the policy, and a third of the memory for the rest.

    LoRA itself is small; activations and the logits of a batch are what the third is for.
    """
    dtype, size = ("bfloat16", 2) if device == "gpu" else ("float32", 4)
    billions = round(memory_gb * 2 / 3 / size, 1)
    return {"lora_billion_parameters": billions, "dtype": dtype, "estimate": True}


def _text(report: dict[str, Any]) -> str:
    blas, fits = report["blas"], report["fits"]
    speed = "not measured"
    if blas["gflops"] is not None:
        shape = "x".join(map(str, blas["shape"]))
        speed = f"{blas['gflops']:g} GFLOP/s, float32 matrix product of {shape}"
    system = " ".join(filter(None, [report["os"], report["arch"], report["glibc"] and f"glibc {report['glibc']}"]))
    memory = f"{report['memory_gb']:g} GB"
    if report["device_memory_gb"]:
        memory += f", {report['device_memory_gb']:g} GB on the device"
    lines = [
        f"system    {system}, Python {report['python']}{', WSL2' if report['wsl'] else ''}",
        f"device    {report['device']}: {report['device_name']}, {report['cores']} cores",
        f"memory    {memory}",
        f"speed     {speed}",
        f"blas      {blas['library'] or 'none'} from {blas['source']}, {blas['threads']} threads",
        f"fits      LoRA on models up to about {fits['lora_billion_parameters']:g} billion parameters "
        f"in {fits['dtype']} (an estimate)",
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}",
        f"cache     {report['cache']['path']}",
    ]
    if blas["path"]:
        lines.insert(5, f"          {blas['path']}")
    for item in report["cache"]["models"]:
        licence = f", {item['licence']}" if item["licence"] else ""
        lines.append(f"          {item['kind']}/{item['name']}: {item['size'] / 1e6:.0f} MB{licence}")
    problems = report["problems"]
    lines += ["", "problems" if problems else "no problems found"]
    for problem in problems:
        remedy = f"\n    -> {problem['expected']}" if problem["expected"] else ""
        lines.append(f"  {problem['found']}{remedy}")
    return "\n".join(lines)
