#!/bin/sh
# Builds the bare-metal images into the given directory (default images/): ./build.sh [DIR]
# Needs gcc with -m32 (Debian: gcc gcc-multilib). The result depends on the sources and the compiler
# only (Debian 12's gcc 12.2 for the committed images).
set -eu
src=$(cd "$(dirname "$0")" && pwd)
out=${1:-$src/images}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$src"
CC=${CC:-gcc}
flags="-m32 -march=i686 -Os -ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector -fno-toplevel-reorder
  -fno-asynchronous-unwind-tables -fno-tree-vectorize -fno-tree-loop-distribute-patterns
  -mgeneral-regs-only -fcf-protection=none -std=gnu11 -Wall -Wextra -Werror"
image() { # NAME SOURCE FLAGS...
  name=$1 source=$2
  shift 2
  for file in entry.S runtime.c "$source"; do
    # shellcheck disable=SC2086
    $CC $flags "$@" -c -o "$work/${file%.*}.o" "$file"
  done
  $CC -m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -T image.ld \
    -o "$work/$name.elf" "$work/entry.o" "$work/runtime.o" "$work/${source%.*}.o"
  strip -s -o "$out/$name.elf" "$work/$name.elf"
  chmod 644 "$out/$name.elf"
}
image gates gates.c
image segments segments.c
image control control.c
image paging paging.c
image paging-pae paging.c -DPAE
image tasks tasks.c
image breakpoints breakpoints.c
image triple triple.c




