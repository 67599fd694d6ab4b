#!/bin/sh

# adnanh/webhook runs this for each event that its rules let pass, and answers
# when it has ended: a file for each event. With dd as with sync each flush is a
# program of its own.
#
#     hook.sh SPOOL BODY EVENT

set -eu

name=$(date +%s%N)-$$-1-00000000.ndjson

body=$(printf %s "$2" | tr '\r\n' '  ')

printf '{"event":"%s","payload":%s}\n' "$3" "$body" \
    | dd of="$1/tmp/$name" conv=excl,fdatasync status=none

mv "$1/tmp/$name" "$1/new/$name"
sync "$1/new"

printf '{"received":true}'
