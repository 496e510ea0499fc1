// All-reduce, residual add and RMSNorm (Zhang & Sennrich, arXiv 1910.07467) in one kernel.
#include <cuda_fp8.h>

#include "lane/comm/cuda/shots.cuh"
#include "lane/comm/cuda/start.cuh"
#include "lane/device/cuda/cluster.cuh"

namespace lane::cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int kMostCluster = 8;
constexpr int kLinesPerThread = 2;  // of a row, at most

// The sum over all threads of a cluster, in a fixed order, on all of them. `parity`: other than in the last call, so
// that a slow reader of that one is not overtaken.
__device__ __forceinline__ float cluster_sum(float value, int parity) {
  __shared__ float of_warps[32];
  __shared__ float of_blocks[2][kMostCluster];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < warps; ++w) total += of_warps[w];
  Cluster cluster = this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  if (blocks == 1) {
    __syncthreads();  // of_warps may be written again
    return total;
  }
  if (threadIdx.x < blocks)
    *cluster.map_shared_rank(&of_blocks[parity][cluster.block_rank()], static_cast<int>(threadIdx.x)) = total;
  cluster.sync();
  total = 0;
  for (int b = 0; b < blocks; ++b) total += of_blocks[parity][b];
  return total;
}

struct Rows {
  void* residual;
  const void* weight;
  void* normed;
  int64_t rows;
  int row_lines;
  float inverse_hidden, epsilon, scale;
};

template <class T>
__device__ __forceinline__ void store_normed(T*, const Rows& rows, int64_t line, const Floats<T>& values) {
  static_cast<Line*>(rows.normed)[line] = to_line(values);
}
template <class T>
__device__ __forceinline__ void store_normed(__nv_fp8_e4m3*, const Rows& rows, int64_t line, const Floats<T>& values) {
  union {
    __nv_fp8_e4m3 at[kPerLine<T>];
    uint32_t words[kPerLine<T> / 4];
  } small;
#pragma unroll
  for (int i = 0; i < kPerLine<T>; ++i) small.at[i] = __nv_fp8_e4m3(values.at[i] * rows.scale);
#pragma unroll
  for (int w = 0; w < kPerLine<T> / 4; ++w)
    static_cast<uint32_t*>(rows.normed)[line * (kPerLine<T> / 4) + w] = small.words[w];
}

template <class T, class Out, int kRanks, Shot kShot>
__global__ void __launch_bounds__(kMostThreads)
    add_rms_norm(const __grid_constant__ Group group, const __grid_constant__ Vector<T, true> vector,
                 const __grid_constant__ Rows rows) {
  Cluster cluster = this_cluster();
  const int width = static_cast<int>(cluster.num_threads());
  const int column = static_cast<int>(cluster.block_rank() * blockDim.x + threadIdx.x);
  // The last cluster is the clerk.
  const int64_t cluster_id = blockIdx.x / cluster.num_blocks(), clusters = gridDim.x / cluster.num_blocks() - 1;
  const int64_t lines = rows.rows * rows.row_lines;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = clusters * width;
  Line weights[kLinesPerThread];  // nobody changes these: no need to wait for the kernel before
#pragma unroll
  for (int k = 0; k < kLinesPerThread; ++k)
    if (column + k * width < rows.row_lines) weights[k] = static_cast<const Line*>(rows.weight)[column + k * width];
  begin();
  const Turn turn = this_turn(group);

  using One = OneShot<T, kRanks, ReduceOp::kSum, true>;
  using Two = TwoShot<T, kRanks, ReduceOp::kSum, true>;
  std::conditional_t<kShot == Shot::kOne, One, Two> shot{group, turn, vector, lines};
  if (cluster_id == clusters)
    return is_clerk() ? be_clerk(group, turn, shot.used()) : advance(group, turn, shot.used());
  cluster.barrier_arrive();
  shot.push(first, stride);
  advance(group, turn, shot.used());
  clear_last(group, turn, first, stride);
  if constexpr (kShot == Shot::kTwo) shot.template reduce<true>(first, stride, [](int64_t, const Line&) {});

  cluster.barrier_wait();  // all its blocks have begun: their shared memory may be written
  int parity = 0;
  for (int64_t row = cluster_id; row < rows.rows; row += clusters, parity ^= 1) {
    Floats<T> values[kLinesPerThread];
    float squares = 0;
#pragma unroll
    for (int k = 0; k < kLinesPerThread; ++k) {
      const int at = column + k * width;
      if (at >= rows.row_lines) break;
      const int64_t line = row * rows.row_lines + at;
      const Line residual = static_cast<const Line*>(rows.residual)[line];
      Line sum;
      if constexpr (kShot == Shot::kOne)
        sum = shot.sum(line, false);
      else
        sum = shot.gathered(line, static_cast<int>(line / shot.part()));
      values[k] = floats_of<T>(sum);
      add<ReduceOp::kSum, T>(values[k], residual);
      const Line rounded = to_line(values[k]);
      static_cast<Line*>(rows.residual)[line] = rounded;
      values[k] = floats_of<T>(rounded);
#pragma unroll
      for (int i = 0; i < kPerLine<T>; ++i) squares += values[k].at[i] * values[k].at[i];
    }
    const float factor = rsqrtf(cluster_sum(squares, parity) * rows.inverse_hidden + rows.epsilon);
#pragma unroll
    for (int k = 0; k < kLinesPerThread; ++k) {
      const int at = column + k * width;
      if (at >= rows.row_lines) break;
      const Floats<T> weight = floats_of<T>(weights[k]);
#pragma unroll
      for (int i = 0; i < kPerLine<T>; ++i) values[k].at[i] *= factor * weight.at[i];
      store_normed(static_cast<Out*>(nullptr), rows, row * rows.row_lines + at, values[k]);
    }
  }
}

