// Data flow of a block: W goes from memory straight into registers, 16 bytes a thread and load, several loads ahead of
// the tensor cores; nothing of W passes through shared memory, since no other warp wants it. x is small and comes from
// the L2 cache. Warps add their parts up in shared memory at the end, then the blocks of a cluster through each
// other's.
//
// The floor: n k sizeof(T) bytes at the memory's read rate. What stands against it is latency: a GPU needs about 4.5 MB
// of loads under way (4.5 TB/s times 1 us), 34 KB an SM; a warp here has 64 registers of W on order, 8 KB, so five
// warps of an SM suffice. Since W does not depend on the kernel before, its first loads are on their way before that
// one ends.
#include <cooperative_groups.h>

#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kStep = 32;  // inputs that a warp multiplies at a time: two tensor-core steps of 16

// d += a b: a 16 rows of W by 16 inputs, b 16 inputs by 8 rows of x (PTX ISA, mma.m16n8k16).
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// W is read once: it need not stay in the L1 cache.
__device__ __forceinline__ uint4 load_once(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

struct Shape {
  int64_t m, n, k;  // n: rows of W
};

// Lane 4 g + t of a warp holds, of a tensor-core step, inputs 2t, 2t + 1, 2t + 8 and 2t + 9 of rows g (and g + 8).
// Which inputs stand at those places is free as long as W and x agree: here lane t's are the 8 neighbours 8t ... 8t + 7
// of a step of 32, words 0 and 1 of its 16 bytes in the first half, words 2 and 3 in the second.
template <class T, int kRowTiles, int kColTiles, bool kGated>
__global__ void __launch_bounds__(kThreads)
    skinny_kernel(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, T* __restrict__ out,
                  Shape shape) {
  constexpr int kAhead = kRowTiles * kColTiles == 16 ? 1 : 8 / kRowTiles;  // steps of which W is on order
  constexpr int kRows = 16 * kRowTiles, kCols = 8 * kColTiles;
  extern __shared__ float shared[];  // [kWarps][kCols][kRows]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t k = shape.k, half = shape.n / 2;

  // The rows of W that this thread reads; a gated block has half its tiles in the gate part, half in the up part.
  const T* row_of[kRowTiles][2];
  bool has_row[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int64_t row, end;
      if constexpr (kGated) {
        constexpr int kPairs = kRowTiles / 2;
        const bool is_up = tile >= kPairs;
        row = blockIdx.x * static_cast<int64_t>(16 * kPairs) + tile % kPairs * 16 + g + 8 * j;
        end = half;
        has_row[tile][j] = row < end;
        row += is_up ? half : 0;
      } else {
        row = blockIdx.x * static_cast<int64_t>(kRows) + tile * 16 + g + 8 * j;
        has_row[tile][j] = row < shape.n;
      }
      row_of[tile][j] = w + (has_row[tile][j] ? row : 0) * k + 8 * t;
    }

  const int64_t num_steps = (k + kStep - 1) / kStep;
  const int64_t stride = static_cast<int64_t>(kWarps) * gridDim.y;
  const int64_t first = blockIdx.y * kWarps + warp;
  const auto load_w = [&](uint4(&to)[kRowTiles][2], int64_t step) {
    const bool is_inside = step < num_steps && step * kStep + 8 * t < k;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        to[tile][j] = is_inside && has_row[tile][j] ? load_once(row_of[tile][j] + step * kStep) : uint4{0, 0, 0, 0};
  };

  uint4 ahead[kAhead][kRowTiles][2];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load_w(ahead[i], first + i * stride);
  wait_for_previous();
  let_next_start();

  float sums[kRowTiles][kColTiles][4] = {};
  for (int64_t base = first; base < num_steps; base += kAhead * stride) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t step = base + i * stride;
      uint4 inputs[kColTiles];
#pragma unroll
      for (int tile = 0; tile < kColTiles; ++tile) {
        const int64_t row = tile * 8 + g;
        const bool is_inside = step * kStep + 8 * t < k && row < shape.m;
        inputs[tile] =
            is_inside ? *reinterpret_cast<const uint4*>(x + row * k + step * kStep + 8 * t) : uint4{0, 0, 0, 0};
      }
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        const uint4 a = ahead[i][tile][0], b = ahead[i][tile][1];
#pragma unroll
        for (int col = 0; col < kColTiles; ++col) {
          multiply(sums[tile][col], a.x, b.x, a.y, b.y, inputs[col].x, inputs[col].y, T{});
          multiply(sums[tile][col], a.z, b.z, a.w, b.w, inputs[col].z, inputs[col].w, T{});
        }
      }
      load_w(ahead[i], step + kAhead * stride);
    }
  }

  // Of a tile, lane 4 g + t holds the sums of rows g and g + 8 with columns 2t and 2t + 1.
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int col = 0; col < kColTiles; ++col)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        shared[(warp * kCols + col * 8 + 2 * t + j % 2) * kRows + tile * 16 + g + 8 * (j / 2)] = sums[tile][col][j];
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kCols; i += kThreads) {
    float total = 0;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) total += shared[other * kRows * kCols + i];
    shared[i] = total;  // of warp 0's part, which nobody else reads at i
  }

  int begin = 0, end = kRows * kCols;  // what this block writes
