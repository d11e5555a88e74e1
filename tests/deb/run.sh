#!/bin/sh
# The Debian package on fresh roots: built there by `make deb`, looked over by lintian, installed by apt into another fresh root, used,
# upgraded, removed, purged; then as a service under a systemd of its own (systemd-nspawn --boot), see service.sh.
#   tests/deb/run.sh [SUITE...]     default: bookworm trixie. Needs root. The last line is the count.
# shellcheck disable=SC2016 # ${Conffiles} is for dpkg-query
set -u
cd "$(dirname "$0")/../.." || exit 1
[ $# -gt 0 ] || set -- bookworm trixie
name=llama-model-router
conf=etc/$name/pools.yaml
passed=0 failed=0 pids=""
work=$(mktemp -d "${TMPDIR:-/tmp}/deb-test.XXXXXX")
stop() {
    trap - EXIT INT TERM
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
        echo "ok      $suite: $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $suite: $what"
        sed 's/^/        /' "$work/said" | tail -n 20
    fi
}
is() { [ "$1" = "$2" ] || { echo "is: $1"; echo "not: $2"; return 1; }; }
free_port() { /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_true() { # seconds, command: asked ten times a second
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}
build() { sh tests/root.sh enter "$work/build" "$@"; }
inside() { sh tests/root.sh enter "$work/root" "$@"; }
apt() { inside env DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends "$@" </dev/null; }
# The package with another version and maybe another pools.yaml, as a later release would be.
later() { # version, line to add to pools.yaml
    rm -rf "$work/later"
    dpkg-deb -R "$work/$suite.deb" "$work/later"
    sed -i "s/^Version: .*/Version: $1/" "$work/later/DEBIAN/control"
    [ -z "${2:-}" ] || echo "$2" >>"$work/later/$conf"
    dpkg-deb --root-owner-group -Zxz --build "$work/later" "$work/root/tmp/later.deb" >/dev/null
}
left_over() { # what a purge must not leave
    (cd "$work/root" && find etc usr var/log/router lib/systemd \( -name "*$name*" -o -name 'router*' -o -name 'pools.yaml*' \) 2>/dev/null) | grep -v '^var/log/apt'
}

one=$(free_port) two=$(free_port)
for b in "$one gpu1" "$two gpu2"; do
    /usr/bin/python3 examples/backend --port "${b% *}" --name "${b#* }" --delay 0.02 2>>"$work/backends" &
    pids="$pids $!"
done

for suite in "$@"; do
    rm -rf "$work/build" "$work/root"
    # Built as a newcomer would build it.
    sh tests/root.sh unpack "$suite" "$work/build" || { failed=$((failed + 1)); continue; }
    mkdir "$work/build/src"
    git ls-files -co --exclude-standard | while read -r f; do [ ! -e "$f" ] || echo "$f"; done | tar -c -T - | tar -x -C "$work/build/src"
    build sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends make lintian' >"$work/apt.log" 2>&1 || tail -n 5 "$work/apt.log"
    deb="build/${name}_$(sed -n 's/^#define ROUTER_VERSION "\(.*\)"/\1/p' include/version.h)_$(dpkg --print-architecture).deb"
    check "make deb" build make -C /src --no-print-directory deb
    cp "$work/build/src/$deb" "$work/$suite.deb" || continue # told by the line above
    check "the same tree gives the same package" sh -c "sh tests/root.sh enter $work/build sh /src/packaging/deb.sh && cmp $work/build/src/$deb $work/$suite.deb"
    check "lintian finds no error and no warning" build lintian --fail-on error,warning "/src/$deb"
    sh tests/root.sh enter "$work/build" lintian "/src/$deb" 2>/dev/null | sed 's/^/        /'
    rm -rf "$work/build"
    echo "        $(dpkg-deb -f "$work/$suite.deb" Depends), $(stat -c %s "$work/$suite.deb") bytes"

    # Installed.
    sh tests/root.sh unpack "$suite" "$work/root" || { failed=$((failed + 1)); continue; }
    cp "$work/$suite.deb" "$work/root/tmp/router.deb"
    inside apt-get update -qq >/dev/null
    check "apt installs it" apt install /tmp/router.deb
    check "router -version" inside router -version
    check "the shipped pools.yaml is sound" is "$(inside router -t -config /$conf)" "/$conf: ok"
    check "it opens nothing to the network" grep -qx 'listen: 127.0.0.1:9090' "$work/root/$conf"
    check "the user is there, without a shell" inside sh -c 'getent passwd _router | grep -q nologin'
    check "pools.yaml is for root and the router only" is "$(inside stat -c '%U:%G %a' /$conf)" "root:_router 640"
    check "dpkg knows the configuration files" is "$(inside dpkg-query -W -f '${Conffiles}' $name | grep -c '^ /etc/')" 3
    check "the service is enabled" inside test -L /etc/systemd/system/multi-user.target.wants/router.service
    check "the socket is not" inside test ! -e /etc/systemd/system/sockets.target.wants/router.socket
    check "manual pages, changelog and copyright are there" inside ls /usr/share/doc/$name/copyright /usr/share/doc/$name/changelog.gz

    # A chat, from a router that runs as its user.
    cat >"$work/root/$conf" <<EOT
# edited by the administrator
pools:
  - {name: chat, models: [llama3-8b-instruct], endpoints: ["http://127.0.0.1:$one", "http://127.0.0.1:$two"]}
EOT
    port=$(free_port)
    sh tests/root.sh enter "$work/root" setpriv --reuid=_router --regid=_router --clear-groups router -config /$conf \
        -listen "127.0.0.1:$port" >"$work/out" 2>"$work/err" &
    router=$!
    check "it starts as _router" until_true 20 curl -fs "http://127.0.0.1:$port/health"
    chat() {
        curl -sS -N --max-time 60 "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
            -d '{"model":"llama3-8b-instruct","user":"alice","stream":true,"messages":[{"role":"user","content":"Who are you?"}]}' | grep -qx 'data: \[DONE\]'
    }
    check "a chat is streamed to its end" chat
    kill "$(pgrep -P "$router")" # the one process in the namespace that $router waits for
    ended() { wait "$router"; }
    check "SIGTERM: exit status 0" ended

    # Upgraded: an edited file stays, whether the shipped one has changed or not.
    cp "$work/root/$conf" "$work/edited"
    inside chmod 0600 /$conf
    later 99.0
    check "an upgrade" apt install /tmp/later.deb
    check "keeps the edited file" cmp "$work/root/$conf" "$work/edited"
    later 99.1 "# a new default"
    check "an upgrade that brings another pools.yaml" apt -o Dpkg::Options::=--force-confold install /tmp/later.deb
    check "keeps the edited file, too" cmp "$work/root/$conf" "$work/edited"
    check "puts the new one beside it" grep -q '# a new default' "$work/root/$conf.dpkg-dist"
    check "keeps the administrator's modes" is "$(inside stat -c '%U:%G %a' /$conf)" "root:_router 600"
    inside systemctl disable -q router.service
    later 99.2
    check "an upgrade leaves a disabled service disabled" sh -c "sh tests/root.sh enter $work/root env DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /tmp/later.deb && ! [ -L $work/root/etc/systemd/system/multi-user.target.wants/router.service ]"

    # Gone.
    check "it can be removed" apt remove $name
    check "the configuration stays" cmp "$work/root/$conf" "$work/edited"
    check "the program does not" inside test ! -e /usr/bin/router
    check "it can be installed again" apt install /tmp/router.deb -o Dpkg::Options::=--force-confold --allow-downgrades
    check "it can be purged" apt purge $name
    check "a purge leaves nothing" is "$(left_over)" ""
    rm -rf "$work/root"

    # As a service.
    sh tests/root.sh unpack "$suite" "$work/root"
    cp "$work/$suite.deb" "$work/root/root/router.deb"
    cp tests/deb/service.sh "$work/root/root/service.sh"
    inside apt-get update -qq >/dev/null
    apt install systemd systemd-sysv dbus logrotate curl procps >"$work/apt.log" 2>&1 || tail -n 5 "$work/apt.log"
    sh tests/root.sh boot "$work/root" /bin/sh /root/service.sh "$one" "$two" "$(free_port)" >"$work/boot" 2>&1
    if [ -s "$work/root/root/result" ]; then
        sed -e /^end$/d -e "s/^\(ok  \|FAILED\)  */&$suite, systemd: /" "$work/root/root/result"
        passed=$((passed + $(grep -c '^ok' "$work/root/root/result")))
        failed=$((failed + $(grep -c '^FAILED' "$work/root/root/result")))
        check "systemd: the test came to its end" grep -q '^end$' "$work/root/root/result"
    else
        failed=$((failed + 1))
        echo "FAILED  $suite: this machine does not boot a root by systemd-nspawn, so the service was not tried:"
        tail -n 5 "$work/boot" | sed 's/^/        /'
    fi
    rm -rf "$work/root"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
