"""The memory that this process holds and the most it has held, as the operating system counts it."""

from __future__ import annotations

import sys
from pathlib import Path

_SELF = Path("/proc/self")


def reset_process_peak() -> None:
    """Begin to count anew, where the system can (Linux; see proc_pid_clear_refs(5)); else the peak stays."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return


def process_peak_bytes() -> int:
    """Largest resident size since the last reset, or since the start where it cannot be reset."""
    if found := _status("VmHWM:"):
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_bytes() -> int:
    """Resident size now; where the system does not say, the largest so far."""
    return _status("VmRSS:") or process_peak_bytes()


def _status(key: str) -> int:
    try:
        for line in (_SELF / "status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
