#!/bin/sh

# test.sh VARIANT...: builds each variant, then runs the tests on each.
#     TESTS   what prove gets (default: all of t/; for clang, trixie, forky
#             and i386 a few)
#     PROVE   how it is called (default: as many tests at once as processors)

. "$(dirname "$0")/lib.sh"

cd "$top"

# those that take long begin first; a file that is named twice runs once

all="t/torture t/dist_package.t t/docs_rabbitmq.t t"
short="t/torture/alloc_errors.t t/receive_verdicts.t t/receive_json.t
t/receive_body.t t/conf_values.t t/receive_http2.t"
narrow="t/status.t t/status_prometheus.t t/status_counters.t
t/receive_signature.t t/receive_body.t"

built=
failed=

for variant in "$@"; do
    rm -f "$build/$variant-test.log" "$build/$variant.passed"

    if "$top/t/build/variant.sh" "$variant"; then
        built="$built $variant"
    else
        failed="$failed $variant"
    fi
done

for variant in $built; do

    if [ "$variant" = debian ]; then
        unset TEST_NGINX_BINARY
        TEST_NGINX_MODULE=$build/debian/$module.so
    else
        TEST_NGINX_BINARY=$build/$variant/nginx
        export TEST_NGINX_BINARY
        TEST_NGINX_MODULE=
    fi

    export TEST_NGINX_MODULE

    tests=${TESTS:-$all}

    case $variant in clang|trixie|forky)
        tests=${TESTS:-$short}
        ;;
    i386)
        tests=${TESTS:-$narrow}
        TEST_PATIENCE=${TEST_PATIENCE:-4}
        export TEST_PATIENCE
    esac

    echo
    echo "== $variant: ${TEST_NGINX_BINARY:-the installed nginx}"

    { ${PROVE:-prove -j $jobs} -r $tests 2>&1 && : > "$build/$variant.passed"; } \
        | tee "$build/$variant-test.log"

    if [ ! -f "$build/$variant.passed" ]; then
        failed="$failed $variant"
    fi
done

# what failed is said again at the end, where it is seen in a long log

for variant in $failed; do
    echo
    echo "== $variant failed:"

    if [ -f "$build/$variant-test.log" ]; then
        grep -A 12 -E "^#   Failed|^Parse errors|^Bailout|Wstat: [1-9]" \
            "$build/$variant-test.log" || :
    fi
done

echo

if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi

echo "passed: $*"
