// Data flow: the tensor memory accelerator brings W and x into a ring of stages in shared memory; eight warps take them
// from there into the tensor cores, each a stage of its own, so that eight are under way at once. A stage is up to 64
// rows of W by 64 inputs, or up to 32 by 128, and the same inputs of x.
//
// The floor: n k sizeof(T) bytes at the memory's read rate. Three things stand against it.
// - Latency: a GPU needs about 4.5 MB of loads under way (4.5 TB/s times 1 us), 34 KB an SM. The ring holds more.
// - Parts that have to be added up: blocks share no rows of W, and deal these out evenly by eights; inputs are shared
//   by the warps of a block, who meet in shared memory.
// - The time between kernels: W does not depend on the kernel before, so the ring is filled before that one ends.
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

constexpr int kWarps = 8, kThreads = 32 * kWarps;  // that multiply; one more warp fetches
constexpr int kGroup = 8;                          // rows of W that stay together: a tile of the tensor cores
constexpr int kGroups = 8;                         // in a box, at most
constexpr int kChunk = 64;                         // inputs in a box, 128 bytes a row
constexpr int kRowBytes = 2 * kChunk;
constexpr int kGroupBytes = kGroup * kRowBytes;
constexpr int kPartGroups = 2;                        // whose sums the warps exchange at a time
constexpr int kPartPitch = kPartGroups * kGroup + 2;  // floats of a warp's part: even, rows in different banks

// d += a b: a 16 rows of x by 16 inputs, b 16 inputs by 8 rows of W (PTX ISA, mma.m16n8k16).
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

struct Shape {
  int64_t m, n, k;
  int chunks;        // of inputs, a stage each
  int groups;        // of rows of the result, shared among the blocks
  int stage_groups;  // of them in a stage
};

// Tiles of 16 bytes are permuted within a row of 128 bytes, so that the 8 rows which ldmatrix reads lie in different
// banks.
__device__ __forceinline__ uint32_t place(int row, int piece) {
  return static_cast<uint32_t>(row * kRowBytes + ((piece ^ (row % 8)) * 16));
}

// kRowTiles: of 16 rows of x; 0 means at most 8 rows. kBoxes: side by side in a stage. Stages are a multiple of the
// warps, so that each stage has a warp that waits for all its rounds: a barrier tells even rounds from odd ones only.
template <class T, int kRowTiles, int kBoxes, bool kGated>
struct Layout {
  static constexpr int kTiles = kRowTiles == 0 ? 1 : kRowTiles, kXRows = kRowTiles == 0 ? 8 : 16 * kRowTiles;
  static constexpr int kStages = kWarps, kMaxGroups = kGroups / kBoxes;  // of W in a box
  static constexpr int kWBytes = kBoxes * kMaxGroups * kGroupBytes, kStageBytes = kWBytes + kBoxes * kXRows * kRowBytes;
  static constexpr int kOutGroups = kGated ? kMaxGroups / 2 : kMaxGroups;  // of the result in a stage
  static constexpr int kSumRows = kRowTiles == 0 ? 8 : 16;                 // of x that warps add up at a time
  static constexpr int kPartBytes = kWarps * kSumRows * kPartPitch * static_cast<int>(sizeof(float));
  static constexpr int kSharedBytes = kStages * kStageBytes + kPartBytes + 1024;  // the last for alignment
};

