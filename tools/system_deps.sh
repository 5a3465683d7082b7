#!/usr/bin/env bash
# The system packages that the tests against real servers and a real browser need.
# Installs what is missing (Debian, Ubuntu); with --check it only says what is missing.
set -euo pipefail

# Which packages bring the programs that are not there; the daemons live in sbin.
PATH=$PATH:/usr/sbin:/sbin
missing=""
need() {
    command -v "$1" >/dev/null || missing="$missing $2"
}
need sshd openssh-server
need ceph-mon ceph-mon
need ceph-osd ceph-osd
need radosgw radosgw
need ceph ceph-common
need chromium chromium
need shellcheck shellcheck
[ -n "$missing" ] || exit 0

install="apt-get install --no-install-recommends$missing"
if [ "${1:-}" = --check ]; then
    echo "Missing, so some tests will be skipped:$missing"
    echo "To install: make system-deps   (sudo $install)"
elif ! command -v apt-get >/dev/null; then
    echo "This is not Debian or Ubuntu: please install what they call$missing." >&2
    exit 1
else
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "Installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get -qq update
    # shellcheck disable=SC2086 # a list of packages
    $sudo apt-get -qq -y install --no-install-recommends $missing </dev/null >/dev/null
fi
