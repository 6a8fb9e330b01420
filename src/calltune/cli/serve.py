"""`calltune serve`: an OpenAI-compatible server and its page."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.cli.replying import add_copying_flag
from calltune.errors import InputError

if TYPE_CHECKING:
    from calltune.caller import Caller
    from calltune.functions import Function
    from calltune.serve.guards import Guards

KEY = "CALLTUNE_API_KEY"
MAX_QUEUE = 256
EXAMPLE = f"""examples:
  calltune serve demo/run
  calltune serve runs/mine --tools my_tools.py --port 8000
  calltune serve smollm2-135m --host 0.0.0.0 --api-key-file key.txt

The page is at the address that is printed, the API for OpenAI's clients at /v1: chat/completions and models. /health,
/metrics (for Prometheus) and /openapi.json are beside it. Of a run, NAME is the tuned model and NAME:base the same
without its adapter.

--tools: these functions are shown on the page and can be run from it; a request brings its own tools. A function that
is not marked @tool(pure=True) is run only where the user was asked; --yes runs all without asking. A Python file is
imported, which runs it.

Only this machine reaches 127.0.0.1; another --host needs an API key (also from {KEY}). Ctrl-C and SIGTERM end
the server (exit codes 130 and 143); replies under way are told."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        description="Serve a run or model: an API for OpenAI's clients, and a page to try it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="RUN", help="a run's folder, or a model")
    add("--tools", action="append", default=[], metavar="F",
        help="functions for the page: a Python file or OpenAI tools JSON (default: the run's own)")  # fmt: skip
    add("--mcp", action="append", help=argparse.SUPPRESS)  # refused with words
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=8080, metavar="N", help="port (default: 8080; 0: any free one)")
    add(
        "--api-key", metavar="K", help="key that clients send (others see it in the list of processes: better a file)"
    )
    add("--api-key-file", metavar="FILE", help="a file with the key")
    add("--allow-origin", action="append", default=[], metavar="O",
        help="an origin whose pages may ask, as https://example.org; may be given again")  # fmt: skip
    add("--name", metavar="NAME", help="the model's name for clients (default: of its folder)")
    add("--max-queue", type=int, default=MAX_QUEUE, metavar="N",
        help=f"requests that may wait; more get status 429 (default: {MAX_QUEUE})")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N", help="replies made side by side (default: 16)")
    add("--max-tokens", type=int, default=512, metavar="N",
        help="longest reply where a request does not say (default: 512)")  # fmt: skip
    add("--free", action="store_true", help="do not bind replies to the tools where a request does not ask for it")
    add_copying_flag(parser)
    add("--yes", action="store_true", help="run functions without asking")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _check(args)
    key = _api_key(args)
    guards = _guards(args, key)
    from calltune.caller import find_run, load
    from calltune.offered import offered
    from calltune.serve.running import open_port

    found = find_run(args.model)
    functions: list[Function] = offered(args.tools or None, found) if args.tools or (found and found.tools()) else []
    port = open_port(args.host, args.port)
    with port:
        _say(f"loading {args.model}")
        caller = load(found or args.model, copying=args.copying)
        return _serve(args, caller, functions, guards, port)


def _serve(args: argparse.Namespace, caller: Caller, functions: list[Function], guards: Guards, port: Any) -> int:
    from calltune.serve.app import Options, make_app
    from calltune.serve.running import Server, log_to_stderr
    from calltune.serve.worker import Limits, ModelWorker

    log_to_stderr()
    name = args.name or Path(args.model).resolve().name
    worker = ModelWorker(caller, name, limits=Limits(args.max_queue, args.batch_size))
    options = Options(guards, caller.template.format, args.max_tokens, args.free, not args.yes)
    server = Server(make_app(worker, functions, options), worker, _say)
    host, number = port.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(_greeting(f"http://{shown}:{number}", worker.models, guards.api_key is not None), flush=True)
    return server.run_until_stopped(port)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _greeting(address: str, models: tuple[str, ...], key: bool) -> str:
    body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}' % models[0]  # noqa: UP031
    header = f' -H "Authorization: Bearer ${KEY}"' if key else ""
    curl = f"curl {address}/v1/chat/completions -H 'Content-Type: application/json'{header} -d {shlex.quote(body)}"
    return f"page:   {address}/\nAPI:    {address}/v1\nmodels: {', '.join(models)}\ntry:    {curl}\nCtrl-C ends it"


def _check(args: argparse.Namespace) -> None:
    """Raises InputError with every flag that is out of range."""
    if args.mcp:
        raise InputError("`calltune serve` runs no tools of an MCP server (--mcp): a request brings its own tools",
                         next_step='`calltune agent RUN --mcp "COMMAND"`, or --tools FILE for the page')  # fmt: skip
    wrong = [f"--{name} is {value} (at least {least})" for name, value, least in (
        ("max-queue", args.max_queue, 1), ("batch-size", args.batch_size, 1), ("max-tokens", args.max_tokens, 1),
    ) if value < least]  # fmt: skip
    wrong += [f"--allow-origin is {origin} (scheme and host alone, as https://example.org)"
              for origin in args.allow_origin if origin.count("/") != 2 or "://" not in origin]  # fmt: skip
    if wrong:
        raise InputError("; ".join(wrong), next_step="`calltune serve --help`")


def _api_key(args: argparse.Namespace) -> str | None:
    """The key of the flag, the file or the environment. Raises InputError."""
    if args.api_key is not None and args.api_key_file:
        raise InputError("--api-key and --api-key-file were both given", next_step="leave one of them out")
    key, source = args.api_key, "--api-key"
    if args.api_key_file:
        source = args.api_key_file
        try:
            key = Path(args.api_key_file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            words = getattr(error, "strerror", None) or "not a text"
            raise InputError(f"the API key cannot be read from {source}: {words}",
                             next_step="name a file that holds the key and nothing else") from None  # fmt: skip
    elif key is None:
        key, source = os.environ.get(KEY), KEY
    if key is not None and (not key or not key.isascii() or any(c.isspace() for c in key)):
        raise InputError(f"the API key of {source} is empty, or holds a space or what no header can carry",
                         next_step="make one: python -c 'import secrets; print(secrets.token_hex())'")  # fmt: skip
    return key


def _guards(args: argparse.Namespace, key: str | None) -> Guards:
    """Raises InputError for a server that everybody in the network could use."""
    from calltune.serve.guards import LOOPBACK, Guards
    from calltune.serve.running import is_loopback

    if is_loopback(args.host):
        host = f"[{args.host}]" if ":" in args.host else args.host
        return Guards(tuple(dict.fromkeys((*LOOPBACK, host.lower()))), key, tuple(args.allow_origin))
    if key is None:
        raise InputError(f"--host {args.host} lets other machines use this server, and there is no API key",
                         next_step=f"--api-key-file FILE or {KEY}=..., or leave --host out")  # fmt: skip
    return Guards((), key, tuple(args.allow_origin))
