#!/bin/sh
# The page /ui in a real browser. Installs what is missing: nodejs, npm and chromium by apt, playwright-core (it brings no browser of its
# own) as package-lock.json says. ROUTER_BIN names another router than ./router. Screenshots: build/ui-{light,dark,narrow}.png. The last
# line is the count. An argument runs only the tests whose names have it.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=tests/browser
give_up() {
    echo "$*"
    echo "0 passed, 1 failed"
    exit 1
}

missing=""
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
[ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || missing="$missing chromium"
if [ -n "$missing" ]; then
    echo "== browser: installing:$missing"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # shellcheck disable=SC2086 # a list of words
    { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; } ||
        give_up "the packages cannot be installed"
fi
mark=$here/node_modules/.installed # says which lock file it was made from
if ! cmp -s "$here/package-lock.json" "$mark"; then
    (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) || give_up "npm ci fails"
    cp "$here/package-lock.json" "$mark"
fi
if [ -n "${ROUTER_BIN:-}" ]; then
    ROUTER_BIN=$(realpath "$ROUTER_BIN")
    export ROUTER_BIN
elif [ ! -x ./router ]; then
    make --no-print-directory router || give_up "the router does not build"
fi
mkdir -p build
SHOTS="$PWD/build" exec node "$here/ui.test.mjs" "$@"
