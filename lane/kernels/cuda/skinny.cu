// Data flow: a block has a share of the rows of W, which it takes in tiles of up to 64, and its warps share the inputs.
// Each warp has a ring of stages in shared memory, which it fills with W and x by asynchronous copies and takes to the
// tensor cores, one after the other; a stage that was taken is asked for again at once, for what comes next. A stage is
// a tile by 64 inputs, or by 128 if the tile has at most 32 rows, and the same inputs of x. At the end of a tile the
// warps add up what they have.
//
// The floor: n k sizeof(T) bytes at the memory's read rate. Three things stand against it.
// - Latency: a GPU needs about 4.5 MB of loads under way (4.5 TB/s times 1 us), 34 KB an SM. The ring holds more.
// - Parts that have to be added up: blocks share no rows of W, and deal these out evenly by eights; inputs are shared
//   by the warps of a block, who meet in shared memory.
// - The time between kernels: W does not depend on the kernel before, so the ring is filled before that one ends.
#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kGroup = 8;      // rows of W that stay together: a tile of the tensor cores
constexpr int kMostSlots = 8;  // groups in a stage, gate's and up's
constexpr int kChunk = 64;     // inputs of a box, 128 bytes a row
constexpr int kMostBoxes = 2;  // side by side in a stage
constexpr int kRowBytes = 2 * kChunk;
constexpr int kGroupBytes = kGroup * kRowBytes;
constexpr int kSumRows = kThreads / (kMostSlots * kGroup);  // of x whose sums the warps exchange at a time
constexpr int kPartPitch = kMostSlots * kGroup + 2;         // floats of a row of a warp: rows in different banks
constexpr int kPartBytes = kWarps * kSumRows * kPartPitch * 4;

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

