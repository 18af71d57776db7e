#!/usr/bin/env bash
# Installs the Debian packages whose servers the interop tests start themselves. Safe to run again; leaves no service running.
set -euo pipefail

# package, its server, and where Debian puts that
wanted=(
    'mariadb-server mariadbd /usr/sbin/mariadbd'
    'postgresql postgres /usr/lib/postgresql/*/bin/postgres'
    'redis-server redis-server /usr/bin/redis-server'
)

missing=()
for line in "${wanted[@]}"; do
    read -r package server file <<<"$line"
    command -v "$server" >/dev/null || compgen -G "$file" >/dev/null || missing+=("$package")
done
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
    echo "there is no apt-get here to install ${missing[*]}: install these databases in another way" >&2
    exit 1
fi
as_root=(env)
if ((EUID != 0)); then
    if ! sudo -n true 2>/dev/null; then
        echo "cannot install ${missing[*]}: neither root nor sudo without a password" >&2
        exit 1
    fi
    as_root=(sudo -n env)
fi

# apt asks this script before it starts a service; 101 means no. Where somebody has put a policy already, it is kept.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

log=$(mktemp)
install() {
    "${as_root[@]}" apt-get -qq update &&
        "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 \
            --no-install-recommends install "${missing[@]}"
}
if ! install >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"

# A policy of somebody else may have let them start.
for service in mariadb postgresql redis-server; do
    if command -v service >/dev/null && [[ " ${missing[*]} " == *" $service"* ]]; then
        "${as_root[@]}" service "$service" stop >/dev/null 2>&1 || true
    fi
done
echo "installed: ${missing[*]}"
