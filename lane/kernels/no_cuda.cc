#include "lane/kernels/impl/backend.h"

namespace lane::kernels::impl {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA kernels; configure with -DLANE_CUDA=ON");
}

}  // namespace

void cuda_fill_random(TensorView, const RandomPart&, Stream&) { refuse(); }
void cuda_matmul(TensorView, const DeviceMatrix&, TensorView, TensorView, Stream&) { refuse(); }
void cuda_matmul_silu_mul(TensorView, const DeviceMatrix&, TensorView, TensorView, TensorView, Stream&) { refuse(); }
void cuda_embedding(const DeviceMatrix&, TensorView, int64_t, TensorView, Stream&) { refuse(); }
void cuda_rms_norm(TensorView, TensorView, float, TensorView, Stream&) { refuse(); }
void cuda_add_rms_norm(TensorView, TensorView, TensorView, float, TensorView, Stream&) { refuse(); }
void cuda_head_rms_norm(TensorView, int64_t, int64_t, TensorView, float, Stream&) { refuse(); }
void cuda_rope_table(TensorView, TensorView, float, TensorView, Stream&) { refuse(); }
void cuda_rope(TensorView, int64_t, int64_t, int64_t, TensorView, Stream&) { refuse(); }
void cuda_silu_mul(TensorView, TensorView, Stream&) { refuse(); }
void cuda_add(TensorView, TensorView, Stream&) { refuse(); }
void cuda_gather_rows(TensorView, TensorView, TensorView, Stream&) { refuse(); }
void cuda_open_step(const OpenStepArgs&, Stream&) { refuse(); }
void cuda_close_step(TensorView, TensorView, TensorView, TensorView, int, int64_t, int64_t, Stream&) { refuse(); }
void cuda_draw_offers(TensorView, TensorView, TensorView, int64_t, int, int, TensorView, TensorView, Stream&) {
  refuse();
}
void cuda_draw_choose(TensorView, int, TensorView, Stream&) { refuse(); }
void cuda_note_history(TensorView, int64_t, TensorView, TensorView, Stream&) { refuse(); }
void cuda_spread_logits(TensorView, int64_t, TensorView, Stream&) { refuse(); }
void cuda_choose_tokens(TensorView, TensorView, TensorView, Stream&) { refuse(); }

}  // namespace lane::kernels::impl
