// Everything between the products: one pass over memory each, chained to the kernel before.
#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

bool can_chain() {
  static const bool can = [] {
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the GPU's generation");
    return major >= 9;
  }();
  return can;
}

namespace {

// Rows whose width is a multiple of a pack take the packed loop; others go element by element.
template <class T>
__host__ __device__ __forceinline__ bool is_packed(int64_t width, const void* a, const void* b, const void* c) {
  const auto odd = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
  return width % kPer16<T> == 0 && odd % 16 == 0;
}

template <class T>
__global__ void embedding_kernel(const T* table, int64_t num_rows, int64_t width, const int32_t* ids, int64_t first_id,
                                 T* out) {
  wait_for_previous();
  let_next_start();
  const int64_t row = ids[blockIdx.x] - first_id;
  const bool is_here = row >= 0 && row < num_rows;
  const T* from = table + (is_here ? row : 0) * width;
  T* to = out + blockIdx.x * width;
  if (is_packed<T>(width, from, to, nullptr)) {
    for (int64_t i = threadIdx.x * kPer16<T>; i < width; i += blockDim.x * kPer16<T>)
      store_pack(to + i, is_here ? load_pack(from + i) : Pack<T>{});
  } else {
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = is_here ? from[i] : from_float<T>(0);
  }
}

// kAdds: residual += x first, rounded to T, and that is what is normed. A thread keeps its part of a row in registers,
// where the row is made of packs and not too wide; the gain, a weight, is read while the kernel before still runs.
template <class T, int kKept, bool kAdds>
__device__ __forceinline__ void norm_kept(const T* x, T* residual, const T* gain, float eps, T* out, int64_t width) {
  const int64_t base = blockIdx.x * width, first = threadIdx.x * kPer16<T>, stride = blockDim.x * kPer16<T>;
  let_next_start();
  Pack<T> values[kKept], gains[kKept];
#pragma unroll
  for (int p = 0; p < kKept; ++p)
    if (first + p * stride < width) gains[p] = load_pack(gain + first + p * stride);
  wait_for_previous();
  float square = 0;
#pragma unroll
  for (int p = 0; p < kKept; ++p) {
    const int64_t i = base + first + p * stride;
    if (first + p * stride >= width) continue;
    values[p] = load_pack((kAdds ? residual : x) + i);
    if constexpr (kAdds) {
      const Pack<T> more = load_pack(x + i);
#pragma unroll
      for (int j = 0; j < kPer16<T>; ++j)
        values[p].at[j] = from_float<T>(to_float(values[p].at[j]) + to_float(more.at[j]));
      store_pack(residual + i, values[p]);
    }
#pragma unroll
    for (int j = 0; j < kPer16<T>; ++j) square += to_float(values[p].at[j]) * to_float(values[p].at[j]);
  }
  const float scale = rsqrtf(block_sum(square) / static_cast<float>(width) + eps);
#pragma unroll
  for (int p = 0; p < kKept; ++p) {
    if (first + p * stride >= width) continue;
    Pack<T> result;
#pragma unroll
    for (int j = 0; j < kPer16<T>; ++j)
      result.at[j] = from_float<T>(to_float(values[p].at[j]) * scale * to_float(gains[p].at[j]));
    store_pack(out + base + first + p * stride, result);
  }
}

// kKept: packs of a row that a thread keeps, or 0.
template <class T, int kKept, bool kAdds>
__global__ void rms_norm_kernel(const T* x, T* residual, const T* gain, float eps, T* out, int64_t width) {
  if constexpr (kKept > 0) return norm_kept<T, kKept, kAdds>(x, residual, gain, eps, out, width);
  wait_for_previous();
  let_next_start();
  const int64_t base = blockIdx.x * width;
  const T* from = kAdds ? residual + base : x + base;
  float square = 0;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    float value = to_float(from[i]);
    if constexpr (kAdds) {
      const T sum = from_float<T>(value + to_float(x[base + i]));
      residual[base + i] = sum;
      value = to_float(sum);
    }
    square += value * value;
  }
  // A thread reads again only what it wrote itself.
  const float scale = rsqrtf(block_sum(square) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
    out[base + i] = from_float<T>(to_float(from[i]) * scale * to_float(gain[i]));
}

// A warp a head.
template <class T>
__global__ void head_rms_norm_kernel(T* x, int64_t cols, int64_t first_col, int num_heads, const T* gain, float eps,
                                     int head_dim, int64_t num_rows) {
  wait_for_previous();
  let_next_start();
  const int64_t warp = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  if (warp >= num_rows * num_heads) return;
  T* head = x + warp / num_heads * cols + first_col + warp % num_heads * head_dim;
  const int lane = threadIdx.x % 32;
  float square = 0;
  for (int i = lane; i < head_dim; i += 32) square += to_float(head[i]) * to_float(head[i]);
  const float scale = rsqrtf(warp_sum(square) / static_cast<float>(head_dim) + eps);
  for (int i = lane; i < head_dim; i += 32) head[i] = from_float<T>(to_float(head[i]) * scale * to_float(gain[i]));
}

__global__ void rope_table_kernel(const int32_t* positions, const float* inv_freq, int f, float scale, float* cos_sin,
                                  int64_t count) {
  wait_for_previous();
  let_next_start();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  const int64_t token = i / f, j = i % f;
  float sine, cosine;
  sincosf(static_cast<float>(positions[token]) * inv_freq[j], &sine, &cosine);
  cos_sin[token * 2 * f + j] = cosine * scale;
  cos_sin[token * 2 * f + f + j] = sine * scale;
}

// A thread a pair: element j of a head and element j + f.
template <class T>
__global__ void rope_kernel(T* x, int64_t cols, int64_t first_col, int num_heads, int head_dim, const float* cos_sin,
                            int f, int64_t count) {
  let_next_start();
  wait_for_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= count) return;
  const int64_t pairs = static_cast<int64_t>(num_heads) * f, token = i / pairs, pair = i % pairs;
  const int64_t head = pair / f, j = pair % f;
  T* at = x + token * cols + first_col + head * head_dim + j;
  const float cosine = cos_sin[token * 2 * f + j], sine = cos_sin[token * 2 * f + f + j];
  const float a = to_float(at[0]), b = to_float(at[f]);
  at[0] = from_float<T>(a * cosine - b * sine);
  at[f] = from_float<T>(b * cosine + a * sine);
}

