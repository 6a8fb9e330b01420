"""Running the application: a port of its own, and an end that tells everybody who waits."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from calltune.errors import InputError
from calltune.serve.work import Worker

LINES = 64 << 10  # bytes of headers that are read: more than guards.py allows, so that it is the one that says so
BACKLOG = 2048  # connections that come faster than they are taken
GRACE = 5  # seconds for answers to be read after the worker has ended them
KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than clients keep theirs


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes a free one. Raises InputError."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port is {port}", next_step="a number up to 65535; 0 takes a free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} of {host} is taken by another program",
                             next_step="another one with --port; --port 0 takes a free one") from None  # fmt: skip
        raise InputError(f"{host}:{port} cannot be listened on: {error.strerror or error}",
                         next_step="--host is an address of this machine, --port above 1023") from None  # fmt: skip
    # asyncio does so itself only where it opens the port. Without it an answer's second part waits up to 40 ms until
    # the client has said that the first came. Connections have it from here.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


class Server(uvicorn.Server):  # uvicorn offers its end only by inheritance
    """A server that ends with its worker: who waits is told, what is being made is given up."""

    def __init__(self, app: Any, worker: Worker, told: Callable[[str], None] = lambda text: None) -> None:
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
                                backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=GRACE,
                                server_header=False, h11_max_incomplete_event_size=LINES)  # fmt: skip
        super().__init__(config)
        self.worker, self.told = worker, told
        self.signal = 0  # that ended it

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            counts = self.worker.counts()
            under_way = counts.running + counts.waiting
            self.told(f"stopping; {under_way} repl{'y' if under_way == 1 else 'ies'} under way given up"
                      if under_way else "stopping")  # fmt: skip
        self.force_exit = self.should_exit
        self.should_exit, self.signal = True, sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # In a thread that the process need not wait for: a second Ctrl-C ends it in the middle of a run of the model.
        ending = threading.Thread(target=self.worker.close, daemon=True)
        ending.start()
        while ending.is_alive() and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def run_until_stopped(self, port: socket.socket) -> int:
        """Serves until Ctrl-C, SIGTERM or `should_exit`; returns the exit code: 130, 143, 0."""
        asyncio.run(self.serve(sockets=[port]))
        return 128 + self.signal if self.signal else 0


def log_to_stderr() -> None:
    """Failures of ours and uvicorn's warnings, in one line and with their traceback; no requests."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("calltune.serve", "uvicorn"):
        log = logging.getLogger(name)
        log.setLevel(logging.WARNING)
        if not log.handlers:
            log.addHandler(handler)
            log.propagate = False
