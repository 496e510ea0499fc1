// Data flow: the tensor memory accelerator brings W and x into a ring of stages in shared memory; four warps take them
// from there into the tensor cores. A stage is 64 rows of W by 64 inputs, and the same inputs of x.
//
// The floor: n k sizeof(T) bytes at the memory's read rate. Three things stand against it.
// - Latency: a GPU needs about 4.5 MB of loads under way (4.5 TB/s times 1 us), 34 KB an SM. The ring holds more.
// - Unevenness: the stages of all rows, in order, are dealt out evenly to a fixed number of blocks, whatever n is, so
//   that all end together ("stream-K": Osama et al., Stream-K: Work-centric Parallel Decomposition for Dense
//   Matrix-Matrix Multiplication on the GPU, 2023). Rows that several blocks share are added up by whichever comes
//   last, in the order of the blocks: the same bits in every run.
// - The time between kernels: W does not depend on the kernel before, so the ring is filled, and more is on its way to
//   the L2 cache, before that one ends.
#include <cuda.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;  // that multiply; one more warp fetches
constexpr int kRows = 16 * kWarps;                 // of W in a stage
constexpr int kChunk = 64;                         // inputs in a stage, 128 bytes a row
constexpr int kRowBytes = 2 * kChunk;
constexpr int kMaxCols = 64;  // rows of x

// d += a b: a 16 rows of W by 16 inputs, b 16 inputs by 8 rows of x (PTX ISA, mma.m16n8k16).
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                         __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 by 8 tiles, the rows' addresses given by the lanes in groups of 8 (PTX ISA, ldmatrix).
__device__ __forceinline__ void load_tiles(uint32_t (&to)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from));
}

// A barrier in shared memory that also counts bytes under way (PTX ISA, mbarrier).
__device__ __forceinline__ void set_up_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void wait_for_phase(uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::
          "r"(barrier),
      "r"(parity)
      : "memory");
}

// A box of a matrix to shared memory, reported to a barrier; zeros where it is outside.
__device__ __forceinline__ void fetch(uint32_t to, const CUtensorMap& map, int input, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(&map), "r"(input), "r"(row), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void bring_to_l2(const CUtensorMap& map, int input, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map), "r"(input), "r"(row)
               : "memory");
}

struct Shape {
  int64_t m, n, k;  // n: rows of W
  int chunks, units;
  __device__ __forceinline__ int first_unit(int block, int blocks) const {
    return static_cast<int>(static_cast<int64_t>(block) * units / blocks);
  }
  __device__ __forceinline__ int block_of(int unit, int blocks) const {
    return static_cast<int>(((static_cast<int64_t>(unit) + 1) * blocks - 1) / units);
  }
};

// A warp sums 16 rows of a stage, in two groups of 8. Of a gated product a stage has 32 rows of gate, then the same of
// up, and a warp takes 8 of each: a thread that sums row g of its first group (a gate) sums row g of the second (its
// up).
template <bool kGated>
__device__ __forceinline__ int row_in_stage(int warp, int group, int g) {
  return kGated ? group * (kRows / 2) + warp * 8 + g : warp * 16 + group * 8 + g;
}

// Tiles of 16 bytes are permuted within a row of 128 bytes, so that the 8 rows which ldmatrix reads lie in different
// banks.
__device__ __forceinline__ uint32_t place(int row, int piece) {
  return static_cast<uint32_t>(row * kRowBytes + ((piece ^ (row % 8)) * 16));
}

