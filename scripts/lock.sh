#!/bin/sh
# Write requirements-dev.lock: the exact versions in .venv, which must have passed `make test-all`.
set -eu
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python
out=requirements-dev.lock
{
    echo "# Exact versions of an environment in which all tests pass: $("$python" -c 'import platform as p, sys
print(p.system(), p.machine(), "Python", ".".join(map(str, sys.version_info[:2])))')."
    echo "# Made by 'make lock'. To have the same: PIP_CONSTRAINT=\$PWD/$out make test-all"
    # a local version (2.13.0+cpu) is on no index but its own
    "$python" -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+.*//'
} >"$out.tmp"
mv "$out.tmp" "$out"
echo "$out: $(grep -c '==' "$out") packages"
