"""Which build of MLX is installed. On Linux one of three wheels brings it, and they overwrite each other."""

from __future__ import annotations

import sys
from importlib import metadata, util
from pathlib import Path

from calltune.errors import InputError

LINUX_BUILDS = ("mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")
EXTRAS = "'.[cpu]' without a GPU, '.[cuda12]' or '.[cuda13]' with an NVIDIA GPU"


def installed_builds() -> tuple[str, ...]:
    """The installed wheels that carry MLX's library: `mlx-cpu`, `mlx-cuda-*`, `mlx-metal`."""
    return tuple(name for name in (*LINUX_BUILDS, "mlx-metal") if _is_installed(name))


def check_mlx_installed() -> None:
    """Raise InputError, one line with the remedy, where MLX is missing or two builds are mixed."""
    if not _is_installed("mlx") and util.find_spec("mlx") is None:
        extra = "'.'" if sys.platform == "darwin" else EXTRAS
        raise InputError(f"MLX is not installed: in calltune's folder run `pip install` with {extra}")
    if not sys.platform.startswith("linux"):
        return
    builds = [name for name in installed_builds() if name in LINUX_BUILDS]
    if len(builds) > 1:
        names = " ".join(builds)
        # Removing one of the two also removes the file that they share, so both have to go.
        raise InputError(
            f"{' and '.join(builds)} are both installed and overwrite each other: run "
            f"`pip uninstall -y {names}`, then `pip install` with one of {EXTRAS}"
        )
    if not builds and not _built_from_source():
        raise InputError(
            f"MLX has no computing library here: in calltune's folder run `pip install` with one of {EXTRAS}"
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _built_from_source() -> bool:
    """An MLX that somebody compiled has its library without any of the wheels."""
    spec = util.find_spec("mlx")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return any((Path(place) / "lib" / "libmlx.so").exists() for place in places)
