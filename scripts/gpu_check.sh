#!/usr/bin/env bash
# Everything that needs GPUs, on as many as there are: the tests labelled gpu, a small set of them under
# compute-sanitizer, the engine against transformers and beside its peers, loading against the disk, then benchmarks of the
# collectives. Builds first, or takes binaries that were built elsewhere. The engine's part needs a python3 with torch,
# transformers and safetensors.
#   scripts/gpu_check.sh                     build with preset cuda, then check
#   scripts/gpu_check.sh --prebuilt DIR      test_*_gpu, lane and peers/ are in DIR
#   ... --out DIR                            where logs, results and summary.json go [out/gpu]
#   ... --only tests|sanitizer|engine|bench|stress  one of the five
#   ... --minutes N                          ends by then: what runs is cut off, the rest is not begun
#   ... --quick                              fewer samples, no published workload
# Exit status: 0 all is well; 1 something failed; 3 nothing failed, but something was cut off, not begun or lacks a
# program, so nobody knows.
set -euo pipefail
cd "$(dirname "$0")/.."
prebuilt='' out=out/gpu only='' samples=1000 end_s=''
while [ $# -gt 0 ]; do
  case $1 in
    --prebuilt) prebuilt=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --minutes) end_s=$((SECONDS + 60 * $2)); shift 2 ;;
    --quick) samples=200; shift ;;
    *) echo "$0: unknown argument $1" >&2; exit 2 ;;
  esac
done
case $only in ''|tests|sanitizer|engine|bench|stress) ;; *) echo "$0: --only $only: there is no such part" >&2; exit 2 ;; esac
mkdir -p "$out"
nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
gpus=$(nvidia-smi --list-gpus | wc -l)
if [ -n "$prebuilt" ]; then
  tests=("$prebuilt"/test_*_gpu) lane=$prebuilt/lane peers=$prebuilt/peers
else
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda -- --quiet
  mapfile -t tests < <(find build/cuda/tests -type f -name 'test_*_gpu')
  lane=build/cuda/cli/lane peers=build/cuda/bench/peers/cuda
fi

rows=() failed=0 unknown=0 child=''
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; exit 130' INT TERM

wants() { [ -z "$only" ] || [ "$only" = "$1" ]; }

within() {  # seconds: no more than are left
  local left=$((${end_s:-999999} - SECONDS))
  echo $((left < $1 ? left : $1))
}

add_row() {  # name, result, seconds, remark
  rows+=("$1|$2|$3|$4")
  printf '%-30s %-10s %5s s  %s\n' "$1" "$2" "$3" "$4"
  case $2 in
    FAILED) failed=1 ;;
    'cut off' | 'not begun' | unknown) unknown=1 ;;
  esac
}

remark_of() {  # log: what GoogleTest counted
  sed -nE 's/^\[  (PASSED|SKIPPED|FAILED) +\] ([0-9]+ tests?).*/\1 \2/p' "$1" | tr 'A-Z\n' 'a-z ' | sed 's/ $//; s/s \([a-z]\)/s, \1/g'
}

check() {  # name, seconds at most, command: a row of the table; its output goes to a log
  local name=$1 most log=$out/$1.log status=0 start=$SECONDS result=ok remark
  most=$(within "$2")
  shift 2
  if [ "$most" -lt 5 ]; then
    add_row "$name" 'not begun' 0 'the time was over'
    return
  fi
  timeout --kill-after=5 "$most" "$@" >"$log" 2>&1 </dev/null &
  child=$!
  wait "$child" || status=$?
  child=''
  remark=$(remark_of "$log")
  case $status in
    0) case $remark in 'passed 0 tests'*) result=skipped ;; esac ;;
    124 | 137) result='cut off' remark="after $most s, see $log" ;;
    *)
      result=FAILED remark="exit status $status, see $log"
      grep -vE '^\[ +(OK|RUN)|^$' "$log" | tail -n 30 || true
      ;;
  esac
  add_row "$name" "$result" $((SECONDS - start)) "$remark"
}

check_tests() {
  local test
  for test in "${tests[@]}"; do check "$(basename "$test")" 400 "$test" --gtest_brief=1; done
}