__device__ __forceinline__ float silu(float x) { return x / (1 + __expf(-x)); }

template <class T>
__global__ void silu_mul_kernel(const T* gate_up, T* out, int64_t width) {
  wait_for_previous();
  let_next_start();
  const T *gate = gate_up + blockIdx.y * 2 * width, *up = gate + width;
  T* to = out + blockIdx.y * width;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (is_packed<T>(width, gate, up, to)) {
    for (int64_t i = first * kPer16<T>; i < width; i += stride * kPer16<T>) {
      const Pack<T> gates = load_pack(gate + i), ups = load_pack(up + i);
      Pack<T> result;
#pragma unroll
      for (int j = 0; j < kPer16<T>; ++j)
        result.at[j] = from_float<T>(silu(to_float(gates.at[j])) * to_float(ups.at[j]));
      store_pack(to + i, result);
    }
  } else {
    for (int64_t i = first; i < width; i += stride) to[i] = from_float<T>(silu(to_float(gate[i])) * to_float(up[i]));
  }
}

template <class T>
__global__ void add_kernel(T* inout, const T* x, int64_t count) {
  wait_for_previous();
  let_next_start();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < count; i += stride)
    inout[i] = from_float<T>(to_float(inout[i]) + to_float(x[i]));
}

template <class T>
__global__ void gather_rows_kernel(const T* x, const int32_t* rows, T* out, int64_t width) {
  wait_for_previous();
  let_next_start();
  const T* from = x + rows[blockIdx.x] * width;
  T* to = out + blockIdx.x * width;
  if (is_packed<T>(width, from, to, nullptr)) {
    for (int64_t i = threadIdx.x * kPer16<T>; i < width; i += blockDim.x * kPer16<T>)
      store_pack(to + i, load_pack(from + i));
  } else {
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
  }
}

unsigned blocks_for(int64_t count, unsigned threads) { return static_cast<unsigned>((count + threads - 1) / threads); }

// Enough threads for a row of packs, a whole number of warps.
template <class T>
unsigned threads_for_row(int64_t width) {
  const int64_t packs = (width + kPer16<T> - 1) / kPer16<T>;
  return static_cast<unsigned>(packs >= 512 ? 512 : (packs + 31) / 32 * 32);
}

// Few threads, so that a block finds room beside those of a product.
constexpr unsigned kNormThreads = 256;

