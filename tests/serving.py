"""A server on a free port of this machine, over a tiny random model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from calltune.caller import Caller
from calltune.serve.app import Options, make_app
from calltune.serve.running import Server, open_port
from calltune.serve.work import Worker
from calltune.serve.worker import Limits, ModelWorker


@dataclass(frozen=True)
class Serving:
    worker: Worker
    address: str

    @property
    def api(self) -> str:
        return f"{self.address}/v1"


@contextmanager
def serving(worker: Worker, functions: Sequence[Any] = (), options: Options | None = None) -> Iterator[Serving]:
    port = open_port("127.0.0.1", 0)
    server = Server(make_app(worker, functions, options), worker)
    thread = threading.Thread(target=server.run_until_stopped, args=(port,), daemon=True)
    thread.start()
    try:
        yield Serving(worker, f"http://127.0.0.1:{port.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def worker_of(caller: Caller, name: str = "tiny", **limits: int) -> ModelWorker:
    return ModelWorker(caller, name, limits=Limits(**({"queue": 256} | limits)))
