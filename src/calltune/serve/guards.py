"""What every request passes before anything reads it: which host and page it is for, who asks, how large it is.

A server on 127.0.0.1 can be reached by every page that the user's browser shows. Such a page is kept out by its
`Origin`, by the content type that a form cannot send, and, where its own name was made to mean this machine (DNS
rebinding), by the `Host`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from calltune.formats.literals import is_whole_text, read_json
from calltune.schema import shorten
from calltune.serve.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY = 8_000_000  # bytes
MAX_DRAIN = 256_000_000  # bytes of a body that is too large: read to its end, so that the answer is read
MAX_HEADERS = 32_000  # bytes
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Guards:
    """`hosts`: the names that this server goes by; empty where it is open to other machines, whose names for it are
    not known, so that the key alone keeps strangers out. `origins`: pages elsewhere that may ask."""

    hosts: tuple[str, ...] = LOOPBACK
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    max_body: int = MAX_BODY

    def check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is not let in."""
        headers = headers_of(scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise ApiError(431, f"the headers are larger than {MAX_HEADERS:,} bytes; send fewer of them")
        host = headers.get("host", "")
        if self.hosts and host_name(host) not in self.hosts:
            words = f"this server goes by {', '.join(self.hosts)}, and the Host of the request is {shorten(host)!r}; "
            words += "ask at one of these names"
            raise ApiError(403, words, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in SAFE and not self._may(origin, host):
            words = (
                f"a page of another origin, {shorten(origin)}, may not ask; `calltune serve --allow-origin ORIGIN` "
            )
            words += "lets it"
            raise ApiError(403, words, code="wrong_origin")
        if scope["path"].startswith(("/v1", "/api")) and scope["method"] != "OPTIONS":
            self._check_key(headers.get("authorization", ""))

    def _may(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin in (f"http://{host}", f"https://{host}")

    def _check_key(self, given: str) -> None:
        if self.api_key is None:
            return
        scheme, _, key = given.partition(" ")
        same = hmac.compare_digest(key.strip().encode("utf-8", "replace"), self.api_key.encode())
        if not (same and scheme.lower() == "bearer"):
            words = "the API key of the Authorization header is wrong" if given else "there is no API key"
            words += "; send the header Authorization: Bearer KEY with the key that the server was started with"
            raise ApiError(401, words, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower().rstrip(".")


async def json_body(scope: Scope, receive: Receive, limit: int) -> Any:
    """The JSON value that a request brings. Raises ApiError: 415, 413, 400."""
    headers = headers_of(scope)
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    raw = await _read(receive, limit)
    if raw is None:
        words = f"the body is larger than {limit:,} bytes; send fewer or shorter messages"
        raise ApiError(413, words, code="too_large")
    if kind.strip() != "application/json":
        found = f"not {kind.strip()[:60]}" if kind.strip() else "and none was sent"
        raise ApiError(415, f"the content type should be application/json, {found}; send Content-Type: "
                       "application/json")  # fmt: skip
    charset = parameters.strip().partition("charset=")[2].strip('" ')
    if charset not in ("", "utf-8", "utf8"):
        raise ApiError(415, f"JSON is written in UTF-8, not in {charset[:60]}; leave the charset out")
    if headers.get("content-encoding", "identity").lower() != "identity":
        found = headers["content-encoding"][:60]
        raise ApiError(415, f"a compressed body ({found}) is not read; send it without Content-Encoding")
    return parse_json(raw)


def parse_json(raw: bytes) -> Any:
    try:
        value = read_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8; write the JSON in UTF-8", code="invalid_json") from None
    except json.JSONDecodeError as error:
        words = f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}; send a JSON object"
        raise ApiError(400, words, code="invalid_json") from None
    except ValueError as error:
        words = f"the body is not JSON that is read here: {error}; change that part"
        raise ApiError(400, words, code="invalid_json") from None
    if not is_whole_text(value):
        words = "a text of the body holds half of a surrogate pair (\\ud800 to \\udfff); write the whole character"
        raise ApiError(400, words, code="invalid_json")
    return value


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body; None where it is larger than `limit`, also where its length was not said before."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the body broke off before its end; send it again")
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body") or size > MAX_DRAIN:
            return b"".join(parts) if size <= limit else None
