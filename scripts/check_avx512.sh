#!/usr/bin/env bash
# Runs the program on an emulated processor with AVX-512, for machines that have none: are the 512-bit kernels right?
#
#   scripts/check_avx512.sh [ARGUMENT…]        arguments of wattle, default `verify`
#   BINARY=target/release/wattle               which program; it may read no file that is not in itself
#
# Bochs emulates a Skylake-X, on which a Debian kernel starts the program out of an initial RAM disk; what it prints
# comes out here, and its exit status is this script's. Emulation is some hundred times slower than a processor, and
# times printed under it mean nothing.
#
# Needs, of Debian: bochs bochs-term bochsbios vgabios busybox-static isolinux syslinux-common xorriso cpio, and
# downloads a kernel package (26 MB, `apt-get download`, kept in target/avx512) unless KERNEL names a vmlinuz.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
binary=$(realpath "${BINARY:-$root/target/release/wattle}")
arguments=("${@:-verify}")
cache=$root/target/avx512
mkdir -p "$cache"

for needed in bochs xorriso cpio busybox ldd script; do
  command -v "$needed" >/dev/null || { echo "$needed is missing; the head of $0 names the packages" >&2; exit 2; }
done

# A kernel for virtual machines: its serial console is built in, and nothing else is needed.
if [ -z "${KERNEL:-}" ]; then
  KERNEL=$(find "$cache" -name 'vmlinuz-*' -print -quit)
  if [ -z "$KERNEL" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    (cd "$cache" && apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg-deb -x "$package"_*.deb . && rm -rf "$package"_*.deb usr lib)
    KERNEL=$(find "$cache" -name 'vmlinuz-*' -print -quit)
  fi
fi

scratch=$(mktemp -d)
# Bochs does not heed SIGTERM.
trap 'pkill -KILL -f "bochs.* $scratch/bochsrc" || true; rm -rf "$scratch"' EXIT

disk=$scratch/disk
mkdir -p "$disk"/{bin,proc,sys,dev,tmp}
cp "$(command -v busybox)" "$disk/bin/busybox"
cp "$binary" "$disk/bin/wattle"
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$disk$(dirname "$library")"
  cp -L "$library" "$disk$library"
done
cat > "$disk/init" <<INIT
#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmp /tmp
cd /tmp
export HOME=/tmp
echo "--- \$(busybox grep -m1 'model name' /proc/cpuinfo), \$(busybox grep -o 'avx512[a-z]*' /proc/cpuinfo | busybox tr '\n' ' ')" > /dev/ttyS0
wattle $(printf '%q ' "${arguments[@]}") > /dev/ttyS0 2>&1
echo "--- exit status \$?" > /dev/ttyS0
# What is still on its way through the serial port would be lost.
busybox sleep 3
busybox poweroff -f
INIT
chmod +x "$disk/init"

iso=$scratch/iso
mkdir -p "$iso/isolinux"
(cd "$disk" && find . | cpio -o -H newc --quiet | gzip -1) > "$iso/initrd"
cp "$KERNEL" "$iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$iso/isolinux/"
# Bochs' CPUID gives sizes for XSAVEC and PKRU that the kernel takes for a fault, upon which it would turn AVX off; and
# it lacks the registers behind APERF.
cat > "$iso/isolinux/isolinux.cfg" <<CFG
default wattle
label wattle
  kernel /vmlinuz
  initrd /initrd
  append console=ttyS0,115200 quiet panic=-1 nokaslr mitigations=off apparmor=0 idle=halt tsc=reliable lpj=1000000 nopku noxsaves clearcpuid=aperfmperf,xsavec,xsaves
CFG
xorriso -as mkisofs -quiet -o "$scratch/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table "$iso" 2> "$scratch/xorriso.log" || { cat "$scratch/xorriso.log"; exit 2; }

cat > "$scratch/bochsrc" <<RC
megs: 2048
cpu: model=corei7_skylake_x, count=1, ips=200000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$scratch/boot.iso, status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev=$scratch/serial
display_library: term
log: $scratch/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
RC
# Debian's Bochs stops in its debugger at first.
echo c > "$scratch/continue"
touch "$scratch/serial"
TERM=xterm script -qfec "bochs -q -f $scratch/bochsrc -rc $scratch/continue" /dev/null > "$scratch/screen" 2>&1 &
emulator=$!
# Its screen is a terminal of its own, and it stands still when nobody reads there.
until terminal=$(sed -n 's/.*connected to screen "\(.*\)".*/\1/p' "$scratch/screen") && [ -n "$terminal" ]; do
  kill -0 "$emulator" || { cat "$scratch/screen" >&2; exit 2; }
  sleep 1
done
cat "$terminal" > /dev/null 2>&1 &

# What the program prints, as it comes.
tail -n +1 -f --pid="$emulator" "$scratch/serial" 2>/dev/null | sed -u -n 's/\r$//; /^---/,/^--- exit status/p' | tee "$scratch/output" || true
status=$(sed -n 's/^--- exit status //p' "$scratch/output")
if [ -z "$status" ]; then
  echo "the emulated machine did not get to the end:" >&2
  tail -n 20 "$scratch/serial" "$scratch/bochs.log" >&2
  exit 2
fi
exit "$status"
