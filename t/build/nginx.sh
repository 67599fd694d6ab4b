#!/bin/sh

# nginx.sh NAME SOURCE [configure arguments...]: builds a whole nginx with the
# module linked in, build/NAME/nginx, from the sources in SOURCE, which is left
# as it is. MODULE names another directory with the module's sources, and
# ADDON_CFLAGS are for the module's files only.

. "$(dirname "$0")/lib.sh"

name=$1
source=$2
shift 2

tree=$build/$name/tree
addon=${MODULE:-$top}

[ -f "$source/src/core/nginx.h" ] || die "$source holds no nginx sources"


# tar keeps the times of files: make compiles again only what has changed.

copy() {
    mkdir -p "$tree"
    (cd "$source" && tar cf - --exclude=.git --exclude=./objs \
         --exclude=./Makefile .) | (cd "$tree" && tar xf -)
}

configure() {
    copy
    rm -rf "$tree/objs"
    cd "$tree"

    if [ -x configure ]; then
        script=./configure
    else
        script=auto/configure
    fi

    $script --with-debug --with-http_ssl_module --with-http_v2_module \
        --with-http_realip_module --with-http_stub_status_module \
        --with-http_auth_request_module "$@" --add-module="$addon"
}


if ! stamped "$build/$name/stamp" "$source $addon $*"; then
    quietly "$name-configure" configure "$@"
    echo "$source $addon $*" > "$build/$name/stamp"
else
    quietly "$name-configure" copy
fi

quietly "$name" make -s -C "$tree" -f objs/Makefile -f "$top/t/build/addon.mk" \
    -j "$jobs" binary

# Angie's has a name of its own

for binary in nginx angie; do
    if [ -x "$tree/objs/$binary" ]; then
        ln -sf "tree/objs/$binary" "$build/$name/nginx"
    fi
done

echo "built build/$name/nginx," \
     "$("$build/$name/nginx" -v 2>&1 | sed -n '1s/.*version: //p')"
