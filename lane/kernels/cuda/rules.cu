// The rules of sampling. A row is shared by a cluster of blocks that read it a few dozen times, from their caches; what
// they come to together, all threads know.
#include "lane/base/random.h"
#include "lane/device/cuda/cluster.cuh"
#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/impl/backend.h"
#include "lane/kernels/rules.h"

namespace lane::cuda {
namespace {

using kernels::RuleRow;

constexpr int kThreads = 512;
constexpr int kMostCluster = 8;  // what every GPU of sm_90 and newer can place
constexpr int kWays = 8;         // parts that a search cuts its interval into at a time
constexpr int kListed = 1024;    // ranks that a block takes to itself, to put them in order
static_assert(kernels::kMostTop <= kListed);

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// The threads that share a row.
class Team {
 public:
  __device__ bool leads() const { return cluster_.block_rank() == 0; }
  __device__ int first() const {
    return static_cast<int>(cluster_.block_rank()) * kThreads + static_cast<int>(threadIdx.x);
  }
  __device__ int stride() const { return num_blocks() * kThreads; }
  __device__ void sync() const { cluster_.sync(); }
  // Blocks write to each other's shared memory once all of them have begun: each says so, and waits before its first.
  __device__ void say_begun() const { cluster_.barrier_arrive(); }
  __device__ void wait_for_begun() const { cluster_.barrier_wait(); }
  template <class T>
  __device__ T* at_leader(T* shared) const {
    return cluster_.map_shared_rank(shared, 0);
  }

  // Each value becomes that of all threads together, combined in a fixed order: the same bits on all of them.
  template <class T, int n, class Combine>
  __device__ void combine(T (&values)[n], Combine combine) {
    __shared__ T of_warps[n][kThreads / 32];
    __shared__ T of_blocks[2][n][kMostCluster];
    __shared__ T of_all[n];
#pragma unroll
    for (int i = 0; i < n; ++i) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2)
        values[i] = combine(values[i], __shfl_xor_sync(0xffffffffu, values[i], step));
      if (threadIdx.x % 32 == 0) of_warps[i][threadIdx.x / 32] = values[i];
    }
    __syncthreads();
    // Calls take turns with of_blocks, so that nobody writes there before the slowest has read it.
    T(&parts)[n][kMostCluster] = of_blocks[turn_];
    const int blocks = num_blocks(), self = static_cast<int>(threadIdx.x);
    if (self < n * blocks) {
      T total = of_warps[self / blocks][0];
      for (int warp = 1; warp < kThreads / 32; ++warp) total = combine(total, of_warps[self / blocks][warp]);
      *cluster_.map_shared_rank(&parts[self / blocks][cluster_.block_rank()], self % blocks) = total;
    }
    sync();
    if (self < n) {
      T total = parts[self][0];
      for (int block = 1; block < blocks; ++block) total = combine(total, parts[self][block]);
      of_all[self] = total;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] = of_all[i];
    turn_ ^= 1;
  }
  template <class T, class Combine>
  __device__ T combined(T value, Combine how) {
    T values[1] = {value};
    combine(values, how);
    return values[0];
  }

 private:
  __device__ int num_blocks() const { return static_cast<int>(cluster_.num_blocks()); }

  Cluster cluster_ = this_cluster();
  int turn_ = 0;
};

// Numbers whose order is that of the floats; both zeros are one.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}
__device__ __forceinline__ float float_of(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & ~(1u << 31) : ~key);
}
__device__ __forceinline__ uint64_t key_of(double x) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(x + 0.0));
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// A row of logits under its rules.
template <class T>
struct Row {
  const T* logits;
  RuleRow rule;
  int width, id_bits;  // tokens, and the bits of their numbers

  __device__ float raw(int token) const { return to_float(logits[token]); }

