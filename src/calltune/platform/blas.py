"""An optimised BLAS for MLX on a Linux CPU, loaded before MLX is imported.

MLX's CPU wheel links the reference BLAS, which multiplies 25-85x slower than the machine can. MLX binds
`cblas_sgemm` when it is imported, to the first library in the process that offers it; so a good library has
to be there before. Elsewhere nothing is done: a Mac has Accelerate, a GPU multiplies by itself.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from calltune.errors import InputError, Problem
from calltune.platform.machine import usable_cores
from calltune.platform.mlx_build import check_mlx_installed, installed_builds
from calltune.platform.openblas import Unusable, find_library, renamed_copy

Source = Literal["environment", "scipy-openblas32", "system", "accelerate", "none"]

VARIABLE = "CALLTUNE_BLAS"
# dlopen searches the machine's folders for these; all have 32-bit integers, as MLX passes them.
SYSTEM_NAMES = (
    "libopenblas.so.0",
    "libopenblasp.so.0",
    "libopenblas.so",
    "libmkl_rt.so.2",
    "libmkl_rt.so.3",
    "libmkl_rt.so",
)
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SLOW = "matrix products run 25-85x slower than this machine can"
_INSTALL = "run `pip install scipy-openblas32 lief` (or install your system's OpenBLAS)"
_EARLIER = "import calltune.engine first (before `import mlx.core`)"
_logger = logging.getLogger("calltune")


@dataclass(frozen=True)
class Blas:
    """The BLAS that MLX multiplies with. `warning`: what makes it slow, with the remedy."""

    library: str
    source: Source
    path: str | None
    threads: int
    warning: str | None = None


@lru_cache(maxsize=1)
def load_blas() -> Blas:
    """Load the best BLAS once a process, and warn once where there is none. Costs a few ms when cached.

    Order: `CALLTUNE_BLAS` (a path, or `none`), one that is in the process already (LD_PRELOAD),
    scipy-openblas32, the system's OpenBLAS or MKL. Raises InputError: MLX is not installed or mixed up
    (see `mlx_build`), or `CALLTUNE_BLAS` names no usable library.
    """
    check_mlx_installed()
    if sys.platform == "darwin":
        return Blas("Accelerate", "accelerate", None, usable_cores())
    on_cpu = not any(name.startswith("mlx-cuda") for name in installed_builds())
    named = os.environ.get(VARIABLE)
    late = "mlx.core" in sys.modules
    if not named and (preloaded := _in_process()):
        return Blas(_describe(preloaded), "environment", preloaded, thread_count())
    if late and on_cpu and named != "none":
        return _warn("MLX was imported before calltune, so that a fast BLAS has no effect and", _EARLIER)
    blas = _named(named) if named else (_scipy() or _system())
    if blas is not None:
        return blas
    if not on_cpu:
        return Blas("reference", "none", None, 1)
    if named:
        return _warn(f"{VARIABLE}=none asks for no fast BLAS:", f"`unset {VARIABLE}`")
    return _warn("no fast BLAS was found:", _INSTALL)


def blas_environment() -> list[Problem]:
    """Set variables that slow the BLAS or change its figures; `calltune doctor` shows them."""
    problems = []
    cores = usable_cores()
    for name in _THREAD_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdigit() and 0 < int(value) < cores:
            found = f"{name}={value} uses fewer threads than the {cores} cores here"
            problems.append(Problem("slow_variable", found, f"`unset {name}`"))
    coretype = os.environ.get("OPENBLAS_CORETYPE")
    if coretype:
        found = f"OPENBLAS_CORETYPE={coretype} picks that processor's code instead of this one's"
        problems.append(Problem("slow_variable", found, "`unset OPENBLAS_CORETYPE`"))
    known = {*_THREAD_VARIABLES, "OPENBLAS_CORETYPE", "OPENBLAS_THREAD_TIMEOUT"}  # the last is set by calltune
    for name in sorted(os.environ):
        if name.startswith("OPENBLAS_") and name not in known:
            problems.append(Problem("variable", f"{name}={os.environ[name]} is set", f"`unset {name}`"))
    return problems


def thread_count() -> int:
    """Threads for the BLAS: the usable cores, or fewer where the user's own variables say so."""
    cores = usable_cores()
    for name in _THREAD_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return min(cores, int(value))
    return cores


def prove(path: str) -> None:
    """Load the library at `path` and check a small product of it. Raises InputError."""
    handle = _open(path)
    if not _multiplies(handle):
        raise InputError(f"{path} gave a wrong matrix product")


def _named(value: str) -> Blas | None:
    if value == "none":
        return None
    path = Path(value).expanduser()
    step = f"name a library with plain CBLAS symbols, or `unset {VARIABLE}`"
    if not path.is_file():
        raise InputError(f"{VARIABLE}={value}: no such file", next_step=step)
    try:
        handle = _open(str(path))
    except InputError as error:
        raise InputError(f"{VARIABLE}={value}: {error.message}", next_step=step) from None
    if not _multiplies(handle):
        raise InputError(f"{VARIABLE}={value}: it gave a wrong matrix product", next_step=step)
    return _use(handle, "environment", str(path))


