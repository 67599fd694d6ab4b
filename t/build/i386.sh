#!/bin/sh

# i386.sh: what it takes to build and to run programs of 32 bits, in build/i386:
# the libraries of Debian's i386 in root/, and cc, the gcc that is installed. apt
# works on lists and a cache of its own, the system is neither used nor changed.
#
# Where the kernel runs no such program, qemu's emulation of a user's process
# does: what cc links is then a script, with the program beside it.

. "$(dirname "$0")/lib.sh"

suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
target=$build/i386
apt=$target/apt
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=http://deb.debian.org
gcc=$(gcc -dumpversion)

if [ -x "$target/cc" ]; then
    exit 0
fi


# unpack ARCHITECTURE DIRECTORY PACKAGE...: the packages and all they depend on

unpack() {
    arch=$1
    into=$2
    shift 2

    rm -rf "$apt" "$into"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$into"
    : > "$apt/status"

    echo "deb [signed-by=$keyring] $mirror/debian $suite main" \
        > "$apt/sources.list"

    for command in update \
        "install -y --download-only --no-install-recommends $*"
    do
        apt-get -q -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
            -o Dir::Etc::sourcelist="$apt/sources.list" \
            -o Dir::Etc::sourceparts=- -o Dir::State::lists="$apt/lists" \
            -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
            -o APT::Sandbox::User=root -o Debug::NoLocking=1 $command
    done

    for package in "$apt"/cache/archives/*.deb; do
        dpkg -x "$package" "$into"
    done

    rm -rf "$apt"
}

fetch() {
    unpack i386 "$target/root" libc6-dev "libgcc-$gcc-dev" libyajl-dev \
        libssl-dev libpcre2-dev zlib1g-dev

    # the libraries alone: gcc would take the compiler that is beside them

    rm -rf "$target/lib"
    mkdir "$target/lib"
    cp "$target"/root/usr/lib/gcc/i686-linux-gnu/"$gcc"/crt*.o \
        "$target"/root/usr/lib/gcc/i686-linux-gnu/"$gcc"/libgcc* "$target/lib"

    {
        echo '#!/bin/sh'
        echo "target=$target"
        cat << 'END'

gcc -m32 -march=i686 --sysroot="$target/root" -B"$target/lib/" \
    -L"$target/lib" -Wl,--dynamic-linker="$target/root/lib/ld-linux.so.2" \
    -Wl,-rpath="$target/root/lib/i386-linux-gnu" \
    -Wl,-rpath="$target/root/usr/lib/i386-linux-gnu" "$@" || exit
END
    } > "$target/cc.new"

    if ! "$target/root/lib/ld-linux.so.2" --version; then
        unpack "$(dpkg --print-architecture)" "$target/qemu" qemu-user-static

        cat >> "$target/cc.new" << 'END'

case " $* " in *" -c "*|*" -E "*|*" -v "*)
    exit 0
esac

while [ $# -gt 1 ]; do
    [ "$1" = -o ] && program=$(realpath "$2")
    shift
done

[ -f "${program-}" ] || exit 0
mv "$program" "$program.i386"

cat > "$program" << SCRIPT
#!/bin/sh
exec $target/qemu/usr/bin/qemu-i386-static $program.i386 "\$@"
SCRIPT

chmod 755 "$program"
END
    fi

    chmod 755 "$target/cc.new"
    mv "$target/cc.new" "$target/cc"
}


quietly i386-fetch fetch
