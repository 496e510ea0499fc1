// What the schedules hier:two_shot/BETWEEN have in common, whatever carries words between nodes.
#pragma once
#include "lane/comm/cuda/start.cuh"
#include "lane/comm/cuda/sum.cuh"

namespace lane::cuda {

// A buffer: slots of the reduce-scatter by sender, the parts' sums by owner, then what comes from other nodes.
struct Places {
  int64_t part;  // lines of a part
  __device__ Places(const Group& group, int64_t lines) : part((lines + group.size - 1) / group.size) {}
  __device__ int64_t scatter(int sender) const { return sender * part; }
  __device__ int64_t sums(const Group& group, int owner) const { return (group.size + owner) * part; }
  // Partial sums are float32: `wide` lines for each line of T.
  __device__ int64_t between(const Group& group, int slot, int wide) const {
    return (2 * group.size + slot * wide) * part;
  }
};

template <class T>
inline constexpr int kWide = kPerLine<T> / kPerLine<float>;

__host__ __device__ inline int rounds_of(int num_nodes) {
  int rounds = 0;
  while (2 << rounds <= num_nodes) ++rounds;
  return rounds;
}
// Doubling and halving: a slot per round, one for a surplus node's vector and one for results.
__host__ __device__ inline int slots_of(Between between, int num_nodes) {
  return between == Between::kOneShot ? num_nodes : rounds_of(num_nodes) + 2;
}

template <class T>
__device__ __forceinline__ void store_wide(Line* to, int64_t line, const Floats<T>& values) {
  Floats<float> part;
#pragma unroll
  for (int w = 0; w < kWide<T>; ++w) {
#pragma unroll
    for (int i = 0; i < 4; ++i) part.at[i] = values.at[4 * w + i];
    store_line(to + line * kWide<T> + w, sendable(to_line(part)));
  }
}
// `peer`: the node that the line comes from.
template <class T>
__device__ __forceinline__ Floats<T> load_wide(const Group& group, const Turn& turn, const Line* from, int64_t line,
                                               int peer) {
  Floats<T> values;
  Wait wait{group, turn, Step::kBetweenNodes};
#pragma unroll
  for (int w = 0; w < kWide<T>; ++w) {
    Line got;
    do got = load_line(from + line * kWide<T> + w);
    while (!has_arrived(got) && !wait.is_over(peer));
    const Floats<float> part = floats_of<float>(got);
#pragma unroll
    for (int i = 0; i < 4; ++i) values.at[4 * w + i] = part.at[i];
  }
  return values;
}
template <ReduceOp kOp, class T>
__device__ __forceinline__ void combine_all(Floats<T>& a, const Floats<T>& b) {
#pragma unroll
  for (int i = 0; i < kPerLine<T>; ++i) a.at[i] = combine<kOp>(a.at[i], b.at[i]);
}
// As it will be seen by others: a float that is EMPTY is zero.
template <class T>
__device__ __forceinline__ void normalise(Floats<T>& values) {
#pragma unroll
  for (int i = 0; i < kPerLine<T>; ++i)
    if (__float_as_uint(values.at[i]) == kEmpty) values.at[i] = 0;
}

// The sum over the nodes of this rank's partial line, the same bits on all: in node order, or by pairs of which both
// add the same two numbers.
template <class T, ReduceOp kOp>
struct Across {
  const Group& group;
  const Turn& turn;
  const Places& places;

  __device__ __forceinline__ Line* slot(int node, int index) const {
    std::byte* region = node == group.node ? group.regions[group.place] : group.across[node];
    return reinterpret_cast<Line*>(region + kHeaderBytes) + turn.buffer * group.buffer_lines +
           places.between(group, index, kWide<T>);
  }
  __device__ __forceinline__ Line* own_slot(int index) const { return slot(group.node, index); }

