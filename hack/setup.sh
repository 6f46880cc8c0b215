#!/usr/bin/env bash
# Installs what building, testing and `make demo` need on Debian 12, and says so.
# It adds packages and nothing else: no service is started or enabled, no repository or configuration is changed.
# With everything there it asks nobody, changes nothing, and takes a moment.
set -euo pipefail

# Building (pg_query needs libclang), Kubernetes' node, the databases and their clients, and what images are packed from.
packages=(
  gcc libc6-dev make cmake clang libclang-dev pkg-config git ca-certificates curl
  runc containerd containernetworking-plugins iproute2 iptables nftables util-linux procps
  postgresql postgresql-contrib pgbouncer openssl prometheus zstd bzip2
)

# The tools of other languages whose questions the proxy has to let through; a machine that has them keeps its own.
command -v java >/dev/null || packages+=(openjdk-17-jdk-headless)
command -v mvn >/dev/null || packages+=(maven)
command -v npm >/dev/null || packages+=(nodejs npm)

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done

if ((${#missing[@]})); then
  if ((EUID != 0)); then
    echo "these packages are missing, and installing them needs root: ${missing[*]}" >&2
    exit 1
  fi
  echo "installing: ${missing[*]}"

  # While packages are installed, nothing of theirs may start: tests bring up their own servers on their own ports.
  # Debian asks this program before it starts a service. A machine that has one already keeps it.
  policy=/usr/sbin/policy-rc.d
  clusters=/etc/postgresql-common/createcluster.d/sallyport-setup.conf
  made=()
  trap '((${#made[@]} == 0)) || rm -f "${made[@]}"' EXIT
  if [[ ! -e $policy ]]; then
    made+=("$policy")
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  # Nor does the distribution's own database cluster have to be made.
  if [[ ! -e /etc/postgresql-common ]]; then
    mkdir -p "$(dirname "$clusters")"
    made+=("$clusters")
    echo 'create_main_cluster = false' >"$clusters"
  fi

  before=$(systemctl list-unit-files --state=enabled --no-legend 2>/dev/null | awk '{print $1}' | sort || true)
  apt-get update --quiet=2
  DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
  # Installing enables units for the next boot; what was not enabled before is not to be after.
  if [[ -d /run/systemd/system ]]; then
    after=$(systemctl list-unit-files --state=enabled --no-legend | awk '{print $1}' | sort)
    comm -13 <(echo "$before") <(echo "$after") | xargs --no-run-if-empty systemctl disable --quiet
  fi
  echo "installed"
fi

# These come from their own installers; their versions are named in rust-toolchain.toml and tests/cluster/go.mod.
for tool in cargo:https://rustup.rs go:https://go.dev/dl; do
  if ! command -v "${tool%%:*}" >/dev/null; then
    echo "${tool%%:*} is not in PATH: see ${tool#*:}" >&2
    exit 1
  fi
done