template <class T, int kRowTiles, int kBoxes, bool kGated>
__global__ void __launch_bounds__(kThreads + 32) __maxnreg__(kRowTiles == 2 ? 168 : 88)
    skinny_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                  const T* __restrict__ bias, T* __restrict__ out, Shape shape) {
#if __CUDA_ARCH__ >= 900
  using L = Layout<T, kRowTiles, kBoxes, kGated>;
  let_next_start();
  extern __shared__ char dynamic[];
  __shared__ uint64_t full[L::kStages], empty[L::kStages];
  const auto address = [](const void* shared) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared)); };
  const uint32_t unaligned = address(dynamic), ring = (unaligned + 1023) / 1024 * 1024;  // place() repeats every 1024
  auto* parts = reinterpret_cast<float*>(dynamic + (ring - unaligned) + L::kStages * L::kStageBytes);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, chunks = shape.chunks;
  const int first_group = static_cast<int>(int64_t{shape.groups} * blockIdx.x / gridDim.x);
  const int end_group = static_cast<int>(int64_t{shape.groups} * (blockIdx.x + 1) / gridDim.x);
  const int tiles = (end_group - first_group + shape.stage_groups - 1) / shape.stage_groups, count = tiles * chunks;

  if (thread == 0) {
    for (int i = 0; i < L::kStages; ++i) set_up_barrier(address(&full[i]), 1), set_up_barrier(address(&empty[i]), 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  if (warp == kWarps) {
    if (lane > 0) return wait_for_previous();
    const int box_bytes = shape.stage_groups * kGroupBytes;  // of W, or of gate, or of up
    const int stage_bytes = kBoxes * ((kGated ? 2 : 1) * box_bytes + L::kXRows * kRowBytes);
    int row = first_group * kGroup, chunk = 0;  // of what is fetched next
    const auto next = [&] {
      if (++chunk == chunks) chunk = 0, row += shape.stage_groups * kGroup;
    };
    const auto each_box = [&](auto&& take) {  // of W in a stage: take(where in the stage, first input, first row)
      int at = 0;
#pragma unroll
      for (int box = 0; box < kBoxes; ++box) {
        const int input = (chunk * kBoxes + box) * kChunk;
        take(at, input, row), at += box_bytes;
        if constexpr (kGated) take(at, input, static_cast<int>(shape.n / 2) + row), at += box_bytes;
      }
    };
    const auto fetch_w = [&](int stage) {
      const uint32_t barrier = address(&full[stage]), to = ring + stage * L::kStageBytes;
      arrive_expecting(barrier, stage_bytes);
      each_box([&](int at, int input, int of_row) { fetch(to + at, w, input, of_row, barrier); });
    };
    const auto fetch_x = [&](int stage, int of_chunk) {
#pragma unroll
      for (int box = 0; box < kBoxes; ++box)
        fetch(ring + stage * L::kStageBytes + L::kWBytes + box * L::kXRows * kRowBytes, x,
              (of_chunk * kBoxes + box) * kChunk, 0, address(&full[stage]));
    };
    // There are at least as many chunks as stages.
    for (int i = 0; i < L::kStages; ++i, next()) fetch_w(i);
    wait_for_previous();
    for (int i = 0; i < L::kStages; ++i) fetch_x(i, i);
    for (int i = L::kStages, stage = 0, round = 0; i < count; ++i, next()) {
      wait_for_phase(address(&empty[stage]), round & 1);
      fetch_w(stage);
      fetch_x(stage, chunk);
      if (++stage == L::kStages) stage = 0, ++round;
    }
    return;
  }

  wait_for_previous();
  const auto sync_warps = [] { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); };
  const uint32_t from = ring + warp * L::kStageBytes;
  int round = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const int group = first_group + tile * shape.stage_groups, here = min(shape.stage_groups, end_group - group);
    float sums[L::kTiles][L::kMaxGroups][4] = {};
    for (int chunk = warp; chunk < chunks; chunk += kWarps, ++round) {
      wait_for_phase(address(&full[warp]), round & 1);
#pragma unroll
      for (int box = 0; box < kBoxes; ++box) {
        const uint32_t box_of_w = from + box * (kGated ? 2 : 1) * shape.stage_groups * kGroupBytes,
                       box_of_x = from + L::kWBytes + box * L::kXRows * kRowBytes;
        uint32_t inputs[L::kTiles][kChunk / 16][4];
#pragma unroll
        for (int i = 0; i < L::kTiles; ++i)
#pragma unroll
          for (int step = 0; step < kChunk / 16; ++step) {
            // Rows 8 to 15 of a tile are not there if x has 8 at most: what is read in their place is put away again.
            const int row = kRowTiles == 0 ? lane % 8 : i * 16 + lane % 16;
            load_tiles(inputs[i][step], box_of_x + place(row, step * 2 + lane / 16));
            if constexpr (kRowTiles == 0) inputs[i][step][1] = inputs[i][step][3] = 0;
          }
#pragma unroll
        for (int j = 0; j < L::kMaxGroups; ++j) {
          if (j % L::kOutGroups >= here) continue;
          const int in_box = j < L::kOutGroups ? j : shape.stage_groups + j - L::kOutGroups;
          uint32_t weights[2][4];
#pragma unroll
          for (int half = 0; half < 2; ++half)
            load_tiles(weights[half], box_of_w + place(in_box * kGroup + lane % 8, half * 4 + lane / 8));
#pragma unroll
          for (int i = 0; i < L::kTiles; ++i)
#pragma unroll
            for (int step = 0; step < kChunk / 16; ++step)
              multiply(sums[i][j], inputs[i][step], weights[step / 2][step % 2 * 2],
                       weights[step / 2][step % 2 * 2 + 1], T{});
        }
      }
      __syncwarp();
      if (lane == 0) arrive(address(&empty[warp]));
    }

    // The warps' parts are added up in the order of the warps, 16 rows of x and kPartGroups groups at a time: of a
    // gated product one of gate and its up. Lane 4 g + t has the sums of rows g and g + 8 of x with rows 2t and 2t + 1
    // of each group.
    const auto meet = [&](const float(&first)[4], const float(&second)[4], int tile_of_x, int at_group) {
      constexpr int kColumns = kGated ? kGroup : kPartGroups * kGroup;  // rows of the result
      float* mine = parts + warp * L::kSumRows * kPartPitch + lane / 4 * kPartPitch + lane % 4 * 2;
      *reinterpret_cast<float2*>(mine) = float2{first[0], first[1]};
      *reinterpret_cast<float2*>(mine + kGroup) = float2{second[0], second[1]};
      if constexpr (kRowTiles > 0) {
        *reinterpret_cast<float2*>(mine + 8 * kPartPitch) = float2{first[2], first[3]};
        *reinterpret_cast<float2*>(mine + 8 * kPartPitch + kGroup) = float2{second[2], second[3]};
      }
      sync_warps();
      const int64_t out_rows = kGated ? shape.n / 2 : shape.n;
      for (int at = thread; at < L::kSumRows * kColumns; at += kThreads) {
        const int row_here = at / kColumns, column = at % kColumns;
        const int64_t row = tile_of_x * 16 + row_here, of = int64_t{group + at_group} * kGroup + column;
        if (row >= shape.m || of >= out_rows || of >= int64_t{group + here} * kGroup) continue;
        const auto total = [&](int part, int64_t row_of_w) {
          float sum = 0;
#pragma unroll
          for (int other = 0; other < kWarps; ++other)
            sum += parts[(other * L::kSumRows + row_here) * kPartPitch + part];
          return bias == nullptr ? sum : sum + to_float(bias[row_of_w]);
        };
        float result = total(column, of);
        if constexpr (kGated) result = result / (1 + __expf(-result)) * total(kGroup + column, out_rows + of);
        out[row * out_rows + of] = from_float<T>(result);
      }
      sync_warps();  // the parts may be overwritten
    };
#pragma unroll
    for (int i = 0; i < L::kTiles; ++i)
#pragma unroll
      for (int j = 0; j < L::kOutGroups; j += kGated ? 1 : 2) {
        if (j >= here) continue;
        if constexpr (kGated)
          meet(sums[i][j], sums[i][L::kOutGroups + j], i, j);
        else
          meet(sums[i][j], sums[i][j + 1], i, j);
      }
  }
