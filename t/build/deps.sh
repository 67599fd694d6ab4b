#!/bin/sh

# deps.sh build|deb|test|bench|torture|trial: installs the Debian packages that
# are missing to build the module, to make a package of it, to test it too, or
# to measure it, fuzz it or try its installation too. Does nothing if none is.

. "$(dirname "$0")/lib.sh"

packages="nginx nginx-dev libyajl-dev libssl-dev gcc libc6-dev make dpkg-dev
    curl jq openssl perl"

if [ "${1:-test}" != build ]; then
    packages="$packages build-essential debhelper"
fi

if [ "${1:-test}" != build ] && [ "${1:-test}" != deb ]; then
    packages="$packages clang libpcre2-dev zlib1g-dev libio-socket-ssl-perl
        php-fpm nghttp2-client wrk strace e2fsprogs xfsprogs util-linux
        debian-archive-keyring ca-certificates prometheus chromium
        chromium-driver sqlite3 python3 php-cli php-sqlite3 systemd
        rabbitmq-server lintian iproute2 valgrind libnginx-mod-http-lua"

    # there may be a Node that is not Debian's and has its npm with it

    if ! command -v npm > /dev/null; then
        packages="$packages nodejs npm"
    fi
fi

if [ "${1:-test}" = bench ]; then
    packages="$packages lua-cjson libnginx-mod-http-js webhook liburing-dev"
fi

if [ "${1:-test}" = torture ]; then
    packages="$packages libclang-rt-dev"
fi

if [ "${1:-test}" = trial ]; then
    packages="$packages debootstrap git podman buildah crun"
fi

packages=$(echo $packages)

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null \
   || ! grep -q '^ID=debian$' /etc/os-release
then
    die "this needs Debian 12 or later, and there the packages $packages;" \
        "elsewhere build the module with nginx's own ./configure, see README.md"
fi

missing=

for package in $packages; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) \
        || status=

    if [ "$status" != installed ]; then
        missing="$missing $package"
    fi
done

if [ -z "$missing" ]; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo > /dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }
then
    root=sudo
else
    die "neither root nor sudo here, please install the packages:$missing"
fi


# Debian starts what it installs. An nginx that nobody asked for must not take
# port 80, nor are the others wanted: policy-rc.d says no while the packages are
# installed. Where there is one already, the administrator has decided.

policy=/usr/sbin/policy-rc.d
services=

for package in $missing; do
    case $package in
    nginx|php-fpm|prometheus|rabbitmq-server|webhook)
        services="$services $package"
        ;;
    esac
done

if [ -n "$services" ] && [ ! -e $policy ]; then
    trap '$root rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM

    printf '#!/bin/sh\nexit 101\n' | $root tee $policy > /dev/null
    $root chmod 755 $policy
fi

echo "installing$missing"

quietly apt-update $root apt-get update
quietly apt-install $root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing

for package in $services; do
    case $package in
    nginx)
        echo "nginx was installed, and its service was not started;" \
             "\`systemctl disable nginx\` keeps it so after the next boot"
        ;;
    *)
        echo "$package was installed for the tests, which start their own;" \
             "nobody needs its service"
        ;;
    esac
done
