"""What one side of a bench did, update by update, in the same terms for every trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Update:
    """One optimizer update: its wall time, and the rows in it. `tokens` are all real ones of its rows as they are
    rendered, whatever carries loss and whatever was computed; `cells` is what ran, padding included."""

    seconds: float
    rows: int
    tokens: int
    real: int  # real tokens among the cells
    cells: int


@dataclass
class Measured:
    """The updates in order, `curve` with (update, seconds until then, validation loss), and the peak memory."""

    updates: list[Update] = field(default_factory=list)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    setup_seconds: float = 0.0  # of work done once a run that the updates rely on
    peak_memory_gb: float = 0.0
    host_memory_gb: float = 0.0
    predicted_memory_gb: float = 0.0  # by the planner, before the first update; 0: not predicted
    device: str = ""
    trainable: int = 0
    notes: list[str] = field(default_factory=list)

    def summary(self, updates_per_epoch: int) -> dict[str, Any]:
        """Rates over all updates, and by epoch. What was set up counts in the first epoch."""
        epochs = [self.updates[k : k + updates_per_epoch] for k in range(0, len(self.updates), updates_per_epoch)]
        by_epoch = [_rates(part, 0.0 if number else self.setup_seconds) for number, part in enumerate(epochs)]
        return _rates(self.updates, self.setup_seconds) | {
            "peak_memory_gb": round(self.peak_memory_gb, 3), "host_memory_gb": round(self.host_memory_gb, 3),
            "predicted_memory_gb": round(self.predicted_memory_gb, 3),
            "setup_seconds": round(self.setup_seconds, 3), "device": self.device, "trainable": self.trainable,
            "epochs": by_epoch, "curve": [list(point) for point in self.curve], "notes": self.notes,
        }  # fmt: skip


def _rates(updates: Sequence[Update], extra: float) -> dict[str, Any]:
    seconds = max(sum(u.seconds for u in updates) + extra, 1e-9)
    tokens, rows = sum(u.tokens for u in updates), sum(u.rows for u in updates)
    cells = sum(u.cells for u in updates)
    return {
        "tokens_per_second": round(tokens / seconds, 2), "rows_per_second": round(rows / seconds, 4),
        "updates_per_second": round(len(updates) / seconds, 4), "updates": len(updates), "rows": rows,
        "tokens": tokens, "seconds": round(seconds, 3),
        "padding": round(1 - sum(u.real for u in updates) / cells, 4) if cells else 0.0,
    }  # fmt: skip