// 16 bytes from global to shared memory, around the first level of cache, or zeros (PTX ISA, cp.async).
__device__ __forceinline__ void copy(uint32_t to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kOpen>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// A product x [m, k] W [n, k]^T and how it is cut. Its result has 8 * groups rows (the last may not be there), of which
// blocks have shares.
struct Shape {
  const void *x, *w;
  int m, n, k;
  int chunks;       // of boxes * kChunk inputs: a multiple of the warps, those beyond k are zeros
  int boxes;        // side by side in a stage
  int groups;       // of rows of the result
  int tile_groups;  // in a stage
  int share;        // groups of a block; those of the first `more` blocks have one more
  int more;
  int is_gated;  // W has gate rows, then as many up rows: a stage has a tile of both

  __host__ __device__ int slots() const { return is_gated != 0 ? 2 * tile_groups : tile_groups; }
  __host__ __device__ int out_rows() const { return is_gated != 0 ? n / 2 : n; }
};

// Tiles of 16 bytes are permuted within a row of 128 bytes, so that the 8 rows which ldmatrix reads lie in different
// banks.
__device__ __forceinline__ uint32_t place(int row, int piece) {
  return static_cast<uint32_t>(row * kRowBytes + ((piece ^ (row % 8)) * 16));
}

// kRows: of x at most, 8 or 16.
template <class Type, int kRows>
struct Layout {
  using T = Type;
  static_assert(kRows == 8 || kRows == 16);
  static constexpr bool kFewRows = kRows == 8;
  static constexpr int kXRows = kRows;
  static constexpr int kWBytes = kMostSlots * kGroupBytes, kStageBytes = kWBytes + kMostBoxes * kXRows * kRowBytes;
  static constexpr int kDepth = 2;  // stages of a warp
  static constexpr int kRingBytes = kWarps * kDepth * kStageBytes;
  static constexpr int kSharedBytes = kRingBytes + kPartBytes + 1024;  // the last for alignment
};

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// The groups of the result that are a block's.
struct Share {
  int first, end;

  __device__ __forceinline__ Share(const Shape& shape, int block)
      : first(block * shape.share + min(block, shape.more)), end(first + shape.share + (block < shape.more ? 1 : 0)) {}
};

// A warp's ring. All lanes call its functions together.
template <class L>
class Ring {
 public:
  // `stages`: the block's memory, at a multiple of 1024 as place() repeats every 1024.
  __device__ explicit Ring(uint32_t stages) : stages_(stages + warp() * L::kDepth * L::kStageBytes) {}

  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  // What this warp asks for next of a product: tiles in turn, of each the chunks warp, warp + 8, ...
  struct Cursor {
    int group = 0, chunk = warp();  // first of the tile, counted from the block's first
    __device__ __forceinline__ bool is_in(const Share& share) const { return share.first + group < share.end; }
    __device__ __forceinline__ void advance(const Shape& shape) {
      chunk += kWarps;
      if (chunk >= shape.chunks) chunk = warp(), group += shape.tile_groups;
    }
  };

  // Asks for W in a free stage; x is to come. Eight lanes bring a row of 128 bytes.
  __device__ __forceinline__ void fetch_w(const Shape& shape, const Share& share, const Cursor& at) {
    const int row = lane() / 8, piece = lane() % 8, first = share.first + at.group;
    const int groups = min(shape.tile_groups, share.end - first), parts = shape.is_gated != 0 ? 2 : 1;
    const int64_t pitch = int64_t{shape.k} * 2;
    const uint32_t stage = stages_ + fetched_++ % L::kDepth * L::kStageBytes;
    const uint32_t upper = place(row, piece), lower = place(row + 4, piece);
#pragma unroll 1
    for (int i = 0; i < shape.boxes * parts; ++i) {
      const int input = (at.chunk * shape.boxes + i / parts) * kChunk + piece * 8;
      const bool exists = input < shape.k;
      int of = first * kGroup + row;  // row of the result
      const char* from = static_cast<const char*>(shape.w) +
                         (exists ? (of + i % parts * (shape.n / 2)) * pitch + int64_t{input} * 2 : 0);
      uint32_t to = stage + i * shape.tile_groups * kGroupBytes;
#pragma unroll 4
      for (int group = 0; group < groups; ++group, of += kGroup, from += kGroup * pitch, to += kGroupBytes) {
        copy(to + upper, from, exists && of < shape.out_rows());
        copy(to + lower, from + 4 * pitch, exists && of + 4 < shape.out_rows());
      }
    }
  }
  // x for the stage that is used `ahead` from now. Rows that are not there stay what they were: they give sums that
  // nobody looks at.
  __device__ __forceinline__ void fetch_x(const Shape& shape, int chunk, int ahead) {
    const int row = lane() / 8, piece = lane() % 8;
    uint32_t to = stages_ + (used_ + ahead) % L::kDepth * L::kStageBytes + L::kWBytes;
#pragma unroll 1
    for (int box = 0; box < shape.boxes; ++box, to += L::kXRows * kRowBytes) {
      const int input = (chunk * shape.boxes + box) * kChunk + piece * 8;
      const bool exists = input < shape.k;
      for (int of = row; of < shape.m; of += 4)
        copy(to + place(of, piece),
             static_cast<const char*>(shape.x) + (exists ? (int64_t{of} * shape.k + input) * 2 : 0), exists);
    }
  }
  // Waits for the next stage and returns where it is.
  __device__ __forceinline__ uint32_t wait() {
    wait_for_copies<L::kDepth - 1>();
    __syncwarp();
    return stages_ + used_ % L::kDepth * L::kStageBytes;
  }
  // Gives it back.
  __device__ __forceinline__ void release() {
    __syncwarp();
    ++used_;
  }

 private:
  uint32_t stages_;
  int fetched_ = 0, used_ = 0;
};

// sums += a stage's part of the product: sums[j] of slot j. Four slots at a time, in turns, so that a multiplication
// need not wait for the one before; what a slot that is not there gives is not looked at.
template <class L>
__device__ __forceinline__ void multiply_stage(const Shape& shape, uint32_t stage, float (&sums)[kMostSlots][4]) {
  constexpr int kSteps = kChunk / 16, kTurns = 4;
  const int lane = Ring<L>::lane(), slots = shape.slots();
  for (int box = 0; box < shape.boxes; ++box) {
    const uint32_t w = stage + box * slots * kGroupBytes, x = stage + L::kWBytes + box * L::kXRows * kRowBytes;
    uint32_t inputs[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      // Rows 8 to 15 are not there if x has 8 at most: what is read in their place is put away again.
      load_tiles(inputs[step], x + place(L::kFewRows ? lane % 8 : lane % 16, step * 2 + lane / 16));
      if constexpr (L::kFewRows) inputs[step][1] = inputs[step][3] = 0;
    }
#pragma unroll
    for (int first = 0; first < kMostSlots; first += kTurns) {
      if (first >= slots) break;
      uint32_t weights[kTurns][2][4];
#pragma unroll
      for (int j = 0; j < kTurns; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          load_tiles(weights[j][half], w + place((first + j) * kGroup + lane % 8, half * 4 + lane / 8));
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int j = 0; j < kTurns; ++j)
          multiply(sums[first + j], inputs[step], weights[j][step / 2][step % 2 * 2],
                   weights[j][step / 2][step % 2 * 2 + 1], typename L::T{});
    }
  }
}

// The warps' sums of a tile are added up in the order of the warps, kSumRows rows of x at a time, and written. Lane
// 4 g + t has the sums of rows g and g + 8 with rows 2 t and 2 t + 1 of each slot.
template <class L>
__device__ __forceinline__ void finish_tile(const Shape& shape, int first_group, int end_group,
                                            const float (&sums)[kMostSlots][4], const typename L::T* bias,
                                            typename L::T* out, float* parts) {
  constexpr int kColumns = kMostSlots * kGroup;
  static_assert(kSumRows * kColumns == kThreads, "a thread for each sum");
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, slots = shape.slots();
  const int row_here = thread / kColumns, column = thread % kColumns;
  const int of = first_group * kGroup + column, out_rows = shape.out_rows();
  float* const mine = parts + (thread / 32 * kSumRows + lane / 4 % kSumRows) * kPartPitch + lane % 4 * 2;
  const auto total = [&](int from, int row_of_w) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += parts[(warp * kSumRows + row_here) * kPartPitch + from];
    return bias == nullptr ? sum : sum + to_float(bias[row_of_w]);
  };
#pragma unroll 1
  for (int first_row = 0; first_row < shape.m; first_row += kSumRows) {
    if (lane / 4 / kSumRows == first_row % 8 / kSumRows) {
#pragma unroll
      for (int j = 0; j < kMostSlots; ++j) {
        const auto& sum = sums[j];
        if (j < slots)
          *reinterpret_cast<float2*>(mine + j * kGroup) =
              first_row < 8 ? float2{sum[0], sum[1]} : float2{sum[2], sum[3]};
      }
    }
    __syncthreads();
    const int row = first_row + row_here;
    if (row < shape.m && column < shape.tile_groups * kGroup && of < out_rows && of < end_group * kGroup) {
      float result = total(column, of);
      if (shape.is_gated != 0)
        result = __fdividef(result, 1 + __expf(-result)) * total(shape.tile_groups * kGroup + column, out_rows + of);
      out[int64_t{row} * out_rows + of] = from_float<typename L::T>(result);
    }
    __syncthreads();  // the parts may be overwritten
  }
}

