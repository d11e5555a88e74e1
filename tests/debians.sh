#!/bin/sh
# What the README promises a newcomer, on fresh Debian roots: a clone of HEAD, `make run` once, `make test`; with gcc, then with clang.
# Then, with the first compiler, the same root is booted: the README's systemd section, and the package of `make deb` (deb/clone.sh).
#   tests/debians.sh [SUITE...]     default: bookworm trixie. COMPILERS="gcc clang". Needs root; the four runs take about twenty minutes.
# The last line adds up what the runs counted; the whole output of each is under build/debians/.
set -u
cd "$(dirname "$0")/.." || exit 1
[ $# -gt 0 ] || set -- bookworm trixie
passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/debians.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir -p build/debians
step() { # name, file of its output, command: counted by its exit status
    name=$1 out=$2
    shift 2
    if "$@" >"$out" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name: see $out"
        tail -n 15 "$out" | sed 's/^/        /'
    fi
}
warnings() { ! grep -n 'warning:' "$1"; }
booted() { # root, its name, its log
    # What every Debian machine has beside what is installed by now.
    sh tests/root.sh enter "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus procps >"$3-boot.log" 2>&1
    cp tests/deb/clone.sh "$1/root/clone.sh"
    NETWORK=none sh tests/root.sh boot "$1" /bin/sh /root/clone.sh >>"$3-boot.log" 2>&1
    if ! [ -s "$1/root/result" ]; then
        failed=$((failed + 1))
        echo "FAILED  $2: this machine does not boot a root by systemd-nspawn: see $3-boot.log"
        tail -n 5 "$3-boot.log" | sed 's/^/        /'
        return
    fi
    sed -e '/^end$/d' -e "s/^\(ok  \|FAILED\)  */&$2, booted: /" "$1/root/result"
    passed=$((passed + $(grep -c '^ok' "$1/root/result")))
    failed=$((failed + $(grep -c '^FAILED' "$1/root/result")))
    step "$2, booted: it came to its end" "$3-end.log" grep '^end$' "$1/root/result"
}

for suite in "$@"; do
    for cc in ${COMPILERS:-gcc clang}; do
        what="$suite, $cc"
        log=build/debians/$suite-$cc
        root=$work/$suite-$cc
        if ! sh tests/root.sh unpack "$suite" "$root" || ! git clone -q --bare "file://$PWD" "$root/srv/router.git"; then
            failed=$((failed + 1))
            echo "FAILED  $what: no root"
            continue
        fi
        enter() { sh tests/root.sh enter "$root" "$@"; }
        packages="make"
        [ "$cc" = gcc ] || packages="make clang libclang-rt-dev"
        # git and make are what a newcomer must bring.
        enter sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git $packages" >"$log-apt.log" 2>&1
        echo "== $what: $(git rev-parse --short HEAD)"
        step "$what: git clone" "$log-clone.log" enter git clone -q file:///srv/router.git /router
        step "$what: ROUTER_ONCE=1 make run" "$log-run.log" enter env ROUTER_ONCE=1 CC="$cc" make -C /router --no-print-directory run
        step "$what: the chat was streamed to its end" "$log-chat.log" grep 'Ask again as the same user' "$log-run.log"
        step "$what: no warning in the release build" "$log-warn.log" warnings "$log-run.log"
        # shellcheck disable=SC2016 # expanded by dpkg-query
        enter sh -c 'cd /router && ./router -version; dpkg-query -W -f="\${Package} \${Version}\n" gcc clang libllhttp-dev node-llhttp libc-ares-dev 2>/dev/null'
        enter env CC="$cc" make -C /router --no-print-directory test >"$log-test.log" 2>&1
        line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log-test.log" | tail -n 1) # make may say its own word after it
        echo "$what: make test: $line"
        ok=$(printf '%s\n' "$line" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1/p')
        bad=$(printf '%s\n' "$line" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\2/p')
        [ -n "$ok" ] || ok=0 bad=1
        [ "$bad" = 0 ] || grep -E '^(FAILED|ERROR|not ok|== .*[1-9][0-9]* failed$)' "$log-test.log" | head -n 60
        passed=$((passed + ok)) failed=$((failed + bad))
        cp "$root/router/build/asan/build.log" "$log-build.log" 2>/dev/null
        step "$what: no warning in the build of the tests" "$log-warn.log" warnings "$log-build.log"
        if [ "$cc" = "${first:=$cc}" ]; then
            step "$what: make deb" "$log-deb.log" enter env CC="$cc" make -C /router --no-print-directory deb
            booted "$root" "$what" "$log"
        fi
        rm -rf "$root"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
