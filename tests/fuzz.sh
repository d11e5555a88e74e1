#!/bin/sh
# Runs the fuzz targets named (make fuzz builds them and names them all): each for FUZZ_SECONDS, FUZZ_JOBS at a time. The corpus of
# a target is copied to a folder that goes away; what a run finds stays in build/fuzz. Says what each did; exit 1 if one found anything.
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=${FUZZ_SECONDS:-60}
jobs=${FUZZ_JOBS:-1}
out=build/fuzz
[ $# -gt 0 ] || { echo "usage: $0 TARGET..."; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# One target: its last state is a line in $work/NAME.line, a finding leaves $work/NAME.bad.
one() {
    name=$1 log=$out/$1.log seeds=$work/$1
    mkdir -p "$seeds"
    # A plain copy: libFuzzer adds to the folder it is given first.
    [ -d "tests/fuzz/corpus/$name" ] && cp -r "tests/fuzz/corpus/$name/." "$seeds/"
    dict=
    [ -f "tests/fuzz/$name.dict" ] && dict=-dict=tests/fuzz/$name.dict
    begin=$(date +%s)
    # shellcheck disable=SC2086 # dict is one word or none
    nice -n 10 "$out/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$out/$name-" $dict "$seeds" >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    cover=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\).*/\1 edges, \2 features/p' "$log" | tail -n 1)
    verdict=ok
    [ $status = 0 ] && [ "${runs:-0}" -gt 0 ] || verdict="FOUND SOMETHING (exit $status)"
    echo "fuzz $name: ${runs:-0} runs in $(($(date +%s) - begin)) s, ${cover:-no coverage}: $verdict" >"$work/$name.line"
    [ "$verdict" = ok ] || echo "$log" >"$work/$name.bad"
}

running=0
for name in "$@"; do
    if [ "$running" -ge "$jobs" ]; then
        wait
        running=0
    fi
    one "$name" &
    running=$((running + 1))
done
wait
for name in "$@"; do
    cat "$work/$name.line"
    [ -f "$work/$name.bad" ] || continue
    tail -n 40 "$(cat "$work/$name.bad")"
    grep -h 'Test unit written to' "$(cat "$work/$name.bad")"
done
for name in "$@"; do
    [ ! -f "$work/$name.bad" ] || exit 1
done