# Under compute-sanitizer kernels take a hundred times as long, so only small cases run, and those of the engine on one
# GPU, where no rank waits for another. The engine's own kernels are in the cases that stay; what is left out are cuBLAS'
# products and a vocabulary of 128256. `lane generate` runs a model of two layers with head size 64, for whose sake all
# kernels of a real one start: prompts in one step, a step launched kernel by kernel, one recorded and one replayed.
kernel_cases='-*IsRightForAllShapes*:Draw.ChoosesWhatTheRuleChooses*'
sampler_cases='*CountsTokens*/0:*Nonsense*/0'
fixture_cases='*Greedy*/llama31:*Bfloat16*/qwen25'

sanitize() {  # tool, name, seconds at most, command
  local tool=$1 name=$2 most=$3 options=()
  shift 3
  # Peer access that is there already is an error to the tool, and to nobody else.
  [ "$tool" != memcheck ] || options=(--report-api-errors=no)
  check "$tool.$name" "$most" env LANE_TIMEOUT_MS=300000 compute-sanitizer --tool "$tool" "${options[@]}" \
    --error-exitcode 9 "$@"
}

check_sanitizer() {
  local tool test model=$out/two_layers
  if ! command -v compute-sanitizer >/dev/null; then
    add_row sanitizer unknown 0 'there is no compute-sanitizer in PATH'
    return
  fi
  mkdir -p "$model"
  cat >"$model/config.json" <<'JSON'
{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512, "max_position_embeddings": 256, "rms_norm_eps": 1e-05,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}
JSON
  printf '%s\n' '{"prompt_token_ids": [5, 80, 311, 44, 9], "temperature": 0}' \
    '{"prompt_token_ids": [17, 4, 200], "temperature": 0.9, "top_p": 0.8, "top_k": 20, "seed": 7}' >"$model/prompts.jsonl"
  export CUDA_MODULE_LOADING=LAZY
  for tool in memcheck racecheck; do
    CUDA_VISIBLE_DEVICES=0 sanitize $tool generate 120 "$lane" generate --device cuda --model "$model" --load-format dummy \
      --prompts "$model/prompts.jsonl" --max-tokens 5 --ignore-eos --max-model-len 64 --max-num-seqs 2 \
      --max-num-batched-tokens 64 --kv-cache-memory-bytes 16M --no-progress
  done
  for tool in memcheck racecheck; do
    for test in "${tests[@]}"; do
      case $test in
        *_sanitizer_gpu) sanitize $tool collectives 300 "$test" ;;
        *_kernels_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool kernels 600 "$test" --gtest_filter="$kernel_cases" ;;
        *_device_sampler_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool sampler 300 "$test" --gtest_filter="$sampler_cases" ;;
        *_fixtures_gpu) CUDA_VISIBLE_DEVICES=0 sanitize $tool fixtures 600 "$test" --gtest_filter="$fixture_cases" ;;
      esac
    done
  done
}

commit=$(git rev-parse HEAD 2>/dev/null || true)
compare() {  # name, seconds at most, flags of compare_engines.py
  local name=$1 most
  most=$(within "$2")
  shift 2
  check "$name" $((most + 20)) python3 bench/peers/engine/compare_engines.py --lane "$lane" --json "$out/$name.json" \
    --commit "$commit" --time-limit-s $((most - 5)) "$@"
  [ ! -f "$out/$name.log" ] || cat "$out/$name.log"
}

check_engine() {
  local n steps=$((samples >= 1000 ? 256 : 64)) shape=bench/shapes/llama-8b
  if ! python3 -c 'import torch, transformers, safetensors' 2>/dev/null; then
    add_row engine unknown 0 'python3 has no torch, transformers or safetensors'
    return
  fi
  check exactness 600 python3 tests/runtime/transformers_gpu_check.py --lane "$lane" --steps $steps \
    --json "$out/exactness.json"
  compare engine_8b_tp1 240 --shape $shape --tp 1 --batches 1,16
  for n in 2 4; do
    [ "$gpus" -ge $n ] || continue
    compare engine_8b_tp$n 240 --shape $shape --tp $n --batches 1,16 --lane-nccl
    compare engine_8b_tp${n}_nodes2 120 --shape $shape --tp $n --batches 1,16 --lane-nccl --nodes 2 --lane-rounds 1
    [ "$samples" -lt 1000 ] || compare engine_70b_tp${n}_published 285 --published --tp $n
  done
  check cold_start 320 python3 bench/engine/cold_start.py --lane "$lane" --shape $shape --folder "${TMPDIR:-/tmp}" \
    --json "$out/cold_start.json" --commit "$commit" --time-limit-s "$(within 300)"
  [ ! -f "$out/cold_start.log" ] || cat "$out/cold_start.log"
}

