"""Requests of the server side by side against one by one, and what the server adds to one of them, in one run.

    python bench/serve_speed.py smollm2-135m
    python bench/serve_speed.py smollm2-135m --way worker --json

Every request has the built-in tools and a text of its own; every reply has `--tokens` tokens exactly (nothing ends
it). `direct` is the loaded model called one by one in this process, `worker` the server's model thread, `http` the
whole server on loopback with a client in this process. `ratio`: the time of all requests one by one, direct, over
their time side by side. `overhead`: of one request alone through the server over the same one direct, the median of
pairs that ran one after the other, so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from calltune.builtin import builtin_data
from calltune.caller import Caller, load
from calltune.engine.decode import Sampling
from calltune.schema import Conversation, Tool
from calltune.serve.work import Made, Work
from calltune.serve.worker import Limits, ModelWorker

NAME = "model"
EVERY = 4  # of the requests one by one, each fourth also goes through the server
Ask = Callable[[str], int]  # a request's text -> the tokens of its reply


class Heard:
    """Waits for one reply of the worker."""

    def __init__(self) -> None:
        self.ended, self.made, self.error = threading.Event(), None, None

    def prompt(self, tokens: int, opened: bool = False) -> None: ...

    def piece(self, text: str) -> None: ...

    def done(self, made: Made) -> None:
        self.made = made
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


def direct(caller: Caller, tools: tuple[Tool, ...], tokens: int) -> Ask:
    encode = caller.loaded.tokenizer.encode

    def ask(text: str) -> int:
        caller(text, tools, max_tokens=tokens)
        return tokens if encode(text) else 0

    return ask


def through_worker(worker: ModelWorker, rows: dict[str, Conversation], tokens: int) -> Ask:
    def ask(text: str) -> int:
        heard = Heard()
        row = rows[text]
        worker.submit(Work(NAME, row.messages[:1], row.tools, Sampling(), max_tokens=tokens), heard)
        heard.ended.wait()
        if heard.error:
            raise heard.error
        return heard.made.completion_tokens if heard.made else 0

    return ask


@contextmanager
def through_http(worker: ModelWorker, caller: Caller, tools: Sequence[Tool], tokens: int) -> Iterator[Ask]:
    import httpx

    from calltune.serve.app import Options, make_app
    from calltune.serve.running import Server, open_port

    with open_port("127.0.0.1", 0) as port:
        server = Server(make_app(worker, (), Options(format=caller.template.format)), worker)
        thread = threading.Thread(target=server.run_until_stopped, args=(port,))
        thread.start()
        address = f"http://127.0.0.1:{port.getsockname()[1]}/v1/chat/completions"
        offered = [tool.to_openai() for tool in tools]
        with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=64)) as client:

            def ask(text: str) -> int:
                body = {"model": NAME, "messages": [{"role": "user", "content": text}], "tools": offered,
                        "max_tokens": tokens, "temperature": 0, "constrained": False}  # fmt: skip
                answer = client.post(address, json=body)
                answer.raise_for_status()
                return int(answer.json()["usage"]["completion_tokens"])

            yield ask
        server.should_exit = True
        thread.join()


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def side_by_side(ask: Ask, texts: Sequence[str], tokens: int) -> float:
    with ThreadPoolExecutor(len(texts)) as pool:
        return timed(lambda: check(pool.map(ask, texts), tokens))


def check(lengths: Iterator[int], tokens: int) -> None:
    found = list(lengths)
    if any(length != tokens for length in found):
        raise RuntimeError(f"replies of {found} tokens, not of {tokens}: the figures would be of other work")


def measure(ways: dict[str, Ask], texts: Sequence[str], tokens: int, rounds: int) -> dict[str, Any]:
    served = [way for way in ways if way != "direct"]
    for ask in ways.values():  # what is done once, such as the tools' keys and values, is in no figure
        check(map(ask, texts[:1]), tokens)
    alone, over = {way: list[float]() for way in ways}, {way: list[float]() for way in served}
    one_by_one, together = list[float](), {way: list[float]() for way in served}
    for _ in range(rounds):
        for i, text in enumerate(texts):
            seconds = {"direct": timed(partial(ways["direct"], text))}
            for way in served if i % EVERY == 0 else ():
                seconds[way] = timed(partial(ways[way], text))
                over[way].append(seconds[way] / seconds["direct"] - 1)
            for way, found in seconds.items():
                alone[way].append(found)
        one_by_one.append(sum(alone["direct"][-len(texts) :]))
        for way in served:
            together[way].append(side_by_side(ways[way], texts, tokens))
    whole, median = statistics.median(one_by_one), {way: statistics.median(t) for way, t in together.items()}
    return {
        "seconds": {"one_by_one": whole, "together": median,
                    "alone": {way: statistics.median(found) for way, found in alone.items()}},
        "ratio": {way: whole / found for way, found in median.items()},
        "overhead": {way: statistics.median(found) for way, found in over.items()},
        "tokens_per_second": {way: len(texts) * tokens / found for way, found in median.items()},
    }  # fmt: skip


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", choices=("worker", "http", "both"), default="both")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    caller = load(args.model)
    caller.decoder.stop_ids = frozenset()
    rows = {row.messages[0].content: row for row in builtin_data(sizes=(4 * args.requests, 1, 1)).train}
    texts = list(rows)[: args.requests]
    tools = rows[texts[0]].tools
    rows = {text: Conversation((rows[text].messages[0],), tools) for text in texts}
    worker = ModelWorker(caller, NAME, limits=Limits(batch=args.requests))
    ways = {"direct": direct(caller, tools, args.tokens), "worker": through_worker(worker, rows, args.tokens)}
    with through_http(worker, caller, tools, args.tokens) as http:
        figures = measure({way: ask for way, ask in (ways | {"http": http}).items() if args.way in ("both", way)
                           or way == "direct"}, texts, args.tokens, args.rounds)  # fmt: skip
    worker.close()
    figures |= {"model": args.model, "requests": args.requests, "tokens": args.tokens}
    if args.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
        return figures
    for way, ratio in figures["ratio"].items():
        speed, over = figures["tokens_per_second"][way], figures["overhead"][way]
        print(f"{way}: {args.requests} requests side by side {ratio:.2f}x one by one ({speed:.0f} tokens/s); "
              f"one alone {over:+.1%} over direct")  # fmt: skip
    return figures


if __name__ == "__main__":
    main()
