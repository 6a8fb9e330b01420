"""What this machine is, as far as it matters: cores, memory, device, versions, and whether we support it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from calltune._version import __version__
from calltune.errors import InputError
from calltune.platform.gpu import nvidia_gpu
from calltune.platform.mlx_build import installed_builds

MINIMUM_GLIBC = (2, 35)
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Facts for `calltune doctor`, a run's record and the policies that depend on the machine."""

    os: str
    arch: str
    cores: int  # that this process may use: affinity and container quota
    memory_gb: float  # 1e9 bytes; a container's limit where one is set
    device: Literal["cpu", "gpu"]  # what MLX's build here computes on
    device_name: str
    python: str
    glibc: str | None
    wsl: bool
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def machine() -> Machine:
    """Look at this machine without importing MLX; well under 0.1 s unless there is an NVIDIA driver."""
    device, name = _device()
    return Machine(
        os=platform.system(),
        arch=platform.machine(),
        cores=usable_cores(),
        memory_gb=round(memory_bytes() / 1e9, 1),
        device=device,
        device_name=name,
        python=platform.python_version(),
        glibc=_glibc(),
        wsl="microsoft" in platform.release().lower(),
        versions=versions(),
    )


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by a container's CPU quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cpu_quota()
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    return max(1, cores)


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, cut by a container's limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    limits = [_read_int(folder / "memory.max") for folder in _cgroup_folders("")]
    limits += [_read_int(folder / "memory.limit_in_bytes") for folder in _cgroup_folders("memory")]
    return min([total, *(limit for limit in limits if limit)])


def versions() -> dict[str, str]:
    """Versions of what decides a result; packages that are not installed are left out."""
    found = {"calltune": __version__}
    packages = ("mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "gguf", "scipy-openblas32")
    for package in (*packages, *installed_builds()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_supported() -> None:
    """Raise InputError, one line naming the way out, where calltune cannot run."""
    unsupported = _unsupported(platform.system(), platform.machine(), _glibc(), sys.version_info[:2])
    if unsupported:
        raise InputError(unsupported)


def _unsupported(system: str, arch: str, glibc: str | None, python: tuple[int, int]) -> str | None:
    arch = arch.lower()
    if python < (3, 11):
        return f"Python {python[0]}.{python[1]} is too old: install Python 3.11 or newer"
    if system == "Windows":
        return "Windows is not supported: install WSL2 (`wsl --install`) and use calltune inside it"
    if system == "Darwin":
        if arch == "arm64":
            return None
        return "Macs with an Intel processor are not supported by MLX: use a Linux container on it"
    if system != "Linux" or arch not in ("x86_64", "amd64", "aarch64", "arm64"):
        return f"{system} on {arch} is not supported: use Linux (x86-64, aarch64), WSL2 or an Apple-silicon Mac"
    needed = ".".join(map(str, MINIMUM_GLIBC))
    if glibc is None:
        return f"this Linux has no glibc (musl?): use a distribution or container with glibc >= {needed}"
    if tuple(int(part) for part in glibc.split(".")[:2]) < MINIMUM_GLIBC:
        newer = "Ubuntu 22.04, Debian 12, Fedora 36 or newer"
        return f"glibc {glibc} is older than {needed}: use a newer distribution or container ({newer})"
    return None


def _glibc() -> str | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    return text.split()[-1] if text.startswith("glibc") else None


def _device() -> tuple[Literal["cpu", "gpu"], str]:
    if sys.platform == "darwin":
        return "gpu", _apple_chip()
    if any(build.startswith("mlx-cuda") for build in installed_builds()):
        gpu = nvidia_gpu()
        if gpu:
            return "gpu", gpu.name
    return "cpu", _cpu_name()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _apple_chip() -> str:
    query = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return platform.machine()
    return done.stdout.strip() or platform.machine()


def _cgroup_cpu_quota() -> float | None:
    """Cores that a container's quota grants (cgroup v2 `cpu.max`, v1 `cfs_quota_us`), None: no limit."""
    grants = []
    for folder in _cgroup_folders(""):
        parts = _read_words(folder / "cpu.max")
        if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
            grants.append(int(parts[0]) / int(parts[1]))
    for folder in _cgroup_folders("cpu"):
        quota, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            grants.append(quota / period)
    return min(grants, default=None)


def _cgroup_folders(controller: str) -> list[Path]:
    """The folders that limit this process, own one first (`""`: cgroup v2, else a v1 controller's name)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        root = _CGROUP / controller if controller else _CGROUP
        own = root / path.strip("/")
        return [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return []


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _read_int(path: Path) -> int | None:
    words = _read_words(path)
    try:
        return int(words[0]) if words else None
    except ValueError:
        return None
