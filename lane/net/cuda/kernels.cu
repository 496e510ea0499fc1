#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "lane/device/cuda/native.cuh"
#include "lane/net/cuda/kernels.h"

namespace lane::net::cuda {
namespace {

using lane::cuda::check;
using lane::cuda::raw;

__device__ uint64_t global_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void wait_at_gate(GateWords* words) {
  constexpr uint64_t kPatience_ns = 10'000'000'000ull;
  asm volatile("st.release.sys.u32 [%0], 1;" ::"l"(&words->arrived) : "memory");
  const uint64_t start_ns = global_ns();
  for (uint32_t open = 0; open == 0 && global_ns() - start_ns < kPatience_ns;)
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(open) : "l"(&words->open) : "memory");
}

__global__ void do_nothing() {}

__global__ void delay(int64_t cycles) {
  const int64_t start = clock64();
  while (clock64() - start < cycles) {
  }
}

__device__ float warp_sum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

__device__ float2 pair_of(uint32_t bits, __nv_bfloat16) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(bits));
}
__device__ float2 pair_of(uint32_t bits, __half) { return __half22float2(reinterpret_cast<const __half2&>(bits)); }

// One warp a row; a lane has four loads of 16 bytes on their way.
constexpr int kGemvWarps = 8;
__global__ void __launch_bounds__(kGemvWarps * 32)
    gemv(const uint4* __restrict__ weights, const uint4* __restrict__ vector, float* __restrict__ out, int64_t rows) {
  constexpr int kLoads = kGemvRowBytes / (32 * sizeof(uint4)), kLines = kGemvRowBytes / sizeof(uint4);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kGemvWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= rows) return;
  uint4 lines[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) lines[i] = weights[row * kLines + i * 32 + lane];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const uint4 times = vector[i * 32 + lane];
    const uint32_t left[] = {lines[i].x, lines[i].y, lines[i].z, lines[i].w};
    const uint32_t right[] = {times.x, times.y, times.z, times.w};
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 a = pair_of(left[part], __nv_bfloat16()), b = pair_of(right[part], __nv_bfloat16());
      sum += a.x * b.x + a.y * b.y;
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) out[row] = sum;
}

// A line of 16 bytes as floats, and back.
template <class T>
struct Line {
  static constexpr int kCount = 16 / sizeof(T);
  float values[kCount];

  __device__ explicit Line(uint4 bits) {
    const uint32_t words[] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        values[i] = __uint_as_float(words[i]);
      } else {
        const float2 pair = pair_of(words[i], T());
        values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
      }
    }
  }
  __device__ uint4 bits() const {
    uint4 result;
    T* out = reinterpret_cast<T*>(&result);
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = static_cast<T>(values[i]);
    return result;
  }
};

__device__ float block_sum(float value) {
  __shared__ float of_warp[32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  return warp_sum(lane < warps ? of_warp[lane] : 0.0f);
}

// A thread keeps its lines of the row in registers between the two passes. All loads start before anything waits.
template <class T, int kLines>
__global__ void __launch_bounds__(1024)
    add_rms_norm(const uint4* __restrict__ sum, uint4* __restrict__ residual, const uint4* __restrict__ weight,
                 float epsilon, uint4* __restrict__ normed, int lines_per_row) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * lines_per_row;
  uint4 left[kLines], right[kLines], factors[kLines];
#pragma unroll
  for (int i = 0; i < kLines; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    const bool inside = at < lines_per_row;
    left[i] = inside ? sum[row + at] : uint4{};
    right[i] = inside ? residual[row + at] : uint4{};
    factors[i] = inside ? weight[at] : uint4{};
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kLines; ++i) {
    const Line<T> a(left[i]);
    Line<T> b(right[i]);
#pragma unroll
    for (int j = 0; j < Line<T>::kCount; ++j) b.values[j] += a.values[j];
    right[i] = b.bits();  // the norm is that of the residual as it is stored
    const Line<T> stored(right[i]);
#pragma unroll
    for (int j = 0; j < Line<T>::kCount; ++j) squares += stored.values[j] * stored.values[j];
  }
  const float mean = block_sum(squares) / (static_cast<float>(lines_per_row) * Line<T>::kCount);
  const float scale = rsqrtf(mean + epsilon);
#pragma unroll
  for (int i = 0; i < kLines; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    if (at >= lines_per_row) break;
    Line<T> line(right[i]);
    const Line<T> factor(factors[i]);
#pragma unroll
    for (int j = 0; j < Line<T>::kCount; ++j) line.values[j] *= scale * factor.values[j];
    residual[row + at] = right[i];
    normed[row + at] = line.bits();
  }
}

template <class T>
void launch_norm(const TensorView& sum, const TensorView& residual, const TensorView& weight, float epsilon,
                 const TensorView& normed, Stream& stream) {
  const int lines = static_cast<int>(residual.cols()) / Line<T>::kCount;
  const auto launch = [&](auto* kernel, int per_thread) {
    const int threads = ((lines + per_thread - 1) / per_thread + 31) / 32 * 32;
    kernel<<<static_cast<unsigned>(residual.rows()), threads, 0, raw(stream)>>>(
        static_cast<const uint4*>(sum.data), static_cast<uint4*>(residual.data), static_cast<const uint4*>(weight.data),
        epsilon, static_cast<uint4*>(normed.data), lines);
  };
  if (lines <= 1024) return launch(add_rms_norm<T, 1>, 1);
  if (lines <= 2048) return launch(add_rms_norm<T, 2>, 2);
  ensure(lines <= 4096, "a row of the norm is of 64 KiB at most");
  launch(add_rms_norm<T, 4>, 4);
}

}  // namespace

void enqueue_gate(GateWords* words, Stream& stream) {
  wait_at_gate<<<1, 1, 0, raw(stream)>>>(words);
  check(cudaGetLastError(), "starting the gate");
}

void enqueue_nothing(Stream& stream) {
  do_nothing<<<1, 32, 0, raw(stream)>>>();
  check(cudaGetLastError(), "starting an empty kernel");
}

void enqueue_delay(int64_t cycles, Stream& stream) {
  delay<<<1, 1, 0, raw(stream)>>>(cycles);
  check(cudaGetLastError(), "starting a delay");
}

void enqueue_gemv(const void* weights, const void* vector, float* out, int64_t rows, Stream& stream) {
  const auto blocks = static_cast<unsigned>((rows + kGemvWarps - 1) / kGemvWarps);
  gemv<<<blocks, kGemvWarps * 32, 0, raw(stream)>>>(static_cast<const uint4*>(weights),
                                                    static_cast<const uint4*>(vector), out, rows);
  check(cudaGetLastError(), "starting a matrix-vector product");
}

void enqueue_add_rms_norm(TensorView sum, TensorView residual, TensorView weight, float epsilon, TensorView normed,
                          Stream& stream) {
  ensure(residual.cols() * size_of(residual.dtype) % 16 == 0, "a row of the norm is a multiple of 16 bytes");
  if (residual.dtype == DType::kF32) launch_norm<float>(sum, residual, weight, epsilon, normed, stream);
  if (residual.dtype == DType::kBF16) launch_norm<__nv_bfloat16>(sum, residual, weight, epsilon, normed, stream);
  if (residual.dtype == DType::kF16) launch_norm<__half>(sum, residual, weight, epsilon, normed, stream);
  check(cudaGetLastError(), "starting an addition and norm");
}

}  // namespace lane::net::cuda