#if __CUDA_ARCH__ >= 900
  auto cluster = cooperative_groups::this_cluster();
  const int split = static_cast<int>(gridDim.y);
  if (split > 1) {
    cluster.sync();
    const int share = (kRows * kCols + split - 1) / split;
    begin = min(static_cast<int>(blockIdx.y) * share, end);
    end = min(begin + share, end);
  } else {
    __syncthreads();
  }
#else
  const int split = 1;
  __syncthreads();
#endif
  const auto total_at = [&](int i) {
    if (split == 1) return shared[i];
    float total = 0;
#if __CUDA_ARCH__ >= 900
    for (int block = 0; block < split; ++block) total += *cluster.map_shared_rank(&shared[i], block);
#endif
    return total;
  };
  const auto with_bias = [&](float value, int64_t row) {
    return bias == nullptr ? value : value + to_float(bias[row]);
  };
  if constexpr (kGated) {
    // The cut between blocks may part a gate from its up; both are read from wherever they are.
    constexpr int kOut = kRows / 2;
    const int share = (kOut * kCols + split - 1) / split;
    begin = min(split == 1 ? 0 : static_cast<int>(blockIdx.y) * share, kOut * kCols);
    end = min(begin + share, kOut * kCols);
    for (int i = begin + threadIdx.x; i < end; i += kThreads) {
      const int row_here = i % kOut, col = i / kOut;
      const int64_t row = blockIdx.x * static_cast<int64_t>(kOut) + row_here;
      if (row >= half || col >= shape.m) continue;
      const float gate = with_bias(total_at(col * kRows + row_here), row);
      const float up = with_bias(total_at(col * kRows + kOut + row_here), half + row);
      out[col * half + row] = from_float<T>(gate / (1 + __expf(-gate)) * up);
    }
  } else {
    for (int i = begin + threadIdx.x; i < end; i += kThreads) {
      const int64_t row = blockIdx.x * static_cast<int64_t>(kRows) + i % kRows;
      const int col = i / kRows;
      if (row < shape.n && col < shape.m) out[col * shape.n + row] = from_float<T>(with_bias(total_at(i), row));
    }
  }
#if __CUDA_ARCH__ >= 900
  if (split > 1) cluster.sync();  // the others may still read this block's shared memory
#endif
}

template <class T, int kRowTiles, int kColTiles, bool kGated>
void start(const T* x, const T* w, const T* bias, T* out, const Shape& shape, int split, const Stream& stream) {
  constexpr int kRows = 16 * kRowTiles;
  constexpr size_t kShared = sizeof(float) * kWarps * kRows * 8 * kColTiles;
  const auto kernel = skinny_kernel<T, kRowTiles, kColTiles, kGated>;
  if constexpr (kShared > 48 * 1024) {
    static const cudaError_t allowed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kShared));
    check(allowed, "taking more shared memory for a product");
  }
  const int64_t blocks = (shape.n + kRows - 1) / kRows;
  launch(kernel,
         {.blocks = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(split)),
          .threads = kThreads,
          .cluster_y = static_cast<unsigned>(split),
          .shared_bytes = kShared},
         stream, "matmul of few rows", x, w, bias, out, shape);
}

template <class T, bool kGated>
void start_for(const T* x, const T* w, const T* bias, T* out, const Shape& shape, const SkinnyCut& cut,
               const Stream& stream) {
  const auto with_cols = [&](auto row_tiles) {
    constexpr int kRowTiles = decltype(row_tiles)::value;
    if constexpr (kGated && kRowTiles == 1) {
      ensure(false, "a gated product takes row tiles by twos");
    } else {
      if (shape.m <= 8) return start<T, kRowTiles, 1, kGated>(x, w, bias, out, shape, cut.split, stream);
      if (shape.m <= 16) return start<T, kRowTiles, 2, kGated>(x, w, bias, out, shape, cut.split, stream);
      return start<T, kRowTiles, 4, kGated>(x, w, bias, out, shape, cut.split, stream);
    }
  };
  switch (cut.row_tiles) {
    case 1:
      return with_cols(std::integral_constant<int, 1>());
    case 2:
      return with_cols(std::integral_constant<int, 2>());
    case 4:
      return with_cols(std::integral_constant<int, 4>());
    default:
      ensure(false, "a cut has 1, 2 or 4 row tiles");
  }
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out) {
  return (weight.dtype == DType::kBF16 || weight.dtype == DType::kF16) && x.dtype == weight.dtype &&
         out.dtype == weight.dtype && (bias.data == nullptr || bias.dtype == weight.dtype) && x.rows() <= kSkinnyRows &&
         weight.k % 8 == 0 && is_aligned(x.data) && is_aligned(weight.data);
}

void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   const SkinnyCut& cut, Stream& stream) {
  ensure(is_skinny(x, weight, bias, out), "the product is one for this kernel");
  ensure(cut.split == 1 || can_chain(), "blocks form clusters on sm_90 and newer");
  const Shape shape{x.rows(), weight.n, weight.k};
  const auto run = [&](auto type, auto is_gated) {
    using T = decltype(type);
    start_for<T, decltype(is_gated)::value>(static_cast<const T*>(x.data), static_cast<const T*>(weight.data),
                                            static_cast<const T*>(bias.data), static_cast<T*>(out.data), shape, cut,
                                            stream);
  };
  const auto run_type = [&](auto type) { gated ? run(type, std::true_type()) : run(type, std::false_type()); };
  weight.dtype == DType::kBF16 ? run_type(__nv_bfloat16()) : run_type(__half());
}

}  // namespace lane::cuda
