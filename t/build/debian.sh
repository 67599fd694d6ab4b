#!/bin/sh

# Builds the dynamic module for the installed nginx of Debian:
# build/debian/ngx_http_taptalent_webhook_module.so

. "$(dirname "$0")/lib.sh"

source=/usr/share/nginx/src
tree=$build/debian/nginx
so=$module.so

[ -f $source/conf_flags ] \
    || die "the package nginx-dev is missing; \`make deps\` installs it"

version=$(dpkg-query -W -f '${Version}' nginx-dev)


# conf_flags is a bash array: NGX_CONF_FLAGS=( --with-a --with-b='c d' )

configure() {
    rm -rf "$build/debian"
    mkdir -p "$build/debian"
    cp -RL $source "$tree"
    cd "$tree"

    eval "set -- $(sed -n 's/^NGX_CONF_FLAGS=(\(.*\))$/\1/p' conf_flags)"

    cflags="$(dpkg-buildflags --get CFLAGS) $(dpkg-buildflags --get CPPFLAGS)"

    ./configure "$@" --with-cc-opt="$cflags -fPIC -Werror" \
        --with-ld-opt="$(dpkg-buildflags --get LDFLAGS) -fPIC" \
        --add-dynamic-module="$top"
}


if ! stamped "$build/debian/stamp" "$version $top"; then
    quietly debian-configure configure
    echo "$version $top" > "$build/debian/stamp"
fi

quietly debian make -s -C "$tree" -f objs/Makefile -j "$jobs" modules

if ! cmp -s "$tree/objs/$so" "$build/debian/$so"; then
    cp "$tree/objs/$so" "$build/debian/$so.new"
    mv "$build/debian/$so.new" "$build/debian/$so"
fi

echo "built build/debian/$so for nginx $version"
