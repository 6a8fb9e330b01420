"""How many of the made rows are of which category."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Shares:
    """Shares of the categories; they need not sum to one."""

    call: float = 0.62
    parallel: float = 0.14
    no_call: float = 0.17
    ask: float = 0.07
    dependent: float = 0.06  # where the tools have pairs for it


# Training has more of the rarer kinds than users ask for: what kind of reply is right is learned slowest, and
# all the more slowly the surer the likeliest kind is.
TRAINING_SHARES = Shares(call=0.46, parallel=0.26, no_call=0.20, ask=0.08)


def counts_of(count: int, shares: Shares) -> dict[str, int]:
    """Rows a category, by largest remainder, so that they sum to `count`."""
    weights = asdict(shares)
    exact = {name: count * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = Counter({name: int(value) for name, value in exact.items()})
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: count - sum(counts.values())]:
        counts[name] += 1
    return {name: counts[name] for name in weights}
