#!/usr/bin/env bash
# Runs every test of the workspace, part by part, and sums up. A part that fails does not keep the others from running.
set -uo pipefail
cd "$(dirname "$0")/.."

# Cheap and fundamental ones first. A package that is not named here comes last.
order=(amends amends-simulation amends-server amends-scenarios amends-interop amends-participants amends-example-bank amends-faults amends-bench)
# These drive the real binary.
needs_binary=(amends-scenarios amends-interop amends-participants amends-example-bank amends-faults)
# Their tests print seeds and numbers worth reading.
talkative=(amends-simulation amends-scenarios amends-interop amends-faults)

has() {
    local wanted=$1 item
    shift
    for item; do [[ $item == "$wanted" ]] && return 0; done
    return 1
}

mapfile -t members < <(
    cargo metadata --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(*sorted(p["name"] for p in json.load(sys.stdin)["packages"]), sep="\n")'
)
if ((${#members[@]} == 0)); then
    echo 'the workspace cannot be read; see above' >&2
    exit 1
fi
packages=()
for package in "${order[@]}"; do has "$package" "${members[@]}" && packages+=("$package"); done
for package in "${members[@]}"; do has "$package" "${order[@]}" || packages+=("$package"); done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
summary=()
failed=0

# part NAME COMMAND...: runs it, shows all it prints, and remembers how it ended.
part() {
    local name=$1 began=$SECONDS result=ok counts
    shift
    printf '\n==> %s: %s\n' "$name" "$*"
    if ! "$@" 2>&1 | tee "$log"; then
        result=FAILED
        failed=1
    fi
    counts=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; any = 1 }
        END { if (any) printf "%d passed, %d failed, %d ignored", passed, failed, ignored }' "$log")
    summary+=("$(printf '%-18s  %-6s  %4d s  %s' "$name" "$result" $((SECONDS - began)) "$counts")")
}

part 'dependencies' make --no-print-directory check-dependencies
built=no
for package in "${packages[@]}"; do
    if [[ $built == no ]] && has "$package" "${needs_binary[@]}"; then
        part 'binary' cargo build -p amends-server
        built=yes
    fi
    # They start database servers from Debian's packages.
    [[ $package == amends-interop ]] && part 'databases' tests/install.sh
    options=(--no-fail-fast)
    has "$package" "${talkative[@]}" && options+=(-- --show-output)
    part "$package" cargo test -p "$package" "${options[@]}"
    # What the documentation of its features shows.
    [[ $package == amends ]] && part 'amends-docs' cargo test -p amends --all-features --doc
done

printf '\n'
printf '%s\n' "${summary[@]}"
if ((failed)); then
    echo "total: FAILED after $SECONDS s"
    exit 1
fi
echo "total: ok in $SECONDS s"
