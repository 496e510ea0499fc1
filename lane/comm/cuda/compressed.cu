// Schedule direct two-shot with 8-bit floats on the wire: fp8_lines.h has the layout and the error.
#include <cuda_fp8.h>

#include "lane/comm/cuda/fp8_lines.h"
#include "lane/comm/cuda/start.cuh"
#include "lane/comm/cuda/sum.cuh"

namespace lane::cuda {
namespace {

// The lines of a vector that hold a wire line's values.
template <class T>
struct Raw {
  Line lines[kFp8PerLine / kPerLine<T>];
};
struct Values {
  float at[kFp8PerLine];
};
struct Wire {
  Line line;
  uint32_t scale;

  __device__ __forceinline__ bool has_arrived() const { return cuda::has_arrived(line) && scale != kEmpty; }
};

// `line`: of the wire. Beyond the end are zeros.
template <class T, bool kWhole>
__device__ __forceinline__ Raw<T> load_raw(const Vector<T, kWhole>& vector, int64_t line) {
  constexpr int kLines = kFp8PerLine / kPerLine<T>;
  const int64_t lines = (vector.count + kPerLine<T> - 1) / kPerLine<T>;
  Raw<T> raw;
#pragma unroll
  for (int i = 0; i < kLines; ++i)
    raw.lines[i] = line * kLines + i < lines ? vector.load(line * kLines + i) : Line{0, 0, 0, 0};
  return raw;
}
template <class T, bool kWhole>
__device__ __forceinline__ void store_values(const Vector<T, kWhole>& vector, int64_t line, const Values& values) {
  constexpr int kLines = kFp8PerLine / kPerLine<T>;
  const int64_t lines = (vector.count + kPerLine<T> - 1) / kPerLine<T>;
#pragma unroll
  for (int i = 0; i < kLines; ++i) {
    Floats<T> floats;
#pragma unroll
    for (int k = 0; k < kPerLine<T>; ++k) floats.at[k] = values.at[i * kPerLine<T> + k];
    if (line * kLines + i < lines) vector.store(line * kLines + i, to_line(floats));
  }
}
template <class T>
__device__ __forceinline__ Values values_of(const Raw<T>& raw) {
  Values values;
#pragma unroll
  for (int i = 0; i < kFp8PerLine / kPerLine<T>; ++i) {
    const Floats<T> floats = floats_of<T>(raw.lines[i]);
#pragma unroll
    for (int k = 0; k < kPerLine<T>; ++k) values.at[i * kPerLine<T> + k] = floats.at[k];
  }
  return values;
}

// fp8_scale(), which only the host may call.
__host__ __device__ constexpr uint32_t scale_of(uint32_t largest) {
  if (largest >= 0x7f800000u) return 0x7fc00000u;
  const uint32_t exponent = (largest + 0x1fffffu) >> 23;
  return (exponent > 9 ? exponent - 8 : 1u) << 23;
}
constexpr bool is_fp8_scale() {
  for (uint64_t at = 0; at <= 0x7fffffffu; at += 0x7ffff)
    if (scale_of(static_cast<uint32_t>(at)) != fp8_scale(static_cast<uint32_t>(at))) return false;
  return true;
}
static_assert(is_fp8_scale());

// Called by all lanes of a warp, each with a line.
__device__ __forceinline__ Wire compress(const Values& values) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kFp8PerLine; ++i) largest = max(largest, __float_as_uint(values.at[i]) & 0x7fffffffu);
#pragma unroll
  for (int lanes = 1; lanes < kLinesPerScale; lanes *= 2)
    largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  const uint32_t scale = scale_of(largest);
  const float inverse = __uint_as_float(0x7f000000u - scale);  // of a power of two
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float* at = values.at + 4 * w;
    const uint32_t low = __nv_cvt_float2_to_fp8x2({at[0] * inverse, at[1] * inverse}, __NV_SATFINITE, __NV_E4M3);
    const uint32_t high = __nv_cvt_float2_to_fp8x2({at[2] * inverse, at[3] * inverse}, __NV_SATFINITE, __NV_E4M3);
    words[w] = low | high << 16;
  }
  return {sendable({words[0], words[1], words[2], words[3]}), scale};
}
__device__ __forceinline__ Values expand(const Wire& wire) {
  const float scale = __uint_as_float(wire.scale);
  const uint32_t words[4] = {wire.line.x, wire.line.y, wire.line.z, wire.line.w};
  Values values;
#pragma unroll
  for (int i = 0; i < kFp8PerLine / 2; ++i) {
    const auto pair = static_cast<__nv_fp8x2_storage_t>(words[i / 2] >> i % 2 * 16);
    const float2 both = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
    values.at[2 * i] = both.x * scale, values.at[2 * i + 1] = both.y * scale;
  }
  return values;
}

