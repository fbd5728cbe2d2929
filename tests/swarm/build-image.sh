#!/bin/bash
# Builds the guest of the virtual-machine tests: kernel, initrd and root image,
# all from packages of the mirror that this machine itself is configured with.
#
# usage: build-image.sh [CACHE_DIR]
#   prints the directory that holds vmlinuz, initrd.gz and root.img
#
# CACHE_DIR is ${KEEPLINE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/keepline}/guest when not given.
# KEEPLINE_GUEST_SUITE picks another release of the distribution (default: bookworm on
# Debian, because its Engine and kernel are those that the facts were found with; the
# machine's own release elsewhere).
#
# The first run takes two or three minutes, later ones nothing: the result is keyed by a
# hash of all inputs. It is made in a temporary directory and renamed at the end, under a
# lock, so it can be interrupted and can be started twice at once. Needs root, on amd64.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

say() { echo "guest image: $*" >&2; }
die() { say "$*"; exit 1; }

here=$(dirname "$(realpath "$0")")
cache=${1:-${KEEPLINE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/keepline}/guest}

distro=$(. /etc/os-release; echo "$ID")
case $distro in
  debian) release=bookworm components=main kernel_meta=linux-image-cloud-amd64 extra=bpftool ;;
  # Ubuntu's bpftool is tied to one kernel build and pulls in half a gigabyte: left out.
  ubuntu) release='' components=main,universe kernel_meta=linux-image-virtual extra= ;;
  *) die "needs Debian or Ubuntu (this is $distro)" ;;
esac
own_release=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
suite=${KEEPLINE_GUEST_SUITE:-${release:-$own_release}}
packages=docker.io,iproute2,ipvsadm,conntrack,iptables,nftables,kmod,procps,python3
packages+=,ca-certificates,busybox-static,curl,tcpdump${extra:+,$extra}

# --- is it there already? ------------------------------------------------------------

