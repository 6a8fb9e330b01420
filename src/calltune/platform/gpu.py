"""The NVIDIA driver of this machine, and which of MLX's CUDA builds it can run."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

# MLX's installation notes: CUDA 13 needs driver 580, CUDA 12 driver 550. scripts/setup.sh has them too.
DRIVER_CUDA13 = 580
DRIVER_CUDA12 = 550


@dataclass(frozen=True)
class NvidiaGpu:
    """The first GPU, as the driver tells it."""

    name: str
    driver: str
    memory_gb: float
    count: int

    @property
    def extra(self) -> Literal["cuda12", "cuda13"] | None:
        """The extra of calltune that fits the driver; None: the driver is too old."""
        major = int(self.driver.split(".")[0]) if self.driver.split(".")[0].isdigit() else 0
        if major >= DRIVER_CUDA13:
            return "cuda13"
        return "cuda12" if major >= DRIVER_CUDA12 else None


def nvidia_gpu() -> NvidiaGpu | None:
    """Ask `nvidia-smi`; None where there is none or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in done.stdout.splitlines() if line.count(",") >= 2]
    if done.returncode != 0 or not lines:
        return None
    name, driver, memory = (part.strip() for part in lines[0].rsplit(",", 2))
    mebibytes = float(memory) if memory.replace(".", "", 1).isdigit() else 0.0
    return NvidiaGpu(name, driver, round(mebibytes * 2**20 / 1e9, 1), len(lines))
