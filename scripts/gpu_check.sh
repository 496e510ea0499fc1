#!/usr/bin/env bash
# Everything that needs GPUs: the tests labelled gpu, a small set of them under compute-sanitizer, the engine against
# transformers and beside its peers, then benchmarks of the collectives. Builds first, or takes binaries that were built
# elsewhere. The engine's part needs a python3 with torch, transformers and safetensors.
#   scripts/gpu_check.sh                     build with preset cuda, then check
#   scripts/gpu_check.sh --prebuilt DIR      test_*_gpu, lane and peers/ are in DIR
#   ... --out DIR                            where results go [out/gpu]
#   ... --only tests|stress|sanitizer|engine|bench  one of the five
#   ... --quick                              fewer samples
set -euo pipefail
cd "$(dirname "$0")/.."
prebuilt='' out=out/gpu only='' samples=1000
while [ $# -gt 0 ]; do
  case $1 in
    --prebuilt) prebuilt=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --quick) samples=200; shift ;;
    *) echo "$0: unknown argument $1" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
if [ -n "$prebuilt" ]; then
  tests=("$prebuilt"/test_*_gpu) lane=$prebuilt/lane peers=$prebuilt/peers
else
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda -- --quiet
  mapfile -t tests < <(find build/cuda/tests -type f -name 'test_*_gpu')
  lane=build/cuda/cli/lane peers=build/cuda/bench/peers/cuda
fi
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
gpus=$(nvidia-smi --list-gpus | wc -l)
failed=0

wants() { [ -z "$only" ] || [ "$only" = "$1" ]; }

if wants tests; then
  for test in "${tests[@]}"; do
    name=$(basename "$test")
    if "$test" --gtest_brief=1 >"$out/$name.log" 2>&1; then
      printf '%-28s %s\n' "$name" "$(tail -n 2 "$out/$name.log" | tr '\n' ' ')"
    else
      printf '%-28s FAILED, see %s\n' "$name" "$out/$name.log"
      grep -vE '^\[ +(OK|RUN)|^$' "$out/$name.log" | tail -n 40
      failed=1
    fi
  done
fi

if wants stress; then
  for test in "${tests[@]}"; do
    case $test in *test_comm_gpu) ;; *) continue ;; esac
    if LANE_TEST_CALLS=1000000 "$test" --gtest_filter=GpuStress.OfManyCalls >"$out/stress.log" 2>&1; then
      printf '%-28s a million calls among 2, 3 and 4 ranks: right\n' stress
    else
      printf '%-28s FAILED, see %s\n' stress "$out/stress.log"
      tail -n 30 "$out/stress.log"
      failed=1
    fi
  done
fi

# Under compute-sanitizer kernels take a hundred times as long, so only small cases run, and those of the engine on one
# GPU, where no rank waits for another. The engine's own kernels are in the cases that stay; what is left out are cuBLAS'
# products and a vocabulary of 128256.
kernel_cases='-*IsRightForAllShapes*:Draw.ChoosesWhatTheRuleChooses*'
sampler_cases='*CountsTokens*/0:*Nonsense*/0'
fixture_cases='*Greedy*/llama31:*Bfloat16*/qwen25'

sanitize() {  # tool, name, command
  local tool=$1 name=$2 log=$out/sanitizer.$1.$2.log quiet=''
  shift 2
  # Peer access that is there already is an error to the tool, and to nobody else.
  [ "$tool" = memcheck ] && quiet=--report-api-errors=no
  if LANE_TIMEOUT_MS=300000 compute-sanitizer --tool "$tool" $quiet --error-exitcode 9 "$@" >"$log" 2>&1; then
    printf '%-28s clean, %s\n' "$tool" "$name"
  else
    printf '%-28s FAILED in %s, see %s\n' "$tool" "$name" "$log"
    tail -n 30 "$log"
    failed=1
  fi
}

if wants sanitizer; then
  for tool in memcheck racecheck; do
    for test in "${tests[@]}"; do
      case $test in
        *_sanitizer_gpu) sanitize $tool collectives "$test" ;;
        *_kernels_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool kernels "$test" --gtest_filter="$kernel_cases" ;;
        *_device_sampler_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool sampler "$test" --gtest_filter="$sampler_cases" ;;
        *_fixtures_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool fixtures "$test" --gtest_filter="$fixture_cases" ;;
      esac
    done
    CUDA_VISIBLE_DEVICES=0 sanitize $tool generate "$lane" generate --device cuda --prompt 'What is 17 + 25?' \
      --prompt 'What comes after Monday?' --max-tokens 12 --max-model-len 256 --kv-cache-memory-bytes 64M --no-progress
  done