[ "$(dpkg --print-architecture)" = amd64 ] || die "needs an amd64 machine"
tools_missing() {
  missing=()
  for need in qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mke2fs:e2fsprogs \
              xz:xz-utils zstd:zstd; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
  done
  [ ${#missing[@]} -gt 0 ]
}
key=$( { sha256sum <"$here/build-image.sh"
         for file in "$here"/guest/*; do basename "$file"; sha256sum <"$file"; done
         echo "$distro $suite"; } | sha256sum | cut -c1-16)
mkdir -p "$cache"; cache=$(realpath "$cache"); image="$cache/image-$key"
answer_if_there() { if [ -d "$image" ] && ! tools_missing; then echo "$image"; exit; fi; }

answer_if_there
[ "$(id -u)" = 0 ] || die "needs root: to install tools, and for debootstrap"
exec 9>"$cache/lock"
flock -n 9 || { say "another build is running, waiting for it"; flock 9; }
answer_if_there

if tools_missing; then
  say "installing on this machine: ${missing[*]}"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
      --no-install-recommends -o DPkg::Lock::Timeout=120 "${missing[@]}"; } >&2 9>&-
fi
answer_if_there

rm -rf --one-file-system "$cache"/build.*          # left by a run that was killed
work=$(mktemp -d "$cache/build.XXXXXX"); root=$work/root
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$work/image"

# Mounts and processes of debootstrap vanish when it ends, and when this script is killed.
alone() {
  setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child "$@" 9>&-
}

logged() {  # logged WHAT COMMAND…: shows the log's tail only when it fails
  local what=$1 log; shift; log=$work/$(basename "$1").log
  "$@" >"$log" 2>&1 || { tail -n 25 "$log" >&2; die "$what failed"; }
}

# --- packages ------------------------------------------------------------------------

# The line of apt's own configuration that this machine gets its base system from.
read -r mirror keyring < <(
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(SIGNED_BY)' 'Created-By: Packages' |
  awk -v own="$own_release" '$3 == "main" && ($2 == own || $2 == "stable") {print $1, $4; exit}') ||
  die "no mirror for $own_release main in apt's configuration"
case $keyring in /*) ;; *) keyring=/usr/share/keyrings/$distro-archive-keyring.gpg ;; esac

say "building $image ($distro $suite): two or three minutes, once"
mkdir -p "$cache/packages"
logged "debootstrap (packages of $suite)" alone debootstrap --variant=minbase \
  --components="$components" --include="$packages" --keyring="$keyring" \
  --cache-dir="$cache/packages" "$suite" "$root" "$mirror"

# The kernel's files are unpacked, not installed: no initramfs-tools in the guest. A
# private state directory leaves this machine's package lists alone, while its apt.conf
# (proxies) holds.
apt=$work/apt; mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,etc}
echo "deb [signed-by=$keyring] $mirror $suite ${components//,/ }" >"$apt/etc/sources.list"
apt_option=(-o "Dir::Etc::SourceList=$apt/etc/sources.list" -o Dir::Etc::SourceParts=-
            -o "Dir::State=$apt/state" -o Dir::State::Status=/dev/null -o "Dir::Cache=$apt/cache"
            -o APT::Sandbox::User=root)
logged "apt-get update" apt-get "${apt_option[@]}" update
kernel=$(apt-cache "${apt_option[@]}" depends "$kernel_meta" |
         grep -oE 'linux-image-[0-9][^ ]+' | head -1) || die "no kernel behind $kernel_meta"
debs=("$kernel")
for part in modules modules-extra; do               # Ubuntu splits the modules off
  name=linux-$part-${kernel#linux-image-}
  if apt-cache "${apt_option[@]}" show "$name" >/dev/null 2>&1; then debs+=("$name"); fi
done
say "kernel: ${debs[*]}"
mkdir "$work/debs" "$work/kernel"
(cd "$work/debs" && logged "download of the kernel" apt-get "${apt_option[@]}" download "${debs[@]}")
for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/kernel"; done
cp "$work"/kernel/boot/vmlinuz-* "$work/image/vmlinuz"
modules=$(echo "$work"/kernel/lib/modules/* "$work"/kernel/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*' | head -1)
mkdir -p "$root/lib/modules"; cp -a "$modules" "$root/lib/modules/"
chroot "$root" depmod "$(basename "$modules")"

# --- the root image ------------------------------------------------------------------

install -m755 "$here/guest/init.sh" "$root/guest-init.sh"

# The image for containers is the guest's own python3 and busybox: no registry needed. Few
# files: the Engine takes ten seconds more in an emulated guest to import a whole library.
python=$(chroot "$root" readlink -f /usr/bin/python3)
libraries=$(chroot "$root" ldd "$python" | grep -oE '/[^ ]+')
lib=${python/bin/lib}                               # /usr/lib/python3.11
zip=$(sed -E 's/3\.([0-9]+)$/3\1.zip/' <<<"$lib")    # /usr/lib/python311.zip, where it looks
box=$work/box; mkdir -p "$box"/{bin,usr/bin,"$lib/lib-dynload"}
(cd "$root" && cp -L --parents ".$python" $(sed 's,^,.,' <<<"$libraries") "$box/")
cp "$root/bin/busybox" "$box/bin/"; ln -s busybox "$box/bin/sh"
ln -s "$(basename "$python")" "$box/usr/bin/python3"
chroot "$root" "$python" - "$lib" <<'P'
import os, sys, zipfile
with zipfile.PyZipFile("/library.zip", "w") as library:
    library.writepy(sys.argv[1])
    for package in "collections", "concurrent", "encodings", "importlib", "json", "re":
        if os.path.isdir(path := os.path.join(sys.argv[1], package)):
            library.writepy(path)
P
mv "$root/library.zip" "$box$zip"
cp "$root$lib/os.py" "$box$lib/"                    # the mark by which python finds the place
cp "$here/guest/peer.py" "$box/"
chroot "$box" "$python" -c 'import json, socketserver, threading' ||
  die "the containers' python does not start"
tar -C "$box" -cf "$work/image.tar" .
mv "$work/image.tar" "$root/image.tar"

# No names of this machine's network in the guest: it has no way out.
: >"$root/etc/apt/sources.list"; : >"$root/etc/resolv.conf"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
truncate -s 3G "$work/image/root.img"
mke2fs -q -F -t ext4 -d "$root" "$work/image/root.img"

# --- the initrd: just enough to find the disk -----------------------------------------

initrd=$work/initrd; mkdir -p "$initrd"/{bin,dev,mnt,modules}
busybox=$root/bin/busybox; cp "$busybox" "$initrd/bin/busybox"
for name in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  file=$(find "$modules" -name "$name.ko*" | head -1)  # none: built in
  case $file in
    *.ko)  cp "$file" "$initrd/modules/" ;;
    *.xz)  xz -dc "$file" >"$initrd/modules/$name.ko" ;;
    *.zst) zstd -qdc "$file" >"$initrd/modules/$name.ko" ;;
  esac
done
install -m755 "$here/guest/initrd-init.sh" "$initrd/init"
(cd "$initrd" && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/image/initrd.gz"

mv "$work/image" "$image"
# The image before this one may serve another checkout; older ones go.
ls -dt "$cache"/image-* | tail -n +3 | xargs -r rm -rf
say "done: $(du -sh "$image" | cut -f1)"
echo "$image"
