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
  const int32_t* slots;  // in host memory
  int32_t* lists;
  const int32_t* chosen;
  const int32_t* number;  // of steps that are closed
  StepSlot layout;
  int num_slots;
  int64_t max_blocks, block_tokens, tokens, seqs;
};

// Host memory is written by the host between steps: it must not come from a cache. 16 bytes a thread, so that a warp
// asks for 512 at once: each request takes its time over PCIe.
__device__ __forceinline__ int4 load_fresh(const int32_t* from) {
  int4 words;
  asm volatile("ld.global.cv.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from)
               : "memory");
  return words;
}

// A list of `count` words of which the host wrote `given`: to[i] = word(i, what the host wrote at i), or rest(i).
template <class Word, class Rest>
__device__ __forceinline__ void bring(const int32_t* from, int32_t* to, int64_t given, int64_t count, int64_t first,
                                      int64_t stride, Word&& word, Rest&& rest) {
  for (int64_t i = first * 4; i < count; i += stride * 4) {
    const int4 words = i < given ? load_fresh(from + i) : int4{};
    const int32_t each[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (i + j < count) to[i + j] = i + j < given ? word(each[j]) : rest(i + j);
  }
}

// All blocks share the tokens; block 0 brings the short lists, the others the tables, a sequence each.
__global__ void open_step_kernel(OpenStep step) {
  wait_for_previous();
  let_next_start();
  const int32_t number = *step.number + 1;
  const int32_t* from = step.slots + number % step.num_slots * step.layout.words;
  const StepSlot& at = step.layout;
  const int4 head = load_fresh(from);  // in the order of StepHead
  const int64_t num_tokens = head.x, num_seqs = head.y, num_rows = head.z;
  const auto same = [](int32_t word) { return word; };
  const auto zero = [](int64_t) { return 0; };
  const int64_t all = static_cast<int64_t>(gridDim.x) * blockDim.x,
                here = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  bring(
      from + at.token_ids, step.lists + at.token_ids, num_tokens, step.tokens, here, all,
      [&](int32_t token) { return token < 0 ? step.chosen[-1 - token] : token; }, zero);
  bring(from + at.positions, step.lists + at.positions, num_tokens, step.tokens, here, all, same, zero);
  if (blockIdx.x > 0) {
    const int64_t seq = blockIdx.x - 1;
    if (seq >= num_seqs) return;
    const int4 lengths = load_fresh(from + at.kv_length + seq / 4 * 4);
    const int32_t length = seq % 4 == 0 ? lengths.x : seq % 4 == 1 ? lengths.y : seq % 4 == 2 ? lengths.z : lengths.w;
    const int64_t filled = (length + step.block_tokens - 1) / step.block_tokens, table = seq * step.max_blocks;
    bring(from + at.block_tables + table, step.lists + at.block_tables + table, filled, filled, threadIdx.x, blockDim.x,
          same, zero);
    return;
  }
  bring(from, step.lists, kernels::kStepHeadWords, kernels::kStepHeadWords, threadIdx.x, blockDim.x, same, zero);
  // Empty sequences have a token each, as far as there are tokens.
  bring(from + at.query_start, step.lists + at.query_start, num_seqs + 1, step.seqs + 1, threadIdx.x, blockDim.x, same,
        [&](int64_t i) {
          const int64_t behind = num_tokens + i - num_seqs;
          return static_cast<int32_t>(behind < step.tokens ? behind : step.tokens);
        });
  bring(from + at.kv_length, step.lists + at.kv_length, num_seqs, step.seqs, threadIdx.x, blockDim.x, same, zero);
  bring(from + at.logit_rows, step.lists + at.logit_rows, num_rows, step.seqs, threadIdx.x, blockDim.x, same, zero);
  constexpr int kWords = sizeof(DrawRow) / 4;
  bring(from + at.draws, step.lists + at.draws, num_rows * kWords, step.seqs * kWords, threadIdx.x, blockDim.x, same,
        zero);
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

template <class T>
T* words(const TensorView& view) {
  return static_cast<T*>(view.data);
}

}  // namespace
}  // namespace lane::cuda

namespace lane::kernels::impl {

using namespace lane::cuda;

void cuda_open_step(const OpenStepArgs& args, Stream& stream) {
  const OpenStep step{words<const int32_t>(args.slots),
                      words<int32_t>(args.lists),
                      words<const int32_t>(args.chosen),
                      words<const int32_t>(args.number),
                      args.layout,
                      args.num_slots,
                      args.max_blocks,
                      args.block_tokens,
                      args.tokens,
                      args.seqs};
  launch(open_step_kernel, {static_cast<unsigned>(args.seqs + 1), 256}, stream, "opening a step", step);
}

void cuda_close_step(TensorView chosen, TensorView signal, TensorView number, TensorView results, int num_slots,
                     int64_t result_words, int64_t head_words, Stream& stream) {
  launch(close_step_kernel, {1, 128}, stream, "closing a step", words<const int32_t>(chosen),
         words<const float>(signal), words<int32_t>(number), words<int32_t>(results), num_slots, result_words,
         head_words, chosen.count());
}

void cuda_draw_offers(TensorView logits, TensorView draws, TensorView signal_word, int64_t first_id, int rank,
                      int num_ranks, TensorView scratch, TensorView offers, Stream& stream) {
  static_assert(kPieces * sizeof(Draw) <= kDrawScratch * sizeof(float));
  const int64_t rows = draws.count() * 4 / static_cast<int64_t>(sizeof(DrawRow));  // without any, logits is no tensor
  if (rows == 0) {
    launch(offer_signal_kernel, {1, 1}, stream, "offering a signal", words<const int32_t>(signal_word), rank,
           words<float>(offers));
    return;
  }
  const auto find = [&](auto type) {
    using T = decltype(type);
    launch(draw_pieces_kernel<T>, {dim3(kPieces, static_cast<unsigned>(rows)), kDrawThreads}, stream, "drawing tokens",
           words<const T>(logits), logits.cols(), static_cast<const DrawRow*>(draws.data), first_id,
           words<Draw>(scratch));
  };
  if (logits.dtype == DType::kBF16)
    find(__nv_bfloat16());
  else if (logits.dtype == DType::kF16)
    find(__half());
  else
    find(float());
  launch(draw_offers_kernel, {static_cast<unsigned>(rows), 64}, stream, "offering tokens", words<const Draw>(scratch),
         kPieces, rank, num_ranks, words<const int32_t>(signal_word), words<float>(offers), rows);
}

void cuda_draw_choose(TensorView offers, int num_ranks, TensorView chosen, Stream& stream) {
  const int64_t rows = chosen.count();
  if (rows == 0) return;
  launch(draw_choose_kernel, {static_cast<unsigned>((rows + 63) / 64), 64}, stream, "choosing tokens",
         words<const float>(offers), num_ranks, rows, words<int32_t>(chosen));
}

}  // namespace lane::kernels::impl
