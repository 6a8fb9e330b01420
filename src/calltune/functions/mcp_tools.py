"""Tools of an MCP server as functions: a command that speaks over stdin and stdout, or a URL (streamable HTTP).

The connection lives in a thread with an event loop of its own, so that the functions are plain ones that any agent,
in a loop or not, can call. Protocol: https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import shlex
import tempfile
import threading
from collections.abc import Collection, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar

from calltune.errors import CalltuneError, InputError, Problem
from calltune.functions.mcp_http import check_headers, connection, is_url, secrets_in
from calltune.functions.read import Function, check_schema
from calltune.schema import Tool, shorten

CONNECT = 30.0  # seconds until a server must have named its tools
CLOSE = 8.0  # seconds for ending it; the client library kills a server that does not end
MOST_PAGES = 100  # of a tool list
LAST_WORDS = 600  # characters of a server's standard error that are shown
T = TypeVar("T")


class McpError(CalltuneError):
    """A tool of an MCP server failed, or its server did. Its words become the call's result."""


class McpServer:
    """A running MCP server and its tools: `with McpServer("python server.py") as server: Agent(run, [server])`.

    `target`: a command line, which is started, or an http(s) URL. `functions` are the tools as functions for an
    agent. They ask before they run: what a server says of its own tools proves nothing. `pure` names those that you
    know to change nothing. `prefix` stands before each name, where two servers have tools of the same name. `env`:
    a command gets PATH, HOME and the like, and these variables. `headers`: of every request to a URL, as
    `{"Authorization": "Bearer ..."}`; their values are kept out of all messages. `timeout`: seconds a call.
    `connect`: seconds until the server must have named its tools.

    `notes` tell which tools were left out, and why. Raises InputError: the package `mcp` is missing, the server does
    not start, does not answer as an MCP server, or has no tools.
    """

    def __init__(
        self, target: str, *, pure: Collection[str] = (), prefix: str = "", env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, timeout: float = 60.0, connect: float = CONNECT,
    ) -> None:  # fmt: skip
        self.target, self.timeout, self.prefix = target, timeout, prefix
        self.notes: tuple[str, ...] = ()
        self._transport = _transport(target, env, headers)
        self._secrets = secrets_in(headers or {})
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._closing = False
        ready: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._work, args=(ready,), name=f"mcp {target}", daemon=True)
        self._thread.start()
        try:
            found = ready.result(connect)
        except BaseException as error:
            why = f"no tools after {connect:g} seconds" if isinstance(error, TimeoutError) else _root(error)
            why, said = self._hidden(why), self._hidden(self._last_words())
            self.close()
            if not isinstance(error, Exception):
                raise  # Ctrl-C
            raise _cannot_start(target, why, said) from None
        self.functions = self._functions(found, pure)

    def __enter__(self) -> McpServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Ends the connection, and a server that was started for it. Calls after that fail in plain words."""
        self._closing = True
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE)
        self._errors.close()

    # ---- in the thread of the connection ---------------------------------------------------------------------------

    def _work(self, ready: concurrent.futures.Future[list[Any]]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    async def _serve(self, ready: concurrent.futures.Future[list[Any]]) -> None:
        from mcp import Client

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._closing:  # before it began
            return
        opening = asyncio.create_task(self._open(Client, ready))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():  # it is closed before it was open
            opening.cancel()
        await opening

    async def _open(self, client_type: Any, ready: concurrent.futures.Future[list[Any]]) -> None:
        assert self._stop is not None
        server = self._transport(self._errors)
        async with client_type(server) as client:
            self._client = client
            tools, cursor = [], None
            for _ in range(MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if not cursor:
                    break
            else:
                self.notes += (
                    f"{self.target}: more than {MOST_PAGES} pages of tools; those after them are left out",
                )
            ready.set_result(tools)
            await self._stop.wait()

    # ---- calls ----------------------------------------------------------------------------------------------------

    def _functions(self, found: list[Any], pure: Collection[str]) -> list[Function]:
        functions, notes = [], []
        for item in found:
            tool = Tool(f"{self.prefix}{item.name}", item.description or "", item.input_schema)
            try:
                check_schema(tool)
            except InputError as error:
                notes.append(f"{self.target}: the tool {item.name} was left out: {error.problems[0]}")
                continue
            functions.append(Function(tool, self._caller(item.name), item.name in pure, untyped=True))
        self.notes += tuple(notes)
        names = [item.name for item in found]
        if not functions:
            self.close()
            problems = [Problem("bad_tool", note) for note in self.notes]
            raise InputError(f"the MCP server {self.target} has no tools", problems=problems,
                             next_step="name a server that offers tools")  # fmt: skip
        if unknown := sorted(set(pure) - set(names)):
            self.close()
            problem = Problem("unknown_function", ", ".join(unknown), f"one of: {', '.join(names)}")
            raise InputError(f"`pure` names what the MCP server {self.target} does not have", problems=[problem])
        return functions

    def _caller(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            return self.call(name, arguments)

        call.__name__ = name
        return call

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The result of a tool in JSON's types. Raises McpError: the tool said that it failed, no answer came in
        time, or the server is gone."""
        result = self._wait(self._client.call_tool(name, dict(arguments), read_timeout_seconds=self.timeout), name)
        if result.is_error:
            raise McpError(self._hidden(_texts(result)) or f"{name} failed and did not say why")
        return value_of(result)

    def _wait(self, work: Coroutine[Any, Any, T], name: str) -> T:
        if self._loop is None or not self._thread.is_alive():
            work.close()
            raise McpError(f"the MCP server {self.target} is not running")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        waited = 0.0
        while True:
            try:
                return future.result(0.2)
            except TimeoutError:
                if future.done():  # the client's own limit
                    raise McpError(f"{name} gave no result in {self.timeout:g} seconds") from None
                waited += 0.2
                if waited > self.timeout + 1 or not self._thread.is_alive():
                    future.cancel()
                    raise McpError(f"the MCP server {self.target} does not answer") from None
            except (Exception, concurrent.futures.CancelledError) as error:
                raise McpError(self._hidden(self._plain(error, name))) from None

    def _plain(self, error: BaseException, name: str) -> str:
        """What went wrong with the connection, in words."""
        text = _root(error)
        low = text.lower()
        if "timed out" in low or isinstance(error, TimeoutError):
            return f"{name} gave no result in {self.timeout:g} seconds"
        kind = type(error).__name__
        if "connection closed" in low or kind in ("ClosedResourceError", "BrokenResourceError", "CancelledError"):
            said = self._last_words()
            return f"the MCP server {self.target} has ended" + (f"; it said: {said}" if said else "")
        return text

    def _hidden(self, text: str) -> str:
        """The text without the values of headers, which a server or a library may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _last_words(self) -> str:
        """The end of what the server wrote on its standard error."""
        try:
            self._errors.seek(0)
            return shorten(self._errors.read()[-LAST_WORDS:], LAST_WORDS)
        except ValueError:  # closed
            return ""


def value_of(result: Any) -> Any:
    """A tool's result as JSON values: its structured content, else its text, read as JSON where it is an object or a
    list. What is neither (a picture, a sound) is named, not shown."""
    structured = result.structured_content
    if structured is not None:
        alone = isinstance(structured, dict) and set(structured) == {"result"}  # how servers wrap plain values
        return structured["result"] if alone else structured
    text = _texts(result)
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _texts(result: Any) -> str:
    parts = []
    for block in result.content:
        text = getattr(block, "text", None)
        if text is None:
            text = getattr(getattr(block, "resource", None), "text", None)
        kind = getattr(block, "mime_type", None) or getattr(block, "type", "content")
        parts.append(text if isinstance(text, str) else f"[{kind}, which is no text]")
    return "\n".join(parts)


def _transport(target: str, env: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> Any:
    """A function from the file for standard error to what the client connects to. Raises InputError."""
    _check_installed()
    if is_url(target):
        sent = check_headers(headers or {})
        return lambda errors: connection(target, sent) if sent else target
    if headers:
        raise InputError(f"the MCP server {target} is a command, and headers go to URLs",
                         next_step="give a command its secrets in `env`")  # fmt: skip
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise _cannot_start(target, str(error), "") from None
    if not words:
        raise InputError("the MCP server's command is empty", next_step="name a command, or an http(s) URL")
    from mcp import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(command=words[0], args=words[1:], env=dict(env or {}))
    return lambda errors: stdio_client(parameters, errlog=errors)


def _check_installed() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise InputError("tools of an MCP server need the package mcp, which is not installed",
                         next_step="pip install 'calltune[mcp]'") from None  # fmt: skip


def _cannot_start(target: str, why: str, said: str) -> InputError:
    problems = [Problem("no_mcp_server", shorten(why, 300))]
    if said:
        problems.append(Problem("it_said", said))
    step = "check that the address is that of its MCP endpoint (often .../mcp), and that it runs"
    if not is_url(target):
        step = f"run it by hand: {target}{'' if os.sep in target else ' (is it on the PATH?)'}"
    return InputError(f"the MCP server {target} cannot be used", problems=problems, next_step=step)


def _root(error: BaseException) -> str:
    """The words of the first plain exception in a group."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    text = str(error)
    return text if text and type(error).__name__ == "MCPError" else f"{type(error).__name__}: {text}".rstrip(": ")
