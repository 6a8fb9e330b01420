"""A small MCP server for tests: python mcp_server.py (stdio), or with a port (streamable HTTP on loopback)."""

import os
import sys
import time

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def person(name: str, tags: list[str] | None = None) -> dict:
    """A person."""
    return {"name": name, "tags": tags or []}


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool()
def slow(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "waited"


@server.tool()
def die() -> str:
    """End the server."""
    print("I am going.", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def header(context: Context) -> str:
    """The header Authorization, as the server got it."""
    return str((context.headers or {}).get("authorization", "none"))


@server.tool()
def leak(context: Context) -> str:
    """Fail with the header in the message."""
    raise ToolError(f"denied: {(context.headers or {}).get('authorization')}")


@server.tool()
def secret() -> str:
    """A variable of the environment."""
    return os.environ.get("SECRET", "none")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
