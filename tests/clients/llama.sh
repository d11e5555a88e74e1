#!/bin/sh
# The router before real llama-servers. Debian's llama.cpp-tools, where it is installed, or else from a debootstrap root of forky under
# build/llama-root (LLAMA_ROOT names another one), which is made when it is missing: as root, some minutes and 400 MB.
# `llama.sh ready` says by its exit status whether a run would need to make one.
set -eu
cd "$(dirname "$0")/../.."
root=${LLAMA_ROOT:-build/llama-root}
suite=${LLAMA_SUITE:-forky}
there() { command -v llama-server >/dev/null 2>&1 || [ -x "$root/usr/bin/llama-server" ]; }
if [ "${1:-}" = ready ]; then
    there
    exit
fi

# The mirror that this machine's apt uses.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's,^[^#]*\(https*://[^ ]*/debian\)/*\( .*\)*$,\1,p' | head -n 1
}

prepare() {
    [ "$(id -u)" = 0 ] || { echo "llama.sh: making a debootstrap root needs root's rights" >&2; exit 1; }
    if ! command -v debootstrap >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    fi
    from=$(mirror)
    echo "llama.sh: making $root: Debian $suite from ${from:-http://deb.debian.org/debian}"
    if mountpoint -q "$root.part/proc"; then umount "$root.part/proc"; fi # of one that was interrupted
    rm -rf --one-file-system "$root.part"
    mkdir -p "$root.part"
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid # an older debootstrap does not know it by name
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root.part" "${from:-http://deb.debian.org/debian}" "$script" >"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
    DEBIAN_FRONTEND=noninteractive chroot "$root.part" sh -ec '
        apt-get -o Acquire::Check-Valid-Until=false update -qq
        apt-get install -y -qq --no-install-recommends llama.cpp-tools
        apt-get clean' >>"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
    mv "$root.part" "$root"
}

there || prepare
if command -v llama-server >/dev/null 2>&1; then root=/; fi
LLAMA_ROOT=$root exec build/clients/venv/bin/python -B tests/clients/test_llama.py
