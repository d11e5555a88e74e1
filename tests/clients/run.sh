#!/bin/sh
# `make clients`: the clients that people use, against the router and scripted upstreams; real llama-servers too, where they can be had.
# Installs what is missing: nodejs, npm, python3-venv and curl by apt; the npm packages of package-lock.json into node_modules here; the
# PyPI packages of requirements.txt into build/clients/venv. ROUTER_BIN names another router; LLAMA=1 makes a root for llama-server (see
# llama.sh), which is used whenever it is there. Suites named as arguments run alone. The last line is the count.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=tests/clients out=build/clients
passed=0 failed=0
only=" $* "
export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
say() { echo "== clients $*"; }
finish() { # with a reason, where it could not even begin
    if [ $# -gt 0 ]; then
        say "$*"
        failed=$((failed + 1))
    fi
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
    exit
}

# ---- what is needed ----

packages() {
    missing=""
    command -v node >/dev/null 2>&1 || missing="$missing nodejs"
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
    command -v curl >/dev/null 2>&1 || missing="$missing curl"
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
    [ -n "$missing" ] || return 0
    say "installing:$missing"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # shellcheck disable=SC2086 # a list of words
    $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

npm_packages() {
    mark=$here/node_modules/.installed # says which lock file it was made from
    cmp -s "$here/package-lock.json" "$mark" && return 0
    say "installing the packages of npm"
    (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) && cp "$here/package-lock.json" "$mark"
}

pypi_packages() {
    mark=$out/venv/installed
    cmp -s "$here/requirements.txt" "$mark" && return 0
    say "installing the packages of PyPI"
    rm -rf "$out/venv"
    /usr/bin/python3 -m venv "$out/venv" && "$out/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" &&
        cp "$here/requirements.txt" "$mark"
}

# ---- a suite: name, then a command that says "ok N - …" and "not ok N - …" ----

suite() {
    name=$1
    shift
    case $only in "  " | *" $name "*) ;; *) return 0 ;; esac
    begin=$(date +%s)
    timeout -k 10 "${LIMIT:-120}" "$@" >"$out/$name.log" 2>&1
    status=$?
    ok=$(grep '^ok ' "$out/$name.log" | grep -vc ' # [A-Z]') # one that was skipped has not passed
    bad=$(grep -c '^not ok ' "$out/$name.log")
    # One that fails without a count, or counts nothing, is a failure all the same.
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ "$((ok + bad))" = 0 ]; then bad=1; fi
    say "$name: $ok passed, $bad failed ($(($(date +%s) - begin)) s)"
    if [ "$bad" = 0 ]; then
        sed -n 's/^  \(.*\bof .*\)/   \1/p' "$out/$name.log" # its figures
    else
        cat "$out/$name.log"
        [ "$status" != 124 ] || echo "it did not end within ${LIMIT:-120} s"
    fi
    passed=$((passed + ok)) failed=$((failed + bad))
}

mkdir -p "$out"
[ -x "${ROUTER_BIN:=./router}" ] || finish "$ROUTER_BIN is not there: run make clients"
export ROUTER_BIN
packages || finish "the packages could not be installed:$missing"
node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' || finish "node $(node --version) is too old: 18 or later is needed"
npm_packages || finish "the packages of npm could not be installed"

for name in openai anthropic ai langchain ollama; do
    suite "$name" node --test-reporter=tap "$here/$name.test.mjs"
done
suite curl /usr/bin/python3 -B "$here/test_curl.py"
suite spread /usr/bin/python3 -B "$here/test_spread.py"

if pypi_packages >"$out/pip.log" 2>&1; then
    suite openai-python "$out/venv/bin/python" -B "$here/test_openai.py"
    if [ -n "${LLAMA:-}" ] || sh "$here/llama.sh" ready; then
        LIMIT=900 suite llama-server sh "$here/llama.sh"
    else
        say "llama-server: left out, no llama-server is here (LLAMA=1 makes a root with one: some minutes)"
    fi
elif curl -s -o /dev/null --max-time 10 https://pypi.org/simple/openai/; then
    cat "$out/pip.log"
    finish "the packages of PyPI could not be installed"
else
    say "openai-python, llama-server: left out, PyPI cannot be reached"
fi
finish
