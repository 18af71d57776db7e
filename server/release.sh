#!/usr/bin/env bash
# Builds amends twice: once to see how it runs under load, and again with what was seen (profile-guided optimisation). Takes about twelve
# minutes on two cores, and wants rustup for a component of the toolchain. The result is TARGET/pgo/amends.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/pgo"
target=$(cd "$target" && pwd)
out=$target/pgo
seen=$out/seen
trap 'rm -rf "$seen" "$out/counting" "$out/built"' EXIT

# The folder to build in, and the one flag. In that variable spaces separate nothing.
build() {
    CARGO_ENCODED_RUSTFLAGS=$2 cargo build --locked --release --target "$host" --target-dir "$out/$1" -p amends-server
}

cargo build --locked --release -p amends-bench
build counting "-Cprofile-generate=$seen"
# Every protocol under load, then some modes once.
"$target/release/amends-bench" run --rounds 1 --seconds 4 --amends "$out/counting/$host/release/amends"
"$out/counting/$host/release/amends" demo >/dev/null

"$profdata" merge -o "$seen/merged" "$seen"/*.profraw
build built "-Cprofile-use=$seen/merged"
cp --remove-destination "$out/built/$host/release/amends" "$out/amends"
echo "built $out/amends"
