#!/bin/sh
# Runs as a unit in a booted root that holds a clone at /router where `make run` has worked: the README's systemd section word for word,
# then the package of `make deb`. tests/debians.sh reads /root/result. The root has a loopback of its own, so every port is free.
exec >/root/result 2>/root/errors
cd /router || exit 1
said=/root/said conf=/usr/local/etc/router/pools.yaml
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
answers() { curl -fs --max-time 10 http://127.0.0.1:9090/health; }
ready() { curl -fs --max-time 10 http://127.0.0.1:9090/ready; }
chat() {
    curl -sS -N --max-time 30 -D /root/head http://127.0.0.1:9090/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"model":"llama3-8b-instruct","user":"alice","stream":true,"messages":[{"role":"user","content":"Who are you?"}]}' | grep -qx 'data: \[DONE\]'
}
owner() { ps -o user= -p "$(systemctl show -P MainPID router.service)"; }
access() { journalctl -u router -o cat | grep -q '^{"time":.*"path":"/v1/chat/completions".*"end":"done"}'; }

for b in "9001 gpu1" "9101 gpu2"; do # where the shipped pools.yaml has its servers
    /usr/bin/python3 examples/backend --port "${b% *}" --name "${b#* }" --models llama3-8b-instruct,qwen2.5-7b-instruct --delay 0.02 2>/dev/null &
done

# The block of the README. We are root already, and a plain root has no sudo.
# shellcheck disable=SC2016 # backquotes of Markdown
sed -n '/^### systemd/,/^###* /{/^```sh/,/^```$/{/^```/!p}}' README.md | sed 's/  #.*//; s/^sudo //' >/root/commands
check "README.md has a systemd section with commands" grep -q '^make install' /root/commands
while read -r line; do check "$line" sh -c "$line" </dev/null; done </root/commands
for unit in router.service router.socket; do check "$unit is active" until_true systemctl is-active --quiet $unit; done
check "both come back at the next start" is "$(systemctl is-enabled router.service router.socket 2>&1 | tr '\n' ' ')" "enabled enabled "
check "the installed units are without a complaint" is "$(systemd-analyze verify --man=no router.service router.socket 2>&1)" ""
check "systemd-analyze security: its exposure is below 2.0" systemd-analyze security --no-pager --offline=true --threshold=19 router.service
dynamic() { uid=$(stat -c %u "/proc/$(systemctl show -P MainPID router.service)") && echo "$uid" && [ "$uid" -ge 61184 ] && [ "$uid" -le 65519 ]; }
check "it runs as a user made for it" dynamic
check "it is ready" until_true ready
check "a chat is streamed to its end" chat
check "its access line is in the journal" until_true access
sed -i '1i route_headers: true' $conf
check "systemctl reload router" systemctl reload router
routed() { chat; grep -qi '^x-router-pool: chat' /root/head; }
check "brings the edited file into force" until_true routed
(
    while [ ! -e /root/enough ]; do
        if answers >/dev/null; then echo ok; else echo "failed: $?"; fi
    done
) >/root/meanwhile &
curling=$!
check "systemctl restart router" systemctl restart router
: >/root/enough
wait $curling
unrefused() { sort /root/meanwhile | uniq -c; grep -q ok /root/meanwhile && ! grep failed /root/meanwhile; }
check "refuses no connection" unrefused
check "man 8 router and man 5 pools.yaml are installed" ls /usr/local/share/man/man8/router.8 /usr/local/share/man/man5/pools.yaml.5

check "it can be stopped" systemctl disable -q --now router.socket router.service
check "make uninstall" make --no-print-directory uninstall
check "leaves nothing but the edited file" is "$(find /usr/local -type f)" "$conf"
systemctl daemon-reload

# The package, made by `make deb` in this clone before the machine was started.
export DEBIAN_FRONTEND=noninteractive
for deb in build/llama-model-router_*.deb; do :; done
check "apt installs $deb" apt-get install -y -q --no-install-recommends "./$deb"
check "and starts it" until_true systemctl is-active --quiet router
check "it runs as _router" is "$(owner)" _router
check "it is ready, too" until_true ready
check "a chat is streamed to its end, too" chat
check "apt purges it" apt-get purge -y -q llama-model-router
gone() { ! answers; }
check "nobody listens any more" gone
if grep -q '^FAILED' /root/result; then
    journalctl -o cat -u router -u router.socket | grep -v '^{' | tail -n 40 | sed 's/^/        /'
    tail -n 5 /root/errors | sed 's/^/        /'
fi
echo end
