#!/bin/sh
# What the README promises a newcomer, on fresh Debian roots: a clone of HEAD, `make run` once, `make test`; with gcc, then with clang.
#   tests/debians.sh [SUITE...]     default: bookworm trixie. COMPILERS="gcc clang". Needs root; a run takes about ten minutes.
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

for suite in "$@"; do
    for cc in ${COMPILERS:-gcc clang}; do
        what="$suite, $cc"
        log=build/debians/$suite-$cc
        root=$work/$suite-$cc
        if ! sh tests/root.sh unpack "$suite" "$root" || ! git clone -q --depth 1 "file://$PWD" "$root/router"; then
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
        rm -rf "$root"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
