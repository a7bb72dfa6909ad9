# Shared by images/*/build. Source it with `set -euo pipefail` in force, from the repository's top.
#
# PRISTINE_CACHE: where downloads and unpacked kernels are kept (default: target/cache).

CACHE=$(mkdir -p "${PRISTINE_CACHE:-target/cache}" && cd "${PRISTINE_CACHE:-target/cache}" && pwd)

say() { printf '%s: %s\n' "$IMAGE" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || [ -x "/usr/sbin/$tool" ] || [ -x "/sbin/$tool" ] ||
            die "$tool is missing: tools/setup installs it"
    done
    PATH=$PATH:/usr/sbin:/sbin
}

# remembered KEY: the file or folder that KEY led to less than a day ago; apt takes seconds to say the same.
remembered() {
    local link=$CACHE/by-name/$1
    [ -n "$(find "$link" -mmin -1440 2>/dev/null)" ] && [ -e "$link" ] && readlink "$link"
}

remember() {
    mkdir -p "$CACHE/by-name"
    ln -sfn "$2" "$CACHE/by-name/$1"
}

# download PACKAGE: fetches its .deb into the cache with the machine's own apt and prints its path. Never
# installs it.
download() {
    local package=$1 deb
    remembered "$package" && return
    # Without a download apt names the file: 'URL' NAME SIZE HASH.
    deb=$(apt-get download --print-uris "$package" 2>/dev/null | awk '{print $2}' | tail -n 1)
    if [ -z "$deb" ]; then
        # The lists may be absent (a fresh container) or older than the mirror.
        { [ "$(id -u)" = 0 ] && apt-get update -qq; } || die "apt knows no package $package: run apt-get update"
        deb=$(apt-get download --print-uris "$package" | awk '{print $2}' | tail -n 1)
    fi
    if [ ! -s "$CACHE/$deb" ]; then
        say "downloading $package"
        local tmp
        tmp=$(mktemp -d "$CACHE/.download-XXXXXX")
        # apt drops root for downloads, and warns where it can't write.
        chmod 755 "$tmp"
        (cd "$tmp" && { apt-get download -qq "$package" || { apt-get update -qq && apt-get download -qq "$package"; }; } >&2) ||
            die "can't download $package: is the machine on line, and are its apt lists current (apt-get update)?"
        mv "$tmp"/*.deb "$CACHE/$deb" 2>/dev/null || true
        rm -rf "$tmp"
        [ -s "$CACHE/$deb" ] || die "apt downloaded another version of $package than it named: run apt-get update, then this again"
    fi
    remember "$package" "$CACHE/$deb"
    printf '%s\n' "$CACHE/$deb"
}

# kernel META: downloads and unpacks the kernel that the meta package META (linux-image-amd64) means, runs
# depmod on it, and prints the folder: FOLDER/vmlinuz, FOLDER/lib/modules/VERSION.
kernel() {
    local meta=$1 package dir tmp version
    remembered "kernel-$meta" && return
    package=$(apt-cache depends --important "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        { [ "$(id -u)" = 0 ] && apt-get update -qq; } || die "apt knows no package $meta: run apt-get update"
        package=$(apt-cache depends --important "$meta" | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    fi
    [ -n "$package" ] || die "package $meta names no kernel"
    local deb
    deb=$(download "$package")
    dir=$CACHE/$(basename "$deb" .deb)
    if [ ! -e "$dir/vmlinuz" ]; then
        say "unpacking $package"
        tmp=$(mktemp -d "$CACHE/.kernel-XXXXXX")
        dpkg-deb -x "$deb" "$tmp"
        version=$(basename "$tmp"/lib/modules/*)
        depmod -b "$tmp" "$version"
        chmod 755 "$tmp"
        # The name tells that the unpacking ended: it is made last.
        mv "$tmp/boot/vmlinuz-$version" "$tmp/vmlinuz"
        rm -rf "$dir"
        mv "$tmp" "$dir"
    fi
    remember "kernel-$meta" "$dir"
    printf '%s\n' "$dir"
}

# debian_sources FOLDER: the machine's apt entries for Debian 12 itself, without third parties', as files in FOLDER;
# prints their names.
debian_sources() {
    local folder=$1 file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        sed 's/#.*//' "$file" |
            grep -E '^deb[[:space:]].*[[:space:]](bookworm|bookworm-updates|bookworm-security)[[:space:]]+main([[:space:]]|$)' || true
    done >"$folder/debian.list"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        # Paragraphs without comments whose suites are all Debian 12's and whose components have main.
        grep -v '^#' "$file" | awk -v RS= '
            { suites = components = ""
              for (n = split($0, lines, "\n"); n > 0; n--) {
                  if (lines[n] ~ /^Suites:/) suites = substr(lines[n], 8)
                  if (lines[n] ~ /^Components:/) components = substr(lines[n], 12)
              }
              ours = components ~ /(^| )main( |$)/ && suites != ""
              for (n = split(suites, names, " "); n > 0; n--)
                  if (names[n] !~ /^bookworm(-updates|-security)?$/) ours = 0
              if (ours) print $0 "\n" }'
    done >"$folder/debian.sources"
    find "$folder" -maxdepth 1 \( -name debian.list -o -name debian.sources \) -size +0
}

# squash ROOT FILE COMPRESSION...: a squashfs whose bytes depend on ROOT's names, modes, owners and contents only.
squash() {
    local root=$1 file=$2
    shift 2
    rm -f "$file"
    # mksquashfs refuses -mkfs-time and -all-time beside SOURCE_DATE_EPOCH, and one is enough.
    env -u SOURCE_DATE_EPOCH mksquashfs "$root" "$file" -mkfs-time "$EPOCH" -all-time "$EPOCH" -no-exports \
        -noappend -no-progress -quiet "$@" >&2
}

# Every time in an image: 2024-01-01. A fixed one, so that the same input gives the same bytes; not 0, which
# some programs take for "no time".
EPOCH=1704067200

# tty0 for a person at the screen; the serial console last, so that it is /dev/console.
TINY_CMDLINE='console=tty0 console=ttyS0,115200 loglevel=4 panic=30'