// As TwoShot in shots.cuh, but each rank goes on with its sum as the others see it.
template <class T, int kRanks, ReduceOp kOp, bool kWhole>
struct TwoShotFp8 {
  const Group& group;
  const Turn& turn;
  const Vector<T, kWhole>& vector;
  const Fp8Parts& parts;

  // Loads that are on their way together, of this rank's own memory and of arrivals.
  static constexpr int kAhead = 4, kAtOnce = kRanks > 0 ? kRanks : 4;

  __device__ __forceinline__ int size() const { return ranks_of<kRanks>(group); }
  // Slots of the buffer of `receiver`: those for parts of vectors first, then those for sums.
  __device__ __forceinline__ int64_t part_slot(int sender, int receiver) const {
    return slot_of(sender, receiver) * parts.part;
  }
  __device__ __forceinline__ int64_t sum_slot(int sender, int receiver) const {
    return (size() - 1 + slot_of(sender, receiver)) * parts.part;
  }
  __device__ __forceinline__ uint32_t* scale_at(Line* buffer, int64_t index) const {
    return reinterpret_cast<uint32_t*>(buffer + parts.slots) + index / kLinesPerScale;
  }
  __device__ __forceinline__ void send(int peer, int64_t index, const Wire& wire) const {
    Line* buffer = buffer_of(group, peer, turn);
    store_line(buffer + index, wire.line);
    if (index % kLinesPerScale == 0) store_word(scale_at(buffer, index), wire.scale);
  }

  __device__ __forceinline__ void push(int64_t first, int64_t stride) const {
    for (int64_t line = first; line < parts.part; line += stride) {
#pragma unroll
      for (int from = 0; from < size() - 1; from += kAhead) {
        Raw<T> raws[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i)
          if (from + i < size() - 1) raws[i] = load_raw(vector, peer_at(group, size(), from + i) * parts.part + line);
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (from + i >= size() - 1) break;
          const int peer = peer_at(group, size(), from + i);
          const Wire wire = compress(values_of(raws[i]));
          if (peer * parts.part + line < parts.lines) send(peer, part_slot(group.place, peer) + line, wire);
        }
      }
    }
  }

  // Waits for one line of each other rank and calls use(rank, line) in rank order. index_of(rank): where the line is,
  // below 0 if there is none.
  template <class IndexOf, class Use>
  __device__ __forceinline__ void receive(Step step, IndexOf&& index_of, Use&& use) const {
    Line* buffer = buffer_of(group, group.place, turn);
#pragma unroll
    for (int from = 0; from < size(); from += kAtOnce) {
      Wire wires[kAtOnce];
      Wait wait{group, turn, step};
      for (;;) {
        int missing = -1;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int64_t index = index_of(from + i);
          if (index >= 0) wires[i] = {load_line(buffer + index), load_word(scale_at(buffer, index))};
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          if (index_of(from + i) >= 0 && !wires[i].has_arrived()) missing = from + i;
        if (missing < 0 || wait.is_over(missing)) break;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (from + i < size()) use(from + i, wires[i]);
    }
  }

  __device__ __forceinline__ void reduce(int64_t first, int64_t stride) const {
    for (int64_t line = first; line < parts.part; line += stride) {
      const int64_t at = group.place * parts.part + line;
      const bool exists = at < parts.lines;
      Values sum{};
      if (exists) {
        const Values own = values_of(load_raw(vector, at));
        receive(
            Step::kReduce,
            [&](int rank) {
              return rank < size() && rank != group.place ? part_slot(rank, group.place) + line : int64_t{-1};
            },
            [&](int rank, const Wire& wire) {
              const Values more = rank == group.place ? own : expand(wire);
#pragma unroll
              for (int i = 0; i < kFp8PerLine; ++i) sum.at[i] = rank == 0 ? more.at[i] : sum.at[i] + more.at[i];
            });
        if constexpr (kOp == ReduceOp::kAvg)
#pragma unroll
          for (int i = 0; i < kFp8PerLine; ++i) sum.at[i] /= static_cast<float>(size());
      }
      const Wire wire = compress(sum);
      if (!exists) continue;
#pragma unroll
      for (int step = 0; step < size() - 1; ++step) {
        const int peer = peer_at(group, size(), step);
        send(peer, sum_slot(group.place, peer) + line, wire);
      }
      store_values(vector, at, expand(wire));
    }
  }

  __device__ __forceinline__ void gather(int64_t first, int64_t stride) const {
    for (int64_t line = first; line < parts.part; line += stride) {
      const auto index_of = [&](int rank) {
        return rank < size() && rank != group.place && rank * parts.part + line < parts.lines
                   ? sum_slot(rank, group.place) + line
                   : int64_t{-1};
      };
      receive(Step::kGather, index_of, [&](int rank, const Wire& wire) {
        if (index_of(rank) >= 0) store_values(vector, rank * parts.part + line, expand(wire));
      });
    }
  }
};

