#!/bin/sh

# Starts nginx with the module in a directory of its own, sends it events and
# shows the answers and what lies in the spool.  No other nginx is touched.
#
#   PORT       port for HTTPS, 8443 by default
#   HTTP_PORT  port for plain HTTP, PORT + 1 by default
#   DEMO_EXIT  if set to 1, end by itself instead of serving until Ctrl-C
#   TEST_NGINX_BINARY, TEST_NGINX_MODULE
#              what to run; an empty module is one that is linked in
#
# The exit status is 0 if every answer was the expected one.

set -u
umask 022

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1

port=${PORT:-8443}
http_port=${HTTP_PORT:-$((port + 1))}
nginx=${TEST_NGINX_BINARY:-$(PATH=$PATH:/usr/sbin command -v nginx)}
module=$root/build/debian/ngx_http_taptalent_webhook_module.so
module=${TEST_NGINX_MODULE-$module}

prefix=
master=
failed=0


main() {
    check_tools
    check_port "$port" PORT
    check_port "$http_port" HTTP_PORT

    # PIPE is for "make demo | head"

    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 131' QUIT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM

    make_prefix
    start_nginx

    show_events

    if [ "$failed" -ne 0 ]; then
        say "$failed of the answers above were not the expected ones."
        exit 1
    fi

    case ${DEMO_EXIT:-0} in
    0)  ;;
    *)  say "Every answer was the expected one."
        exit 0 ;;
    esac

    say_what_next
    wait "$master"

    master=
    fail "nginx has stopped by itself: $(tail -n 3 "$prefix/error.log")"
}


check_tools() {
    for tool in curl jq openssl; do
        command -v "$tool" > /dev/null || fail "$tool is not installed"
    done

    [ -x "$nginx" ] || fail "nginx is not installed"

    if [ -n "$module" ] && [ ! -f "$module" ]; then
        fail "\"$module\" is missing: build it with \"make\" first"
    fi
}


# curl's exit status 7 says that nobody listens

check_port() {
    curl -q -s -o /dev/null --noproxy '*' -m 2 "http://127.0.0.1:$1/"

    [ $? -eq 7 ] || fail "port $1 is in use: choose another one," \
                         "for example $2=$(($1 + 1000))"
}


make_prefix() {
    prefix=$(mktemp -d "${TMPDIR:-/tmp}/taptalent-demo.XXXXXX") || exit 1

    # the workers have another user if nginx is started by root

    chmod 755 "$prefix"

    (umask 077
     openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
         -nodes -days 30 -subj /CN=localhost \
         -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
         -keyout "$prefix/localhost.key" -out "$prefix/localhost.crt" \
         2> "$prefix/openssl.log") \
        || fail "openssl made no certificate: $(cat "$prefix/openssl.log")"

    user=

    if [ "$(id -u)" -eq 0 ]; then
        if id -u www-data > /dev/null 2>&1; then
            user="user  www-data;"
        else
            user="user  nobody;"
        fi
    fi

    sed -e "s|@LOAD_MODULE@|${module:+load_module  $module;}|" \
        -e "s|@USER@|$user|" \
        -e "s|@PREFIX@|$prefix|g" \
        -e "s|@PORT@|$port|g" \
        -e "s|@HTTP_PORT@|$http_port|g" \
        "$root/t/demo/nginx.conf.in" > "$prefix/nginx.conf"

    # curl as the reader sees it, without the progress meter but with the
    # status

    cat > "$prefix/.curlrc" <<'CURLRC'
silent
show-error
noproxy = "*"
max-time = 10
write-out = "\nHTTP status %{http_code}\n"
CURLRC

    CURL_HOME=$prefix
    export CURL_HOME

    # the sender's documented example

    cat > "$prefix/event.json" <<'EVENT'
{
  "event": "resume.bulk_upload_parse.started",
  "timestamp": "2024-01-20T14:45:00Z",
  "companyId": "company-uuid",
  "data": {
    "batchId": "batch-uuid",
    "fileCount": 25
  }
}
EVENT
}


start_nginx() {
    # with it the kernel ends nginx even if we are killed by force

    wrapper="setpriv --pdeathsig TERM"
    $wrapper true 2> /dev/null || wrapper=

    $wrapper "$nginx" -p "$prefix/" -c "$prefix/nginx.conf" \
        -e "$prefix/error.log" &
    master=$!

    tries=0

    while curl -q -s -o /dev/null --noproxy '*' -m 2 \
              "http://127.0.0.1:$http_port/"
          [ $? -eq 7 ]
    do
        tries=$((tries + 1))

        if ! kill -0 "$master" 2> /dev/null || [ "$tries" -ge 100 ]; then
            fail "nginx did not start: $(tail -n 3 "$prefix/error.log")"
        fi

        sleep 0.1
    done
}