template <bool kAdds>
void norm(const TensorView& x, const TensorView& residual, const TensorView& gain, float eps, const TensorView& out,
          const Stream& stream) {
  if (out.count() == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t width = x.cols(), in_a_pass = int64_t{kNormThreads} * kPer16<T>;
    const auto start = [&](auto kept) {
      launch(rms_norm_kernel<T, decltype(kept)::value, kAdds>, {static_cast<unsigned>(x.rows()), kNormThreads}, stream,
             "rms_norm", at<const T>(x), at<T>(residual), at<const T>(gain), eps, at<T>(out), width);
    };
    if (!is_packed<T>(width, x.data, out.data, gain.data) || !is_packed<T>(width, residual.data, nullptr, nullptr))
      return start(std::integral_constant<int, 0>());
    if (width <= in_a_pass) return start(std::integral_constant<int, 1>());
    if (width <= 2 * in_a_pass) return start(std::integral_constant<int, 2>());
    if (width <= 4 * in_a_pass) return start(std::integral_constant<int, 4>());
    start(std::integral_constant<int, 0>());
  });
}

}  // namespace
}  // namespace lane::cuda

namespace lane::kernels::impl {

using namespace lane::cuda;

void cuda_embedding(const DeviceMatrix& table, TensorView ids, int64_t first_id, TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  with_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    launch(embedding_kernel<T>, {static_cast<unsigned>(ids.count()), threads_for_row<T>(table.k)}, stream, "embedding",
           static_cast<const T*>(table.data), table.n, table.k, at<const int32_t>(ids), first_id, at<T>(out));
  });
}

void cuda_rms_norm(TensorView x, TensorView gain, float eps, TensorView out, Stream& stream) {
  norm<false>(x, {}, gain, eps, out, stream);
}

void cuda_add_rms_norm(TensorView x, TensorView residual, TensorView gain, float eps, TensorView out, Stream& stream) {
  norm<true>(x, residual, gain, eps, out, stream);
}

void cuda_head_rms_norm(TensorView x, int64_t first_col, int64_t num_heads, TensorView gain, float eps,
                        Stream& stream) {
  const int64_t warps = x.rows() * num_heads;
  if (warps == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(head_rms_norm_kernel<T>, {blocks_for(warps, 4), 128}, stream, "head_rms_norm", at<T>(x), x.cols(), first_col,
           static_cast<int>(num_heads), at<const T>(gain), eps, static_cast<int>(gain.count()), x.rows());
  });
}

void cuda_rope_table(TensorView positions, TensorView inv_freq, float scale, TensorView cos_sin, Stream& stream) {
  const int64_t count = positions.count() * inv_freq.count();
  if (count == 0) return;
  launch(rope_table_kernel, {blocks_for(count, 128), 128}, stream, "rope_table", at<const int32_t>(positions),
         at<const float>(inv_freq), static_cast<int>(inv_freq.count()), scale, at<float>(cos_sin), count);
}

void cuda_rope(TensorView x, int64_t first_col, int64_t num_heads, int64_t head_dim, TensorView cos_sin,
               Stream& stream) {
  const int64_t f = cos_sin.cols() / 2, count = x.rows() * num_heads * f;
  if (count == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(rope_kernel<T>, {blocks_for(count, 256), 256}, stream, "rope", at<T>(x), x.cols(), first_col,
           static_cast<int>(num_heads), static_cast<int>(head_dim), at<const float>(cos_sin), static_cast<int>(f),
           count);
  });
}

void cuda_silu_mul(TensorView gate_up, TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  with_type(out.dtype, [&](auto type) {
    using T = decltype(type);
    // Rows go along y, of which a grid has 65,535.
    for (int64_t row = 0; row < out.rows(); row += 65535) {
      const int64_t rows = out.rows() - row < 65535 ? out.rows() - row : 65535;
      const unsigned across = blocks_for((out.cols() + kPer16<T> - 1) / kPer16<T>, 256);
      launch(silu_mul_kernel<T>, {dim3(across, static_cast<unsigned>(rows)), 256}, stream, "silu_mul",
             at<const T>(gate_up) + row * gate_up.cols(), at<T>(out) + row * out.cols(), out.cols());
    }
  });
}

void cuda_add(TensorView inout, TensorView x, Stream& stream) {
  if (inout.count() == 0) return;
  with_type(inout.dtype, [&](auto type) {
    using T = decltype(type);
    const unsigned blocks = blocks_for(inout.count(), 1024);
    launch(add_kernel<T>, {blocks < 4096 ? blocks : 4096, 256}, stream, "add", at<T>(inout), at<const T>(x),
           inout.count());
  });
}

void cuda_gather_rows(TensorView x, TensorView rows, TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    launch(gather_rows_kernel<T>, {static_cast<unsigned>(rows.count()), threads_for_row<T>(x.cols())}, stream,
           "gather_rows", at<const T>(x), at<const int32_t>(rows), at<T>(out), x.cols());
  });
}

}  // namespace lane::kernels::impl
