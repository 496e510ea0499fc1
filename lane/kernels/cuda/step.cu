// A step's way in and out, and the choice of tokens. Small kernels: what counts is that nobody waits for the host.
#include "lane/base/random.h"
#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {
namespace {

using kernels::DrawRow;
using kernels::StepSlot;

struct OpenStep {
  const int32_t* packed;  // as the host wrote it
  int32_t* lists;
  const int32_t* chosen;
  StepSlot from, to;
  int64_t from_blocks, to_blocks;  // of a sequence's row in the tables
  int64_t tokens, seqs;
};

// Block 0 brings the short lists, the others the tables, a sequence each; all share the tokens.
__global__ void open_step_kernel(OpenStep step) {
  wait_for_previous();
  let_next_start();
  const StepSlot &from = step.from, &to = step.to;
  const int64_t num_tokens = step.packed[kernels::kNumTokens], num_seqs = step.packed[kernels::kNumSeqs],
                num_rows = step.packed[kernels::kNumRows];
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < step.tokens;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int32_t token = i < num_tokens ? step.packed[from.token_ids + i] : 0;
    step.lists[to.token_ids + i] = token < 0 ? step.chosen[-1 - token] : token;
    step.lists[to.positions + i] = i < num_tokens ? step.packed[from.positions + i] : 0;
  }
  if (blockIdx.x > 0) {
    const int64_t seq = blockIdx.x - 1;
    if (seq >= num_seqs) return;
    for (int64_t i = threadIdx.x; i < step.from_blocks; i += blockDim.x)
      step.lists[to.block_tables + seq * step.to_blocks + i] =
          step.packed[from.block_tables + seq * step.from_blocks + i];
    return;
  }
  if (threadIdx.x < kernels::kStepHeadWords) step.lists[threadIdx.x] = step.packed[threadIdx.x];
  // Empty sequences have a token each, as far as there are tokens.
  for (int64_t i = threadIdx.x; i <= step.seqs; i += blockDim.x) {
    const int64_t behind = num_tokens + i - num_seqs;
    step.lists[to.query_start + i] = i <= num_seqs ? step.packed[from.query_start + i]
                                                   : static_cast<int32_t>(behind < step.tokens ? behind : step.tokens);
  }
  for (int64_t i = threadIdx.x; i < step.seqs; i += blockDim.x) {
    step.lists[to.kv_length + i] = i < num_seqs ? step.packed[from.kv_length + i] : 0;
    step.lists[to.logit_rows + i] = i < num_rows ? step.packed[from.logit_rows + i] : 0;
  }
  constexpr int kWords = sizeof(DrawRow) / 4;
  for (int64_t i = threadIdx.x; i < step.seqs * kWords; i += blockDim.x)
    step.lists[to.draws + i] = i < num_rows * kWords ? step.packed[from.draws + i] : 0;
}

__global__ void close_step_kernel(const int32_t* chosen, const float* signal, int32_t* number, int32_t* results,
                                  int num_slots, int64_t words, int64_t head, int64_t count) {
  wait_for_previous();
  let_next_start();
  const int32_t step = *number + 1;
  int32_t* to = results + step % num_slots * words;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[head + i] = chosen[i];
  if (threadIdx.x == 0) to[1] = static_cast<int32_t>(*signal);
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  *number = step;
  asm volatile("st.release.sys.global.s32 [%0], %1;" ::"l"(to), "r"(step) : "memory");
}

// The better of two draws: the larger key, the lower token of equals. Token -1: a logit was not finite, which wins.
struct Draw {
  double key;
  int32_t token;
};
__device__ __forceinline__ bool beats(const Draw& a, const Draw& b) {
  if (a.token < 0 || b.token < 0) return a.token < 0 && b.token >= 0;
  return a.key > b.key || (a.key == b.key && a.token < b.token);
}

constexpr int kPieces = 64;  // of a row, a block each
constexpr int kDrawThreads = 256;

__device__ __forceinline__ Draw best_of_block(Draw mine) {
  __shared__ Draw of_warps[kDrawThreads / 32];
  for (int step = 16; step > 0; step /= 2) {
    const Draw other = {__shfl_xor_sync(0xffffffffu, mine.key, step), __shfl_xor_sync(0xffffffffu, mine.token, step)};
    if (beats(other, mine)) mine = other;
  }
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = mine;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp)
    if (beats(of_warps[warp], mine)) mine = of_warps[warp];
  return mine;
}

constexpr int32_t kNoToken = 0x7fffffff;  // before any was looked at
constexpr int32_t kNothing = -2;          // all tokens of a slice are impossible

template <class T>
__global__ void draw_pieces_kernel(const T* logits, int64_t width, const DrawRow* draws, int64_t first_id,
                                   Draw* pieces) {
  wait_for_previous();
  let_next_start();
  const int64_t row = blockIdx.y, piece = (width + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * piece;
  const int64_t end = begin + piece < width ? begin + piece : width;
  const DrawRow draw = draws[row];
  const uint64_t position = draw.position << 32;
  Draw best{-INFINITY, kNoToken};
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const float logit = to_float(logits[row * width + i]);
    const auto token = static_cast<int32_t>(first_id + i);
    Draw mine{logit, token};
    if (!(logit < INFINITY)) mine = {0, -1};  // NaN, or an infinity
    if (mine.token >= 0 && draw.scale != 0) {
      // Gumbel noise as runtime/logit_scan.h has it.
      double u = random_uniform(draw.noise_key, position | static_cast<uint32_t>(token));
      u = u < 1 - 0x1p-53 ? u : 1 - 0x1p-53;
      mine.key = logit * draw.scale - log(-log(u));
    }
    if (beats(mine, best)) best = mine;
  }
  best = best_of_block(best);
  if (threadIdx.x == 0) pieces[row * gridDim.x + blockIdx.x] = best;
}

