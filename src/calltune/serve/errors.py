"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}`, never a stack trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.errors import CalltuneError, CannotFinish, InputError, Problem, TooLong
from calltune.schema import shorten
from calltune.serve.work import QueueFull, Stopped

INVALID = "invalid_request_error"
# Source of the types: https://platform.openai.com/docs/guides/error-codes
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CHAT = "/v1/chat/completions"
THERE = f"this server has POST {CHAT} and GET /v1/models"


@dataclass
class ApiError(Exception):
    """What a request is answered with in place of what it asked for. `param` names the place in the body."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, INVALID if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong with a body. `path` as in JavaScript: `messages[3].tool_call_id`."""

    path: str
    words: str

    def __str__(self) -> str:
        return f"{self.path}: {self.words}" if self.path else self.words


def said(value: Any) -> str:
    """A value as JSON in one short line; a long list by its length."""
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} items"
    return shorten(json.dumps(value, ensure_ascii=False))


MOST_TOLD = 20
ENOUGH = 100  # problems after which a body is read no further: it may hold millions


def refused(problems: Sequence[Wrong]) -> ApiError:
    """All problems of a body in one error; `param` is the first one's place."""
    told = [str(problem) for problem in problems[:MOST_TOLD]]
    if len(problems) > MOST_TOLD:
        more = len(problems) - MOST_TOLD
        told.append(f"and {'at least ' * (len(problems) >= ENOUGH)}{more} more")
    return ApiError(400, "; ".join(told), param=problems[0].path or None)


def api_error(error: BaseException) -> ApiError:
    """What is told of an exception. An unexpected one is told as such and nothing more: it may hold what is nobody's
    business."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TooLong):
        return ApiError(400, words_of(error), param="messages", code="context_length_exceeded")
    if isinstance(error, InputError):
        return ApiError(400, words_of(error))
    if isinstance(error, CannotFinish):  # of the guide: nothing fits what binds it, or nothing from some place on
        words = ("what binds the reply leaves the model nothing that it may write: the schemas of the tools or of "
                 "response_format, or values that this model only copies from the conversation; simplify the schemas "
                 "(constrained false lifts those of tools), or start the server with --no-copying")  # fmt: skip
        return ApiError(400, words, code="nothing_fits")
    if isinstance(error, QueueFull):
        words = "as many requests wait already as may; try again in a moment"
        return ApiError(429, words, code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, Stopped):
        words = "the server stops and makes no more replies; ask again when it is back"
        return ApiError(503, words, code="stopping", headers={"Retry-After": "5"})
    return ApiError(500, "the server failed at this request; its log says at what", code="internal_error")


def words_of(error: CalltuneError) -> str:
    """An error in one line: what is wrong, each place, what to do next."""
    problems = error.problems if isinstance(error, InputError) else ()
    found = "; ".join(map(_found, problems[:MOST_TOLD]))
    text = f"{error.message}: {found}" if found else error.message
    return " ".join((f"{text}; next: {error.next_step}" if error.next_step else text).split())


def _found(problem: Problem) -> str:
    place = f"{problem.path}: " if problem.path else ""
    return f"{place}{problem.found}" + (f" (expected {problem.expected})" if problem.expected else "")


def of_status(status: int, method: str, path: str, headers: Mapping[str, str] | None = None) -> ApiError:
    """For an answer that the framework gives by itself."""
    headers = headers or {}
    if status == 404:
        return ApiError(404, f"there is nothing at {shorten(path)}; {THERE}", code="unknown_address")
    if status == 405:
        allowed = headers.get("Allow") or headers.get("allow") or "another method"
        return ApiError(405, f"{shorten(path)} is asked with {allowed}, not with {method}", headers=headers)
    return ApiError(status, f"the request {method} {shorten(path)} was refused with status {status}", headers=headers)
