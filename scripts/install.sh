#!/usr/bin/env bash
# Installs what Lane is built with, from Debian's packages. Does nothing when all is there.
#   scripts/install.sh          to build and run
#   scripts/install.sh tests    also what the tests and the checks use
set -euo pipefail

# package, or package:command where any provider of the command is as good as Debian's package.
wanted=(g++:g++ cmake:cmake ninja-build:ninja pkg-config:pkg-config python3:python3
        libfmt-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libssl-dev libucx-dev
        libpugixml-dev libyaml-cpp-dev libarchive-dev)
[ "${1:-}" = tests ] && wanted+=(libgtest-dev openmpi-bin:mpirun)

missing=()
for entry in "${wanted[@]}"; do
  package=${entry%%:*}
  case $entry in *:*) command -v "${entry#*:}" >/dev/null 2>&1 && continue ;; esac
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null 2>&1 || { echo "Install these packages first (no apt-get here): ${missing[*]}" >&2; exit 1; }
sudo=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "Run as root, or first: apt-get install ${missing[*]}" >&2; exit 1; }
  sudo=sudo
fi
echo "== installing ${missing[*]}"
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
