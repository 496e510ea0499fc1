// Schedule hier:two_shot/BETWEEN with NVSHMEM's puts between nodes. A block gathers its piece of this rank's partial
// sums in its own buffer and puts it, as one message, to the same place of other nodes' buffers. No signal follows it:
// words tell by themselves that they are there, in whatever order a network delivers them, as long as it delivers words
// whole.
#include <nvshmem.h>

#include "lane/comm/cuda/hierarchical.cuh"
#include "lane/comm/cuda/put.cuh"

namespace lane::cuda {
namespace {

// What is put lies still until NVSHMEM is done with it, so doubling keeps what it sends in each round, behind the slots
// that it receives into. One-shot sends what it keeps for itself to add in its turn.
__host__ __device__ int staged_slots(Between between, int num_nodes) {
  return between == Between::kOneShot ? 0 : rounds_of(num_nodes) + 1;
}
__host__ __device__ int slots_with_staged(Between between, int num_nodes) {
  return slots_of(between, num_nodes) + staged_slots(between, num_nodes);
}

// One block's share, with all its threads: puts are calls of a whole block.
template <class T, ReduceOp kOp, bool kWhole>
struct Puts {
  const Inside<T, kOp, kWhole>& inside;
  const Across<T, kPartial<kOp>>& across;
  const Piece& piece;
  const PutPeers& peers;

  template <class F>
  __device__ __forceinline__ void for_own_lines(F&& f) const {
    for (int64_t line = piece.first + threadIdx.x; line < piece.own_end; line += blockDim.x) f(line);
  }
  __device__ __forceinline__ void put(int from_slot, int to_slot, int node) const {
    const int64_t at = piece.first * kWide<T>;
    nvshmemx_putmem_nbi_block(across.own_slot(to_slot) + at, across.own_slot(from_slot) + at,
                              static_cast<size_t>((piece.own_end - piece.first) * kWide<T> * kLineBytes),
                              peers.pe[node]);
  }
  // `node`: where the words of the slot come from.
  __device__ __forceinline__ Floats<T> load(int slot, int64_t line, int node) const {
    return load_wide<T>(inside.group, inside.turn, across.own_slot(slot), line, node);
  }
  __device__ __forceinline__ void finish(int64_t line, const Floats<T>& sum) const {
    inside.share(line, finished<T, kOp>(inside.group, sum));
  }

  __device__ __forceinline__ void one_shot() const {
    const int me = inside.group.node, nodes = inside.group.num_nodes;
    for_own_lines([&](int64_t line) { store_wide(across.own_slot(me), line, inside.partial(line)); });
    for (int step = 1; step < nodes; ++step) put(me, me, (me + step) % nodes);
    for_own_lines([&](int64_t line) { finish(line, across.sum_of_all(line)); });
  }

  __device__ __forceinline__ void double_up() const {
    const int me = inside.group.node, nodes = inside.group.num_nodes;
    const int rounds = rounds_of(nodes), even = 1 << rounds, before = rounds, after = rounds + 1;
    const int staged = slots_of(Between::kDoubling, nodes);
    const bool has_surplus = me + even < nodes;  // a node beyond the even ones, whose vector this one takes along
    for_own_lines([&](int64_t line) {
      Floats<T> sum = inside.partial(line);
      if (has_surplus) {
        normalise(sum);
        combine_all<kPartial<kOp>>(sum, load(before, line, me + even));
      }
      store_wide(across.own_slot(staged), line, sum);
    });
    if (me >= even) {
      put(staged, before, me - even);
      return for_own_lines([&](int64_t line) { finish(line, load(after, line, me - even)); });
    }
    for (int round = 0; round < rounds; ++round) {
      const int partner = me ^ (1 << round);
      const bool is_last = round == rounds - 1;
      put(staged + round, round, partner);
      for_own_lines([&](int64_t line) {
        Floats<T> sum = load(staged + round, line, me);
        combine_all<kPartial<kOp>>(sum, load(round, line, partner));
        if (!is_last || has_surplus) store_wide(across.own_slot(staged + round + 1), line, sum);
        if (!is_last) return;
        normalise(sum);
        finish(line, sum);
      });
    }
    if (has_surplus) put(staged + rounds, after, me + even);
  }
};

template <class T, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    put_hierarchical(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector,
                     int64_t lines, Between between, const __grid_constant__ PutPeers peers) {
  begin();
  const Turn turn = this_turn(group);
  const Places places(group, lines);
  const int64_t used = places.between(group, slots_with_staged(between, group.num_nodes), kWide<T>);
  if (is_clerk()) return be_clerk(group, turn, used);
  const Inside<T, kOp, kWhole> inside{group, turn, vector, places, lines};
  const Across<T, kPartial<kOp>> across{group, turn, places};
  const Piece piece(group, places, lines);
  const Puts<T, kOp, kWhole> puts{inside, across, piece, peers};
  for (int64_t line = piece.first + threadIdx.x; line < piece.end; line += blockDim.x) inside.scatter(line);
  advance(group, turn, used);
  const auto [first, stride] = this_span();
  clear_last(group, turn, first, stride);
  const bool has_own = piece.first < piece.own_end;  // the same for the whole block
  if (has_own && between == Between::kOneShot) puts.one_shot();
  if (has_own && between == Between::kDoubling) puts.double_up();
  for (int64_t line = piece.first + threadIdx.x; line < piece.end; line += blockDim.x) inside.gather(line);
  // The next operation clears what was sent.
  if (has_own && threadIdx.x == 0) nvshmem_quiet();
}

}  // namespace

int64_t lines_needed_put(Between between, const Group& group, DType type, int64_t bytes) {
  const int64_t wide = 4 / size_of(type);
  return part_of(group, bytes) * (2 * group.size + slots_with_staged(between, group.num_nodes) * wide);
}

void put_all_reduce(const Group& group, const PutPeers& peers, Between between, DType type, ReduceOp op, const void* in,
                    void* out, int64_t count, const Launch& launch) {
  const int64_t bytes = count * size_of(type), lines = lines_of(bytes);
  ensure(lines > 0, "every rank waits for all others");
  with_instance(type, op, is_whole(in, out, bytes), [&](auto constant, auto whole, auto zero) {
    using T = decltype(zero);
    const Vector<T, whole.value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
    start(put_hierarchical<T, constant.value, whole.value>, launch, group, vector, lines, between, peers);
  });
}

void load_put_kernels() {
  for_all_instances([](auto constant, auto whole, auto zero) {
    cudaFuncAttributes attributes;
    const auto kernel = put_hierarchical<decltype(zero), constant.value, whole.value>;
    check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "loading a kernel with puts");
  });
}

}  // namespace lane::cuda