  __device__ __forceinline__ void send_to_all(int64_t line, const Floats<T>& partial) const {
    for (int step = 1; step < group.num_nodes; ++step) {
      const int node = (group.node + step) % group.num_nodes;
      store_wide(slot(node, group.node), line, partial);
    }
    store_wide(own_slot(group.node), line, partial);  // to be added in its turn
  }
  __device__ __forceinline__ Floats<T> sum_of_all(int64_t line) const {
    Floats<T> sum = load_wide<T>(group, turn, own_slot(0), line, 0);
    for (int node = 1; node < group.num_nodes; ++node)
      combine_all<kOp>(sum, load_wide<T>(group, turn, own_slot(node), line, node));
    return sum;
  }

  __device__ __forceinline__ Floats<T> double_up(int64_t line, Floats<T> sum) const {
    const int rounds = rounds_of(group.num_nodes), even = 1 << rounds, me = group.node;
    const int before = rounds, after = rounds + 1;
    normalise(sum);
    if (me >= even) {
      store_wide(slot(me - even, before), line, sum);
      return load_wide<T>(group, turn, own_slot(after), line, me - even);
    }
    if (me + even < group.num_nodes)
      combine_all<kOp>(sum, load_wide<T>(group, turn, own_slot(before), line, me + even));
    for (int round = 0; round < rounds; ++round) {
      const int partner = me ^ (1 << round);
      normalise(sum);
      store_wide(slot(partner, round), line, sum);
      combine_all<kOp>(sum, load_wide<T>(group, turn, own_slot(round), line, partner));
    }
    if (me + even < group.num_nodes) store_wide(slot(me + even, after), line, sum);
    normalise(sum);
    return sum;
  }

  // Recursive halving of one line: its partial sums go towards the node that owns it, from the furthest partner on.
  // Whether this is that node, whose `sum` is then whole. Over all lines, each node sends half of what it has a round.
  __device__ __forceinline__ bool halve(int64_t line, int owner, Floats<T>& sum) const {
    const int rounds = rounds_of(group.num_nodes), even = 1 << rounds, me = group.node, before = rounds;
    normalise(sum);
    if (me >= even) {
      store_wide(slot(me - even, before), line, sum);
      return false;
    }
    if (me + even < group.num_nodes)
      combine_all<kOp>(sum, load_wide<T>(group, turn, own_slot(before), line, me + even));
    for (int round = rounds - 1; round >= 0; --round) {
      const int partner = me ^ (1 << round);
      if (((me ^ owner) >> round & 1) != 0) {
        normalise(sum);
        store_wide(slot(partner, round), line, sum);
        return false;
      }
      combine_all<kOp>(sum, load_wide<T>(group, turn, own_slot(round), line, partner));
    }
    return true;
  }
  // The way back: the owner's `total`, rounded, doubles the nodes that have it each round. The owner put it into its
  // own slot for results (keep()), where everybody waits for it.
  __device__ __forceinline__ Line* results(int node) const { return slot(node, rounds_of(group.num_nodes) + 1); }
  __device__ __forceinline__ void keep(int64_t line, const Line& total) const {
    store_line(results(group.node) + line, total);
  }
  __device__ __forceinline__ Line double_back(int64_t line, int owner) const {
    const int rounds = rounds_of(group.num_nodes), even = 1 << rounds, me = group.node;
    const bool is_surplus = me >= even;
    const int distance = is_surplus ? 0 : me ^ owner;
    int round = 0;  // the first in which this node has it: after the one of the highest bit of the distance
    while (distance >> round != 0) ++round;
    const int from = is_surplus ? me - even : round == 0 ? me : me ^ (1 << (round - 1));
    Wait wait{group, turn, Step::kBetweenNodes};
    Line total;
    do total = load_line(results(me) + line);
    while (!has_arrived(total) && !wait.is_over(from));
    if (is_surplus) return total;
    for (; round < rounds; ++round) store_line(results(me ^ (1 << round)) + line, total);
    if (me + even < group.num_nodes) store_line(results(me + even) + line, total);
    return total;
  }
};

template <class T, ReduceOp kOp>
__device__ __forceinline__ Line finished(const Group& group, Floats<T> sum) {
  average<kOp>(sum, group.size * group.num_nodes);
  return sendable(to_line(sum));
}
// The op of partial sums: an average is a sum until the end.
template <ReduceOp kOp>
inline constexpr ReduceOp kPartial = kOp == ReduceOp::kAvg ? ReduceOp::kSum : kOp;

// Within the node, ahead and after. Each thread handles the same lines of all parts throughout.
template <class T, ReduceOp kOp, bool kWhole>
struct Inside {
  const Group& group;
  const Turn& turn;
  const Vector<T, kWhole>& vector;
  const Places& places;
  int64_t lines;

