#!/bin/sh

# test.sh VARIANT...: builds each variant, then runs the tests on each.
#     TESTS   what prove gets (default: all of t/; for trixie a few)
#     PROVE   how it is called

. "$(dirname "$0")/lib.sh"

cd "$top"

short="t/verdicts.t t/json.t t/body.t t/config.t t/http2.t"

built=
failed=

for variant in "$@"; do
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

    tests=${TESTS:-t}

    if [ "$variant" = trixie ]; then
        tests=${TESTS:-$short}
    fi

    echo
    echo "== $variant: ${TEST_NGINX_BINARY:-the installed nginx}"

    if ! ${PROVE:-prove} -r $tests; then
        failed="$failed $variant"
    fi
done

echo

if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi

echo "passed: $*"
