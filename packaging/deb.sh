#!/bin/sh
# `make deb`: build/llama-model-router_VERSION_ARCH.deb from build/release/router, by plain dpkg-deb. The same tree gives the same bytes.
# DEBFULLNAME and DEBEMAIL name whoever builds it, as for every Debian tool.
set -eu
cd "$(dirname "$0")/.."
name=llama-model-router
version=$(sed -n 's/^#define ROUTER_VERSION "\(.*\)"/\1/p' include/version.h)
arch=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-the llama-model-router authors} <${DEBEMAIL:-$name@packages.invalid}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export SOURCE_DATE_EPOCH
umask 022
bin=${ROUTER_BIN:-build/release/router}
[ -x "$bin" ] || { echo "deb: there is no $bin: make router" >&2; exit 1; }
if ! command -v dpkg-shlibdeps >/dev/null 2>&1; then
    echo "deb: installing dpkg-dev"
    apt-get install -y -qq --no-install-recommends dpkg-dev >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name doc=$work/$name/usr/share/doc/$name
put() { # mode, file, place
    install -D -m "$1" "$2" "$root/$3"
}
put 0755 "$bin" usr/bin/router
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/router"

{
    echo "# Listens on this machine only: write 0.0.0.0:9090 here, or an address of yours, when the pools are yours too."
    echo "listen: 127.0.0.1:9090"
    cat pools.yaml
} >"$work/pools.yaml"
put 0644 "$work/pools.yaml" etc/$name/pools.yaml
put 0644 packaging/debian/default etc/default/$name
put 0644 examples/logrotate etc/logrotate.d/$name
sed -i '1d' "$root/etc/logrotate.d/$name"
put 0644 packaging/debian/sysusers.conf usr/lib/sysusers.d/$name.conf

# The unit of examples/, with Debian's paths and a user that is there when nothing runs.
put 0644 examples/systemd/router.socket usr/lib/systemd/system/router.socket
sed -e "s|^ExecStart=.*|ExecStart=/usr/bin/router -config /etc/$name/pools.yaml|" \
    -e "s|^EnvironmentFile=.*|EnvironmentFile=-/etc/default/$name|" \
    -e 's|^DynamicUser=yes|User=_router|' examples/systemd/router.service >"$work/router.service"
for line in "ExecStart=/usr/bin/router" User=_router "EnvironmentFile=-/etc/default/$name"; do
    grep -q "^$line" "$work/router.service" || { echo "deb: examples/systemd/router.service has changed: no $line" >&2; exit 1; }
done
put 0644 "$work/router.service" usr/lib/systemd/system/router.service

for page in router.8 pools.yaml.5; do
    put 0644 examples/man/$page usr/share/man/man${page##*.}/$page
    gzip -9n "$root/usr/share/man/man${page##*.}/$page"
done
put 0644 README.md usr/share/doc/$name/README.md
put 0644 packaging/debian/README.Debian usr/share/doc/$name/README.Debian
for f in examples/*.yaml examples/prometheus/* examples/kubernetes/*; do put 0644 "$f" "usr/share/doc/$name/$f"; done
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: %s\n\n' $name
    printf 'Files: *\nCopyright: %s\nLicense: Expat\n' "$(sed -n 's/^Copyright (c) //p' LICENSE.TXT)"
    sed -n '/^Permission is/,$p' LICENSE.TXT | sed -e 's/^$/./' -e 's/^/ /'
} >"$doc/copyright"
# Debian's changelog, from ours: "## VERSION (DATE)", then points, folded at 80 columns.
awk -v name=$name -v by="$maintainer" '
    function point(    n, words, i, line) {
        n = split(text, words, " ")
        line = "  *"
        for (i = 1; i <= n; i++) {
            if (length(line) + length(words[i]) > 78) { print line; line = "   " }
            line = line " " words[i]
        }
        if (n) print line
        text = ""
    }
    function end() {
        point()
        if (date == "") return
        ("date -R -u -d " date) | getline stamp
        printf "\n -- %s  %s\n\n", by, stamp
    }
    /^## / { end(); date = $3; gsub(/[()]/, "", date); printf "%s (%s) unstable; urgency=medium\n\n", name, $2; next }
    date != "" && /^- / { point(); text = substr($0, 3); next }
    date != "" { text = text (text == "" ? "" : " " $0) }
    END { end() }' CHANGELOG.md >"$doc/changelog"
head -n 1 "$doc/changelog" | grep -q "($version)" || { echo "deb: CHANGELOG.md does not begin with $version" >&2; exit 1; }
gzip -9n "$doc/changelog"

mkdir -p "$root/DEBIAN" "$work/debian"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' $name $name >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O -e"$root/usr/bin/router" 2>"$work/said" | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { cat "$work/said" >&2; exit 1; }
cat >"$root/DEBIAN/control" <<EOT
Package: $name
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --apparent-size "$root" --exclude=DEBIAN | cut -f1)
Depends: $depends, systemd | systemd-standalone-sysusers | systemd-sysusers
Section: net
Priority: optional
Description: front door of a self-hosted LLM fleet
 A small daemon that takes OpenAI-style requests, reads the model in the
 body, picks the pool of servers for it, and streams the answer back, token by
 token. The same user with the same model always meets the same server, so
 weights stay loaded and prompt caches stay warm; when that server is busy or
 down, the next one takes over, without work done twice.
 .
 It stands in front of llama.cpp, llama-swap, vLLM and Ollama, behind Open
 WebUI, coding agents and the SDKs.
EOT
install -m 0644 packaging/debian/conffiles "$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 0755 packaging/debian/$script "$root/DEBIAN/$script"; done
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs md5sum >DEBIAN/md5sums)
if [ -s packaging/debian/lintian-overrides ]; then put 0644 packaging/debian/lintian-overrides usr/share/lintian/overrides/$name; fi
mkdir -p build
dpkg-deb --root-owner-group -Zxz --build "$root" "build/${name}_${version}_${arch}.deb"
