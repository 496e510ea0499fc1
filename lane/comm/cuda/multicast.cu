// Two-shot all-reduce whose second shot NVSwitch copies. NEVER RUN: see multicast_memory.h.
#include "lane/comm/cuda/shots.cuh"
#include "lane/comm/cuda/start.cuh"

namespace lane::cuda {
namespace {

// Schedule direct two-shot with the sums sent once each instead of once to every other rank, as TensorRT-LLM's
// MultiShot does: of the 2(n-1)/n vectors that a rank sends, 1 remains. It receives as much as before, and its own
// sums.
//
// The copies of a word land on different ranks at different times, and those of a line's words in any order. Nothing
// here minds: each rank polls its own buffer for each word. It polls for its own sums too, which come back to it from
// the switch, rather than take them from registers: so no word is on its way to a buffer when the operation that it
// belongs to ends, as the three buffers' taking turns needs (view.h).
template <class T, int kRanks, ReduceOp kOp, bool kWhole>
struct MulticastShot : TwoShot<T, kRanks, kOp, kWhole> {
  std::byte* everywhere;  // multicast address of the regions of all ranks

  __device__ __forceinline__ void reduce(int64_t first, int64_t stride) {
    const Group& group = this->group;
    const Turn& turn = this->turn;
    const int64_t part = this->part(), begin = group.place * part;
    const Line* slots = buffer_of(group, group.place, turn);
    Line* sums = reinterpret_cast<Line*>(everywhere + kHeaderBytes) + turn.buffer * group.buffer_lines + this->sums();
    for (int64_t line = first; line < part && begin + line < this->lines; line += stride) {
      const Line own = sendable(this->vector.load(begin + line));
      store_everywhere(
          sums + begin + line,
          sendable(to_line(sum_of_arrivals<T, kRanks, kOp>(group, turn, Step::kReduce, slots + line, part, own))));
    }
  }

  // What lies at a multicast address may be reached with multimem instructions only. The type says nothing here: a
  // store changes no bits, and vectors are of floats.
  static __device__ __forceinline__ void store_everywhere(Line* to, const Line& line) {
    asm volatile("multimem.st.relaxed.sys.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(line.x), "r"(line.y),
                 "r"(line.z), "r"(line.w)
                 : "memory");
  }
};

// Empty where the compiler's target has no multicast; load_multicast() sees to it that it is never launched there.
template <class T, int kRanks, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    two_shot_multicast_kernel(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector,
                              int64_t lines, std::byte* everywhere) {
#if __CUDA_ARCH__ >= 900
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  MulticastShot<T, kRanks, kOp, kWhole> shot{{group, turn, vector, lines}, everywhere};
  if (is_clerk()) return be_clerk(group, turn, shot.used());
  shot.push(first, stride);
  advance(group, turn, shot.used());
  clear_last(group, turn, first, stride);
  shot.reduce(first, stride);
  shot.template gather<true>(first, stride, [&](int64_t line, const Line& value) { vector.store(line, value); });
#endif
}

// As all_reduce.cu's, without two ranks: they gain nothing.
template <class T, class F>
void with_kernel(int size, ReduceOp op, bool whole, F&& f) {
  if (whole && op == ReduceOp::kSum) {
    using Whole = Constant<true>;
    if (size == 4) return f(two_shot_multicast_kernel<T, 4, ReduceOp::kSum, true>, Whole{});
    if (size == 8) return f(two_shot_multicast_kernel<T, 8, ReduceOp::kSum, true>, Whole{});
    return f(two_shot_multicast_kernel<T, 0, ReduceOp::kSum, true>, Whole{});
  }
  with_op(op, [&](auto constant) {
    f(two_shot_multicast_kernel<T, 0, decltype(constant)::value, false>, Constant<false>{});
  });
}

}  // namespace

void two_shot_multicast(const Group& group, std::byte* everywhere, DType type, ReduceOp op, const void* in, void* out,
                        int64_t count, const Launch& launch) {
  const int64_t bytes = count * size_of(type), lines = lines_of(bytes);
  ensure(lines > 0, "every rank waits for all others");
  ensure(everywhere != nullptr, "multicast is chosen where there is multicast memory");
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_kernel<T>(group.size, op, is_whole(in, out, bytes), [&](auto kernel, auto whole) {
      const Vector<T, decltype(whole)::value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
      start(kernel, launch, group, vector, lines, everywhere);
    });
  });
}

bool load_multicast() {
  bool has_all = true;
  const auto load = [&](auto kernel, auto) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "loading a kernel of multicast");
    has_all = has_all && attributes.ptxVersion >= 90;  // what it was compiled for, __CUDA_ARCH__ / 10
  };
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    with_type(type, [&](auto zero) {
      for (const int size : {3, 4, 8}) with_kernel<decltype(zero)>(size, ReduceOp::kSum, true, load);
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg})
        with_kernel<decltype(zero)>(3, op, false, load);
    });
  return has_all;
}

}  // namespace lane::cuda
