#!/bin/sh

# coverage.sh: which lines and branches of the module the tests execute, as a
# table. build/coverage/*.gcov are the sources with the counts of each. A process
# that dies by a signal which no test has sent is not counted.
#     TESTS   what prove gets (default: all of t/)
#     PROVE   how it is called (default: as many tests at once as processors)

. "$(dirname "$0")/lib.sh"

cd "$top"

objects=$build/coverage/tree/objs/addon


# Where workers may write, in the place that is compiled in; a directory there
# for each of the sources, since they would be made for one user only.

make_data() {
    rm -rf "$COVERAGE_DATA"
    mkdir -m 700 "$COVERAGE_DATA"

    find "$objects" -type d | while read -r path; do
        (umask 0; mkdir -p "$COVERAGE_DATA$path")
    done

    chmod 755 "$COVERAGE_DATA"
}


# "name lines of branches of" of each file, from what gcov says

figures() {
    gcov -b -c -r -s "$top" "$@" 2>/dev/null | awk '
        /^File/      { gsub(/^File .|.$/, ""); name = $0; lines = "" }
        /^Lines/     { split($0, a, /[:% ]+/); lines = a[3] " " a[5] }
        /^Taken/     { split($0, a, /[:% ]+/)
                       if (name ~ /\.c$/ && lines != "")
                           print name, lines, a[5], a[7]
                       lines = "" }'
}


table() {
    sort | awk '
        function row(name, l, nl, b, nb) {
            printf "%-32s %6.1f %% of %5d   %6.1f %% of %5d\n", name, l, nl, b, nb
        }

        BEGIN { printf "%-32s %17s   %17s\n", "", "lines", "branches" }

        {
            sub(/.*ngx_http_taptalent_/, "", $1)
            row($1, $2, $3, $4, $5)
            l += $2 * $3 / 100; nl += $3; b += $4 * $5 / 100; nb += $5
        }

        END { row("all", 100 * l / nl, nl, 100 * b / nb, nb) }'
}


# the place is that of this tree, of this user

COVERAGE_DATA=/tmp/taptalent-coverage-$(id -u)-$(echo "$top" | cksum \
              | cut -d ' ' -f 1)
export COVERAGE_DATA

"$top/t/build/variant.sh" coverage
make_data

failed=

TEST_COVERAGE=1 TEST_NGINX_BINARY=$build/coverage/nginx TEST_NGINX_MODULE= \
    ${PROVE:-prove -j $jobs} -r ${TESTS:-t} || failed=yes

for path in $(find "$COVERAGE_DATA" -name '*.gcda'); do
    cp "$path" "${path#"$COVERAGE_DATA"}"
done

rm -rf "$COVERAGE_DATA"

cd "$build/coverage"
rm -f ./*.gcov

echo
figures $(find "$objects" -name '*.gcda') | table | tee "$build/coverage/table"

[ -z "$failed" ] || die "not all tests have passed"