  // After bans and penalties. Products and sums are rounded one by one, as on the host.
  __device__ float logit(int token) const {
    const float x = raw(token);
    const uint32_t known = rule.history == nullptr ? 0 : rule.history[token];
    if (known == 0) return x;
    if ((known & kernels::kIsBanned) && rule.bans_hold) return -INFINITY;
    if (!(known & kernels::kIsSeen) || x == -INFINITY) return x;
    double y = x > 0 ? __ddiv_rn(x, rule.repetition) : __dmul_rn(x, rule.repetition);
    if (const uint32_t times = known & kernels::kTimes; times > 0)
      y = __dadd_rn(y, -__dadd_rn(__dmul_rn(rule.frequency, times), rule.presence));
    constexpr double kMost = 0x1.fffffep+127;  // of float32
    return static_cast<float>(y > kMost ? kMost : y < -kMost ? -kMost : y);
  }

  // A token's rank: the larger, the earlier it comes in the order of descending logit and ascending id. No two are
  // equal.
  __device__ uint64_t rank(float logit, int token) const {
    return static_cast<uint64_t>(key_of(logit)) << id_bits | (last_id() - static_cast<uint64_t>(token));
  }
  __device__ uint64_t last_id() const { return (uint64_t{1} << id_bits) - 1; }
  __device__ int32_t token_of(uint64_t rank) const { return static_cast<int32_t>(last_id() - (rank & last_id())); }
  __device__ float logit_of(uint64_t rank) const { return float_of(static_cast<uint32_t>(rank >> id_bits)); }
  __device__ uint64_t least_rank(uint32_t key) const { return static_cast<uint64_t>(key) << id_bits; }
  // Of all that are possible.
  __device__ uint64_t least_possible() const { return least_rank(key_of(-INFINITY) + 1); }
};

// Where a rank is searched: in [low, high], with so much of mass beyond.
struct Interval {
  uint64_t low, high, above = 0;
};

// One turn of a search. each_rank(visit) is for the ranks of a thread, mass(logit) an integer. Returns how many ranks
// were in the interval, without `low`.
template <class T, class EachRank, class Mass>
__device__ uint64_t narrow(Team& team, const Row<T>& row, Interval& in, uint64_t target, EachRank each_rank,
                           Mass mass) {
  const uint64_t part = (in.high - in.low) / kWays + 1;
  uint64_t sums[kWays] = {};  // the count; the mass from the beginning of part i to `high`
  each_rank([&](uint64_t rank) {
    if (rank <= in.low || rank > in.high) return;
    const uint64_t more = mass(row.logit_of(rank));
    ++sums[0];
#pragma unroll
    for (int i = 1; i < kWays; ++i)
      if (rank >= in.low + static_cast<uint64_t>(i) * part) sums[i] += more;
  });
  team.combine(sums, Sum());
  uint64_t found = 0, beyond = 0;  // the part that it is in, and the mass of those above that
#pragma unroll
  for (int i = 1; i < kWays; ++i) {
    if (in.above + sums[i] >= target)
      found = static_cast<uint64_t>(i);
    else if (found == static_cast<uint64_t>(i - 1))
      beyond = sums[i];
  }
  in.low += found * part;
  if (in.high - in.low >= part) in.high = in.low + part - 1;
  in.above += beyond;
  return sums[0];
}

// Ranks in the memory of a block, in no order.
struct List {
  uint64_t ranks[kListed];
  int count;
};
__device__ List& list_of_block() {
  __shared__ List list;
  return list;
}

// Brings the ranks of [low, high], which are at most kListed, to the leading block.
template <class EachRank>
__device__ void gather(Team& team, uint64_t low, uint64_t high, EachRank each_rank) {
  List& list = list_of_block();
  if (threadIdx.x == 0) list.count = 0;
  team.sync();
  List* const to = team.at_leader(&list);
  each_rank([&](uint64_t rank) {
    if (rank >= low && rank <= high) to->ranks[atomicAdd(&to->count, 1)] = rank;
  });
  team.sync();
}