def _scipy() -> Blas | None:
    source = find_library()
    if source is None:
        return None
    try:
        with renamed_copy(source) as path:
            handle = _open(str(path))
            if _multiplies(handle):
                return _use(handle, "scipy-openblas32", str(path))
            _logger.warning("calltune: %s gave a wrong matrix product and is not used", path)
    except (Unusable, InputError, OSError) as error:
        _logger.warning("calltune: scipy-openblas32 could not be used: %s", error)
    return None


def _system() -> Blas | None:
    beside = Path(sys.prefix) / "lib"  # where `pip install mkl` puts it
    for name in (*SYSTEM_NAMES, str(beside / "libmkl_rt.so.2"), str(beside / "libmkl_rt.so.3")):
        try:
            handle = _open(name)
        except InputError:
            continue
        if _multiplies(handle):
            return _use(handle, "system", _path_of(handle) or name)
    return None


def _open(path: str) -> ctypes.CDLL:
    # Local, so that MLX cannot bind to one that turns out to be wrong; `_use` makes it global.
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_LOCAL | os.RTLD_NOW)
    except OSError as error:
        raise InputError(f"it cannot be loaded ({error})") from None
    if not hasattr(handle, "cblas_sgemm"):
        raise InputError("it has no `cblas_sgemm`")
    return handle


def _use(handle: ctypes.CDLL, source: Source, path: str) -> Blas:
    ctypes.CDLL(handle._name, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    threads = thread_count()
    for name in ("openblas_set_num_threads", "scipy_openblas_set_num_threads", "MKL_Set_Num_Threads"):
        if hasattr(handle, name):
            setter = getattr(handle, name)
            setter.argtypes, setter.restype = [ctypes.c_int], None
            setter(threads)
            break
    else:
        threads = 0  # unknown: the library decides
    return Blas(_describe(path, handle), source, path, threads)


def _multiplies(handle: ctypes.CDLL) -> bool:
    """C = A B^T for small whole numbers, which float32 holds exactly, so any difference is an error."""
    rows, columns, inner = 19, 13, 23
    a = [(3 * i + 1) % 7 - 3 for i in range(rows * inner)]
    b = [(5 * i + 2) % 11 - 5 for i in range(columns * inner)]
    c = (ctypes.c_float * (rows * columns))()
    size, number, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    sgemm = handle.cblas_sgemm
    sgemm.restype = None
    sgemm.argtypes = [size] * 6 + [number, pointer, size, pointer, size, number, pointer, size]
    row_major, plain, transposed = 101, 111, 112
    left, right = (ctypes.c_float * len(a))(*a), (ctypes.c_float * len(b))(*b)
    sgemm(row_major, plain, transposed, rows, columns, inner, 1.0, left, inner, right, inner, 0.0, c, columns)
    return all(
        c[i * columns + j] == sum(a[i * inner + k] * b[j * inner + k] for k in range(inner))
        for i in range(rows)
        for j in range(columns)
    )


def _in_process() -> str | None:
    """The path of a library that offers `cblas_sgemm` to every later one already (LD_PRELOAD)."""
    everything = ctypes.CDLL(None)
    return _path_of(everything) if hasattr(everything, "cblas_sgemm") else None


def _path_of(handle: ctypes.CDLL) -> str | None:
    class Info(ctypes.Structure):  # Dl_info of dlfcn.h
        _fields_ = (
            ("file", ctypes.c_char_p),
            ("base", ctypes.c_void_p),
            ("symbol", ctypes.c_char_p),
            ("address", ctypes.c_void_p),
        )

    info = Info()
    address = ctypes.cast(handle.cblas_sgemm, ctypes.c_void_p)
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes, dladdr.restype = [ctypes.c_void_p, ctypes.POINTER(Info)], ctypes.c_int
    found = dladdr(address, ctypes.byref(info))
    return os.path.realpath(info.file.decode()) if found and info.file else None


def _describe(path: str, handle: ctypes.CDLL | None = None) -> str:
    """`OpenBLAS 0.3.34 (Haswell)` where the library tells it, else its file name."""
    for prefix in ("", "scipy_"):
        name = f"{prefix}openblas_get_config"
        if handle is not None and hasattr(handle, name):
            config, core = getattr(handle, name), getattr(handle, f"{prefix}openblas_get_corename")
            config.restype = core.restype = ctypes.c_char_p
            words = config().decode().split()
            return f"{' '.join(words[:2])} ({core().decode()})"
    return "MKL" if "mkl" in Path(path).name else Path(path).name


def _warn(reason: str, remedy: str) -> Blas:
    text = f"{reason} {_SLOW}; {remedy}"
    _logger.warning("calltune: %s", text)
    return Blas("reference", "none", None, 1, text)
