#!/bin/sh

# Starts nginx with the module in a directory of its own and an application
# behind it, sends events, and shows the answers, what lies in the spool, and
# what arrives.  No other nginx is touched.
#
#   PORT       port for HTTPS, 8443 by default
#   HTTP_PORT  port for plain HTTP, PORT + 1 by default
#   APP_PORT   port of the application, PORT + 2 by default
#   DEMO_EXIT  if set to 1, end by itself instead of serving until Ctrl-C
#   TEST_NGINX_BINARY, TEST_NGINX_MODULE
#              what to run; an empty module is one that is linked in
#
# The exit status is 0 if everything was as expected.

set -u
umask 022

root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1

port=${PORT:-8443}
http_port=${HTTP_PORT:-$((port + 1))}
app_port=${APP_PORT:-$((port + 2))}
nginx=${TEST_NGINX_BINARY:-$(PATH=$PATH:/usr/sbin command -v nginx)}
module=$root/build/debian/ngx_http_taptalent_webhook_module.so
module=${TEST_NGINX_MODULE-$module}

prefix=
master=
application=
follower=
shown=0
failed=0


main() {
    check_tools
    check_port "$port" PORT
    check_port "$http_port" HTTP_PORT
    check_port "$app_port" APP_PORT

    # PIPE is for "make demo | head"

    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 131' QUIT
    trap 'exit 141' PIPE
    trap 'exit 143' TERM

    make_prefix
    start_application '^resume\.'
    start_nginx

    show_delivery
    show_refusals
    show_outage
    show_dead_letter
    show_logs

    if [ "$failed" -ne 0 ]; then
        say "$failed of the things above were not as expected."
        exit 1
    fi

    case ${DEMO_EXIT:-0} in
    0)  ;;
    *)  say "Everything was as expected."
        exit 0 ;;
    esac

    follow_application
    say_what_next
    wait "$master"

    master=
    fail "nginx has stopped by itself: $(tail -n 3 "$prefix/error.log")"
}


check_tools() {
    for tool in curl jq openssl perl; do
        command -v "$tool" > /dev/null || fail "$tool is not installed"
    done

    perl -MJSON::PP -e 1 2> /dev/null || fail "perl has no JSON::PP"

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
        -e "s|@APP_PORT@|$app_port|g" \
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

    : > "$prefix/application.log"

    CURL_HOME=$prefix
    export CURL_HOME

    # the sender's documented example, and others made of it

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
    wrapper=$(dies_with_us)

    $wrapper "$nginx" -p "$prefix/" -c "$prefix/nginx.conf" \
        -e "$prefix/error.log" &
    master=$!

    wait_for_port "$http_port" "$master" ||
        fail "nginx did not start: $(tail -n 3 "$prefix/error.log")"
}


# start_application [PATTERN]: it refuses events that do not match

start_application() {
    wrapper=$(dies_with_us)

    $wrapper perl "$root/t/demo/application.pl" "$app_port" "$@" \
        >> "$prefix/application.log" &
    application=$!

    wait_for_port "$app_port" "$application" ||
        fail "the application did not start"
}


stop_application() {
    [ -n "$application" ] || return

    kill -KILL "$application" 2> /dev/null
    wait "$application" 2> /dev/null
    application=
}


# what the application has printed since the last time

show_application() {
    tail -n "+$((shown + 1))" "$prefix/application.log" | sed 's/^/  /'
    shown=$(wc -l < "$prefix/application.log")
}


follow_application() {
    # it sees by itself that we have ended

    tail --pid=$$ -n 0 -f "$prefix/application.log" &
    follower=$!
}


# with it the kernel ends what we start even if we are killed by force

dies_with_us() {
    if setpriv --pdeathsig TERM true 2> /dev/null; then
        echo "setpriv --pdeathsig TERM"
    fi
}


wait_for_port() {
    tries=0

    while curl -q -s -o /dev/null --noproxy '*' -m 2 "http://127.0.0.1:$1/"
          [ $? -eq 7 ]
    do
        tries=$((tries + 1))

        kill -0 "$2" 2> /dev/null && [ "$tries" -lt 100 ] || return 1

        sleep 0.1
    done
}


show_delivery() {
    url=https://localhost:$port/webhooks/taptalent

    say "nginx with the module listens on $url," \
        "the certificate is the demo's own." \
        "Its files are in $prefix. The commands below are run there." \
        "A small application at port $app_port prints what it gets."

    cd "$prefix" || exit 1

    say "1. The sender's documented example. When the answer is here, the event" \
        "is on disk. Then nginx forwards it, and it leaves the spool:"

    send_event 200 '"received":true' event.json

    expect_delivered event.json

    echo
    show_application
}


