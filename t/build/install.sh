#!/bin/sh

# Copies the built module to where the installed nginx looks for modules.

. "$(dirname "$0")/lib.sh"

so=$module.so
nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || die "nginx is not installed"

path=$("$nginx" -V 2>&1 | sed -n 's/.* --modules-path=\([^ ]*\).*/\1/p')
[ -n "$path" ] || die "$nginx does not say where its modules are"

# nginx may be started meanwhile, so the file is there as a whole or not at all

mkdir -p "${DESTDIR:-}$path"
install -m 644 "$build/debian/$so" "${DESTDIR:-}$path/$so.new"
mv "${DESTDIR:-}$path/$so.new" "${DESTDIR:-}$path/$so"

echo "installed $path/$so"
echo "put this at the top of nginx.conf:"
echo
echo "    load_module modules/$so;"
echo
echo "an nginx that has loaded an older one keeps it until" \
     "\`service nginx upgrade\`"
