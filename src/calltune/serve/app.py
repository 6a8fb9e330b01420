"""The application: OpenAI's addresses, the page's, and what stands around them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from calltune._version import __version__
from calltune.functions import Function
from calltune.schema import shorten
from calltune.serve.answers import Answering
from calltune.serve.errors import ApiError, api_error, of_status
from calltune.serve.guards import Guards, json_body
from calltune.serve.metrics import Metrics
from calltune.serve.openapi import describe
from calltune.serve.page_files import HEADERS, page_files
from calltune.serve.reader import Reader
from calltune.serve.tools_api import listed, run_call
from calltune.serve.work import Worker

log = logging.getLogger("calltune.serve")


@dataclass(frozen=True)
class Options:
    """What `calltune serve` was told, and the wire `format` of the model's replies. `ask`: functions that are not
    pure need `confirmed`."""

    guards: Guards = field(default_factory=Guards)
    format: str = "hermes"
    max_tokens: int = 512
    free: bool = False
    ask: bool = True
    patience: float = 10.0  # seconds of silence in a stream before a comment keeps it alive


def make_app(worker: Worker, functions: Sequence[Function] = (), options: Options | None = None) -> Any:
    """The ASGI application over a worker."""
    options = options or Options()
    metrics = Metrics(worker)
    app = FastAPI(title="calltune", version=__version__, docs_url=None, redoc_url=None)
    reader = Reader(worker.models, options.max_tokens, options.free)
    answering = Answering(worker, metrics, options.format, options.patience)
    started = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await json_body(request.scope, request.receive, options.guards.max_body)
        asked = await run_in_threadpool(reader.read, body)  # checking large schemas takes a second
        return await answering.answer(asked, request.receive)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, started) for name in worker.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in worker.models:
            known = f"there are: {', '.join(worker.models)} (GET /v1/models lists them)"
            words = (
                f"there is no model {shorten(name)}; {known}" if name else f"/v1/models/NAME wants a name; {known}"
            )
            raise ApiError(404, words, param="model", code="model_not_found")
        return _model(name, started)

    @app.get("/health")
    async def health() -> JSONResponse:
        counts = worker.counts()
        status = "stopped" if counts.stopped else "ok"
        found = {"status": status, "running": counts.running, "waiting": counts.waiting}
        return JSONResponse(found, 503 if counts.stopped else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api/tools")
    async def tools() -> dict[str, Any]:
        return listed(functions)

    @app.post("/api/execute")
    async def run(request: Request) -> Response:
        body = await json_body(request.scope, request.receive, options.guards.max_body)
        return JSONResponse(dict(await run_call(body, functions, ask=options.ask)))

    for path, asked in (("/health", health), ("/v1/models", models), ("/v1/models/{name:path}", model)):
        app.add_api_route(path, asked, methods=["HEAD"], include_in_schema=False)
    _add_page(app)
    describe(app, worker.models)
    whole: Any = Outer(app, options.guards, metrics)
    if options.guards.origins:
        whole = CORSMiddleware(whole, allow_origins=options.guards.origins, allow_methods=["GET", "POST"],
                               allow_headers=["*"])  # fmt: skip
    return whole


def _model(name: str, started: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": started, "owned_by": "calltune"}


def _add_page(app: FastAPI) -> None:
    for path, (content, kind) in page_files().items():

        async def send(content: bytes = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind, headers=HEADERS)

        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


@dataclass(frozen=True)
class Outer:
    """Around everything: guards before, and every failure an error object."""

    app: FastAPI
    guards: Guards
    metrics: Metrics

    def __post_init__(self) -> None:
        from fastapi.exceptions import RequestValidationError
        from starlette.exceptions import HTTPException

        async def told(request: Request, error: Exception) -> Response:
            if isinstance(error, HTTPException):
                path = request.url.path
                return error_response(of_status(error.status_code, request.method, path, error.headers))
            if isinstance(error, RequestValidationError):
                words = f"the parameters in the address {shorten(str(request.url))} are wrong; leave them out"
                return error_response(ApiError(400, words))
            return error_response(api_error(error))

        for kind in (HTTPException, RequestValidationError, ApiError, Exception):
            self.app.add_exception_handler(kind, told)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.metrics.requests.labels(str(status)).inc()
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self.guards.check(scope)
            await self.app(scope, receive, counted)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("%s failed", scope["path"])
            if not status:
                await error_response(api_error(error))(scope, receive, counted)


def error_response(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, dict(error.headers))
