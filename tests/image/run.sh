#!/bin/sh
# `make image-test`: builds the image and runs it by the very line of README.md's Docker section, a pools.yaml mounted, demo backends
# behind it. Where nested containers are limited it adds the flags this machine needs, and says which. The last line is the count.
# shellcheck disable=SC2086 # flags are lists of words
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
passed=0 failed=0 pids="" name="router-image-test-$$"
most=30000000 # bytes above its base
engine=$(sh packaging/image.sh) || { echo "the image was not built"; echo "0 passed, 1 failed"; exit 1; }
if [ "$engine" = buildah ]; then # it builds, podman runs: they share their images
    command -v podman >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends podman runc >/dev/null
    engine=podman
fi
work=$(mktemp -d)
stop() {
    trap - EXIT INT TERM
    run kill "$name" >/dev/null 2>&1
    for p in $pids; do kill "$p" 2>/dev/null; done
    wait
    rm -rf "$work"
}
trap 'stop; exit 1' INT TERM
trap stop EXIT
check() {
    what=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        sed 's/^/        /' "$work/said" | tail -n 20
    fi
}
until_true() { # seconds, command: asked ten times a second
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}
free_port() { /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
is_free() { /usr/bin/python3 -c "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', $1))" 2>/dev/null; }
value() { # a path into what `inspect` says of an image or container, the first that is there
    "$engine" $1 inspect "$2" | /usr/bin/python3 -c '
import json, sys
top = json.load(sys.stdin)[0]
for path in sys.argv[1:]:
    at = top
    for key in path.split("."):
        at = at.get(key) if isinstance(at, dict) else None
    if at:
        print(json.dumps(at) if isinstance(at, (list, dict)) else at)
        break' $3
}

# Which flags does this machine need? First none, then what a machine inside another asks for.
files=$(sed -n 's/^Max open files *[^ ]* *\([0-9]*\).*/\1/p' /proc/self/limits)
limits="--ulimit nofile=$files:$files --ulimit nproc=10000:10000"
global="" extra=""
run() { "$engine" $global "$@"; }
if ! run run --rm router -version >/dev/null 2>&1; then
    extra=$limits
    [ "$engine" = docker ] || global="--cgroup-manager=cgroupfs --runtime runc"
    if ! run run --rm $extra router -version >/dev/null 2>&1; then
        extra="$extra --network host"
        run run --rm $extra router -version || { echo "no container can be run here"; echo "0 passed, 1 failed"; exit 1; }
    fi
    echo "limited machine: $engine $global run $extra"
fi

# The line of the README, with a `docker` that adds those flags and a port that is free.
line=$(sed -n '/^### Docker/,/^### /s/^\(docker run .*\)$/\1/p' README.md)
case $line in "docker run "*"pools.yaml:/etc/router/pools.yaml:ro"*"--read-only"*) ;; *)
    echo "README.md has no such line in its Docker section: $line"
    echo "0 passed, 1 failed"
    exit 1
    ;;
esac
port=$(free_port) one=$(free_port) two=$(free_port)
case "$extra" in
*"--network host"*)
    port=9090 host=127.0.0.1
    is_free $port || { echo "port 9090 is taken, and there is no network but the host's"; echo "0 passed, 1 failed"; exit 1; }
    ;;
*) case $engine in docker) host=host.docker.internal extra="$extra --add-host host.docker.internal:host-gateway" ;; *) host=host.containers.internal ;; esac ;;
esac
docker() {
    shift # run
    for a in "$@"; do
        shift
        case $a in 9090:9090) a=127.0.0.1:$port:9090 ;; esac
        set -- "$@" "$a"
    done
    exec "$engine" $global run --name "$name" $extra "$@"
}
cat >"$work/pools.yaml" <<EOT
pools:
  - name: chat
    models: [llama3-8b-instruct]
    health: {interval: 200ms}
    endpoints: ["http://$host:$one", "http://$host:$two"]
EOT
chmod 0755 "$work"
chmod 0644 "$work/pools.yaml"
echo "$line"
(cd "$work" && eval "$line") >"$work/stdout" 2>"$work/stderr" &
client=$!
check "it starts and answers /health on the published port" until_true 30 curl -fs --max-time 2 "http://127.0.0.1:$port/health"
[ "$failed" = 0 ] || { cat "$work/stderr"; echo "$passed passed, $failed failed"; exit 1; }

# The backends listen where the container looks for this machine: at the gateway of its network.
gateway=$(value container "$name" NetworkSettings.Gateway)
[ "$host" = 127.0.0.1 ] && gateway=127.0.0.1
for b in "$one gpu1" "$two gpu2"; do
    /usr/bin/python3 examples/backend --host "${gateway:-0.0.0.0}" --port "${b% *}" --name "${b#* }" --delay 0.1 2>>"$work/backends" &
    pids="$pids $!"
