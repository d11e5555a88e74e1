#!/bin/sh
# Builds the Dockerfile as the image `router` with docker, podman or buildah, whichever works here, and prints its name on stdout.
# Where none does, buildah, podman and runc are installed. Where the registry cannot be reached, the base is made by debootstrap.
set -eu
cd "$(dirname "$0")/.."
base=docker.io/library/debian:trixie-slim
say() { echo "image: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

engine=""
if have docker && docker info >/dev/null 2>&1; then
    engine=docker
elif have podman; then
    engine=podman
elif have buildah; then
    engine=buildah
else
    say "no builder here: installing buildah, podman and runc"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah podman runc >/dev/null
    engine=podman
fi
case $engine in docker) base=debian:trixie-slim ;; esac
inspect() { case $engine in buildah) buildah inspect --type image "$1" ;; *) "$engine" image inspect "$1" ;; esac >/dev/null 2>&1; }

# What Debian's image has in place of a plain root: no documentation, nothing kept by apt.
slim_base() {
    tarball=$(sh tests/root.sh make trixie)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    tar -C "$work" --numeric-owner -xf "$tarball"
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale groff lintian linda >"$work/etc/dpkg/dpkg.cfg.d/docker"
    printf 'path-include /usr/share/doc/*/copyright\n' >>"$work/etc/dpkg/dpkg.cfg.d/docker"
    {
        echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };'
        echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";'
    } >"$work/etc/apt/apt.conf.d/docker-clean"
    find "$work/usr/share/doc" -depth ! -name copyright ! -type d -delete
    rm -rf "$work"/usr/share/man/* "$work"/usr/share/info/* "$work"/usr/share/locale/* "$work"/var/cache/debconf/*-old
    case $engine in
    buildah)
        c=$(buildah from scratch)
        buildah add -q "$c" "$work" / >/dev/null
        buildah config --cmd bash "$c"
        buildah commit -q --rm "$c" "$base" >/dev/null
        ;;
    *) tar -C "$work" --numeric-owner -c . | "$engine" import -c 'CMD ["bash"]' - "$base" >/dev/null ;;
    esac
    rm -rf "$work"
}

if ! inspect "$base"; then
    if timeout 120 "$engine" pull -q "$base" >/dev/null 2>&1; then
        say "pulled $base"
    else
        say "the registry cannot be reached: $base is made by debootstrap"
        slim_base
    fi
fi

case $engine in
docker) docker build -t router . >&2 ;;
*)
    # The docker format keeps HEALTHCHECK. A machine that allows no nested containers builds in a chroot, on its own network.
    case $engine in buildah) build="buildah build" ;; *) build="podman build" ;; esac
    flags="--format docker --pull=never -t router"
    # shellcheck disable=SC2086 # lists of words
    $build $flags . >&2 || {
        say "again, in a chroot"
        $build $flags --isolation chroot --network host . >&2
    }
    ;;
esac
echo "$engine"
