"""The page's files. They are few and small: read once, served with headers that let nothing else in."""

from __future__ import annotations

from importlib import resources

TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
         ".css": "text/css; charset=utf-8"}  # fmt: skip
# Only the page's own files and its own server: no script of a reply, no other host, no frame around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path -> (bytes, content type); `/` is index.html."""
    folder = resources.files("calltune.serve") / "page"
    if not folder.is_dir():
        return {}
    files = {}
    for item in folder.iterdir():
        kind = TYPES.get("." + item.name.rpartition(".")[2])
        if kind and item.is_file():
            files["/" if item.name == "index.html" else f"/{item.name}"] = item.read_bytes(), kind
    return files