// Bitonic sort (Batcher 1968) by one block, descending.
__device__ void sort(List& list) {
  for (int i = list.count + static_cast<int>(threadIdx.x); i < kListed; i += kThreads) list.ranks[i] = 0;
  for (int size = 2; size <= kListed; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int pair = static_cast<int>(threadIdx.x); pair < kListed / 2; pair += kThreads) {
        const int i = pair / distance * 2 * distance + pair % distance, j = i + distance;
        const uint64_t a = list.ranks[i], b = list.ranks[j];
        if ((a < b) == ((i & size) == 0)) list.ranks[i] = b, list.ranks[j] = a;
      }
    }
  __syncthreads();
}

// The block's list in order, and of it, on one of the threads, the rank with which the mass from the interval's top on
// reaches the target; 0 on the others.
template <class T, class Mass>
__device__ uint64_t first_reaching(const Row<T>& row, const Interval& in, uint64_t target, Mass mass) {
  constexpr int kOwn = kListed / kThreads;  // places of a thread, one after the other
  __shared__ uint64_t of_warps[kThreads / 32];
  List& list = list_of_block();
  sort(list);
  const int begin = static_cast<int>(threadIdx.x) * kOwn, warp = static_cast<int>(threadIdx.x) / 32;
  uint64_t masses[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    masses[i] = begin + i < list.count ? mass(row.logit_of(list.ranks[begin + i])) : 0;
    sum += masses[i];
  }
  uint64_t up_to = sum;  // of the warp's threads up to this one
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, up_to, step);
    if (threadIdx.x % 32 >= step) up_to += other;
  }
  if (threadIdx.x % 32 == 31) of_warps[warp] = up_to;
  __syncthreads();
  uint64_t reached = in.above + up_to - sum, found = 0;
  for (int i = 0; i < warp; ++i) reached += of_warps[i];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (reached < target && reached + masses[i] >= target) found = list.ranks[begin + i];
    reached += masses[i];
  }
  return found;
}

// The largest rank such that the tokens from it up to `high` have `target` of mass together; `low` if all from there do
// not. value(token) is its logit.
template <class T, class Value, class Mass>
__device__ uint64_t search(Team& team, const Row<T>& row, uint64_t low, uint64_t high, uint64_t target, Value value,
                           Mass mass) {
  const auto each_rank = [&](auto visit) {
    for (int token = team.first(); token < row.width; token += team.stride()) visit(row.rank(value(token), token));
  };
  Interval in{low, high};
  uint64_t num_inside = kListed + 1;
  while (in.low < in.high && num_inside > kListed) num_inside = narrow(team, row, in, target, each_rank, mass);
  if (in.low == in.high) return in.low;
  gather(team, in.low + 1, in.high, each_rank);
  const uint64_t found = team.leads() ? first_reaching(row, in, target, mass) : 0;
  return team.combined(found > in.low ? found : in.low, Largest());
}

// The log of the sum of exp(logit), and the most likely tokens in their order, of the logits as they come.
template <class T>
__device__ double raw_logprobs(Team& team, const Row<T>& row, uint64_t best, uint64_t num_possible) {
  const auto value = [&](int token) { return row.raw(token); };
  const float max = row.logit_of(best);
  double sum = 0;
  for (int token = team.first(); token < row.width; token += team.stride())
    sum += exp(static_cast<double>(row.raw(token)) - max);
  const double log_sum = max + log(team.combined(sum, Sum()));
  const uint64_t wanted = row.rule.num_top, count = wanted < num_possible ? wanted : num_possible;
  if (team.leads() && threadIdx.x == 0) row.rule.logprobs->count = static_cast<int32_t>(count);
  if (count == 0) return log_sum;
  const uint64_t last = search(team, row, row.least_possible(), best, count, value, [](float) { return uint64_t{1}; });
  gather(team, last, best, [&](auto visit) {
    for (int token = team.first(); token < row.width; token += team.stride()) visit(row.rank(value(token), token));
  });
  if (!team.leads()) return log_sum;
  List& list = list_of_block();
  sort(list);
  for (int i = static_cast<int>(threadIdx.x); i < list.count; i += kThreads)
    row.rule.logprobs->top[i] = {row.token_of(list.ranks[i]),
                                 static_cast<float>(row.logit_of(list.ranks[i]) - log_sum)};
  return log_sum;
}