template <class T, int kColTiles, int kStages, bool kGated>
__global__ void __launch_bounds__(kThreads + 32)
    skinny_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                  const T* __restrict__ bias, T* __restrict__ out, Shape shape, float4* __restrict__ parts,
                  unsigned* __restrict__ arrivals, int ahead) {
#if __CUDA_ARCH__ >= 900
  constexpr int kCols = 8 * kColTiles, kStageBytes = (kRows + kCols) * kRowBytes;
  extern __shared__ char dynamic[];
  __shared__ uint64_t full[kStages], empty[kStages];
  __shared__ bool is_last;
  const auto address = [](const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); };
  const uint32_t ring = (address(dynamic) + 1023) / 1024 * 1024;  // the pattern of place() repeats every 1024 bytes
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x), chunks = shape.chunks;
  const int begin = shape.first_unit(block, blocks), count = shape.first_unit(block + 1, blocks) - begin;

  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) set_up_barrier(address(&full[i]), 1), set_up_barrier(address(&empty[i]), kWarps);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  if (warp == kWarps) {
    if (lane > 0) {
      wait_for_previous();
      let_next_start();
      return;
    }
    int row_block = begin / chunks, chunk = begin - row_block * chunks;  // of what is fetched next
    const auto each_box = [&](auto&& take) {                             // of W
      if constexpr (kGated) {
        const int half = static_cast<int>(shape.n / 2);
        take(0, chunk * kChunk, row_block * (kRows / 2));
        take(kRows / 2 * kRowBytes, chunk * kChunk, half + row_block * (kRows / 2));
      } else {
        take(0, chunk * kChunk, row_block * kRows);
      }
    };
    const auto fetch_w = [&](int stage) {
      const uint32_t barrier = address(&full[stage]), to = ring + stage * kStageBytes;
      arrive_expecting(barrier, kStageBytes);
      each_box([&](int offset, int input, int row) { fetch(to + offset, w, input, row, barrier); });
    };
    const auto fetch_x = [&](int stage, int of_chunk) {
      fetch(ring + stage * kStageBytes + kRows * kRowBytes, x, of_chunk * kChunk, 0, address(&full[stage]));
    };
    const auto next = [&] {
      if (++chunk == chunks) chunk = 0, ++row_block;
    };
    const int first_chunk = chunk, early = min(count, kStages);
    for (int i = 0; i < early; ++i, next()) fetch_w(i);
    const auto place_now = [&] { return row_block * chunks + chunk; };
    const int resume = place_now();
    for (int i = 0; i < ahead && early + i < count; ++i, next())
      each_box([&](int, int input, int row) { bring_to_l2(w, input, row); });
    row_block = resume / chunks, chunk = resume - row_block * chunks;
    wait_for_previous();
    let_next_start();
    for (int i = 0, at = first_chunk; i < early; ++i, at = at + 1 == chunks ? 0 : at + 1) fetch_x(i, at);
    for (int i = early, stage = 0, round = 0; i < count; ++i, next()) {
      wait_for_phase(address(&empty[stage]), round & 1);
      fetch_w(stage);
      fetch_x(stage, chunk);
      if (++stage == kStages) stage = 0, ++round;
    }
    return;
  }

  wait_for_previous();
  let_next_start();
  const auto sync_warps = [] { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); };
  float sums[kColTiles][4] = {};
  int row_block = begin / chunks, chunk = begin - row_block * chunks, first_chunk = chunk;
  const int my_row = row_in_stage<kGated>(warp, lane % 16 / 8, lane % 8);  // that this lane points at for ldmatrix
  for (int i = 0, stage = 0, round = 0; i < count; ++i, ++chunk) {
    wait_for_phase(address(&full[stage]), round & 1);
    const uint32_t from = ring + stage * kStageBytes;
    uint32_t weights[kChunk / 16][4];
#pragma unroll
    for (int step = 0; step < kChunk / 16; ++step)
      load_tiles(weights[step], from + place(my_row, step * 2 + lane / 16));
#pragma unroll
    for (int tile = 0; tile < kColTiles; ++tile) {
      uint32_t inputs[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        load_tiles(inputs[half], from + kRows * kRowBytes + place(tile * 8 + lane % 8, half * 4 + lane / 8));
#pragma unroll
      for (int step = 0; step < kChunk / 16; ++step)
        multiply(sums[tile], weights[step], inputs[step / 2][step % 2 * 2], inputs[step / 2][step % 2 * 2 + 1], T{});
    }
    __syncwarp();
    if (lane == 0) arrive(address(&empty[stage]));
    if (++stage == kStages) stage = 0, ++round;
    if (chunk + 1 < chunks && i + 1 < count) continue;

    // The end of these rows, or of what this block has of them.
    bool writes = true;
    if (first_chunk > 0 || chunk + 1 < chunks) {
      const int first = shape.block_of(row_block * chunks, blocks),
                last = shape.block_of(row_block * chunks + chunks - 1, blocks);
      const auto part_of = [&](int other) {  // a block shares the rows that it begins with and those that it ends with
        const bool begins = shape.first_unit(other, blocks) / chunks == row_block;
        return parts + (int64_t{2} * other + (begins ? 0 : 1)) * kColTiles * kThreads + thread;
      };
      float4* mine = part_of(block);
#pragma unroll
      for (int tile = 0; tile < kColTiles; ++tile)
        __stcg(mine + tile * kThreads, float4{sums[tile][0], sums[tile][1], sums[tile][2], sums[tile][3]});
      __threadfence();
      sync_warps();
      if (thread == 0) is_last = atomicAdd(&arrivals[row_block], 1u) == static_cast<unsigned>(last - first);
      sync_warps();
      writes = is_last;
      if (writes) {
        __threadfence();
        if (thread == 0) arrivals[row_block] = 0;  // for the next product
#pragma unroll
        for (int tile = 0; tile < kColTiles; ++tile) sums[tile][0] = sums[tile][1] = sums[tile][2] = sums[tile][3] = 0;
        for (int other = first; other <= last; ++other) {
          const float4* part = part_of(other);
#pragma unroll
          for (int tile = 0; tile < kColTiles; ++tile) {
            const float4 more = __ldcg(part + tile * kThreads);
            sums[tile][0] += more.x, sums[tile][1] += more.y, sums[tile][2] += more.z, sums[tile][3] += more.w;
          }
        }
      }
    }
    if (writes) {
      const auto with_bias = [&](float value, int64_t row) {
        return bias == nullptr ? value : value + to_float(bias[row]);
      };
      constexpr int kOutRows = kGated ? kRows / 2 : kRows;
      const int64_t rows = kGated ? shape.n / 2 : shape.n;  // of the result
      const int64_t row = row_block * int64_t{kOutRows} + row_in_stage<kGated>(warp, 0, g);
#pragma unroll
      for (int tile = 0; tile < kColTiles; ++tile)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int64_t col = tile * 8 + 2 * t + j;
          if (col >= shape.m) continue;
          const float high = sums[tile][j], low = sums[tile][j + 2];
          T* to = out + col * rows + row;
          if constexpr (kGated) {
            if (row >= rows) continue;
            const float gate = with_bias(high, row), up = with_bias(low, rows + row);
            *to = from_float<T>(gate / (1 + __expf(-gate)) * up);
          } else {
            if (row < rows) *to = from_float<T>(with_bias(high, row));
            if (row + 8 < rows) to[8] = from_float<T>(with_bias(low, row + 8));
          }
        }
    }
#pragma unroll
    for (int tile = 0; tile < kColTiles; ++tile) sums[tile][0] = sums[tile][1] = sums[tile][2] = sums[tile][3] = 0;
    ++row_block, chunk = -1, first_chunk = 0;
  }
