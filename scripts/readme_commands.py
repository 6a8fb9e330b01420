"""The README's commands as one shell script for CI: python scripts/readme_commands.py [README.md]

Every ```sh block has an HTML comment on the line before it, which says what CI does with it:

    <!-- ci -->                     runs it as it stands
    <!-- ci: skip REASON -->        leaves it out
    <!-- ci: instead                runs these lines in its place (a smaller form, or no hub and no GPU)
    COMMAND
    -->
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

COMMENT = r"<!-- ci(?P<rule>(?:(?!-->).)*)-->[ \t]*\n"
BLOCK = re.compile(rf"(?:{COMMENT})?^```sh[ \t]*\n(?P<text>.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of commands. `run` is what CI runs, None where it runs nothing; `line` is where it stands."""

    line: int
    shown: str
    run: str | None


def blocks(text: str) -> list[Block]:
    """The ```sh blocks of a Markdown text. Raises ValueError for one that does not say what CI does with it."""
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        rule, shown = match["rule"], match["text"]
        if rule is None:
            raise ValueError(f"line {line}: the block of commands has no <!-- ci ... --> before it")
        rule = rule.strip()
        if rule.startswith(": skip "):
            found.append(Block(line, shown, None))
        elif rule.startswith(": instead\n"):
            found.append(Block(line, shown, rule.removeprefix(": instead\n").strip() + "\n"))
        elif not rule:
            found.append(Block(line, shown, shown))
        else:
            raise ValueError(f"line {line}: {rule!r} is no rule; ci, ci: skip REASON, or ci: instead with lines")
    return found


def script(found: list[Block], name: str) -> str:
    """A bash script that runs the blocks in order, in one shell, and stops at the first failure."""
    parts = ["set -euo pipefail"]
    for block in found:
        if block.run is not None:
            title = shlex.quote(f"==> {name}, line {block.line}")
            parts += [f"echo {title}", "set -x", block.run.rstrip(), "{ set +x; } 2>/dev/null"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    print(script(blocks(path.read_text(encoding="utf-8")), path.name), end="")
