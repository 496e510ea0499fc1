// Private to lane/kernels: what a GPU's backend provides. cuda/ implements it, or no_cuda.cc says why not. Shapes were
// checked by kernels.cc; `stream` is the vendor's handle.
#pragma once
#include "lane/device/tensor.h"
#include "lane/kernels/step.h"

namespace lane::kernels::impl {

// Elements of a random tensor: those of out[0, 0] and on. Values are mean + (quarter + 0.5) * scale, see fill_random().
struct RandomPart {
  uint64_t key;
  int64_t tensor_cols, first_row, first_col;
  float mean, scale;
};
void cuda_fill_random(TensorView out, const RandomPart& part, Stream& stream);

// A weight matrix in device memory, row-major [n, k].
struct DeviceMatrix {
  const void* data;
  DType dtype;
  int64_t n, k;
};

void cuda_matmul(TensorView x, const DeviceMatrix& weight, TensorView bias, TensorView out, Stream& stream);
void cuda_matmul_silu_mul(TensorView x, const DeviceMatrix& gate_up, TensorView bias, TensorView scratch,
                          TensorView out, Stream& stream);
void cuda_embedding(const DeviceMatrix& table, TensorView ids, int64_t first_id, TensorView out, Stream& stream);
void cuda_rms_norm(TensorView x, TensorView gain, float eps, TensorView out, Stream& stream);
void cuda_add_rms_norm(TensorView x, TensorView residual, TensorView gain, float eps, TensorView out, Stream& stream);
void cuda_head_rms_norm(TensorView x, int64_t first_col, int64_t num_heads, TensorView gain, float eps, Stream& stream);
void cuda_rope_table(TensorView positions, TensorView inv_freq, float scale, TensorView cos_sin, Stream& stream);
void cuda_rope(TensorView x, int64_t first_col, int64_t num_heads, int64_t head_dim, TensorView cos_sin,
               Stream& stream);
void cuda_silu_mul(TensorView gate_up, TensorView out, Stream& stream);
void cuda_add(TensorView inout, TensorView x, Stream& stream);
void cuda_gather_rows(TensorView x, TensorView rows, TensorView out, Stream& stream);

struct OpenStepArgs {
  TensorView packed, lists, chosen;
  StepSlot from, to;
  int64_t from_blocks, to_blocks, tokens, seqs;
};
void cuda_open_step(const OpenStepArgs& args, Stream& stream);
void cuda_close_step(TensorView chosen, TensorView signal, TensorView number, TensorView results, int num_slots,
                     int64_t result_words, int64_t head_words, Stream& stream);
void cuda_draw_offers(TensorView logits, TensorView draws, TensorView signal_word, int64_t first_id, int rank,
                      int num_ranks, TensorView scratch, TensorView offers, Stream& stream);
void cuda_draw_choose(TensorView offers, int num_ranks, TensorView chosen, Stream& stream);
void cuda_note_history(TensorView tokens, int64_t num_prompt, TensorView banned, TensorView history, Stream& stream);
void cuda_spread_logits(TensorView logits, int64_t first_id, TensorView whole, Stream& stream);
void cuda_choose_tokens(TensorView logits, TensorView rules, TensorView chosen, Stream& stream);

}  // namespace lane::kernels::impl
