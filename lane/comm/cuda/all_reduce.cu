#include "lane/comm/cuda/shots.cuh"
#include "lane/comm/cuda/start.cuh"

namespace lane::cuda {
namespace {

template <class T, int kRanks, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    one_shot(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector, int64_t lines) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  OneShot<T, kRanks, kOp, kWhole> shot{group, turn, vector, lines};
  if (is_clerk()) return be_clerk(group, turn, shot.used());
  shot.push(first, stride);
  advance(group, turn, shot.used());
  clear_last(group, turn, first, stride);
  for (int64_t line = first; line < lines; line += stride) vector.store(line, shot.sum(line, line == first));
}

template <class T, int kRanks, ReduceOp kOp, bool kWhole>
__global__ void __launch_bounds__(512)
    two_shot(const __grid_constant__ Group group, const __grid_constant__ Vector<T, kWhole> vector, int64_t lines) {
  begin();
  const Turn turn = this_turn(group);
  const auto [first, stride] = this_span();
  const auto store = [&](int64_t line, const Line& value) { vector.store(line, value); };
  TwoShot<T, kRanks, kOp, kWhole> shot{group, turn, vector, lines};
  if (is_clerk()) return be_clerk(group, turn, shot.used());
  shot.push(first, stride);
  advance(group, turn, shot.used());
  clear_last(group, turn, first, stride);
  shot.template reduce<false>(first, stride, store);
  shot.gather(first, stride, store);
}

template <class T, int kRanks, ReduceOp kOp, bool kWhole>
auto kernel_of(Shot shot) {
  return shot == Shot::kOne ? one_shot<T, kRanks, kOp, kWhole> : two_shot<T, kRanks, kOp, kWhole>;
}

// Calls f with the kernel for it: sums of whole lines have their own, best where the number of ranks is known.
template <class T, class F>
void with_kernel(Shot shot, int size, ReduceOp op, bool whole, F&& f) {
  if (whole && op == ReduceOp::kSum) {
    using Whole = Constant<true>;
    if (size == 2) return f(kernel_of<T, 2, ReduceOp::kSum, true>(shot), Whole{});
    if (size == 4) return f(kernel_of<T, 4, ReduceOp::kSum, true>(shot), Whole{});
    if (size == 8) return f(kernel_of<T, 8, ReduceOp::kSum, true>(shot), Whole{});
    return f(kernel_of<T, 0, ReduceOp::kSum, true>(shot), Whole{});
  }
  with_op(op, [&](auto constant) { f(kernel_of<T, 0, decltype(constant)::value, false>(shot), Constant<false>{}); });
}

}  // namespace

int64_t lines_needed(Shot shot, int size, int64_t bytes) {
  const int64_t lines = lines_of(bytes);
  return shot == Shot::kOne ? lines * (size - 1) : (2 * size - 1) * ((lines + size - 1) / size);
}

void all_reduce(const Group& group, Shot shot, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                const Launch& launch) {
  const int64_t bytes = count * size_of(type), lines = lines_of(bytes);
  ensure(lines > 0, "every rank waits for all others");
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_kernel<T>(shot, group.size, op, is_whole(in, out, bytes), [&](auto kernel, auto whole) {
      const Vector<T, decltype(whole)::value> vector{static_cast<const T*>(in), static_cast<T*>(out), count};
      start(kernel, launch, group, vector, lines);
    });
  });
}

void load_all_reduce() {
  for (const Shot shot : {Shot::kOne, Shot::kTwo})
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
      with_type(type, [&](auto zero) {
        const auto load = [](auto kernel, auto) { remember(reinterpret_cast<const void*>(kernel)); };
        for (const int size : {2, 3, 4, 8}) with_kernel<decltype(zero)>(shot, size, ReduceOp::kSum, true, load);
        for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg})
          with_kernel<decltype(zero)>(shot, 3, op, false, load);
      });
}

}  // namespace lane::cuda
