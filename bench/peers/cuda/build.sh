#!/usr/bin/env bash
# Builds the plugins of `lane bench allreduce --peers` that compare GPU libraries, with nvcc alone, to be carried to a
# machine with GPUs:  bench/peers/cuda/build.sh OUT_DIR [nccl] [vllm] [flashinfer] [nvshmem]
# Takes FlashInfer and NVSHMEM from LANE_FLASHINFER_DIR and LANE_NVSHMEM_DIR, or fetches their wheels into
# LANE_PEERS_CACHE (~/.cache/lane-peers). LANE_PEERS_ARCH: the GPU, sm_90.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
shift
[ $# -ge 1 ] || set -- nccl vllm flashinfer nvshmem
cd "$(dirname "$0")/../../.."
cache=${LANE_PEERS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lane-peers}
cuda=${CUDA_HOME:-/usr/local/cuda}

# The folder of an unpacked wheel: wheel NAME VERSION
wheel() {
  local folder=$cache/$1-$2
  if [ ! -d "$folder" ]; then
    mkdir -p "$cache"
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$cache/wheels" "$1==$2" >&2
    python3 -m zipfile -e "$cache/wheels/${1//-/_}-$2"-*.whl "$folder.part"
    mv "$folder.part" "$folder"
  fi
  echo "$folder"
}

# plugin NAME SOURCE [flags of nvcc]
plugin() {
  local name=$1 source=bench/peers/cuda/$2
  shift 2
  echo "liblane-peer-$name.so" >&2
  "$cuda/bin/nvcc" -std=c++20 -O3 -arch="${LANE_PEERS_ARCH:-sm_90}" -shared -cudart static -Xcompiler -fPIC \
    -I. -Xlinker --version-script=bench/peers/cuda/exports.map -Xlinker -z,defs "$source" "$@" \
    -o "$out/liblane-peer-$name.so"
}

flashinfer() {
  local folder=${LANE_FLASHINFER_DIR:-$(wheel flashinfer-python 0.7.2.post1)}
  local version
  version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$folder/flashinfer/_build_meta.py")
  plugin "$1" "$1.cu" -isystem "$folder/flashinfer/data/include" -isystem "$folder/flashinfer/data/spdlog/include" \
    -DLANE_FLASHINFER_VERSION="\"$version\"" --expt-relaxed-constexpr -DNDEBUG
}

for peer in "$@"; do
  case $peer in
    nccl) plugin nccl nccl.cc -lnccl ;;
    vllm | flashinfer) flashinfer "$peer" ;;
    nvshmem)
      folder=${LANE_NVSHMEM_DIR:-$(wheel nvidia-nvshmem-cu13 3.4.5)/nvidia/nvshmem}
      plugin nvshmem nvshmem.cc -isystem "$folder/include" -L"$folder/lib" -l:libnvshmem_host.so.3 ;;
    *) echo "no peer $peer" >&2 && exit 2 ;;
  esac
done
