#!/usr/bin/env bash
# Everything that needs a GPU: builds (or takes binaries that were built before), runs the tests labelled gpu, then prints a short table.
#   scripts/gpu_check.sh                 build with preset cuda, then test
#   scripts/gpu_check.sh --prebuilt DIR  test binaries are in DIR
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --prebuilt ]; then
  tests=("$2"/test_*_gpu)
else
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda -- --quiet
  mapfile -t tests < <(find build/cuda/tests -type f -name 'test_*_gpu')
fi
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
failed=0
for test in "${tests[@]}"; do
  if output=$("$test" 2>&1); then
    printf '%-32s %s\n' "$(basename "$test")" "$(grep -c '\[       OK' <<<"$output") passed"
  else
    printf '%-32s FAILED\n%s\n' "$(basename "$test")" "$output"
    failed=1
  fi
done
exit $failed
