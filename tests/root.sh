#!/bin/sh
# A fresh Debian root, made once by debootstrap and kept as a tarball under build/roots.
#   tests/root.sh SUITE        makes it if it is not there and prints the tarball's path
#   tests/root.sh SUITE DIR    unpacks it into DIR as well, with the resolver of this machine
# Needs root (debootstrap and chroot do). The mirror is this machine's own, from /etc/apt/sources.list*.
set -eu
cd "$(dirname "$0")/.."
suite=${1:?which suite: bookworm or trixie}
dir=${2:-}
[ "$(id -u)" = 0 ] || { echo "root.sh: become root: debootstrap and chroot need it" >&2; exit 1; }
tarball=$PWD/build/roots/$suite.tar
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    sed -n 's/^\(URIs:\|deb\) .*\(https\{0,1\}:\/\/[^ ]*\/debian\)\/\{0,1\}\( .*\)\{0,1\}$/\2/p' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

if [ ! -f "$tarball" ]; then
    if ! command -v debootstrap >/dev/null 2>&1; then
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    fi
    mkdir -p build/roots
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$tarball.new"' EXIT
    if ! debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        echo "root.sh: debootstrap $suite from $mirror failed" >&2
        exit 1
    fi
    root=$work/root
    for s in "$suite" "$suite-updates"; do echo "deb $mirror $s main"; done >"$root/etc/apt/sources.list"
    echo "deb ${mirror}-security $suite-security main" >>"$root/etc/apt/sources.list"
    # Packages in a chroot start no services, as in an image.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/dev/*
    tar -C "$root" --numeric-owner -cf "$tarball.new" .
    mv "$tarball.new" "$tarball"
fi
if [ -n "$dir" ]; then
    mkdir -p "$dir"
    tar -C "$dir" --numeric-owner -xf "$tarball"
    cp -L /etc/resolv.conf "$dir/etc/resolv.conf"
fi
echo "$tarball"
