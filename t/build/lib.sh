# Common to the scripts here; sourced. Sets $top, the top of the tree, and
# $build, where everything made goes.

set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
build=$top/build
module=ngx_http_taptalent_webhook_module
jobs=$(nproc 2>/dev/null || echo 2)

mkdir -p "$build"


die() {
    echo "$0: $*" >&2
    exit 1
}


# quietly LOG COMMAND...: output into build/LOG.log, shown if it fails.

quietly() {
    log=$build/$1.log
    shift

    set +e
    (set -e; "$@") > "$log" 2>&1 < /dev/null
    status=$?
    set -e

    if [ $status != 0 ]; then
        tail -n 200 "$log" >&2
        die "failed, the whole output is in $log"
    fi
}


# stamped STAMP VALUE: true if the stamp file holds the value and is not older
# than the files that decide how to build.

stamped() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ] \
        && [ -z "$(find "$top/config" "$top/t/build" "$top"/src/*/*.html -newer "$1" -type f)" ]
}