fi

case $(nvidia-smi --query-gpu=name --format=csv,noheader) in
  *H200*) read_tb_per_s=4.49 ;;  # of a plain read, measured: docs/performance/engine_gpu.md
  *) read_tb_per_s=0 ;;          # no floor is printed
esac
compare() {  # name, GPUs, shape, flags of compare_engines.py
  local name=$1 tp=$2 shape=$3
  shift 3
  echo "== $name: $shape on $tp"
  python3 bench/peers/engine/compare_engines.py --lane "$lane" --shape "bench/shapes/$shape" --tp "$tp" \
    --json "$out/$name.json" --commit "$(git rev-parse HEAD 2>/dev/null || true)" \
    --read-tb-per-s $read_tb_per_s "$@" | tee "$out/$name.txt" || failed=1
}

if wants engine; then
  steps=$((samples >= 1000 ? 256 : 64))
  echo "== exactness: tests/runtime/transformers_gpu_check.py"
  python3 tests/runtime/transformers_gpu_check.py --lane "$lane" --steps $steps --json "$out/exactness.json" |
    tee "$out/exactness.txt" || failed=1
  compare engine_8b_tp1 1 llama-8b --batches 1,16 --time-limit-s 240
  for n in 2 4; do
    [ "$gpus" -ge "$n" ] || continue
    compare "engine_8b_tp$n" "$n" llama-8b --batches 1,16 --lane-nccl --time-limit-s 240
    compare "engine_8b_nodes$n" "$n" llama-8b --batches 1,16 --lane-nccl --nodes 2 --lane-rounds 1 --time-limit-s 120
  done
fi

bench() {  # name, flags of bench allreduce
  local name=$1
  shift
  echo "== $name: lane bench allreduce --device cuda $*"
  "$lane" bench allreduce --device cuda --no-progress --peer-dir "$peers" --json "$out/$name.json" "$@" |
    tee "$out/$name.txt" | grep -vE 'p50/1|p99/1' || failed=1
}

if wants bench && [ "$gpus" -ge 2 ]; then
  sizes=8K,16K,32K,64K,128K,256K,512K,1M,2M,4M
  all=nccl,nccl:symmetric,nvshmem:own,flashinfer,vllm
  for n in 4 2; do
    [ "$gpus" -ge "$n" ] || continue
    bench "h200x${n}_bf16" --ranks "$n" --dtype bfloat16 --sizes $sizes --samples "$samples" --algorithm auto,one_shot,two_shot \
      --peers $all --svg "$out/h200x${n}_bf16.svg"
  done
  n=$((gpus >= 4 ? 4 : 2))
  bench "h200x${n}_f32" --ranks $n --dtype float32 --sizes $sizes --samples $((samples / 2)) --peers nccl,nccl:symmetric,vllm
  export LANE_NCCL=on  # large vectors are its business, and it cannot start under graph capture
  bench "h200x${n}_large" --ranks $n --dtype bfloat16 --sizes 8M,16M,64M,256M --samples 60 --calls-per-graph 3 --peers nccl
  unset LANE_NCCL
  bench "h200x${n}_decode" --ranks $n --dtype bfloat16 --sizes 8K,64K,256K,1M --samples $((samples / 2)) --cold --with-gemm \
    --skew 5 --peers nccl:symmetric,flashinfer
  bench "h200x${n}_norm" --ranks $n --dtype bfloat16 --sizes 8K --samples $((samples / 2)) --peers flashinfer \
    --fused 8192x1,8192x4,8192x16,8192x64,4096x1,4096x4,4096x16,4096x64
  bench "hosts4x1" --ranks 4 --nodes 4 --dtype bfloat16 --sizes 8K,32K,128K,256K,512K,1M,2M --samples $((samples / 4)) --peers nccl
  bench "hosts2x2" --ranks 4 --nodes 2 --dtype bfloat16 --sizes 8K,32K,128K,256K,512K,1M,2M --samples $((samples / 4)) --peers nccl
fi
exit $failed
