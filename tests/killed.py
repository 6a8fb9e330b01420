"""Processes that train and are killed with SIGKILL at random moments, for test_kill.py.

Starting Python and its imports takes seconds, and 50 kills want 50 processes. So one process (`main`) imports what it
can once, nothing of MLX, whose threads do not outlive a fork, and forks the others, each of which trains as `calltune
train` would. Most kills fall between the first report and a third of a run's time, so that runs are killed some
times before they end; the others at any time before that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def main(work: Path, kills: int, seed: int) -> None:
    """Train `work`/settings.json to the end once, then again and again under kills, until there were `kills`, and
    more where none met a checkpoint yet, as on a busy machine. Writes what happened to `work`/outcome.json."""
    settings = json.loads((work / "settings.json").read_text())
    import_all()
    rng = random.Random(seed)
    begin, whole = straight(settings, work)
    runs, killed, resumed = 0, 0, 0

    def wanted() -> bool:
        return killed < kills or (not resumed and killed < 10 * kills)

    while wanted():
        folder = work / f"run-{runs}"
        while True:
            moment = rng.uniform(begin, begin + (whole - begin) / 3) if rng.random() < 0.8 else rng.uniform(0, begin)
            code = ended(start(settings, folder, work), moment if wanted() else None)
            if code != -signal.SIGKILL:
                break
            killed += 1
            resumed += (folder / "checkpoints").exists()
        assert code == 0, (work / "log").read_text()
        runs += 1
    outcome = {"runs": runs, "killed": killed, "with_checkpoints": resumed, "begin": begin, "seconds": whole}
    (work / "outcome.json").write_text(json.dumps(outcome))


def import_all() -> None:
    """Everything that training imports, but the modules that touch MLX."""
    import tokenizers  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    import calltune.prepare  # noqa: F401

    assert "mlx.core" not in sys.modules


def straight(settings: dict[str, Any], work: Path) -> tuple[float, float]:
    """A run that nobody kills; seconds until its first report, and of all of it."""
    started, begin = time.perf_counter(), 0.0
    child = start(settings, work / "straight", work)
    while True:
        time.sleep(0.01)
        if not begin and (work / "straight" / "metrics.jsonl").exists():
            begin = time.perf_counter() - started
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, (work / "log").read_text()
            return begin, time.perf_counter() - started


def start(settings: dict[str, Any], folder: Path, work: Path) -> int:
    """Train in a process of its own."""
    child = os.fork()
    if child == 0:
        train_here(settings | {"out": str(folder)}, work)
    return child


def ended(child: int, kill_after: float | None) -> int:
    """Its exit code, negative for the signal that ended it."""
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train_here(settings: dict[str, Any], work: Path) -> None:
    code = 1
    with (work / "log").open("w") as log:
        os.dup2(log.fileno(), 2)
        try:
            from calltune.settings import TrainSettings, resolve
            from calltune.train import train

            train(resolve(TrainSettings, settings, "the test"))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
