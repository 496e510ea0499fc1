// Reading and writing a vector by lines, and adding lines up in rank order.
#pragma once
#include "lane/comm/communicator.h"
#include "lane/comm/cuda/region.cuh"

namespace lane::cuda {

// A vector of any length at any address. kWhole: it begins at a multiple of 16 bytes and is whole lines long.
template <class T, bool kWhole>
struct Vector {
  const T* in;
  T* out;
  int64_t count;

  __device__ __forceinline__ Line load(int64_t line) const {
    if constexpr (kWhole) return reinterpret_cast<const Line*>(in)[line];
    union {
      Line line;
      T elements[kPerLine<T>];
    } made = {{0, 0, 0, 0}};
    const int64_t first = line * kPerLine<T>;
#pragma unroll
    for (int i = 0; i < kPerLine<T>; ++i)
      if (first + i < count) made.elements[i] = in[first + i];
    return made.line;
  }
  __device__ __forceinline__ void store(int64_t line, const Line& value) const {
    if constexpr (kWhole) {
      reinterpret_cast<Line*>(out)[line] = value;
    } else {
      union {
        Line line;
        T elements[kPerLine<T>];
      } taken = {value};
      const int64_t first = line * kPerLine<T>;
#pragma unroll
      for (int i = 0; i < kPerLine<T>; ++i)
        if (first + i < count) out[first + i] = taken.elements[i];
    }
  }
};

// The number of ranks, known to the compiler or not (0).
template <int kRanks>
__device__ __forceinline__ int ranks_of(const Group& group) {
  return kRanks > 0 ? kRanks : group.size;
}

template <ReduceOp kOp>
__device__ __forceinline__ float combine(float a, float b) {
  float result;  // NaN stays NaN
  if constexpr (kOp == ReduceOp::kMax) {
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
  }
  if constexpr (kOp == ReduceOp::kMin) {
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
  }
  if constexpr (kOp == ReduceOp::kProd) return a * b;
  return a + b;
}
template <ReduceOp kOp, class T>
__device__ __forceinline__ void add(Floats<T>& sum, const Line& line) {
  const Floats<T> more = floats_of<T>(line);
#pragma unroll
  for (int i = 0; i < kPerLine<T>; ++i) sum.at[i] = combine<kOp>(sum.at[i], more.at[i]);
}
template <ReduceOp kOp, class T>
__device__ __forceinline__ void average(Floats<T>& sum, int size) {
  if constexpr (kOp == ReduceOp::kAvg) {
#pragma unroll
    for (int i = 0; i < kPerLine<T>; ++i) sum.at[i] /= static_cast<float>(size);
  }
}

// Where `sender`'s slot is among those of a receiver, who has none for itself.
__device__ __forceinline__ int slot_of(int sender, int receiver) { return sender - (sender > receiver); }

// The sum over the ranks, in rank order: of `own` and of one line of each other rank, `stride` lines apart in this
// rank's buffer. Waits for them.
template <class T, int kRanks, ReduceOp kOp>
__device__ __forceinline__ Floats<T> sum_of_arrivals(const Group& group, const Turn& turn, Step step, const Line* slots,
                                                     int64_t stride, const Line& own) {
  if constexpr (kRanks > 0) {
    // All at once: the loads are on their way together.
    Line lines[kRanks];
    Wait wait{group, turn, step};
    for (;;) {
      bool all = true;
      int missing = 0;
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        lines[r] = own;
        if (r == group.place) continue;
        lines[r] = load_line(slots + slot_of(r, group.place) * stride);
      }
#pragma unroll
      for (int r = 0; r < kRanks; ++r)
        if (!has_arrived(lines[r])) all = false, missing = r;
      if (all || wait.is_over(missing)) break;
    }
    Floats<T> sum = floats_of<T>(lines[0]);
#pragma unroll
    for (int r = 1; r < kRanks; ++r) add<kOp, T>(sum, lines[r]);
    average<kOp>(sum, kRanks);
    return sum;
  } else {
    Floats<T> sum;
    for (int r = 0; r < group.size; ++r) {
      Line line = own;
      if (r != group.place) {
        Wait wait{group, turn, step};
        do line = load_line(slots + slot_of(r, group.place) * stride);
        while (!has_arrived(line) && !wait.is_over(r));
      }
      if (r == 0)
        sum = floats_of<T>(line);
      else
        add<kOp, T>(sum, line);
    }
    average<kOp>(sum, group.size);
    return sum;
  }
}

// Places of the others, the next one first: at any moment the ranks store to different peers.
__device__ __forceinline__ int peer_at(const Group& group, int size, int step) {
  const int peer = group.place + 1 + step;
  return peer < size ? peer : peer - size;
}

}  // namespace lane::cuda
