// Reduce-scatter of sums; all-gather and broadcast of any bytes, bit for bit.
#include "lane/comm/cuda/start.cuh"
#include "lane/comm/cuda/sum.cuh"

namespace lane::cuda {
namespace {

template <class T, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    scatter_sums(const __grid_constant__ Group group, const T* in, T* out, int64_t count, int64_t lines) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  if (is_clerk()) return be_clerk(group, turn, lines * (group.size - 1));
  const auto part = [&](int place) { return Vector<T, kWhole>{in + place * count, out, count}; };
  for (int64_t line = first; line < lines; line += stride)
    for (int step = 0; step < group.size - 1; ++step) {
      const int peer = peer_at(group, group.size, step);
      store_line(buffer_of(group, peer, turn) + slot_of(group.place, peer) * lines + line,
                 sendable(part(peer).load(line)));
    }
  advance(group, turn, lines * (group.size - 1));
  clear_last(group, turn, first, stride);
  for (int64_t line = first; line < lines; line += stride) {
    const Line own = sendable(part(group.place).load(line));
    part(group.place)
        .store(line, sendable(to_line(sum_of_arrivals<T, 0, kOp>(
                         group, turn, Step::kReduce, buffer_of(group, group.place, turn) + line, lines, own))));
  }
}

// Any words: a line carries three and a fourth that says which of them are EMPTY; that one never is.
constexpr int kRawBytes = 12;

__device__ __forceinline__ uint32_t load_bytes(const std::byte* from, int64_t at, int64_t bytes, bool by_words) {
  if (by_words) return at < bytes ? *reinterpret_cast<const uint32_t*>(from + at) : 0;
  uint32_t word = 0;
  for (int b = 0; b < 4; ++b)
    if (at + b < bytes) word |= static_cast<uint32_t>(from[at + b]) << 8 * b;
  return word;
}
__device__ __forceinline__ void store_bytes(std::byte* to, int64_t at, int64_t bytes, bool by_words, uint32_t word) {
  if (by_words) {
    if (at < bytes) *reinterpret_cast<uint32_t*>(to + at) = word;
    return;
  }
  for (int b = 0; b < 4; ++b)
    if (at + b < bytes) to[at + b] = static_cast<std::byte>(word >> 8 * b);
}
__device__ __forceinline__ Line packed(const std::byte* from, int64_t line, int64_t bytes, bool by_words) {
  uint32_t words[3], escaped = 0;
  for (int w = 0; w < 3; ++w) {
    words[w] = load_bytes(from, line * kRawBytes + 4 * w, bytes, by_words);
    if (words[w] == kEmpty) escaped |= 1u << w, words[w] = 0;
  }
  return {words[0], words[1], words[2], escaped};
}
__device__ __forceinline__ void unpack(std::byte* to, int64_t line, int64_t bytes, bool by_words, const Line& packed) {
  const uint32_t words[3] = {packed.x, packed.y, packed.z};
  for (int w = 0; w < 3; ++w)
    store_bytes(to, line * kRawBytes + 4 * w, bytes, by_words, packed.w >> w & 1 ? kEmpty : words[w]);
}
__device__ __forceinline__ Line wait_for(const Group& group, const Turn& turn, int64_t at, int peer) {
  const Line* from = buffer_of(group, group.place, turn) + at;
  Wait wait{group, turn, Step::kGather};
  Line line;
  do line = load_line(from);
  while (!has_arrived(line) && !wait.is_over(peer));
  return line;
}

// `lines` of each rank, at least one. The own part of `out` may be `in`.
__global__ void __launch_bounds__(512) gather_bytes(const __grid_constant__ Group group, const std::byte* in,
                                                    std::byte* out, int64_t bytes, int64_t lines, bool by_words) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  if (is_clerk()) return be_clerk(group, turn, lines * group.size);
  for (int64_t line = first; line < lines; line += stride) {
    const Line mine = packed(in, line, bytes, by_words);
    for (int step = 0; step < group.size - 1; ++step)
      store_line(buffer_of(group, peer_at(group, group.size, step), turn) + group.place * lines + line, mine);
    unpack(out + group.place * bytes, line, bytes, by_words, mine);
  }
  advance(group, turn, lines * group.size);
  clear_last(group, turn, first, stride);
  for (int64_t line = first; line < lines; line += stride)
    for (int step = 0; step < group.size - 1; ++step) {
      const int peer = peer_at(group, group.size, step);
      unpack(out + peer * bytes, line, bytes, by_words, wait_for(group, turn, peer * lines + line, peer));
    }
}