show_refusals() {
    say "2. An event of a company that is not ours:"

    sed 's/company-uuid/somebody-else/' event.json > stranger.json

    send_event 403 '"error":"company_id"' stranger.json

    say "3. Something that is not JSON:"

    send 400 '"error":"json"' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: resume.bulk_upload_parse.started'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "-d '{\"event\": oops}'"

    say "4. No X-Webhook-Event header:"

    send 400 '"error":"event_header"' "$url" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @event.json"

    say "5. Not a POST:"

    send 405 '"error":"method"' "$url"

    say "6. Plain HTTP:"

    send_event 403 '"error":"https_required"' event.json \
        "http://localhost:$http_port/webhooks/taptalent"

    say "7. The sender's test receiver, as its documentation shows it." \
        "It checks and answers in full but stores nothing:"

    send_event 200 '"received":true' event.json \
        "https://localhost:$port/v1/partner/webhook-receiver"
}


show_outage() {
    say "8. The application is stopped, and two events come." \
        "The sender notices nothing:"

    stop_application

    sed 's/batch-uuid/batch-2/' event.json > second.json
    sed 's/batch-uuid/batch-3/' event.json > third.json

    send_event 200 '"received":true' second.json
    send_event 200 '"received":true' third.json

    say "They wait in the spool. A line of a file is an event (\"raw\" is there" \
        "because it came in several lines: it keeps the exact bytes):"

    wait_until 'grep -q "is down" error.log' ||
        unexpected "the destination down"

    show 'ls spool/new'
    show 'jq . $(ls spool/new/*.ndjson | tail -n 1)'
    show 'grep -o "destination .* is down.*" error.log | head -n 1'

    [ "$(ls spool/new/*.ndjson | wc -l)" -eq 2 ] || unexpected "two files"

    say "9. The application is started again. nginx tries one event from time to" \
        "time, and when that has arrived, the others follow:"

    start_application '^resume\.'

    expect_delivered second.json
    expect_delivered third.json

    echo
    show_application
    show 'grep -o "destination .* is up again" error.log'
}


show_dead_letter() {
    say "10. An event that the application cannot handle. It answers 422, which" \
        "no repetition will change, so the event is put aside, in spool/dead:"

    sed 's/resume.bulk_upload_parse.started/candidate.created/' event.json \
        > candidate.json

    send_event 200 '"received":true' candidate.json

    wait_until '[ -n "$(ls spool/dead)" ]' || unexpected "a dead letter"

    echo
    show_application
    show 'jq -c .dead spool/dead/*.ndjson'

    say "The application is replaced by a version that knows candidates." \
        "To send the event again, its file is moved back:"

    stop_application
    start_application

    show 'mv spool/dead/*.ndjson spool/new/'

    wait_until 'grep -q "got candidate.created" application.log' &&
        wait_until '[ -z "$(ls spool/new spool/dead | grep ndjson)" ]' ||
        unexpected "a delivery"

    echo
    show_application
}


show_logs() {
    say "11. What was answered, one word for each outcome, in the access log:"

    show 'cat access.log'

    say "and the deliveries, with the status of the application (502: it was not" \
        "there):"

    show 'cat delivery.log'

    [ "$(grep -c '^200 ' delivery.log)" -eq 4 ] || unexpected "four deliveries"
}


# send_event STATUS TEXT FILE [URL]: with the sender's headers

send_event() {
    send "$1" "$2" "${4:-$url}" \
        "-H 'Content-Type: application/json'" \
        "-H 'X-Webhook-Event: $(jq -r .event "$3")'" \
        "-H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z'" \
        "--data-binary @$3"
}


# the id of an event is the beginning of its SHA-256

expect_delivered() {
    id=$(openssl dgst -sha256 -r "$1" | cut -c 1-32)

    wait_until "grep -q 'id $id' application.log" &&
        wait_until "! grep -qs '\"id\":\"$id\"' spool/new/*.ndjson" ||
        unexpected "a delivery of $1"
}


wait_until() {
    tries=0

    until eval "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || return 1
        sleep 0.1
    done
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

  - send an event; the application prints it here:

      curl -k $url \\
          -H 'Content-Type: application/json' \\
          -H 'X-Webhook-Event: resume.bulk_upload_parse.started' \\
          -H 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z' \\
          --data-binary @$prefix/event.json

  - send one of each kind, as TapTalent does (this needs the package
    libio-socket-ssl-perl):

      $root/t/send --insecure --company-id company-uuid $url

  - stop the application, send some, see what is in the spool, and start it
    again:

      kill $application
      jq . $prefix/spool/new/*.ndjson
      perl $root/t/demo/application.pl $app_port

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

    stop_application

    if [ -n "$follower" ]; then
        kill "$follower" 2> /dev/null
        wait "$follower" 2> /dev/null
    fi

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