template <class T, class Out, class F>
void with_norm_kernel(Shot shot, int size, F&& f) {
  const auto pick = [&](auto ranks) {
    constexpr int kRanks = decltype(ranks)::value;
    f(shot == Shot::kOne ? add_rms_norm<T, Out, kRanks, Shot::kOne> : add_rms_norm<T, Out, kRanks, Shot::kTwo>);
  };
  if (size == 2) return pick(Constant<2>{});
  if (size == 4) return pick(Constant<4>{});
  if (size == 8) return pick(Constant<8>{});
  pick(Constant<0>{});
}

}  // namespace

void all_reduce_add_rms_norm(const Group& group, Shot shot, DType type, const NormArgs& args, const Launch& launch) {
  const int64_t count = args.rows * args.hidden;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto row_lines = static_cast<int>(args.hidden / kPerLine<T>);
    ensure(args.hidden % kPerLine<T> == 0, "rows of a norm are whole lines");
    ensure(launch.blocks > launch.cluster && launch.threads % 32 == 0 && launch.threads <= kMostThreads &&
               launch.cluster <= kMostCluster && row_lines <= launch.threads * launch.cluster * kLinesPerThread &&
               launch.blocks % launch.cluster == 0,
           "a row fits into the threads of a cluster");
    const Vector<T, true> vector{static_cast<const T*>(args.in), nullptr, count};
    const Rows rows{args.residual, args.weight, args.normed,
                    args.rows,     row_lines,   1.0f / static_cast<float>(args.hidden),
                    args.epsilon,  args.scale};
    const auto go = [&](auto kernel) { start(kernel, launch, group, vector, rows); };
    if (args.is_fp8)
      with_norm_kernel<T, __nv_fp8_e4m3>(shot, group.size, go);
    else
      with_norm_kernel<T, T>(shot, group.size, go);
  });
}

void load_add_rms_norm() {
  for (const Shot shot : {Shot::kOne, Shot::kTwo})
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
      with_type(type, [&](auto zero) {
        const auto load = [](auto kernel) { remember(reinterpret_cast<const void*>(kernel)); };
        for (const int size : {2, 3, 4, 8}) {
          with_norm_kernel<decltype(zero), decltype(zero)>(shot, size, load);
          with_norm_kernel<decltype(zero), __nv_fp8_e4m3>(shot, size, load);
        }
      });
}

}  // namespace lane::cuda
