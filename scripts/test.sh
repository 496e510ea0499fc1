#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that needs no GPU.
#   scripts/test.sh            release build
#   scripts/test.sh asan       another preset: dev, asan, tsan
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}

./scripts/install.sh tests
echo "== building (preset $preset)"
cmake --preset "$preset" -DLANE_TESTS=ON >/dev/null
cmake --build --preset "$preset" -- --quiet
echo "== testing"
exec ctest --preset "$preset" -j "$(nproc)"
