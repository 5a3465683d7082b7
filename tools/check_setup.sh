#!/usr/bin/env bash
# Can the set-up work on this computer? Prints the Python to use as its only line on stdout;
# everything for people goes to stderr. Environment: PYTHON, TORCH_INDEX (see `make help`).
set -euo pipefail
cd "$(dirname "$0")/.."

stop() {
    printf 'Set-up cannot start: %s\n' "$1" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

can_make_venvs() {
    "$1" -c 'import venv, ensurepip' 2>/dev/null
}

find_python() {
    local candidates=(python3.13 python3.12 python3.11 python3) candidate found=""
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        is_new_enough "$candidate" || continue
        can_make_venvs "$candidate" && { command -v "$candidate"; return; }
        found=${found:-$candidate}
    done
    if [ -n "$found" ]; then
        version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        stop "$found cannot make virtual environments (no venv or ensurepip).
On Debian or Ubuntu: sudo apt-get install python3-venv   (or python$version-venv)"
    fi
    stop "no Python 3.11 or newer among: ${candidates[*]}.
Install one, or name one you have: make setup PYTHON=/path/to/python3"
}

check_space() {
    # Measured on Linux x86-64, Python 3.11: what is downloaded, what is then on disk, and room
    # for pip's temporary and cached copies beside it.
    local download=2.8 installed=6.4 needed=12 minutes="3 to 6 minutes on a fast line"
    if [ -n "${TORCH_INDEX:-}" ] || [ "$(uname)" = Darwin ]; then
        download=0.6 installed=2.5 needed=5 minutes="1 to 3 minutes"
    fi
    local free_gb
    free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1000000))
    [ "$free_gb" -ge "$needed" ] || stop "it needs about $needed GB free here, and there are $free_gb.
Without CUDA it is 5 GB: make setup TORCH_INDEX=URL   (make help says which)"
    {
        echo "Set-up downloads about $download GB and installs about $installed GB into .venv:" \
            "$minutes. ($free_gb GB are free.)"
        [ -n "${TORCH_INDEX:-}" ] || [ "$(uname)" = Darwin ] ||
            echo "Most of it is PyTorch with CUDA. No NVIDIA GPU? 'make help' has a smaller way."
    } >&2
}

python=$(find_python)
# A finished environment is only brought up to date; that needs little.
[ -e .venv/bin/voc-train ] || check_space
echo "$python"
