#!/bin/sh
# Fresh Debian roots for tests, made once by debootstrap and kept as tarballs under build/roots. Needs root.
#   tests/root.sh make SUITE              makes it if it is not there and prints the tarball's path
#   tests/root.sh unpack SUITE DIR        into DIR, with this machine's resolver
#   tests/root.sh enter DIR COMMAND...    by chroot, in namespaces of its own for mounts and processes: nothing outlives the command
#   tests/root.sh boot DIR COMMAND...     with its own systemd, by systemd-nspawn: the command is a unit, and when it ends the machine stops.
#                                         NETWORK=none leaves it nothing but a loopback of its own
# The mirror is this machine's own, from /etc/apt/sources.list*; the network inside is this machine's, too.
set -eu
cd "$(dirname "$0")/.."
verb=${1:?make, unpack, enter or boot}
[ "$(id -u)" = 0 ] || { echo "root.sh: become root: debootstrap and chroot need it" >&2; exit 1; }

need() { # program, the package it is in
    if command -v "$1" >/dev/null 2>&1; then return; fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

# A package in a chroot starts no service, as in an image: policy-rc.d.
make_root() {
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's/^\(URIs:\|deb\) .*\(https\{0,1\}:\/\/[^ ]*\/debian\)\/\{0,1\}\( .*\)\{0,1\}$/\2/p' | head -n 1)
    mirror=${mirror:-http://deb.debian.org/debian}
    need debootstrap debootstrap
    mkdir -p build/roots
    work=$(mktemp -d)
    root=$work/root
    trap 'rm -rf "$work" "$tarball.new"' EXIT
    if ! debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        echo "root.sh: debootstrap $suite from $mirror failed" >&2
        exit 1
    fi
    {
        for s in "$suite" "$suite-updates"; do echo "deb $mirror $s main"; done
        echo "deb ${mirror}-security $suite-security main"
    } >"$root/etc/apt/sources.list"
    # The installer and every container engine write it; debootstrap does not.
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 0755 "$root/usr/sbin/policy-rc.d"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" --numeric-owner --exclude='./dev/*' -cf "$tarball.new" .
    mv "$tarball.new" "$tarball"
}

case $verb in
make | unpack)
    suite=${2:?which suite: bookworm or trixie}
    tarball=$PWD/build/roots/$suite.tar
    [ -f "$tarball" ] || make_root
    if [ "$verb" = make ]; then
        echo "$tarball"
    else
        dir=${3:?into which directory}
        mkdir -p "$dir"
        tar -C "$dir" --numeric-owner -xf "$tarball"
        cp -L /etc/resolv.conf "$dir/etc/resolv.conf"
    fi
    ;;
enter)
    dir=${2:?which directory}
    shift 2
    # shellcheck disable=SC2016 # expanded by the shell in the namespaces
    exec unshare --mount --pid --fork --kill-child --propagation private sh -c '
        dir=$1
        shift
        mount -t proc proc "$dir/proc" && mount -t sysfs -o ro sysfs "$dir/sys" && mount --rbind /dev "$dir/dev" || exit 1
        exec chroot "$dir" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} "$@"' sh "$dir" "$@"
    ;;
boot)
    dir=${2:?which directory}
    shift 2
    need systemd-nspawn systemd-container
    rm -f "$dir/usr/sbin/policy-rc.d" # services shall start
    units=$dir/etc/systemd/system
    mkdir -p "$units/graphical.target.wants"
    cat >"$units/root-test.service" <<EOT
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=$*
ExecStopPost=/bin/systemctl --no-block poweroff
EOT
    ln -sf ../root-test.service "$units/graphical.target.wants/"
    ln -sf /lib/systemd/system/graphical.target "$units/default.target"
    set --
    [ "${NETWORK:-}" != none ] || set -- --private-network
    exec timeout 300 systemd-nspawn -q -D "$dir" --boot --register=no --keep-unit "$@" </dev/null
    ;;
*)
    echo "root.sh: make, unpack, enter or boot" >&2
    exit 2
    ;;
esac
