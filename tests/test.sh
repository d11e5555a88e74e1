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

# VALGRIND=1: everything runs under memcheck, the routers of the integration tests by a script in the place of the program. An error or
# a lost byte ends it with 99. Without gdb's pipes and with a lock that is no pipe, /proc/PID/fd shows nothing of valgrind's that would count.
check='' router=$PWD/build/$mode/router
if [ -n "${VALGRIND:-}" ]; then
    check="valgrind --quiet --vgdb=no --fair-sched=yes --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,indirect --show-leak-kinds=definite,indirect"
    printf '#!/bin/sh\nexec %s "%s" "$@"\n' "$check" "$router" >"$router-memcheck"
    chmod +x "$router-memcheck"
    router=$router-memcheck
fi

for t in build/"$mode"/unit/test_*; do
    case $t in *.d) continue ;; esac
    # shellcheck disable=SC2086 # a command's words, or none
    out=$(CMOCKA_MESSAGE_OUTPUT=tap $check "$t" 2>&1)
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
# shellcheck disable=SC2086 # a command's words, or none
runner golden $check "build/$mode/golden" tests/golden
for t in build/"$mode"/replay/*; do
    case $t in *.d) continue ;; esac
    # shellcheck disable=SC2086 # a command's words, or none
    runner "fuzz corpus ${t##*/}" $check "$t" "tests/fuzz/corpus/${t##*/}"
done
# Under valgrind a program takes some twenty times as long: more patience, and not those whose subject that changes. The first two files
# start no router, or `make install`'s; the others ask for
# - so many open files (valgrind takes twelve of them): test_metrics the_process, three of test_shortage;
# - so much memory: test_splice slow_client;
# - system calls counted by strace, of which valgrind makes its own: test_see lines_are_written;
# - allocations that are refused by their number, the first of which are valgrind's launcher's there: two of test_memory;
# - an answer, a probe or a wait within some tenths of a second: the rest.
some() { # a file, the tests of it that are left out
    file=$1
    shift
    for test in "$@"; do printf -- '--deselect=tests/integration/test_%s.py::test_%s ' "$file" "$test"; done
}
which='tests/integration' workers=4
if [ -n "${VALGRIND:-}" ]; then
    which="$which --ignore=tests/integration/test_harness.py --ignore=tests/integration/test_install.py $(
        some metrics the_process
        some shortage the_soft_limit_is_raised_to_the_hard_one max_connections_is_lowered_where_files_are_few \
            an_endpoint_is_not_called_down_for_want_of_descriptors
        some splice slow_client
        some health a_busy_endpoint_that_answers_no_probe_is_not_dead
        some limits body_timeout_is_between_two_reads
        some names it_comes_up_when_the_name_appears a_dead_dns_server_delays_nobody_who_needs_no_name
        some queue failing_over_to_a_full_endpoint_waits
        some reload_waiting a_request_that_has_to_wait_only_after_the_reload
        some idle without_probes_it_sleeps it_wakes_for_its_probes_alone
        some memory each_allocation several_allocations
        some see lines_are_written_once_a_turn
        some timeouts connect_timeout_of_a_unix_socket_with_a_full_backlog
    )"
    export HARNESS_DEADLINE=60
    workers=$jobs
fi
say "integration (some minutes)"
# shellcheck disable=SC2086 # a list of words
ROUTER_BIN=$router runner integration /usr/bin/python3 -m pytest -q -p no:cacheprovider -n "$workers" --dist loadfile $which
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
