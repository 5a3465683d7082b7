#!/usr/bin/env bash
# Makes .venv and installs the project with its development tools, at the versions of
# constraints.txt. Can be run again at any time. Environment:
#   PYTHON        the interpreter (default: the newest of 3.11 to 3.13 found)
#   TORCH_INDEX   a package index to take torch and torchvision from, both, such as PyTorch's own
#                 CPU-only one; once they are installed, remembered for the next set-up of this .venv
set -euo pipefail
cd "$(dirname "$0")/.."
log=.venv/setup.log

# Settings for pip elsewhere on this computer that would send the installation outside .venv.
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PIP_TARGET PIP_PREFIX PIP_ROOT

version() {
    "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true
}

size() {
    du -sh .venv 2>/dev/null | cut -f 1
}

remove_unfit_environment() {
    [ -e .venv ] || return 0
    local reason=""
    if [ -z "$(version .venv/bin/python)" ]; then
        reason="its Python does not run"
    elif [ -n "${PYTHON:-}" ] && [ "$(version "$python")" != "$(version .venv/bin/python)" ]; then
        reason="it was made with another Python"
    elif [ -n "${TORCH_INDEX:-}" ] && [ "$TORCH_INDEX" != "$(cat .venv/torch-index 2>/dev/null)" ]; then
        reason="its PyTorch is not from that index"
    fi
    [ -z "$reason" ] || { echo "Making .venv anew: $reason."; rm -rf .venv; }
}

# Installs with pip's words in the log; on the screen the seconds, what is on disk, its latest words.
install() {
    local every=30 shown=$SECONDS before="" after="\n"
    [ ! -t 1 ] || every=3 before="\r\033[K" after=""
    .venv/bin/python -m pip install --progress-bar off "$@" </dev/null >>"$log" 2>&1 &
    pip=$!
    while kill -0 "$pip" 2>/dev/null; do
        sleep 1
        [ $((SECONDS - shown)) -ge "$every" ] || continue
        shown=$SECONDS
        printf "$before  %4d s  %5s  %.60s$after" "$SECONDS" "$(size)" "$(tail -n 1 "$log")"
    done
    [ ! -t 1 ] || printf '\r\033[K'
    wait "$pip" || {
        echo "pip failed; the end of $log:" >&2
        tail -n 25 "$log" >&2
        echo "$cure" >&2
        exit 1
    }
}

python=$(tools/check_setup.sh)
remove_unfit_environment
[ -e .venv/bin/pip ] || "$python" -m venv .venv
: >"$log"

# pip unpacks gigabytes: not in /tmp, which is often memory. And Ctrl-C shall reach it.
export TMPDIR=$PWD/.venv/tmp
mkdir -p "$TMPDIR"
pip=""
trap 'kill $pip 2>/dev/null || true; rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

index=${TORCH_INDEX:-$(cat .venv/torch-index 2>/dev/null || true)}
if [ -n "$index" ]; then
    shown=$index # without a user and password
    [[ ! $index =~ ^([^/]*//)[^/]*@(.*)$ ]] || shown=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
    remembered=" (remembered; make clean forgets it)"
    [ -z "${TORCH_INDEX:-}" ] || remembered=""
    echo "PyTorch from $shown$remembered"
    cure="What to do: see that $shown answers and is a package index with the torch and torchvision of
constraints.txt; pip calls it a conflict where one is not. 'make setup TORCH_INDEX=URL' takes
another index, 'make clean' and then 'make setup' takes none."
    # Both from one index: a torch of one and a torchvision of another do not load together.
    # What they depend on comes with the rest below.
    install --no-deps --index-url "$index" -c constraints.txt torch torchvision
    echo "$index" >.venv/torch-index
fi
cure="What to do: if it was the network, run 'make setup' again; what was downloaded is kept."
install -c constraints.txt -e '.[dev]'
touch .venv/ready
echo "Set-up done in $SECONDS s: $(.venv/bin/python --version), .venv" \
    "($(size)), log in $log"
