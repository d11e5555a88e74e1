#!/bin/sh
# `make slow`: slowhttptest's slow headers, slow bodies and slow reads against the router, while a good client goes on (two minutes).
# Installs slowhttptest by apt where it is missing. ROUTER_BIN names another router than ./router (a release build: its memory is
# measured). An argument runs only the attacks whose names have it. The last line is the count.
set -u
cd "$(dirname "$0")/../.." || exit 1
give_up() {
    echo "$*"
    echo "0 passed, 1 failed"
    exit 1
}
command -v slowhttptest >/dev/null 2>&1 || SLOW=1 sh tests/deps.sh || give_up "slowhttptest cannot be installed"
if [ -z "${ROUTER_BIN:-}" ]; then
    [ -x ./router ] || make --no-print-directory router || give_up "the router does not build"
    ROUTER_BIN=./router
fi
ROUTER_BIN=$(realpath "$ROUTER_BIN")
export ROUTER_BIN
exec /usr/bin/python3 -B tests/slow/slow.py "$@"
