#!/usr/bin/env bash
# The 60-second start: installs what is missing, builds Lane for the CPU, and lets the demo model answer a few prompts over two ranks.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/install.sh
echo "== building (preset release)"
cmake --preset release -DLANE_CUDA=OFF -DLANE_TESTS=OFF -DLANE_BENCH=OFF >build-configure.log 2>&1 || { cat build-configure.log; exit 1; }
rm -f build-configure.log
cmake --build --preset release --target lane -- --quiet
echo "== build/release/cli/lane generate --prompts models/demo/examples.txt --tp 2 --breakdown"
exec ./build/release/cli/lane generate --prompts models/demo/examples.txt --tp 2 --breakdown
