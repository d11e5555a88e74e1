#!/bin/sh
# `make install` and `make uninstall`: the program, its manual, a pools.yaml; with UNITS=1 the systemd units, too.
#   install.sh install BINARY | uninstall     DESTDIR, PREFIX (default /usr/local), UNITS from the environment
# A pools.yaml that somebody edited is neither overwritten nor removed: a new one is put beside it as pools.yaml.new.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local} to=${DESTDIR:-}
case $prefix in /usr) etc=/etc/router ;; *) etc=$prefix/etc/router ;; esac
bin=$to$prefix/bin/router conf=$to$etc/pools.yaml units=$to$prefix/lib/systemd/system
man=$to$prefix/share/man
put() {
    install -D -m "$1" "$2" "$3"
    echo "  $3"
}
case ${1:-} in
install)
    put 0755 "${2:?which binary}" "$bin"
    put 0644 examples/man/router.8 "$man/man8/router.8"
    put 0644 examples/man/pools.yaml.5 "$man/man5/pools.yaml.5"
    if [ ! -e "$conf" ]; then
        put 0644 pools.yaml "$conf"
    elif ! cmp -s pools.yaml "$conf"; then
        echo "  $conf is yours and stays"
        put 0644 pools.yaml "$conf.new"
    fi
    [ -n "${UNITS:-}" ] || exit 0
    for unit in router.service router.socket; do
        sed -e "s|/usr/local/etc/router|$etc|g" -e "s|/usr/local|$prefix|g" examples/systemd/$unit |
            install -D -m 0644 /dev/stdin "$units/$unit"
        echo "  $units/$unit"
    done
    ;;
uninstall)
    rm -f "$bin" "$man/man8/router.8" "$man/man5/pools.yaml.5" "$units/router.service" "$units/router.socket" "$conf.new"
    if cmp -s pools.yaml "$conf"; then rm "$conf"; fi
    if [ -e "$conf" ]; then echo "  $conf is yours and stays"; else rmdir "$to$etc" 2>/dev/null || true; fi
    ;;
*)
    echo "install.sh: install BINARY, or uninstall" >&2
    exit 2
    ;;
esac