#endif
}

// Where blocks leave their parts for one another; of one stream, since its kernels follow one another.
struct Exchange {
  static constexpr int64_t kMaxRowBlocks = 1 << 16;
  Buffer parts, arrivals;

  Exchange(int blocks, const Stream& stream)
      : parts(stream.device(), int64_t{2} * blocks * kMaxCols / 8 * kThreads * static_cast<int64_t>(sizeof(float4))),
        arrivals(DType::kI32, {1, 1, 1, kMaxRowBlocks}, stream.device()) {
    check(cudaMemsetAsync(arrivals.data(), 0, static_cast<size_t>(arrivals.bytes()), raw(stream)),
          "clearing the counters of products");
  }
};

Exchange& exchange_of(const Stream& stream, int blocks) {
  static std::mutex mutex;
  static std::map<std::pair<int, void*>, Exchange> all;
  const std::lock_guard lock(mutex);
  const auto key = std::pair{stream.device().index, stream.native()};
  const auto found = all.find(key);
  if (found != all.end()) return found->second;
  return all.try_emplace(key, blocks, stream).first->second;
}

int num_multiprocessors(Device device) {
  static std::mutex mutex;
  static std::map<int, int> counts;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = counts.try_emplace(device.index);
  if (is_new)
    check(cudaDeviceGetAttribute(&found->second, cudaDevAttrMultiProcessorCount, device.index),
          "asking for multiprocessors");
  return found->second;
}

// How the accelerator sees a row-major matrix [rows, k]: boxes of `box_rows` rows by kChunk inputs, permuted as place()
// has it (CUDA driver API, cuTensorMapEncodeTiled).
CUtensorMap map_of(const void* data, DType dtype, int64_t rows, int64_t k, int box_rows) {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
          "looking for cuTensorMapEncodeTiled in the driver");
    ensure(found == cudaDriverEntryPointSuccess, "a driver for sm_90 knows cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  CUtensorMap map;
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)},
                   pitch[] = {static_cast<cuuint64_t>(k * 2)};
  const cuuint32_t box[] = {kChunk, static_cast<cuuint32_t>(box_rows)}, strides[] = {1, 1};
  const CUresult result =
      encode(&map, dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
             const_cast<void*>(data), extents, pitch, box, strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Error(ErrorCode::kDevice, "describing a matrix of " + std::to_string(rows) + " x " + std::to_string(k) +
                                        " to the GPU failed with CUDA error " + std::to_string(result));
  return map;
}

