#!/usr/bin/env bash
# Builds amends twice: once to see how it runs under load, and again with what was seen (profile-guided optimisation). Takes about ten
# minutes on two cores. The result is TARGET/pgo/amends.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools

target=${CARGO_TARGET_DIR:-$PWD/target}
out=$target/pgo
built=$out/$host/release/amends
seen=$out/seen
rm -rf "$seen"
mkdir -p "$seen"

build() {
    RUSTFLAGS=$1 cargo build --locked --release --target "$host" --target-dir "$out" -p amends-server
}

cargo build --locked --release -p amends-bench
build "-Cprofile-generate=$seen"
# Every protocol under load, then every mode once.
"$target/release/amends-bench" run --rounds 1 --seconds 4 --amends "$built" >"$seen/bench.log"
"$built" demo >"$seen/demo.log"

"$profdata" merge -o "$seen/merged" "$seen"/*.profraw
# Cargo builds anew for another name, not for other content.
profile=$out/$(sha256sum "$seen/merged" | cut -c1-16).profdata
mv "$seen/merged" "$profile"
build "-Cprofile-use=$profile"
cp "$built" "$out/amends"
rm -rf "$seen" "$profile"
echo "built $out/amends"