// A block a row. A double goes as three floats whose sum it is: each takes 24 of its 53 bits.
__global__ void draw_offers_kernel(const Draw* pieces, int num_pieces, int rank, int num_ranks, const int32_t* signal,
                                   float* offers, int64_t rows) {
  wait_for_previous();
  let_next_start();
  const int64_t row = blockIdx.x;
  Draw best{-INFINITY, kNoToken};
  for (int i = threadIdx.x; i < num_pieces; i += blockDim.x)
    if (beats(pieces[row * num_pieces + i], best)) best = pieces[row * num_pieces + i];
  best = best_of_block(best);
  if (best.token >= 0 && best.key == -INFINITY) best.token = kNothing;
  for (int i = threadIdx.x; i < num_ranks; i += blockDim.x) {
    float* to = offers + (i * rows + row) * kernels::kOfferWords;
    const bool is_mine = i == rank;
    const double key = best.token < 0 ? 0 : best.key;
    const auto first = static_cast<float>(key);
    const auto second = static_cast<float>(key - first);
    const auto third = static_cast<float>(key - first - second);
    to[0] = is_mine ? first : 0;
    to[1] = is_mine ? second : 0;
    to[2] = is_mine ? third : 0;
    to[3] = is_mine ? static_cast<float>(best.token) : 0;
  }
  if (row == 0 && threadIdx.x == 0)
    offers[num_ranks * rows * kernels::kOfferWords] = rank == 0 ? static_cast<float>(*signal) : 0;
}

// Without rows there is the signal alone.
__global__ void offer_signal_kernel(const int32_t* signal, int rank, float* offers) {
  wait_for_previous();
  let_next_start();
  offers[0] = rank == 0 ? static_cast<float>(*signal) : 0;
}

__global__ void draw_choose_kernel(const float* offers, int num_ranks, int64_t rows, int32_t* chosen) {
  wait_for_previous();
  let_next_start();
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  Draw best{-INFINITY, kNoToken};
  for (int rank = 0; rank < num_ranks; ++rank) {
    const float* from = offers + (rank * rows + row) * kernels::kOfferWords;
    const Draw offer{static_cast<double>(from[0]) + from[1] + from[2], static_cast<int32_t>(from[3])};
    if (offer.token != kNothing && beats(offer, best)) best = offer;
  }
  chosen[row] = best.token == kNoToken ? -1 : best.token;
}

}  // namespace
}  // namespace lane::cuda

namespace lane::kernels::impl {

using namespace lane::cuda;

void cuda_open_step(const OpenStepArgs& args, Stream& stream) {
  const OpenStep step{at<const int32_t>(args.packed),
                      at<int32_t>(args.lists),
                      at<const int32_t>(args.chosen),
                      args.from,
                      args.to,
                      args.from_blocks,
                      args.to_blocks,
                      args.tokens,
                      args.seqs};
  launch(open_step_kernel, {static_cast<unsigned>(args.seqs + 1), 256}, stream, "opening a step", step);
}

void cuda_close_step(TensorView chosen, TensorView signal, TensorView number, TensorView results, int num_slots,
                     int64_t result_words, int64_t head_words, Stream& stream) {
  launch(close_step_kernel, {1, 128}, stream, "closing a step", at<const int32_t>(chosen), at<const float>(signal),
         at<int32_t>(number), at<int32_t>(results), num_slots, result_words, head_words, chosen.count());
}

void cuda_draw_offers(TensorView logits, TensorView draws, TensorView signal_word, int64_t first_id, int rank,
                      int num_ranks, TensorView scratch, TensorView offers, Stream& stream) {
  static_assert(kPieces * sizeof(Draw) <= kDrawScratch * sizeof(float));
  const int64_t rows = draws.count() * 4 / static_cast<int64_t>(sizeof(DrawRow));  // without any, logits is no tensor
  if (rows == 0) {
    launch(offer_signal_kernel, {1, 1}, stream, "offering a signal", at<const int32_t>(signal_word), rank,
           at<float>(offers));
    return;
  }
  const auto find = [&](auto type) {
    using T = decltype(type);
    launch(draw_pieces_kernel<T>, {dim3(kPieces, static_cast<unsigned>(rows)), kDrawThreads}, stream, "drawing tokens",
           at<const T>(logits), logits.cols(), static_cast<const DrawRow*>(draws.data), first_id, at<Draw>(scratch));
  };
  if (logits.dtype == DType::kBF16)
    find(__nv_bfloat16());
  else if (logits.dtype == DType::kF16)
    find(__half());
  else
    find(float());
  launch(draw_offers_kernel, {static_cast<unsigned>(rows), 64}, stream, "offering tokens", at<const Draw>(scratch),
         kPieces, rank, num_ranks, at<const int32_t>(signal_word), at<float>(offers), rows);
}

void cuda_draw_choose(TensorView offers, int num_ranks, TensorView chosen, Stream& stream) {
  const int64_t rows = chosen.count();
  if (rows == 0) return;
  launch(draw_choose_kernel, {static_cast<unsigned>((rows + 63) / 64), 64}, stream, "choosing tokens",
         at<const float>(offers), num_ranks, rows, at<int32_t>(chosen));
}

}  // namespace lane::kernels::impl
