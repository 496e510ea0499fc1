// Schedule hier:two_shot/BETWEEN (plan/schedules/hierarchical): a direct reduce-scatter in the node, an all-reduce of
// each part over the ranks with the same place on all nodes, a direct all-gather in the node; one kernel. NVRAR
// (Singhania et al., 2025) is the point with recursive doubling between nodes.
#include "lane/comm/cuda/hierarchical.cuh"

namespace lane::cuda {
namespace {

template <class T, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    hierarchical(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector, int64_t lines,
                 Between between) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  const Places places(group, lines);
  const int64_t used = places.between(group, slots_of(between, group.num_nodes), kWide<T>);
  if (is_clerk()) return be_clerk(group, turn, used);
  const Inside<T, kOp, kWhole> inside{group, turn, vector, places, lines};
  const Across<T, kPartial<kOp>> across{group, turn, places};
  for (int64_t line = first; line < places.part; line += stride) inside.scatter(line);
  advance(group, turn, used);
  clear_last(group, turn, first, stride);
  if (between == Between::kOneShot) {
    for (int64_t line = first; line < places.part && inside.has(group.place, line); line += stride)
      across.send_to_all(line, inside.partial(line));
    for (int64_t line = first; line < places.part && inside.has(group.place, line); line += stride)
      inside.share(line, finished<T, kOp>(group, across.sum_of_all(line)));
  } else if (between == Between::kDoubling) {
    for (int64_t line = first; line < places.part && inside.has(group.place, line); line += stride)
      inside.share(line, finished<T, kOp>(group, across.double_up(line, inside.partial(line))));
  } else {
    const int64_t owners = 1 << rounds_of(group.num_nodes);
    for (int64_t line = first; line < places.part && inside.has(group.place, line); line += stride) {
      Floats<T> sum = inside.partial(line);
      if (across.halve(line, static_cast<int>(line * owners / places.part), sum))
        across.keep(line, finished<T, kOp>(group, sum));
    }
    for (int64_t line = first; line < places.part && inside.has(group.place, line); line += stride)
      inside.share(line, across.double_back(line, static_cast<int>(line * owners / places.part)));
  }
  for (int64_t line = first; line < places.part; line += stride) inside.gather(line);
}

// Block b carries piece b of each part; the host sums piece b of this rank's part over the nodes.
template <class T, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    proxied(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector, int64_t lines,
            const __grid_constant__ HostNetwork network) {
  begin();
  const Turn turn = this_turn(group);
  const Places places(group, lines);
  const int64_t used = 2 * group.size * places.part;
  if (is_clerk()) return be_clerk(group, turn, used);
  const Inside<T, kOp, kWhole> inside{group, turn, vector, places, lines};
  const Piece piece(group, places, lines);
  const int64_t mine = piece.first + threadIdx.x;
  for (int64_t line = mine; line < piece.end; line += blockDim.x) inside.scatter(line);
  advance(group, turn, used);
  const auto [first, stride] = this_span();
  clear_last(group, turn, first, stride);

  // A node of one rank sends its elements as they are; partial sums, and sums to be divided yet, go in float32.
  const bool is_narrow = group.size == 1 && kOp != ReduceOp::kAvg;
  const int wide = is_narrow ? 1 : kWide<T>;
  Line* to = reinterpret_cast<Line*>(network.to_network);
  for (int64_t line = mine; line < piece.own_end; line += blockDim.x) {
    if (is_narrow)
      to[line] = vector.load(line);
    else
      store_wide(to, line, inside.partial(line));
  }
  __threadfence_system();
  __syncthreads();
  Mailbox& mailbox = network.mailboxes[blockIdx.x];
  if (threadIdx.x == 0) {
    const int64_t own_lines = piece.own_end - piece.first;
    mailbox.pieces = gridDim.x - 1;
    mailbox.count = static_cast<uint32_t>(own_lines * wide * (is_narrow ? kPerLine<T> : kPerLine<float>));
    mailbox.type = !is_narrow || sizeof(T) == 4 ? WireType::kF32
                   : std::is_same_v<T, __half>  ? WireType::kF16
                                                : WireType::kBF16;
    mailbox.op = kOp == ReduceOp::kMax    ? WireOp::kMax
                 : kOp == ReduceOp::kMin  ? WireOp::kMin
                 : kOp == ReduceOp::kProd ? WireOp::kProd
                                          : WireOp::kSum;
    mailbox.at = static_cast<uint64_t>(piece.first * wide * kLineBytes);
    __threadfence_system();
    store_word(&mailbox.posted, turn.number);
    Wait wait{group, turn, Step::kNetwork};
    while (load_word(&mailbox.landed) != turn.number && !wait.is_over(group.place)) __nanosleep(20);
    __threadfence_system();
  }
  __syncthreads();
  const Line* from = reinterpret_cast<const Line*>(network.from_network);
  for (int64_t line = mine; line < piece.own_end; line += blockDim.x) {
    Floats<T> sum;
    if (is_narrow) {
      sum = floats_of<T>(load_line(from + line));
    } else {
#pragma unroll
      for (int w = 0; w < kWide<T>; ++w) {
        const Floats<float> part = floats_of<float>(load_line(from + line * wide + w));
#pragma unroll
        for (int i = 0; i < 4; ++i) sum.at[4 * w + i] = part.at[i];
      }
    }
    inside.share(line, finished<T, kOp>(group, sum));
  }
  for (int64_t line = mine; line < piece.end; line += blockDim.x) inside.gather(line);
}

}  // namespace

int64_t lines_needed(Between between, const Group& group, DType type, int64_t bytes) {
  const int64_t wide = 4 / size_of(type);
  return part_of(group, bytes) * (2 * group.size + slots_of(between, group.num_nodes) * wide);
}

void hierarchical_all_reduce(const Group& group, Between between, DType type, ReduceOp op, const void* in, void* out,
                             int64_t count, const Launch& launch) {
  const int64_t bytes = count * size_of(type), lines = lines_of(bytes);
  ensure(lines > 0, "every rank waits for all others");
  with_instance(type, op, is_whole(in, out, bytes), [&](auto constant, auto whole, auto zero) {
    using T = decltype(zero);
    const Vector<T, whole.value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
    start(hierarchical<T, constant.value, whole.value>, launch, group, vector, lines, between);
  });
}

int64_t lines_needed_proxied(const Group& group, int64_t bytes) { return 2 * group.size * part_of(group, bytes); }

void proxied_all_reduce(const Group& group, const HostNetwork& network, DType type, ReduceOp op, const void* in,
                        void* out, int64_t count, const Launch& launch) {
  const int64_t bytes = count * size_of(type), lines = lines_of(bytes);
  ensure(lines > 0 && launch.blocks <= kMailboxes + 1, "every block has a mailbox");
  with_instance(type, op, is_whole(in, out, bytes), [&](auto constant, auto whole, auto zero) {
    using T = decltype(zero);
    const Vector<T, whole.value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
    start(proxied<T, constant.value, whole.value>, launch, group, vector, lines, network);
  });
}

void load_hierarchical() {
  for_all_instances([](auto constant, auto whole, auto zero) {
    remember(reinterpret_cast<const void*>(hierarchical<decltype(zero), constant.value, whole.value>));
    remember(reinterpret_cast<const void*>(proxied<decltype(zero), constant.value, whole.value>));
  });
}

}  // namespace lane::cuda
