#!/bin/sh
# Make .venv with calltune and MLX's build for this machine: scripts/setup.sh [EXTRA_OF_PYPROJECT...]
# Variables: PYTHON names the interpreter, EXTRA (cpu, cuda12, cuda13) MLX's build, VENV the folder.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

stop() {
    echo "calltune: $1" >&2
    exit 2
}

check_platform() {
    arch=$(uname -m)
    case "$(uname -s)" in
    Linux)
        case "$arch" in
        x86_64 | aarch64) ;;
        *) stop "Linux on $arch is not supported: use Linux on x86-64 or aarch64, or an Apple-silicon Mac" ;;
        esac
        glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{print $2}') || glibc=
        [ -n "$glibc" ] || stop "this Linux has no glibc (musl?): use a distribution or container with glibc >= 2.35"
        # 2.9 < 2.35: the parts are compared as numbers
        echo "$glibc" | awk -F. '{exit !($1 > 2 || ($1 == 2 && $2 >= 35))}' ||
            stop "glibc $glibc is older than 2.35: use a newer distribution or container (Ubuntu 22.04, Debian 12)"
        ;;
    Darwin)
        if [ "$arch" != arm64 ]; then
            [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" != 1 ] ||
                stop "this shell runs under Rosetta: open an arm64 shell (arch -arm64 zsh) and try again"
            stop "Macs with an Intel processor are not supported by MLX: use a Linux container on it"
        fi
        ;;
    MINGW* | MSYS* | CYGWIN* | Windows*)
        stop "Windows is not supported: install WSL2 (wsl --install) and run this inside it"
        ;;
    *) stop "$(uname -s) on $arch is not supported: use Linux, WSL2 or an Apple-silicon Mac" ;;
    esac
}

# The first interpreter of 3.11 or newer that can make environments.
find_python() {
    old= bare=
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        found=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            old="$old $name is $found;"
        elif "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$name
            return
        else
            bare="$found"
        fi
    done
    [ -z "$bare" ] || stop "Python $bare lacks venv: run 'sudo apt install python$bare-venv' (or your system's python3-venv)"
    stop "Python 3.11 or newer is needed;${old:- none was found;} install one, or name it: make demo PYTHON=/path/to/python3"
}

# MLX's build: by itself on a Mac, by the NVIDIA driver on Linux. platform/gpu.py has the numbers too.
pick_extra() {
    extra=${EXTRA:-}
    [ -z "$extra" ] || return 0
    [ "$(uname -s)" = Linux ] || return 0
    extra=cpu
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
    case "$driver" in
    '' | *[!0-9]*) return 0 ;;
    esac
    if [ "$driver" -ge 580 ]; then
        extra=cuda13
    elif [ "$driver" -ge 550 ]; then
        extra=cuda12
    else
        echo "calltune: NVIDIA driver $driver is older than 550, so the CPU is used" >&2
    fi
}

check_platform
pick_extra
# MLX's builds overwrite each other, so a change of build starts from nothing.
if [ "$(cat "$venv/calltune-extra" 2>/dev/null)" != "$extra" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    rm -rf "$venv"
    "$python" -m venv "$venv" || stop "'$python -m venv $venv' failed: install your system's python3-venv, or see above"
    echo "$extra" >"$venv/calltune-extra"
fi
extras=$(echo "$extra $*" | tr -s ' ' ',' | sed 's/^,//; s/,$//')
echo "calltune: installing '.[$extras]' into $venv" >&2
"$venv/bin/python" -m pip --disable-pip-version-check install --editable ".${extras:+[$extras]}" ||
    stop "the packages could not be installed (see above): check the network and 'pip config list', then run the same command again"