// The least key of a float whose product with scale is at least `least`.
__device__ __forceinline__ uint32_t least_key(double scale, double least) {
  uint32_t low = key_of(-INFINITY), high = key_of(INFINITY);  // the second's product is
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (float_of(middle) * scale >= least)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The least rank that min_p, top_k and top_p leave.
template <class T>
__device__ uint64_t filter(Team& team, const Row<T>& row, uint64_t best) {
  const RuleRow& rule = row.rule;
  const auto value = [&](int token) { return row.logit(token); };
  const double most = row.logit_of(best) * rule.scale;
  uint64_t low = row.least_possible();
  if (rule.log_min_p > -INFINITY) {
    const uint64_t least = row.least_rank(least_key(rule.scale, most + rule.log_min_p));
    if (least > low) low = least;
  }
  if (rule.top_k > 0) low = search(team, row, low, best, rule.top_k, value, [](float) { return uint64_t{1}; });
  if (rule.top_p >= 1) return low;
  // Probabilities relative to the first token's, as integers: their sum has no order. All together stay below 2^63.
  const double unit = static_cast<double>(uint64_t{1} << (62 - row.id_bits));
  const auto share = [&](float logit) {
    return static_cast<uint64_t>(exp(__dadd_rn(__dmul_rn(logit, rule.scale), -most)) * unit + 0.5);
  };
  uint64_t sum = 0;
  for (int token = team.first(); token < row.width; token += team.stride())
    if (const float logit = row.logit(token); row.rank(logit, token) >= low) sum += share(logit);
  sum = team.combined(sum, Sum());
  const auto reached = static_cast<uint64_t>(ceil(rule.top_p * static_cast<double>(sum)));
  return search(team, row, low, best, reached < 1 ? 1 : reached < sum ? reached : sum, value, share);
}

// Of the tokens of rank `least` and above, the one with the largest z + Gumbel noise (as runtime/logit_scan.h has it).
template <class T>
__device__ int32_t draw(Team& team, const Row<T>& row, uint64_t least) {
  const uint64_t position = row.rule.position << 32;
  uint64_t key = 0, from_last = 0;
  for (int token = team.first(); token < row.width; token += team.stride()) {
    const float logit = row.logit(token);
    if (row.rank(logit, token) < least) continue;
    double u = random_uniform(row.rule.noise_key, position | static_cast<uint32_t>(token));
    u = u < 1 - 0x1p-53 ? u : 1 - 0x1p-53;
    const uint64_t mine = key_of(logit * row.rule.scale - log(-log(u)));
    if (mine > key) key = mine, from_last = row.last_id() - static_cast<uint64_t>(token);
  }
  const uint64_t largest = team.combined(key, Largest());
  return row.token_of(team.combined(key == largest ? from_last : 0, Largest()));
}

// Blocks [row, part of the cluster].
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    choose_tokens_kernel(const T* logits, int width, int id_bits, const RuleRow* rules, int32_t* chosen) {
  wait_for_previous();
  let_next_start();
  Team team;
  team.say_begun();
  const Row<T> row{logits + int64_t{blockIdx.x} * width, rules[blockIdx.x], width, id_bits};
  uint64_t best[2] = {};    // as they come; under the rules
  uint64_t counts[3] = {};  // not finite; possible as they come; possible under the rules
  for (int token = team.first(); token < width; token += team.stride()) {
    const float raw = row.raw(token), logit = row.logit(token);
    if (!(raw < INFINITY)) {
      ++counts[0];
      continue;
    }
    best[0] = Largest()(best[0], row.rank(raw, token));
    best[1] = Largest()(best[1], row.rank(logit, token));
    counts[1] += raw > -INFINITY;
    counts[2] += logit > -INFINITY;
  }
  team.wait_for_begun();
  team.combine(counts, Sum());
  team.combine(best, Largest());
  const bool is_teller = team.leads() && threadIdx.x == 0;
  if (counts[0] > 0 || counts[2] == 0) {
    if (is_teller) chosen[blockIdx.x] = -1;
    return;
  }
  const bool has_logprobs = row.rule.logprobs != nullptr;
  const double log_sum = has_logprobs ? raw_logprobs(team, row, best[0], counts[1]) : 0;
  int32_t token = row.token_of(best[1]);
  if (row.rule.scale != 0) token = draw(team, row, filter(team, row, best[1]));
  if (is_teller) {
    chosen[blockIdx.x] = token;
    if (has_logprobs) row.rule.logprobs->chosen = static_cast<float>(row.raw(token) - log_sum);
    if (row.rule.history != nullptr) row.rule.history[token] = (row.rule.history[token] | kernels::kIsSeen) + 1;
  }
  if (has_logprobs) __threadfence_system();  // the host reads them
}

template <class T>
__global__ void spread_logits_kernel(const T* logits, int64_t slice, int64_t first_id, T* whole, int64_t width) {
  wait_for_previous();
  let_next_start();
  const int64_t row = blockIdx.y;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < width; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t at = i - first_id;
    whole[row * width + i] = at >= 0 && at < slice ? logits[row * slice + at] : from_float<T>(0);
  }
}

