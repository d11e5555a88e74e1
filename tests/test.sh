#!/bin/sh
# Builds with MODE's sanitizers and runs everything that needs Debian packages only. The last line is the count.
set -u
cd "$(dirname "$0")/.." || exit 1
mode=${MODE:-asan}
make="make --no-print-directory MODE=$mode"
passed=0 failed=0
say() { echo "== $*"; }
count() { passed=$((passed + $1)); failed=$((failed + $2)); }
jobs=$(nproc 2>/dev/null || echo 2)

say "building ($mode)"
$make -j"$jobs" "build/$mode/router" unit golden replay >"build-$mode.log" 2>&1 || { mkdir -p build; cat "build-$mode.log"; echo "the build failed"; echo "0 passed, 1 failed"; exit 1; }
mv "build-$mode.log" "build/$mode/build.log"

for t in build/"$mode"/unit/test_*; do
    case $t in *.d) continue ;; esac
    out=$(CMOCKA_MESSAGE_OUTPUT=tap "$t" 2>&1)
    status=$?
    ok=$(printf '%s\n' "$out" | grep -c '^ok ')
    bad=$(printf '%s\n' "$out" | grep -c '^not ok ')
    [ $status = 0 ] || [ "$bad" -gt 0 ] || bad=1
    say "unit ${t##*/}: $ok passed, $bad failed"
    [ "$bad" = 0 ] || printf '%s\n' "$out"
    count "$ok" "$bad"
done

# The other runners print "N passed, M failed" as their last line themselves.
runner() {
    name=$1
    shift
    out=$("$@" 2>&1)
    status=$?
    line=$(printf '%s\n' "$out" | tail -n 1)
    ok=$(printf '%s\n' "$line" | sed -n 's/.*\b\([0-9][0-9]*\) passed.*/\1/p')
    bad=$(printf '%s\n' "$line" | sed -n 's/.*\b\([0-9][0-9]*\) failed.*/\1/p')
    ok=${ok:-0} bad=${bad:-0}
    [ $status = 0 ] || [ "$bad" -gt 0 ] || bad=1
    say "$name: $ok passed, $bad failed"
    [ "$bad" = 0 ] || printf '%s\n' "$out"
    count "$ok" "$bad"
}
runner golden "build/$mode/golden" tests/golden
for t in build/"$mode"/replay/*; do
    case $t in *.d) continue ;; esac
    runner "fuzz corpus ${t##*/}" "$t" "tests/fuzz/corpus/${t##*/}"
done
# Under valgrind everything takes many times as long: those files that say most about memory, with more patience.
files=tests/integration
if [ -n "${VALGRIND:-}" ]; then
    files=$(printf 'tests/integration/test_%s.py ' body routing relay keepalive client_gone strict headers keys failover)
    export HARNESS_DEADLINE=60
fi
say "integration (some minutes)"
# shellcheck disable=SC2086 # a list of files
ROUTER_BIN="$PWD/build/$mode/router" runner integration /usr/bin/python3 -m pytest -q -p no:cacheprovider -n 4 --dist loadfile $files
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
