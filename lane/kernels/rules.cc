#include "lane/kernels/rules.h"

#include "lane/kernels/impl/backend.h"

namespace lane::kernels {

void note_history(TensorView tokens, int64_t num_prompt, TensorView banned, TensorView history, Stream& stream) {
  ensure(tokens.dtype == DType::kI32 && banned.dtype == DType::kI32 && history.dtype == DType::kI32,
         "tokens and what is known of them are words");
  impl::cuda_note_history(tokens, num_prompt, banned, history, stream);
}

void spread_logits(TensorView logits, int64_t first_id, TensorView whole, Stream& stream) {
  ensure(logits.dtype == whole.dtype && logits.rows() == whole.rows(), "the same rows, of the same type");
  ensure(first_id >= 0 && first_id + logits.cols() <= whole.cols(), "the slice is of the vocabulary");
  impl::cuda_spread_logits(logits, first_id, whole, stream);
}

void choose_tokens(TensorView logits, TensorView rules, TensorView chosen, Stream& stream) {
  ensure(chosen.dtype == DType::kI32 && chosen.count() == logits.rows(), "a token is chosen for each row");
  ensure(rules.bytes() == logits.rows() * static_cast<int64_t>(sizeof(RuleRow)), "there is a RuleRow for each row");
  ensure(logits.cols() <= int64_t{1} << 30, "a token's number leaves room for a logit beside it");
  impl::cuda_choose_tokens(logits, rules, chosen, stream);
}

}  // namespace lane::kernels
