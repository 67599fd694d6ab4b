#!/bin/sh

# fuzz.sh replay|fuzz: builds the targets of t/fuzz into build/fuzz/NAME, with
# the sanitizers. Those of `replay` run the files they are given, gcc will do;
# those of `fuzz` look for inputs by themselves, with the libFuzzer of clang.

. "$(dirname "$0")/lib.sh"

mode=${1:-}
source=$build/source-bookworm
tree=$build/fuzz/nginx

case $mode in

replay)
    ;;

fuzz)
    command -v clang > /dev/null \
        || die "clang is missing, install the package clang;" \
               "\`t/build/deps.sh torture\` does"
    ;;

*)
    die "which: replay or fuzz?"
    ;;

esac


# Of nginx only strings, pools and the like are needed, and what they include.

configure() {
    rm -rf "$tree"
    mkdir -p "$tree"
    (cd "$source" && tar cf - --exclude=.git --exclude=./objs .) \
        | (cd "$tree" && tar xf -)
    cd "$tree"
    ./configure --without-http --without-pcre
}


"$top/t/build/source.sh" bookworm

if ! stamped "$build/fuzz/stamp" "$source"; then
    quietly fuzz-configure configure
    rm -rf "$build/fuzz/replay" "$build/fuzz/fuzz"
    echo "$source" > "$build/fuzz/stamp"
fi

mkdir -p "$build/fuzz/$mode"

quietly "fuzz-$mode" make -s -C "$build/fuzz/$mode" -f "$top/t/build/fuzz.mk" \
    -j "$jobs" MODE="$mode" TOP="$top" NGINX="$tree"

echo "built build/fuzz/$mode"