bench() {  # name, flags of bench allreduce
  local name=$1
  shift
  check "$name" 240 "$lane" bench allreduce --device cuda --no-progress --peer-dir "$peers" --json "$out/$name.json" "$@"
  [ ! -f "$out/$name.log" ] || grep -vE 'p50/1|p99/1' "$out/$name.log" || true
}

check_bench() {
  local n=2 k sizes=8K,16K,32K,64K,128K,256K,512K,1M,2M,4M
  if [ "$gpus" -lt 2 ]; then
    add_row bench skipped 0 'needs 2 GPUs'
    return
  fi
  for k in 2 4; do
    [ "$gpus" -ge $k ] || continue
    n=$k
    bench "h200x${k}_bf16" --ranks $k --dtype bfloat16 --sizes $sizes --samples "$samples" \
      --algorithm auto,one_shot,two_shot --peers nccl,nccl:symmetric,nvshmem:own,flashinfer,vllm --svg "$out/h200x${k}_bf16.svg"
  done
  bench "h200x${n}_f32" --ranks $n --dtype float32 --sizes $sizes --samples $((samples / 2)) --peers nccl,nccl:symmetric,vllm
  export LANE_NCCL=on  # large vectors are its business, and it cannot start under graph capture
  bench "h200x${n}_large" --ranks $n --dtype bfloat16 --sizes 8M,16M,64M,256M --samples 60 --calls-per-graph 3 --peers nccl
  unset LANE_NCCL
  bench "h200x${n}_decode" --ranks $n --dtype bfloat16 --sizes 8K,64K,256K,1M --samples $((samples / 2)) --cold --with-gemm \
    --skew 5 --peers nccl:symmetric,flashinfer
  bench "h200x${n}_norm" --ranks $n --dtype bfloat16 --sizes 8K --samples $((samples / 2)) --peers flashinfer \
    --fused 8192x1,8192x4,8192x16,8192x64,4096x1,4096x4,4096x16,4096x64
  for k in 2 4; do
    [ $n -ge $k ] || continue
    bench "hosts${k}x$((n / k))" --ranks $n --nodes $k --dtype bfloat16 --sizes 8K,32K,128K,256K,512K,1M,2M \
      --samples $((samples / 4)) --peers nccl
  done
}

check_stress() {
  local test
  if [ "$gpus" -lt 2 ]; then
    add_row stress skipped 0 'a million calls need 2 GPUs; groups with more ranks than GPUs make few'
    return
  fi
  for test in "${tests[@]}"; do
    case $test in
      *test_comm_gpu) check stress 900 env LANE_TEST_CALLS=1000000 "$test" --gtest_filter=GpuStress.OfManyCalls ;;
    esac
  done
}

for part in tests sanitizer engine bench stress; do
  ! wants $part || "check_$part"
done

printf '\n%d GPU%s, %d s\n' "$gpus" "$([ "$gpus" -eq 1 ] || echo s)" $SECONDS
{
  printf '{"schema": 1, "kind": "gpu check", "commit": "%s", "gpus": %d, "seconds": %d, "rows": [' "$commit" "$gpus" $SECONDS
  comma=''
  for row in "${rows[@]}"; do
    IFS='|' read -r name result seconds remark <<<"$row"
    printf '%-30s %-10s %5s s  %s\n' "$name" "$result" "$seconds" "$remark" >&3
    printf '%s\n  {"name": "%s", "result": "%s", "seconds": %s, "remark": "%s"}' "$comma" "$name" "$result" "$seconds" "$remark"
    comma=,
  done
  printf '\n]}\n'
} 3>&1 >"$out/summary.json"
[ $failed -eq 0 ] || exit 1
[ $unknown -eq 0 ] || exit 3