// Everybody sends a line that says it is here, so that the root, too, waits for all; see Turn.
__global__ void __launch_bounds__(512) spread_bytes(const __grid_constant__ Group group, int root, std::byte* inout,
                                                    int64_t bytes, int64_t lines, bool by_words) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  if (is_clerk()) return be_clerk(group, turn, lines + group.size);
  for (int64_t peer = first; peer < group.size; peer += stride)
    if (peer != group.place)
      store_line(buffer_of(group, static_cast<int>(peer), turn) + lines + group.place, Line{1, 1, 1, 1});
  if (group.place == root)
    for (int64_t line = first; line < lines; line += stride) {
      const Line mine = packed(inout, line, bytes, by_words);
      for (int step = 0; step < group.size - 1; ++step)
        store_line(buffer_of(group, peer_at(group, group.size, step), turn) + line, mine);
    }
  advance(group, turn, lines + group.size);
  clear_last(group, turn, first, stride);
  if (group.place != root)
    for (int64_t line = first; line < lines; line += stride)
      unpack(inout, line, bytes, by_words, wait_for(group, turn, line, root));
  for (int64_t peer = first; peer < group.size; peer += stride)
    if (peer != group.place) wait_for(group, turn, lines + peer, static_cast<int>(peer));
}

bool goes_by_words(const void* in, const void* out, int64_t bytes) {
  return (reinterpret_cast<uintptr_t>(in) | reinterpret_cast<uintptr_t>(out) | static_cast<uintptr_t>(bytes)) % 4 == 0;
}
int64_t raw_lines(int64_t bytes) { return std::max<int64_t>(1, (bytes + kRawBytes - 1) / kRawBytes); }

template <class T, class F>
void with_scatter(ReduceOp op, bool whole, F&& f) {
  if (whole && op == ReduceOp::kSum) return f(scatter_sums<T, ReduceOp::kSum, true>);
  with_op(op, [&](auto constant) { f(scatter_sums<T, decltype(constant)::value, false>); });
}

}  // namespace

int64_t lines_needed_scatter(int size, int64_t part_bytes) { return size * lines_of(part_bytes); }
int64_t lines_needed_all_gather(int size, int64_t bytes) { return size * raw_lines(bytes); }
int64_t lines_needed_broadcast(int size, int64_t bytes) { return raw_lines(bytes) + size; }

void reduce_scatter(const Group& group, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                    const Launch& launch) {
  const int64_t bytes = count * size_of(type);
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_scatter<T>(op, is_whole(in, out, bytes), [&](auto kernel) {
      start(kernel, launch, group, static_cast<const T*>(in), static_cast<T*>(out), count, lines_of(bytes));
    });
  });
}

void all_gather(const Group& group, const void* in, void* out, int64_t bytes, const Launch& launch) {
  start(gather_bytes, launch, group, static_cast<const std::byte*>(in), static_cast<std::byte*>(out), bytes,
        raw_lines(bytes), goes_by_words(in, out, bytes));
}

void broadcast(const Group& group, int root, void* inout, int64_t bytes, const Launch& launch) {
  start(spread_bytes, launch, group, root, static_cast<std::byte*>(inout), bytes, raw_lines(bytes),
        goes_by_words(inout, inout, bytes));
}

void load_gather() {
  remember(reinterpret_cast<const void*>(gather_bytes));
  remember(reinterpret_cast<const void*>(spread_bytes));
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    with_type(type, [&](auto zero) {
      const auto load = [](auto kernel) { remember(reinterpret_cast<const void*>(kernel)); };
      with_scatter<decltype(zero)>(ReduceOp::kSum, true, load);
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg})
        with_scatter<decltype(zero)>(op, false, load);
    });
}

}  // namespace lane::cuda
