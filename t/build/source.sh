#!/bin/sh

# source.sh SUITE: unpacks nginx's source package of this Debian release into
# build/source-SUITE. apt works on lists and a cache of its own below build/,
# the system's configuration is neither used nor changed.

. "$(dirname "$0")/lib.sh"

suite=$1
target=$build/source-$suite
apt=$build/apt/$suite
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=http://deb.debian.org

if [ -f "$target/src/core/nginx.h" ]; then
    exit 0
fi


apt() {
    tool=$1
    shift
    "$tool" -q -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists" \
        -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root "$@"
}


# A mirror may list a version whose files it does not have (yet, or any more):
# then the next older one, and of those without a package the upstream tarball
# alone, which Debian has signed as well.

fetch() {
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpack"

    cat > "$apt/sources.list" << END
deb-src [signed-by=$keyring] $mirror/debian $suite main
deb-src [signed-by=$keyring] $mirror/debian-security $suite-security main
END

    apt apt-get update

    versions=$(apt apt-cache showsrc --only-source nginx \
               | sed -n 's/^Version: //p' | sort -uVr)

    for what in "" --tar-only; do
        for version in $versions; do
            rm -rf "$apt/unpack"
            mkdir "$apt/unpack"
            cd "$apt/unpack"

            apt apt-get source $what --only-source "nginx=$version" || continue

            # Of a tarball alone nothing is unpacked.
            if [ "$what" = --tar-only ]; then
                tar xf nginx_*.orig.tar.*
            fi

            for tree in nginx-*/; do
                [ -f "$tree/src/core/nginx.h" ] || continue
                rm -rf "$target"
                mv "$tree" "$target"
                cd "$build"
                rm -rf "$build/apt"
                return 0
            done
        done
    done

    echo "no source package of nginx could be had from $mirror for $suite"
    return 1
}


quietly "source-$suite" fetch
