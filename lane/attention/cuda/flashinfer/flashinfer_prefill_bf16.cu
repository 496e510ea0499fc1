#include "lane/attention/cuda/flashinfer/prefill.cuh"

namespace lane::cuda::attention {

const FlashinferPhase kFlashinferPrefillBF16 = FlashinferPrefill<__nv_bfloat16>::kPhase;

}  // namespace lane::cuda::attention
