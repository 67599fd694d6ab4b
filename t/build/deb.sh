#!/bin/sh

# Builds the Debian package for the nginx of this Debian release:
# build/libnginx-mod-http-taptalent-webhook_*.deb
#
# Its version and date are those of CHANGES, its example of a site is the one
# of docs/install.md. What else dpkg-buildpackage makes is left in build/deb.

. "$(dirname "$0")/lib.sh"

package=libnginx-mod-http-taptalent-webhook

version=$(sed -n "s/^Changes with $module \([^ ]*\) .*/\1/p;2q" "$top/CHANGES")
released=$(sed -n "s/^Changes with $module [^ ]* *//p;2q" "$top/CHANGES")

[ -n "$version" ] || die "CHANGES does not begin with a version"


# The same version is built for each release of Debian, so a newer release's
# has to be the newer one.

release=$(sed -n 's/^VERSION_ID="\?\([0-9]*\).*/\1/p' /etc/os-release)
revision=1${release:+~deb$release}
tree=$build/deb/$package-$version


# One tree gives the same bytes whenever it is packed.

assemble() {
    rm -rf "$build/deb"
    mkdir -p "$tree"
    cd "$top"

    cp -R .ci CHANGES LICENSE Makefile README.md config docs src t \
        $module.c "$tree"

    tar -C "$build/deb" -c --sort=name --owner=0 --group=0 --numeric-owner \
        --mode=go=rX,u+rw --mtime="$released UTC" "$package-$version" \
        | gzip -9n > "$build/deb/${package}_$version.orig.tar.gz"

    cp -R t/build/debian "$tree/debian"
    cd "$tree/debian"

    cat > changelog <<END
$package ($version-$revision) stable; urgency=medium

  * The changes are described in changelog.gz beside this file.

 -- $(sed -n 's/^Maintainer: //p' control)  $(date -R -u -d "$released UTC")
END

    cat > copyright <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: $module

Files: *
Copyright: $(sed -n 's/.*Copyright (C) //p' "$top/LICENSE")
License: BSD-2-clause

License: BSD-2-clause
$(sed -e '/Redistribution/,$!d' -e '/^ \*\//d' -e 's/^ \*$/ ./' \
      -e 's/^ \* */ /' "$top/LICENSE")
END

    perl -I"$top/t/lib" -MTest::Docs=block \
        -e 'print block("docs/install.md", "site")' > taptalent
}

buildpackage() {
    cd "$tree"
    dpkg-buildpackage -us -uc -j"$jobs"
}


command -v dh > /dev/null \
    || die "the package debhelper is missing;" \
           "\`t/build/deps.sh deb\` installs it"

quietly deb-assemble assemble
quietly deb buildpackage

rm -f "$build/$package"_*.deb
cp "$build/deb/$package"_*.deb "$build"

echo "built build/$(basename "$build/$package"_*.deb)"