struct Operands {
  const void *x, *w, *bias;
  void* out;
  DType dtype;
  Shape shape;
};

template <class T, int kColTiles, int kRingKiB, bool kGated>
void start(const Operands& of, const SkinnyCut& cut, Stream& stream) {
  constexpr int kStageBytes = (kRows + 8 * kColTiles) * kRowBytes, kStages = kRingKiB * 1024 / kStageBytes;
  constexpr size_t kShared = size_t{kStages} * kStageBytes + 1024;  // what alignment takes
  const auto kernel = skinny_kernel<T, kColTiles, kStages, kGated>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kShared)),
        "taking more shared memory for a product");
  const int most = num_multiprocessors(stream.device()) * kMaxBlocksPerSm;
  const int blocks = std::min(num_multiprocessors(stream.device()) * cut.blocks_per_sm, of.shape.units);
  Exchange& exchange = exchange_of(stream, most);
  launch(kernel, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads + 32, .shared_bytes = kShared}, stream,
         "matmul of few rows", map_of(of.x, of.dtype, of.shape.m, of.shape.k, 8 * kColTiles),
         map_of(of.w, of.dtype, of.shape.n, of.shape.k, kGated ? kRows / 2 : kRows), static_cast<const T*>(of.bias),
         static_cast<T*>(of.out), of.shape, static_cast<float4*>(exchange.parts.data()),
         static_cast<unsigned*>(exchange.arrivals.data()), cut.ahead);
}

template <class T, bool kGated>
void start_for(const Operands& of, const SkinnyCut& cut, Stream& stream) {
  const auto with_ring = [&](auto col_tiles) {
    constexpr int kColTiles = decltype(col_tiles)::value;
    if (cut.ring_kib == 48) return start<T, kColTiles, 48, kGated>(of, cut, stream);
    if (cut.ring_kib == 100) return start<T, kColTiles, 100, kGated>(of, cut, stream);
    if (cut.ring_kib == 200) return start<T, kColTiles, 200, kGated>(of, cut, stream);
    ensure(false, "a ring has 48, 100 or 200 KiB");
  };
  if (of.shape.m <= 8) return with_ring(std::integral_constant<int, 1>());
  if (of.shape.m <= 16) return with_ring(std::integral_constant<int, 2>());
  if (of.shape.m <= 32) return with_ring(std::integral_constant<int, 4>());
  return with_ring(std::integral_constant<int, 8>());
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out) {
  return (weight.dtype == DType::kBF16 || weight.dtype == DType::kF16) && x.dtype == weight.dtype &&
         out.dtype == weight.dtype && (bias.data == nullptr || bias.dtype == weight.dtype) && x.rows() <= kSkinnyRows &&
         weight.k % 8 == 0 && can_chain() && weight.n <= Exchange::kMaxRowBlocks * kRows / 2 && is_aligned(x.data) &&
         is_aligned(weight.data);
}

void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   const SkinnyCut& cut, Stream& stream) {
  ensure(is_skinny(x, weight, bias, out), "the product is one for this kernel");
  ensure(cut.blocks_per_sm >= 1 && cut.blocks_per_sm <= kMaxBlocksPerSm, "blocks of a multiprocessor are 1 to 4");
  const int64_t chunks = (weight.k + kChunk - 1) / kChunk;
  const int64_t row_blocks = gated ? (weight.n / 2 + kRows / 2 - 1) / (kRows / 2) : (weight.n + kRows - 1) / kRows;
  const Operands of{
      x.data,       weight.data,
      bias.data,    out.data,
      weight.dtype, {x.rows(), weight.n, weight.k, static_cast<int>(chunks), static_cast<int>(chunks * row_blocks)}};
  const auto run_type = [&](auto type) {
    using T = decltype(type);
    gated ? start_for<T, true>(of, cut, stream) : start_for<T, false>(of, cut, stream);
  };
  weight.dtype == DType::kBF16 ? run_type(__nv_bfloat16()) : run_type(__half());
}

}  // namespace lane::cuda
