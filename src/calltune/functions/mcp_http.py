"""Requests to an MCP server at a URL: the headers that they carry, which nothing else ever shows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from calltune.errors import InputError, Problem

SHORTEST_SECRET = 4  # characters of a header's value that are hidden; "on" or "1" are no secrets
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110
HTTP_CONNECT, HTTP_READ = 30.0, 300.0  # seconds, as the package mcp has them: a stream is held open


def is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def secrets_in(headers: Mapping[str, str]) -> list[str]:
    """The values of headers and their words (a token stands behind `Bearer`), the longest first."""
    words = {word for value in headers.values() for word in (value, *value.split())}
    return sorted((word for word in words if len(word) >= SHORTEST_SECRET), key=len, reverse=True)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be sent. Raises InputError, which names the header and not its value."""
    wrong = [name for name, value in headers.items() if not HEADER_NAME.fullmatch(name) or not _can_be_sent(value)]
    if wrong:
        problems = [Problem("bad_header", name if HEADER_NAME.fullmatch(name) else "a name that is none",
                            "a name, and a value of printable ASCII") for name in wrong]  # fmt: skip
        raise InputError("headers for an MCP server cannot be sent", problems=problems,
                         next_step="write them as 'Authorization: Bearer TOKEN'")  # fmt: skip
    return {name: value.strip() for name, value in headers.items()}


def _can_be_sent(value: str) -> bool:
    return bool(value.strip()) and value.isascii() and value.isprintable()


@asynccontextmanager
async def connection(target: str, headers: dict[str, str]) -> AsyncIterator[Any]:
    """A connection that sends `headers`; the client follows redirects within the server's own origin only."""
    import httpx2  # the HTTP library of the package mcp
    from mcp.client.streamable_http import streamable_http_client

    limits = httpx2.Timeout(HTTP_CONNECT, read=HTTP_READ)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=limits) as client,
        streamable_http_client(target, http_client=client) as streams,
    ):
        yield streams
