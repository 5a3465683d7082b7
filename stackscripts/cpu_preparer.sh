#!/bin/bash
# <UDF name="requirements" label="Python requirements, pinned, separated by spaces" example="torch==2.15.0 numpy==2.4.6" />
#
# Makes a CPU machine (linode/ubuntu24.04) ready to prepare data: Python, pinned packages.
#
# What follows, up to the line of dashes, is the same in both scripts: a StackScript is one file.
#
# Everything goes to /root/stackscript.log. At the end, whatever the end is, there is
# /root/stackscript.result: {"code": 0, "line": null, "command": null}, or the code, the line and
# the command of what failed. It can be run again: what is done already stays as it is.
set -Eeuo pipefail

result=/root/stackscript.result
venv=/opt/voc-train/venv
failed_line=null
failed_command=null

# Not through tee: the result must not be there before the last line of the log.
exec >>/root/stackscript.log 2>&1
rm -f "$result"

# The first failure is the cause; what unwinds after it is not.
note_failure() {
    [ "$failed_line" = null ] || return 0
    failed_line=$1
    local text=${2//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    failed_command="\"${text//$'\t'/\\t}\""
}

# By rename, so that whoever looks sees all of it or nothing.
report() {
    echo "$(date --utc +%FT%TZ) ended with code $1, line $failed_line: $failed_command"
    printf '{"code": %d, "line": %s, "command": %s}\n' \
        "$1" "$failed_line" "$failed_command" >"$result.new"
    mv "$result.new" "$result"
}

trap 'note_failure "$LINENO" "$BASH_COMMAND"' ERR
trap 'report "$?"' EXIT

# A mirror, a lock or a device may need a moment.
retry() {
    local attempt code=0
    for attempt in 1 2 3 4; do
        code=0
        "$@" || code=$?
        [ "$code" = 0 ] && return 0
        echo "attempt $attempt of 4 ended with code $code: $*"
        [ "$attempt" = 4 ] || sleep "${RETRY_SECONDS:-15}"
    done
    note_failure "${BASH_LINENO[0]}" "$*"
    return "$code"
}

install_packages() {
    retry apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update
    retry apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install --no-install-recommends "$@"
}

install_python() {
    install_packages python3-venv
    python3 -m venv "$venv"
    # Names and versions hold no spaces.
    local pins
    read -ra pins <<<"$REQUIREMENTS"
    retry "$venv/bin/python" -m pip install --no-input --disable-pip-version-check \
        --progress-bar off "${pins[@]}"
}

# A machine that was rebooted goes on with what it did, whoever has ordered it: every agent that
# has not ended has left how it is started again.
restart_agents_at_boot() {
    cat >/opt/voc-train/restart-agents <<'END'
#!/bin/sh
for order in /root/voc-train/*/restart.sh; do
    [ ! -f "$order" ] || sh "$order"
done
END
    # Agents live on when all are started; a store refuses whose clock is not set yet.
    cat >/etc/systemd/system/voc-train.service <<'END'
[Unit]
Description=Start the agents of voc-train that have not ended
Wants=network-online.target time-sync.target
After=network-online.target time-sync.target remote-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
User=root
ExecStart=/bin/sh /opt/voc-train/restart-agents

[Install]
WantedBy=multi-user.target
END
    systemctl enable voc-train.service
}

# No question is ever answered here, and no service restarted behind our back.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
echo "$(date --utc +%FT%TZ) Linode ${LINODE_ID:-?} begins, kernel $(uname -r)"
# -----------------------------------------------------------------------------------------------

install_python
restart_agents_at_boot