template <class T, int kRanks, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    two_shot_fp8(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector,
                 const __grid_constant__ Fp8Parts parts) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  if (is_clerk()) return be_clerk(group, turn, parts.used);
  const TwoShotFp8<T, kRanks, kOp, kWhole> shot{group, turn, vector, parts};
  shot.push(first, stride);
  advance(group, turn, parts.used);
  clear_last(group, turn, first, stride);
  shot.reduce(first, stride);
  shot.gather(first, stride);
}

// Calls f with the kernel for it: as in all_reduce.cu.
template <class T, class F>
void with_kernel(int size, ReduceOp op, bool whole, F&& f) {
  if (whole && op == ReduceOp::kSum) {
    using Whole = Constant<true>;
    if (size == 2) return f(two_shot_fp8<T, 2, ReduceOp::kSum, true>, Whole{});
    if (size == 4) return f(two_shot_fp8<T, 4, ReduceOp::kSum, true>, Whole{});
    if (size == 8) return f(two_shot_fp8<T, 8, ReduceOp::kSum, true>, Whole{});
    return f(two_shot_fp8<T, 0, ReduceOp::kSum, true>, Whole{});
  }
  if (op == ReduceOp::kSum) return f(two_shot_fp8<T, 0, ReduceOp::kSum, false>, Constant<false>{});
  if (op == ReduceOp::kAvg) return f(two_shot_fp8<T, 0, ReduceOp::kAvg, false>, Constant<false>{});
  throw Error(ErrorCode::kUnsupported, "two_shot_fp8 makes sums and averages only");
}

}  // namespace

int64_t lines_needed_compressed(int size, DType type, int64_t bytes) {
  return fp8_parts(bytes / size_of(type), size).used;
}

void compressed_all_reduce(const Group& group, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                           const Launch& launch) {
  ensure(count > 0, "every rank waits for all others");
  ensure(launch.threads % kLinesPerWarp == 0, "a scale is found by whole warps");
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_kernel<T>(group.size, op, is_whole(in, out, count * size_of(type)), [&](auto kernel, auto whole) {
      const Vector<T, decltype(whole)::value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
      start(kernel, launch, group, vector, fp8_parts(count, group.size));
    });
  });
}

void load_compressed() {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    with_type(type, [&](auto zero) {
      const auto load = [](auto kernel, auto) { remember(reinterpret_cast<const void*>(kernel)); };
      for (const int size : {2, 3, 4, 8}) with_kernel<decltype(zero)>(size, ReduceOp::kSum, true, load);
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAvg}) with_kernel<decltype(zero)>(3, op, false, load);
    });
}

}  // namespace lane::cuda
