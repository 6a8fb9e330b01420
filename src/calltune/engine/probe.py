"""What MLX itself says and does on this machine, for `calltune doctor`."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

# A hidden layer of SmolLM2 (576 to 1536) over 512 tokens; a GPU needs more work to show its speed.
CPU_SHAPE = (512, 576, 1536)
GPU_SHAPE = (4096, 4096, 4096)


@dataclass(frozen=True)
class Speed:
    """A measured float32 matrix product: `shape` is (M, K, N), `gflops` the median of the repetitions."""

    device: Literal["cpu", "gpu"]
    device_name: str
    gflops: float
    shape: tuple[int, int, int]


def on_gpu() -> bool:
    return bool(mx.default_device().type == mx.gpu)


def mlx_device() -> tuple[Literal["cpu", "gpu"], str, float]:
    """MLX's default device: its kind, its name, and its own memory in GB (0.0: the machine's)."""
    kind: Literal["cpu", "gpu"] = "gpu" if mx.default_device().type == mx.gpu else "cpu"
    return kind, str(mx.device_info().get("device_name", kind)), round(own_memory() / 1e9, 1)


def own_memory() -> int:
    """Bytes of the device's own memory, which Metal and CUDA name differently; 0 where it has none."""
    info = mx.device_info()
    return int(info.get("memory_size") or info.get("total_memory") or 0)


def measure_matmul(seconds: float = 0.3, shape: tuple[int, int, int] | None = None) -> Speed:
    """GFLOP/s of a float32 matmul through MLX, 5 repetitions after a warm-up, about `seconds` in all."""
    kind, name, _ = mlx_device()
    rows, inner, columns = shape or (GPU_SHAPE if kind == "gpu" else CPU_SHAPE)
    a, b = mx.random.normal((rows, inner)), mx.random.normal((inner, columns))
    mx.eval(a, b)
    mx.eval(a @ b)  # the warm-up: threads, pages, kernels
    once = _seconds(a, b, 1)
    count = max(1, int(seconds / 5 / once))
    flops = 2.0 * rows * inner * columns
    rates = [flops * count / _seconds(a, b, count) / 1e9 for _ in range(5)]
    return Speed(kind, name, round(statistics.median(rates), 1), (rows, inner, columns))


def _seconds(a: mx.array, b: mx.array, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        mx.eval(a @ b)
    return time.perf_counter() - start