#endif
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

template <class T, int kRowTiles, int kBoxes, bool kGated>
void start(Operands of, int blocks, Stream& stream) {
  using L = Layout<T, kRowTiles, kBoxes, kGated>;
  const auto kernel = skinny_kernel<T, kRowTiles, kBoxes, kGated>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes),
        "taking more shared memory for a product");
  // As many chunks for each warp: those beyond the end of k are zeros.
  constexpr int64_t kRound = int64_t{kWarps} * kBoxes * kChunk;
  of.shape.chunks = static_cast<int>((of.shape.k + kRound - 1) / kRound) * kWarps;
  launch(kernel,
         {.blocks = static_cast<unsigned>(blocks), .threads = kThreads + 32, .shared_bytes = size_t{L::kSharedBytes}},
         stream, "matmul of few rows", map_of(of.x, of.dtype, of.shape.m, of.shape.k, L::kXRows),
         map_of(of.w, of.dtype, of.shape.n, of.shape.k, of.shape.stage_groups * kGroup), static_cast<const T*>(of.bias),
         static_cast<T*>(of.out), of.shape);
}

constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

template <class T, bool kGated>
void start_for(Operands of, const SkinnyCut& cut, Stream& stream) {
  // As few groups of rows as some block must have, a whole number of stages if they are more than one; then as few
  // blocks as have no more.
  const int groups = of.shape.groups, most = num_multiprocessors(stream.device()) * cut.blocks_per_sm;
  const int in_stage = kGated ? kGroups / 2 : kGroups, least = divide_up(groups, most);
  of.shape.stage_groups = std::min(least, in_stage);
  const int blocks = divide_up(groups, divide_up(least, of.shape.stage_groups) * of.shape.stage_groups);
  const auto with_rows = [&](auto row_tiles) {
    constexpr int kRowTiles = decltype(row_tiles)::value;
    if (of.shape.stage_groups * 2 <= in_stage) return start<T, kRowTiles, 2, kGated>(of, blocks, stream);
    start<T, kRowTiles, 1, kGated>(of, blocks, stream);
  };
  if (of.shape.m <= 8) return with_rows(std::integral_constant<int, 0>());
  if (of.shape.m <= 16) return with_rows(std::integral_constant<int, 1>());
  with_rows(std::integral_constant<int, 2>());
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out) {
  return (weight.dtype == DType::kBF16 || weight.dtype == DType::kF16) && x.dtype == weight.dtype &&
         out.dtype == weight.dtype && (bias.data == nullptr || bias.dtype == weight.dtype) && x.rows() <= kSkinnyRows &&
         weight.k % 8 == 0 && can_chain() && is_aligned(x.data) && is_aligned(weight.data);
}

void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   const SkinnyCut& cut, Stream& stream) {
  ensure(is_skinny(x, weight, bias, out), "the product is one for this kernel");
  const int64_t rows = gated ? weight.n / 2 : weight.n;
  const Operands of{.x = x.data,
                    .w = weight.data,
                    .bias = bias.data,
                    .out = out.data,
                    .dtype = weight.dtype,
                    .shape = {.m = x.rows(),
                              .n = weight.n,
                              .k = weight.k,
                              .chunks = 0,
                              .groups = static_cast<int>((rows + kGroup - 1) / kGroup),
                              .stage_groups = 0}};
  const auto run_type = [&](auto type) {
    using T = decltype(type);
    gated ? start_for<T, true>(of, cut, stream) : start_for<T, false>(of, cut, stream);
  };
  weight.dtype == DType::kBF16 ? run_type(__nv_bfloat16()) : run_type(__half());
}

}  // namespace lane::cuda