done
ready() { curl -fs --max-time 2 "http://127.0.0.1:$port/ready"; }
check "/ready is 200 once the backends answer" until_true 30 ready

inside() { run exec "$name" "$@"; }
is() { [ "$1" = "$2" ] || { echo "is: $1"; echo "not: $2"; return 1; }; }
# shellcheck disable=SC2016 # expanded inside
uid() { is "$(inside sh -c 'sed -n "s/^Uid:\t\([0-9]*\).*/\1/p" /proc/1/status')" 10001; }
read_only() { for f in /written /etc/router/written /usr/local/bin/router; do ! run exec --user 0 "$name" sh -c ": >>$f" || return 1; done; }
capless() { is "$(inside sed -n 's/^CapEff:\t//p' /proc/1/status)" 0000000000000000; }
no_compiler() { ! inside sh -c 'command -v gcc || command -v make || ls /src'; }
health_test=$(value image router "Config.Healthcheck.Test HealthCheck.Test Healthcheck.Test")
health_is() { is "$(value container "$name" "State.Health.Status State.Healthcheck.Status")" "$1"; }
healthy() { # podman leaves the interval to timers of systemd, which not every machine has: it is told to check now
    [ "$engine" = docker ] || run healthcheck run "$name" || return 1
    until_true 60 health_is healthy || health_is healthy
}
check "the router runs as user 10001" uid
check "the router has no capability" capless
check "the root is read-only" read_only
check "no compiler, no sources in the image" no_compiler
check "HEALTHCHECK is router -healthcheck" grep -q -- '-healthcheck' <<EOT
$health_test
EOT
check "HEALTHCHECK is green" healthy
check "its STOPSIGNAL is SIGTERM or the default" grep -Eq '^(SIGTERM|15|)$' <<EOT
$(value image router "Config.StopSignal")
EOT
check "-t finds the mounted file sound" is "$(inside router -t -config /etc/router/pools.yaml)" "/etc/router/pools.yaml: ok"
version=$(sed -n 's/^#define ROUTER_VERSION "\(.*\)"/\1/p' include/version.h)
check "-version says $version" grep -q "^router $version " <<EOT
$(inside router -version)
EOT

chat() {
    curl -sS -N --max-time 60 "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
        -d "{\"model\":\"llama3-8b-instruct\",\"user\":\"$1\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Who are you?\"}]}"
}
streamed() { # whole, and not in one piece
    chat alice | /usr/bin/python3 -c '
import sys, time
at, last = [], ""
for line in sys.stdin:
    if line.strip():
        last = line.strip()
        at.append(time.monotonic())
print(len(at), "events in", round(at[-1] - at[0], 2) if at else 0, "s; the last:", last)
sys.exit(0 if last == "data: [DONE]" and len(at) > 10 and at[-1] - at[0] > 1 else 1)'
}
check "a chat streams through it" streamed

# SIGTERM while a stream runs: it ends whole, the container with 0.
chat bob >"$work/stream" 2>&1 &
stream=$!
until_true 20 grep -q '"content"' "$work/stream"
run stop -t 40 "$name" >"$work/stop" 2>&1 &
stopper=$!
finished() {
    wait "$stream" && grep -q 'data: \[DONE\]' "$work/stream" && return 0
    tail -n 3 "$work/stream"
    return 1
}
ended() { wait "$client"; status=$?; wait "$stopper"; is "$status" 0; }
check "SIGTERM: the running stream ends whole" finished
check "SIGTERM: exit status 0" ended
refused() { ! curl -fs --max-time 2 "http://127.0.0.1:$port/health"; }
check "nobody listens any more" refused
logs() {
    grep -v '^{' "$work/stdout" && return 1
    /usr/bin/python3 - "$work/stdout" <<'EOT'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
chats = [line for line in lines if line["path"] == "/v1/chat/completions"]
print(lines)
sys.exit(0 if [(c["status"], c["end"]) for c in chats] == [(200, "done")] * 2 else 1)
EOT
}
check "access lines, and nothing else, on stdout" logs
check "the operator's lines on stderr" grep -q 'listening on 0.0.0.0:9090' "$work/stderr"

case $engine in docker) base=debian:trixie-slim ;; *) base=docker.io/library/debian:trixie-slim ;; esac
above=$(($(value image router Size) - $(value image $base Size)))
small() { [ "$above" -lt $most ]; }
echo "image: $(/usr/bin/python3 -c "print(round($above / 1e6, 1))") MB above its base of $(/usr/bin/python3 -c "print(round($(value image $base Size) / 1e6, 1))") MB"
check "less than $((most / 1000000)) MB above its base" small
cd "$root" || exit 1
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