// One block: this runs once for a sequence.
__global__ void note_history_kernel(const int32_t* tokens, int64_t num_tokens, int64_t num_prompt,
                                    const int32_t* banned, int64_t num_banned, uint32_t* history, int64_t width) {
  wait_for_previous();
  let_next_start();
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) history[i] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < num_banned; i += blockDim.x) atomicOr(&history[banned[i]], kernels::kIsBanned);
  for (int64_t i = threadIdx.x; i < num_tokens; i += blockDim.x) atomicOr(&history[tokens[i]], kernels::kIsSeen);
  for (int64_t i = num_prompt + threadIdx.x; i < num_tokens; i += blockDim.x) atomicAdd(&history[tokens[i]], 1u);
}

}  // namespace
}  // namespace lane::cuda

namespace lane::kernels::impl {

using namespace lane::cuda;

void cuda_note_history(TensorView tokens, int64_t num_prompt, TensorView banned, TensorView history, Stream& stream) {
  launch(note_history_kernel, {1, 1024}, stream, "noting a sequence's tokens", at<const int32_t>(tokens),
         tokens.count(), num_prompt, at<const int32_t>(banned), banned.count(), at<uint32_t>(history), history.count());
}

void cuda_spread_logits(TensorView logits, int64_t first_id, TensorView whole, Stream& stream) {
  with_type(logits.dtype, [&](auto type) {
    using T = decltype(type);
    launch(spread_logits_kernel<T>, {dim3(32, static_cast<unsigned>(whole.rows())), 256}, stream, "spreading logits",
           at<const T>(logits), logits.cols(), first_id, at<T>(whole), whole.cols());
  });
}

void cuda_choose_tokens(TensorView logits, TensorView rules, TensorView chosen, Stream& stream) {
  int id_bits = 0;
  while (int64_t{1} << id_bits < logits.cols()) ++id_bits;
  const unsigned cluster = can_chain() ? kMostCluster : 1;  // sm_90 has both
  with_type(logits.dtype, [&](auto type) {
    using T = decltype(type);
    launch(choose_tokens_kernel<T>,
           {.blocks = dim3(static_cast<unsigned>(logits.rows()), cluster), .threads = kThreads, .cluster_y = cluster},
           stream, "choosing tokens by the rules", at<const T>(logits), logits.cols(), id_bits,
           static_cast<const RuleRow*>(rules.data), at<int32_t>(chosen));
  });
}

}  // namespace lane::kernels::impl
