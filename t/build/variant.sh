#!/bin/sh

# variant.sh NAME: builds one of the variants that `make test` can run.
#     debian     dynamic, for the installed nginx
#     static     linked in, under AddressSanitizer and UBSan
#     nothreads  linked in, without --with-threads
#     clang      linked in, by clang, with what nginx has it warn of; each
#                allocation from a pool is one of malloc, which may fail
#     trixie     linked in, nginx of the next Debian release
#     forky      linked in, nginx of the one after it
#     i386       linked in, for a processor of 32 bits
#     coverage   linked in, counts what is executed, for coverage.sh
#     custom     linked in, under the sanitizers, with the sources in NGINX_SRC
#     custom-*   the same, one that is kept beside the others

. "$(dirname "$0")/lib.sh"

scripts=$top/t/build

# Each allocation from a pool is one of malloc, so that an overrun is seen.
# nginx here and there copies nothing from a null pointer, and reads words at
# any address: its own code is excused from these two checks, the module is not.

palloc="-DNGX_DEBUG_PALLOC=1"
sanitize="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
-fno-sanitize=alignment,nonnull-attribute $palloc"
link="-fsanitize=address,undefined"

# The branches of nginx's macros that log are not the module's: functions then,
# and none for debug.

functions="-DNGX_DEBUG=0 -DNGX_HAVE_C99_VARIADIC_MACROS=0 \
-DNGX_HAVE_GCC_VARIADIC_MACROS=0"

case $1 in static|custom*)
    ADDON_CFLAGS="-fsanitize=alignment,nonnull-attribute"
    export ADDON_CFLAGS
    ;;
coverage)
    ADDON_CFLAGS="-O0 --coverage -fprofile-update=atomic"
    export ADDON_CFLAGS
    ;;
esac

case $1 in

debian)
    exec "$scripts/debian.sh"
    ;;

static)
    "$scripts/source.sh" bookworm
    exec "$scripts/nginx.sh" static "$build/source-bookworm" --with-threads \
        --with-cc-opt="$sanitize" --with-ld-opt="$link"
    ;;

nothreads)
    "$scripts/source.sh" bookworm
    exec "$scripts/nginx.sh" nothreads "$build/source-bookworm"
    ;;

clang)
    "$scripts/source.sh" bookworm
    exec "$scripts/nginx.sh" clang "$build/source-bookworm" --with-threads \
        --with-cc=clang --with-cc-opt="-O1 -g $palloc"
    ;;

trixie|forky)
    "$scripts/source.sh" "$1"
    exec "$scripts/nginx.sh" "$1" "$build/source-$1" --with-threads
    ;;

i386)
    "$scripts/source.sh" bookworm
    "$scripts/i386.sh"
    exec "$scripts/nginx.sh" i386 "$build/source-bookworm" --with-threads \
        --with-cc="$build/i386/cc" --with-cc-opt="-O1 -g"
    ;;

coverage)
    "$scripts/source.sh" bookworm
    quietly coverage-exit gcc -Wall -Wextra -Werror -c \
        -DCOVERAGE_DATA="\"$COVERAGE_DATA\"" -o "$build/coverage-exit.o" \
        "$scripts/coverage.c"
    exec "$scripts/nginx.sh" coverage "$build/source-bookworm" --with-threads \
        --with-cc-opt="$palloc $functions" \
        --with-ld-opt="--coverage $build/coverage-exit.o"
    ;;

custom|custom-*)
    exec "$scripts/nginx.sh" "$1" "$NGINX_SRC" --with-threads \
        --with-cc-opt="$sanitize" --with-ld-opt="$link"
    ;;

*)
    die "no such variant: $1"
    ;;

esac
