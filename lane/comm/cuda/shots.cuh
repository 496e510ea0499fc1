// The two ways to sum a vector over the ranks of a node, as the parts that kernels are made of.
#pragma once
#include "lane/comm/cuda/sum.cuh"

namespace lane::cuda {

// Both: push() sends, sum() and gather() give lines of the sum, rounded to T, the same bits on all ranks; used() is how
// far into the buffer words may land. A thread sums just those lines that it pushed (first, first + stride, ...), so
// `out` may be `in`.

// Schedule direct one-shot: everybody's vector goes to everybody.
template <class T, int kRanks, ReduceOp kOp, bool kWhole>
struct OneShot {
  const Group& group;
  const Turn& turn;
  const Vector<T, kWhole>& vector;
  int64_t lines;

  __device__ __forceinline__ int64_t used() const { return lines * (ranks_of<kRanks>(group) - 1); }

  // `mine` keeps the first line for sum(): small vectors are read once.
  __device__ __forceinline__ void push(int64_t first, int64_t stride) {
    if (first < lines) mine = push_one(first);
    for (int64_t line = first + stride; line < lines; line += stride) push_one(line);
  }
  __device__ __forceinline__ Line push_one(int64_t line) {
    const int size = ranks_of<kRanks>(group);
    const Line value = sendable(vector.load(line));
#pragma unroll
    for (int step = 0; step < size - 1; ++step) {
      const int peer = peer_at(group, size, step);
      store_line(buffer_of(group, peer, turn) + slot_of(group.place, peer) * lines + line, value);
    }
    return value;
  }

  __device__ __forceinline__ Line sum(int64_t line, bool is_first) {
    const Line own = is_first ? mine : sendable(vector.load(line));
    return sendable(to_line(sum_of_arrivals<T, kRanks, kOp>(group, turn, Step::kReduce,
                                                            buffer_of(group, group.place, turn) + line, lines, own)));
  }

  Line mine = {};
};

// Schedule direct two-shot: part p of everybody's vector goes to rank p, which sends the sum of it to everybody.
// A sum contains words of all ranks, so that everybody waits for everybody, also a rank whose part is empty.
template <class T, int kRanks, ReduceOp kOp, bool kWhole>
struct TwoShot {
  const Group& group;
  const Turn& turn;
  const Vector<T, kWhole>& vector;
  int64_t lines;

  // Buffer: a slot per sender with its words of this rank's part, then the sums by rank, this rank's own included.
  __device__ __forceinline__ int64_t part() const {
    const int size = ranks_of<kRanks>(group);
    return (lines + size - 1) / size;
  }
  __device__ __forceinline__ int64_t used() const { return (2 * ranks_of<kRanks>(group) - 1) * part(); }
  __device__ __forceinline__ int64_t sums() const { return (ranks_of<kRanks>(group) - 1) * part(); }

  __device__ __forceinline__ void push(int64_t first, int64_t stride) {
    const int size = ranks_of<kRanks>(group);
    const int64_t part = this->part();
    for (int64_t line = first; line < part; line += stride) {
#pragma unroll
      for (int step = 0; step < size - 1; ++step) {
        const int peer = peer_at(group, size, step);
        const int64_t theirs = peer * part + line;
        if (theirs < lines)
          store_line(buffer_of(group, peer, turn) + slot_of(group.place, peer) * part + line,
                     sendable(vector.load(theirs)));
      }
    }
  }
  // Sums this rank's part and sends it on; also to this rank's own buffer if other threads than the one that summed
  // it will read it.
  template <bool kKeep, class Store>
  __device__ __forceinline__ void reduce(int64_t first, int64_t stride, Store&& store) {
    const int size = ranks_of<kRanks>(group);
    const int64_t part = this->part(), begin = group.place * part;
    Line* buffer = buffer_of(group, group.place, turn);
    for (int64_t line = first; line < part && begin + line < lines; line += stride) {
      const Line total = sendable(to_line(sum_of_arrivals<T, kRanks, kOp>(group, turn, Step::kReduce, buffer + line,
                                                                          part, sendable(vector.load(begin + line)))));
#pragma unroll
      for (int step = 0; step < size - 1; ++step)
        store_line(buffer_of(group, peer_at(group, size, step), turn) + sums() + begin + line, total);
      if constexpr (kKeep) store_line(buffer + sums() + begin + line, total);
      store(begin + line, total);
    }
  }
  // Waits for a line of the sum that `peer` made.
  __device__ __forceinline__ Line gathered(int64_t line, int peer) const {
    const Line* from = buffer_of(group, group.place, turn) + sums() + line;
    Wait wait{group, turn, Step::kGather};
    Line value;
    do value = load_line(from);
    while (!has_arrived(value) && !wait.is_over(peer));
    return value;
  }
  // kOwn: this rank's own sums too, after the others', where they come back to it through its buffer.
  template <bool kOwn = false, class Store>
  __device__ __forceinline__ void gather(int64_t first, int64_t stride, Store&& store) {
    constexpr int kSkipped = kOwn ? 0 : 1;
    const int size = ranks_of<kRanks>(group);
    const int64_t part = this->part();
    const Line* sums = buffer_of(group, group.place, turn) + this->sums();
    for (int64_t line = first; line < part; line += stride) {
      if constexpr (kRanks > 0) {
        Line values[kRanks];
        Wait wait{group, turn, Step::kGather};
        for (;;) {
          bool all = true;
          int missing = 0;
#pragma unroll
          for (int step = 0; step < kRanks - kSkipped; ++step) {
            const int64_t at = peer_at(group, size, step) * part + line;
            if (at < lines) values[step] = load_line(sums + at);
          }
#pragma unroll
          for (int step = 0; step < kRanks - kSkipped; ++step) {
            const int peer = peer_at(group, size, step);
            if (peer * part + line < lines && !has_arrived(values[step])) all = false, missing = peer;
          }
          if (all || wait.is_over(missing)) break;
        }
#pragma unroll
        for (int step = 0; step < kRanks - kSkipped; ++step) {
          const int64_t at = peer_at(group, size, step) * part + line;
          if (at < lines) store(at, values[step]);
        }
      } else {
        for (int step = 0; step < size - kSkipped; ++step) {
          const int peer = peer_at(group, size, step);
          if (peer * part + line < lines) store(peer * part + line, gathered(peer * part + line, peer));
        }
      }
    }
  }
};

}  // namespace lane::cuda