template <class L>
__global__ void __launch_bounds__(kThreads)
    skinny_kernel(const typename L::T* __restrict__ bias, typename L::T* __restrict__ out, const Shape shape) {
  let_next_start();
  extern __shared__ char dynamic[];
  const uint32_t unaligned = shared_address(dynamic), stages = (unaligned + 1023) / 1024 * 1024;
  auto* parts = reinterpret_cast<float*>(dynamic + (stages - unaligned) + L::kRingBytes);
  Ring<L> ring(stages);
  const Share share(shape, static_cast<int>(blockIdx.x));
  typename Ring<L>::Cursor of_w, of_x;
  const auto fetch_w = [&] {
    if (of_w.is_in(share)) ring.fetch_w(shape, share, of_w);
    of_w.advance(shape);
  };
  const auto fetch_x = [&](int ahead) {
    if (of_x.is_in(share)) ring.fetch_x(shape, of_x.chunk, ahead);
    of_x.advance(shape);
    end_group_of_copies();  // one for each stage, in their order
  };
  for (int i = 0; i < L::kDepth; ++i) fetch_w();
  wait_for_previous();
  for (int i = 0; i < L::kDepth; ++i) fetch_x(i);
  for (int group = share.first; group < share.end; group += shape.tile_groups) {
    float sums[kMostSlots][4] = {};
    for (int chunk = Ring<L>::warp(); chunk < shape.chunks; chunk += kWarps) {
      multiply_stage<L>(shape, ring.wait(), sums);
      ring.release();
      fetch_w();
      fetch_x(L::kDepth - 1);
    }
    finish_tile<L>(shape, group, min(group + shape.tile_groups, share.end), sums, bias, out, parts);
  }
}

