#include "lane/kernels/step.h"

#include <atomic>

#include "lane/kernels/impl/backend.h"

namespace lane::kernels {
namespace {

constexpr int64_t kDrawWords = sizeof(DrawRow) / 4, kResultHead = 4;  // number, signal

int64_t even(int64_t words) { return (words + 3) / 4 * 4; }  // 16 bytes: a DrawRow holds words of 8

}  // namespace

StepSlot::StepSlot(const StepLimits& limits) {
  int64_t next = kStepHeadWords;
  const auto take = [&](int64_t count) {
    const int64_t first = next;
    next += even(count);
    return first;
  };
  token_ids = take(limits.max_tokens);
  positions = take(limits.max_tokens);
  query_start = take(limits.max_seqs + 1);
  kv_length = take(limits.max_seqs);
  logit_rows = take(limits.max_seqs);
  draws = take(limits.max_seqs * kDrawWords);
  block_tables = take(limits.max_seqs * limits.max_blocks);
  words = next;
}

StepBoard::StepBoard(const StepLimits& limits, Device device)
    : limits_(limits),
      layout_(limits),
      result_words_(kResultHead + even(limits.max_seqs)),
      input_(device, kSlots * layout_.words * 4),
      result_(device, kSlots * result_words_ * 4),
      packed_(DType::kI32, {1, 1, 1, layout_.words}, device),
      lists_(DType::kI32, {1, 1, 1, layout_.words}, device),
      chosen_(DType::kI32, {1, 1, 1, limits.max_seqs}, device),
      number_(DType::kI32, {1, 1, 1, 4}, device) {
  Stream stream(device);
  const int32_t zeros[4] = {};
  copy_to_device(zeros, number_.view(), stream);
  stream.synchronize();
}

int32_t* StepBoard::input(int64_t step) const {
  return static_cast<int32_t*>(input_.host()) + step % kSlots * layout_.words;
}
bool StepBoard::is_done(int64_t step) const {
  auto* const number = static_cast<int32_t*>(result_.host()) + step % kSlots * result_words_;
  return std::atomic_ref<int32_t>(*number).load(std::memory_order_acquire) == static_cast<int32_t>(step);
}
const int32_t* StepBoard::chosen(int64_t step) const {
  return static_cast<int32_t*>(result_.host()) + step % kSlots * result_words_ + kResultHead;
}
uint32_t StepBoard::signal(int64_t step) const {
  return static_cast<uint32_t>(*(static_cast<int32_t*>(result_.host()) + step % kSlots * result_words_ + 1));
}
TensorView StepBoard::chosen_on_device(int64_t rows) const { return chosen_.view(DType::kI32, {1, 1, 1, rows}); }

TensorView StepBoard::list(int64_t first_word, int64_t count) const {
  ensure(first_word + count <= layout_.words, "a step keeps to its limits");
  TensorView view = lists_.view();
  view.data = static_cast<int32_t*>(view.data) + first_word;
  view.shape = {1, 1, 1, count};
  return view;
}

void StepBoard::open_step(int64_t step, const StepLimits& used, int64_t tokens, int64_t seqs, Stream& stream) {
  ensure(tokens <= limits_.max_tokens && seqs <= limits_.max_seqs && used.max_tokens <= tokens &&
             used.max_seqs <= seqs && used.max_blocks <= limits_.max_blocks,
         "a step keeps to its limits");
  const StepSlot from(used);
  const TensorView packed = packed_.view(DType::kI32, {1, 1, 1, from.words});
  copy_to_device(input(step), packed, stream);
  impl::cuda_open_step({.packed = packed,
                        .lists = lists_.view(),
                        .chosen = chosen_.view(),
                        .from = from,
                        .to = layout_,
                        .from_blocks = used.max_blocks,
                        .to_blocks = limits_.max_blocks,
                        .tokens = tokens,
                        .seqs = seqs},
                       stream);
}

void StepBoard::close_step(TensorView signal, Stream& stream) {
  impl::cuda_close_step(chosen_.view(), signal, number_.view(), result_.on_device(), kSlots, result_words_, kResultHead,
                        stream);
}

void draw_offers(TensorView logits, TensorView draws, TensorView signal_word, int64_t first_id, int rank, int num_ranks,
                 TensorView scratch, TensorView offers, Stream& stream) {
  const int64_t rows = draws.count() / kDrawWords;
  ensure(rows == 0 || logits.rows() == rows, "there is a DrawRow for each row");
  ensure(scratch.dtype == DType::kF32 && scratch.count() >= rows * kDrawScratch, "scratch holds all rows");
  ensure(offers.dtype == DType::kF32 && offers.count() == num_ranks * rows * kOfferWords + 1,
         "offers hold all ranks and the signal");
  impl::cuda_draw_offers(logits, draws, signal_word, first_id, rank, num_ranks, scratch, offers, stream);
}

void draw_choose(TensorView offers, int num_ranks, TensorView chosen, Stream& stream) {
  ensure(offers.count() == num_ranks * chosen.count() * kOfferWords + 1, "offers hold all ranks and rows");
  impl::cuda_draw_choose(offers, num_ranks, chosen, stream);
}

}  // namespace lane::kernels
