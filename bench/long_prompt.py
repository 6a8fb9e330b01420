"""What a long prompt does to a reply that is streamed meanwhile, through the server's model thread.

    python bench/long_prompt.py smollm2-135m

`alone` and `beside`: the median and the longest time between two texts of a short request's reply, without and with
a prompt of `--prompt` tokens that comes meanwhile; `long`: from that request to its first text, with the reply beside
it and with nothing beside it. `cancelled`: from the moment that its client leaves, half a second after it came, until
its place is free; `closed`: the same until the worker has closed. Seconds, medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from calltune.caller import Caller, load
from calltune.engine.decode import Sampling
from calltune.schema import Message
from calltune.serve.work import Made, Work
from calltune.serve.worker import ModelWorker

NAME = "model"
TOKENS = 30  # of the short reply, before and after the long prompt
LEAVES = 0.5  # seconds after which a client leaves


class Heard:
    """Listens to one reply: when its texts came. `then` is called when so many have."""

    def __init__(self, count: int = 0, then: Callable[[], Any] = lambda: None) -> None:
        self.times: list[float] = []
        self.count, self.then, self.ended = count, then, threading.Event()

    def prompt(self, tokens: int) -> None: ...

    def piece(self, text: str) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == self.count:
            self.then()

    def done(self, made: Made) -> None:
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.ended.set()


def work(text: str, tokens: int) -> Work:
    return Work(NAME, (Message("user", text),), (), Sampling(), max_tokens=tokens)


def long_text(caller: Caller, tokens: int, salt: int) -> str:
    """A text of so many tokens, which shares no beginning with those of other salts."""
    encode, words = caller.loaded.tokenizer.encode, f"{salt} " + "what happened on that day in the town by the river "
    return words * (tokens // (len(encode(words)) - 1) + 1)


def gaps(times: list[float], start: float, end: float) -> list[float]:
    return [b - a for a, b in pairwise(times) if b > start and a < end]


def one_round(caller: Caller, tokens: int, salt: int) -> dict[str, float]:
    worker, begun, long = ModelWorker(caller, NAME), threading.Event(), Heard()
    short = Heard(TOKENS, begun.set)
    ticket = worker.submit(work("Hello", 4000), short)
    begun.wait()
    asked = time.perf_counter()
    worker.submit(work(long_text(caller, tokens, salt), 1), long)
    long.ended.wait()
    came = time.perf_counter()
    while short.times[-1] < came:  # the text that waited longest may be the next
        time.sleep(0.005)
    before, during = gaps(short.times, 0, asked), gaps(short.times, asked, came)
    ticket.cancel()
    lone, started = Heard(), time.perf_counter()
    worker.submit(work(long_text(caller, tokens, salt + 1), 1), lone)
    lone.ended.wait()
    ended = time.perf_counter()
    leaving = worker.submit(work(long_text(caller, tokens, salt + 2), 1), Heard())
    time.sleep(LEAVES)
    left = time.perf_counter()
    leaving.cancel()
    while worker.counts().running:
        time.sleep(0.005)
    freed = time.perf_counter()
    worker.submit(work(long_text(caller, tokens, salt + 3), 1), Heard())
    time.sleep(LEAVES)
    closing = time.perf_counter()
    worker.close()
    return {
        "alone_median": statistics.median(before), "alone_longest": max(before),
        "beside_median": statistics.median(during), "beside_longest": max(during), "beside_texts": len(during),
        "long_beside": came - asked, "long_alone": ended - started,
        "cancelled": freed - left, "closed": time.perf_counter() - closing,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    caller = load(args.model)
    caller.decoder.stop_ids = frozenset()
    rounds = [one_round(caller, args.prompt, 10 * i) for i in range(args.rounds)]
    figures: dict[str, Any] = {name: round(statistics.median(r[name] for r in rounds), 3) for name in rounds[0]}
    figures |= {"model": args.model, "prompt": len(caller.loaded.tokenizer.encode(long_text(caller, args.prompt, 0)))}
    json.dump(figures, sys.stdout, indent=2)
    print()
    return figures


if __name__ == "__main__":
    main()