show_events() {
    url=https://localhost:$port/webhooks/taptalent

    say "nginx with the module listens on $url," \
        "the certificate is the demo's own." \
        "Its files are in $prefix. The commands below are run there."

    cd "$prefix" || exit 1

    say "1. The sender's documented example." \
        "When the answer is here, the event is on disk:"

    send 200 '"received":true' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @event.json"

    say "2. Here it is, one line of a file in spool/new." \
        "(\"raw\" is there because the event came in several lines:" \
        "it keeps the exact bytes.)"

    show 'ls spool/new'
    show 'jq . spool/new/*.ndjson'

    say "3. An event of a company that is not ours:"

    sed 's/company-uuid/somebody-else/' event.json > stranger.json

    send 403 '"error":"company_id"' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @stranger.json"

    say "4. Something that is not JSON:"

    send 400 '"error":"json"' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "-d '{\"event\": oops}'"

    say "5. No X-Webhook-Event header:"

    send 400 '"error":"event_header"' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @event.json"

    say "6. Not a POST:"

    send 405 '"error":"method"' "$url"

    say "7. Plain HTTP:"

    send 403 '"error":"https_required"' \
        "http://localhost:$http_port/webhooks/taptalent" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @event.json"

    say "8. The sender's test receiver, as its documentation shows it." \
        "It checks and answers in full but stores nothing:"

    send 200 '"received":true' \
        "https://localhost:$port/v1/partner/webhook-receiver" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @event.json"

    say "9. Only the first event was stored. The access log, written with" \
        "the module's variables, has one word for each outcome:"

    show 'ls spool/new'
    show 'cat access.log'

    id=$(openssl dgst -sha256 -r event.json | cut -c 1-32)

    set -- spool/new/*.ndjson

    if [ $# -ne 1 ] || [ "$(jq -r .id "$1")" != "$id" ]; then
        unexpected "one file, with the event $id"
    fi
}


# send STATUS TEXT URL [ARGUMENT ...]: shows the command, runs it, and
# compares the answer

send() {
    status=$1
    text=$2
    url_=$3
    shift 3

    line="curl -k $url_"

    printf '\n  $ %s' "$line"

    for arg in "$@"; do
        printf ' \\\n      %s' "$arg"
        line="$line $arg"
    done

    printf '\n'

    answer=$(eval "$line")

    printf '%s\n' "$answer" | sed 's/^/  /'

    case $answer in
    *"$text"*"
HTTP status $status")
        ;;
    *)
        unexpected "status $status with $text"
        ;;
    esac
}


show() {
    printf '\n  $ %s\n' "$1"
    eval "$1" | sed 's/^/  /'
}


unexpected() {
    printf '  UNEXPECTED: this should be %s\n' "$*"
    failed=$((failed + 1))
}


say_what_next() {
    say "The server runs until Ctrl-C. To try next, in another terminal:"

    cat <<EOF_NEXT

  - send an event:

      curl -k $url \\
          -H 'Content-Type: application/json' \\
          -H 'X-Webhook-Event: resume.bulk_upload_parse.started' \\
          -H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z' \\
          --data-binary @$prefix/event.json

  - see what is in the spool:

      jq . $prefix/spool/new/*.ndjson

  - see why something was refused:

      cat $prefix/error.log

  - change $prefix/nginx.conf and reload:

      kill -HUP $master

  All of this directory is removed at the end.
EOF_NEXT
}


cleanup() {
    status=$?

    trap - EXIT
    trap '' HUP INT QUIT PIPE TERM

    if [ -n "$master" ]; then
        workers=$(cat "/proc/$master/task/$master/children" 2> /dev/null)

        kill -QUIT "$master" 2> /dev/null

        tries=0

        while kill -0 "$master" 2> /dev/null; do
            tries=$((tries + 1))

            [ "$tries" -eq 50 ] && kill -TERM "$master" 2> /dev/null

            if [ "$tries" -ge 100 ]; then
                printf 'demo: nginx does not stop, it is killed\n' >&2
                kill -KILL "$master" $workers 2> /dev/null
                status=1
                break
            fi

            sleep 0.1
        done

        wait "$master" 2> /dev/null
    fi

    if [ -n "$prefix" ]; then
        cd / && rm -rf "$prefix"
    fi

    exit "$status"
}


say() {
    printf '\n'
    printf '%s\n' "$*" | fold -s -w 76 | sed 's/ $//'
}


fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}


main
