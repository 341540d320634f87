#!/bin/sh
# Builds every image into the given directory (default ../images): ./build.sh [DIR]
#
#   pv-i386-pae.elf      PAE, ELF notes
#   pv-i386-nopae.elf   two-level tables, ELF notes
#   pv-i386-legacy.elf   two-level tables, the older __xen_guest section instead of notes
#   pv-i386-net.elf      PAE, ELF notes; other steps: a network interface, a page and a channel shared with another domain
#   bench-paging.elf     the compute kernels as a multiboot image
#
# Needs gcc with -m32 (Debian: gcc gcc-multilib). The result depends on the sources
# and the compiler only (Debian 12's gcc 12.2 for the committed images): no build
# id, no time, no path, no debug information; symbol tables stay in.
set -eu
src=$(cd "$(dirname "$0")" && pwd)
out=${1:-$src/../images}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$src"
CC=${CC:-gcc}
flags="-m32 -march=i686 -O2 -ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector
  -fno-asynchronous-unwind-tables -fno-tree-vectorize -fno-tree-loop-distribute-patterns
  -mgeneral-regs-only -fcf-protection=none -std=gnu11 -Wall -Wextra -Werror"
link="-m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments"
pv_objects="head user main words console traps memory tables events timer xenstore modes bench
  step-info step-traps step-segments step-memory step-events step-timer step-grants step-xenstore step-user"
net_objects="head user main words console traps memory tables events timer xenstore modes bench step-segments step-user
  grants step-net step-pair"

# pv NAME PAE LEGACY OBJECTS [FLAG]
pv() {
  objects=
  for o in $4; do
    if [ -f "$o.S" ]; then file=$o.S; else file=$o.c; fi
    # shellcheck disable=SC2086
    $CC $flags -DPAE="$2" -DLEGACY="$3" ${5:-} -c -o "$work/$o.o" "$file"
    objects="$objects $work/$o.o"
  done
  # shellcheck disable=SC2086
  $CC $link -T kernel.ld -o "$work/$1" $objects
  objcopy --strip-debug --wildcard --strip-symbol='__func__*' "$work/$1" "$out/$1"
  chmod 644 "$out/$1"
}

pv pv-i386-pae.elf 1 0 "$pv_objects"
pv pv-i386-nopae.elf 0 0 "$pv_objects"
pv pv-i386-legacy.elf 0 1 "$pv_objects"
pv pv-i386-net.elf 1 0 "$net_objects" -DNET

for o in multiboot-head.S multiboot.c; do
  # shellcheck disable=SC2086
  $CC $flags -c -o "$work/${o%.*}.o" "$o"
done
# shellcheck disable=SC2086
$CC $link -T multiboot.ld -o "$work/bench-paging.elf" "$work/multiboot-head.o" "$work/multiboot.o"
objcopy --strip-debug --wildcard --strip-symbol='__func__*' "$work/bench-paging.elf" "$out/bench-paging.elf"
chmod 644 "$out/bench-paging.elf"