// What the driver says of a GPU, asked for once.
int attribute_of(Device device, cudaDeviceAttr attribute) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, int> known;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace({device.index, attribute});
  if (is_new)
    check(cudaDeviceGetAttribute(&found->second, attribute, device.index), "asking for multiprocessors and memory");
  return found->second;
}

constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

struct Operands {
  const void* bias;
  void* out;
};

template <class L>
void start(const Shape& shape, int blocks, const Operands& of, Stream& stream) {
  const auto kernel = skinny_kernel<L>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes),
        "taking more shared memory for a product");
  using T = typename L::T;
  launch(kernel,
         {.blocks = static_cast<unsigned>(blocks), .threads = kThreads, .shared_bytes = size_t{L::kSharedBytes}},
         stream, "matmul of few rows", static_cast<const T*>(of.bias), static_cast<T*>(of.out), shape);
}

template <class T>
void start_for(const Shape& shape, int blocks, const Operands& of, Stream& stream) {
  shape.m <= 8 ? start<Layout<T, 8>>(shape, blocks, of, stream) : start<Layout<T, 16>>(shape, blocks, of, stream);
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

Shape cut_product(const TensorView& x, const kernels::impl::DeviceMatrix& weight, bool gated, int most_blocks,
                  int* blocks) {
  Shape shape{};
  shape.x = x.data, shape.w = weight.data;
  shape.m = static_cast<int>(x.rows()), shape.n = static_cast<int>(weight.n), shape.k = static_cast<int>(weight.k);
  shape.is_gated = gated ? 1 : 0;
  shape.groups = divide_up(shape.out_rows(), kGroup);
  // As few groups as some block must have; then as few blocks as have no more.
  const int share = divide_up(shape.groups, most_blocks);
  *blocks = divide_up(shape.groups, share);
  shape.share = shape.groups / *blocks, shape.more = shape.groups % *blocks;
  shape.tile_groups = std::min(share, gated ? kMostSlots / 2 : kMostSlots);
  shape.boxes = shape.slots() * 2 <= kMostSlots ? kMostBoxes : 1;
  shape.chunks = divide_up(shape.k, kWarps * shape.boxes * kChunk) * kWarps;
  return shape;
}

}  // namespace

bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out) {
  return (weight.dtype == DType::kBF16 || weight.dtype == DType::kF16) && x.dtype == weight.dtype &&
         out.dtype == weight.dtype && (bias.data == nullptr || bias.dtype == weight.dtype) && x.rows() <= kSkinnyRows &&
         weight.k % 8 == 0 &&
         attribute_of(out.device, cudaDevAttrMaxSharedMemoryPerBlockOptin) >= Layout<__nv_bfloat16, 16>::kSharedBytes &&
         is_aligned(x.data) && is_aligned(weight.data);
}

void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   Stream& stream) {
  ensure(is_skinny(x, weight, bias, out), "the product is one for this kernel");
  int blocks = 0;
  const Shape shape =
      cut_product(x, weight, gated, attribute_of(stream.device(), cudaDevAttrMultiProcessorCount), &blocks);
  const Operands of{bias.data, out.data};
  weight.dtype == DType::kBF16 ? start_for<__nv_bfloat16>(shape, blocks, of, stream)
                               : start_for<__half>(shape, blocks, of, stream);
}

}  // namespace lane::cuda
