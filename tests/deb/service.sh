#!/bin/sh
# Runs as a unit in a booted root: installs the package beside a living systemd and tries the service. run.sh reads /root/result.
#   service.sh BACKEND_PORT BACKEND_PORT FREE_PORT
exec >/root/result 2>/root/errors
conf=/etc/llama-model-router/pools.yaml
said=/root/said
port=$3
export DEBIAN_FRONTEND=noninteractive
check() {
    what=$1
    shift
    if "$@" >$said 2>&1; then
        echo "ok      $what"
    else
        echo "FAILED  $what"
        sed 's/^/        /' $said | tail -n 15
    fi
}
is() { [ "$1" = "$2" ] || { echo "is: $1"; echo "not: $2"; return 1; }; }
until_true() {
    left=100
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
show() { systemctl show -P "$1" router.service; }
answers() { curl -fs --max-time 2 "http://127.0.0.1:$port/health"; }
chat() {
    curl -sS -N --max-time 30 "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
        -d '{"model":"llama3-8b-instruct","user":"alice","stream":true,"messages":[{"role":"user","content":"Who are you?"}]}' | grep -qx 'data: \[DONE\]'
}
pools() { # further top-level lines
    cat <<EOT
listen: 127.0.0.1:$port
$1
pools:
  - {name: chat, models: [llama3-8b-instruct], aliases: {gpt-4o-mini: llama3-8b-instruct}, endpoints: ["http://127.0.0.1:${ports% *}", "http://127.0.0.1:${ports#* }"]}
EOT
}
ports="$1 $2"

# The port of the shipped file may be taken on this machine, whose network we share: ours is there first.
mkdir -p /etc/llama-model-router
pools "" >$conf
check "apt installs it, and starts it" apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold /root/router.deb
check "the unit files are without a complaint" is "$(systemd-analyze verify --man=no router.service router.socket 2>&1)" ""
check "systemd-analyze security: its exposure is below 2.0" systemd-analyze security --no-pager --offline=true --threshold=19 router.service
check "it is active" until_true systemctl is-active --quiet router
check "it is enabled" is "$(systemctl is-enabled router.service router.socket 2>/dev/null | tr '\n' ' ')" "enabled disabled "
check "it runs as _router" is "$(ps -o user= -p "$(show MainPID)")" _router
check "it answers" until_true answers
check "a chat is streamed to its end" chat
access() { journalctl -u router -o cat | grep -q '^{"time":.*"path":"/v1/chat/completions".*"end":"done"}'; }
check "its access line is in the journal" until_true access

pools "route_headers: true" >$conf
check "systemctl reload" systemctl reload router
headers() { curl -s -D - -o /dev/null "http://127.0.0.1:$port/v1/chat/completions" -d '{"model":"gpt-4o-mini","messages":[]}' | grep -qi '^x-router-pool: chat'; }
check "brings the new file into force" until_true headers
echo "nonsense: 1" >>$conf
systemctl reload router
refused() { journalctl -u router -o cat | grep -q "unknown key 'nonsense'"; }
check "a wrong file is refused at reload" until_true refused
check "and the old one goes on" headers

echo "BIG=x" >/etc/default/llama-model-router
# shellcheck disable=SC2016 # the router expands it
pools 'log: {file: "/var/log/router/${LOG_NAME}"}' >$conf
echo "LOG_NAME=access.log" >/etc/default/llama-model-router
check "variables of /etc/default, and restart" systemctl restart router
check "answers after it" until_true answers
chat
logged() { grep -q '"end":"done"' /var/log/router/access.log; }
check "access lines go to /var/log/router" until_true logged
check "logrotate rotates them" logrotate -f /etc/logrotate.d/llama-model-router
chat
again() { [ -s /var/log/router/access.log.1 ] && logged; }
check "and the router writes on in the new file" until_true again

pid=$(show MainPID)
[ "${pid:-0}" -gt 1 ] && kill -9 "$pid"
back() { [ "$(show MainPID)" != "$pid" ] && systemctl is-active --quiet router && answers; }
check "after a crash it is back" until_true back

systemctl stop router
check "a stop is clean" is "$(show Result) $(show ExecMainStatus)" "success 0"
mkdir -p /etc/systemd/system/router.socket.d
systemctl reset-failed router.service # five starts in ten seconds are systemd's limit, and we have had some
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:%s\n' "$port" >/etc/systemd/system/router.socket.d/port.conf
systemctl daemon-reload
check "router.socket starts" systemctl start router.socket
check "the first connection starts the service" answers
check "and it is active" until_true systemctl is-active --quiet router
(
    while [ ! -e /root/enough ]; do
        curl -fs --max-time 20 -o /dev/null "http://127.0.0.1:$port/health" && echo ok || echo "failed: $?"
    done
) >/root/meanwhile &
curling=$!
for _ in 1 2; do systemctl restart router; done
: >/root/enough
wait $curling
unrefused() { sort /root/meanwhile | uniq -c; grep -q ok /root/meanwhile && ! grep failed /root/meanwhile; }
check "two restarts behind the socket refuse no connection" unrefused

systemctl reset-failed router.service router.socket
check "apt reinstalls it" apt-get install -y -q --reinstall -o Dpkg::Options::=--force-confold /root/router.deb
check "and it is active again" until_true systemctl is-active --quiet router
check "apt removes it" apt-get remove -y -q llama-model-router
check "nothing runs any more" is "$(pgrep -x router)" ""
gone() { ! answers; }
check "nobody listens any more" gone
check "apt purges it" apt-get purge -y -q llama-model-router
check "no log is left" test ! -e /var/log/router
if grep -q '^FAILED' /root/result; then journalctl -o cat -u router -u router.socket | grep -v '^{' | tail -n 40 | sed 's/^/        /'; fi
echo end
