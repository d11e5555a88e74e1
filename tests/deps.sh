#!/bin/sh
# Installs the Debian packages that are missing, and only those. LINT=1 adds what `make lint` and `make fuzz` need, BENCH=1 the peers of `make bench`,
# VALGRIND=1 and SLOW=1 what their tests are named after.
set -eu
command -v dpkg-query >/dev/null 2>&1 || { echo "deps: this is no Debian: see README.md for the list of libraries"; exit 0; }
have() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }
want="gcc libc6-dev make pkg-config libyaml-dev libcjson-dev libxxhash-dev libc-ares-dev libcmocka-dev python3 python3-pytest python3-pytest-xdist python3-yaml curl iproute2 strace mandoc"
[ -n "${LINT:-}" ] && want="$want clang libclang-rt-dev clang-format clang-tidy cppcheck shellcheck"
[ -n "${VALGRIND:-}" ] && want="$want valgrind"
[ -n "${SLOW:-}" ] && want="$want slowhttptest"
[ -n "${BENCH:-}" ] && want="$want nginx-light haproxy"
missing=""
for p in $want; do have "$p" || missing="$missing $p"; done
have libllhttp-dev || have node-llhttp || missing="$missing llhttp"
[ -n "$missing" ] || { echo "deps: all packages are there"; exit 0; }
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "deps: missing:$missing: become root, or install sudo"; exit 1; }
    sudo=sudo
fi
echo "deps: installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
case "$missing" in
*" llhttp"*)
    missing=$(echo "$missing" | sed 's/ llhttp//')
    if apt-cache show libllhttp-dev >/dev/null 2>&1; then missing="$missing libllhttp-dev"; else missing="$missing node-llhttp"; fi
    ;;
esac
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
echo "deps: done"