  __device__ __forceinline__ Line* buffer(int place) const { return buffer_of(group, place, turn); }
  __device__ __forceinline__ bool has(int owner, int64_t line) const { return owner * places.part + line < lines; }

  __device__ __forceinline__ void scatter(int64_t line) const {
    for (int step = 0; step < group.size - 1; ++step) {
      const int peer = peer_at(group, group.size, step);
      if (has(peer, line))
        store_line(buffer(peer) + places.scatter(slot_of(group.place, peer)) + line,
                   sendable(vector.load(peer * places.part + line)));
    }
  }
  __device__ __forceinline__ Floats<T> partial(int64_t line) const {
    const Line own = sendable(vector.load(group.place * places.part + line));
    return sum_of_arrivals<T, 0, kPartial<kOp>>(group, turn, Step::kReduce, buffer(group.place) + line, places.part,
                                                own);
  }
  __device__ __forceinline__ void share(int64_t line, const Line& total) const {
    for (int step = 0; step < group.size - 1; ++step) {
      const int peer = peer_at(group, group.size, step);
      store_line(buffer(peer) + places.sums(group, group.place) + line, total);
    }
    vector.store(group.place * places.part + line, total);
  }
  __device__ __forceinline__ void gather(int64_t line) const {
    for (int step = 0; step < group.size - 1; ++step) {
      const int peer = peer_at(group, group.size, step);
      if (!has(peer, line)) continue;
      Wait wait{group, turn, Step::kGather};
      Line value;
      do value = load_line(buffer(group.place) + places.sums(group, peer) + line);
      while (!has_arrived(value) && !wait.is_over(peer));
      vector.store(peer * places.part + line, value);
    }
  }
};

// The piece of each part that one block carries, where a piece travels as one.
struct Piece {
  int64_t first, end;  // lines of a part
  int64_t own_end;     // of this rank's part, which may be shorter
  __device__ Piece(const Group& group, const Places& places, int64_t lines) {
    const int64_t pieces = gridDim.x - 1, length = (places.part + pieces - 1) / pieces;
    const int64_t own = max(int64_t{0}, min(places.part, lines - group.place * places.part));
    first = min(blockIdx.x * length, places.part);
    end = min(first + length, places.part);
    own_end = max(first, min(end, own));
  }
};

inline int64_t part_of(const Group& group, int64_t bytes) { return (lines_of(bytes) + group.size - 1) / group.size; }

// Calls f(kOp, kWhole, T) as constants, for the instances that there are: only sums have one for whole lines.
template <class F>
void with_instance(DType type, ReduceOp op, bool whole, F&& f) {
  with_type(type, [&](auto zero) {
    if (whole && op == ReduceOp::kSum) return f(Constant<ReduceOp::kSum>{}, Constant<true>{}, zero);
    with_op(op, [&](auto constant) { f(constant, Constant<false>{}, zero); });
  });
}
template <class F>
void for_all_instances(F&& f) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    with_instance(type, ReduceOp::kSum, true, f);
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg})
      with_instance(type, op, false, f);
  }
}

}  // namespace lane::cuda
