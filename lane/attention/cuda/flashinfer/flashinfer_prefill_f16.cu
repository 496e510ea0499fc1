#include "lane/attention/cuda/flashinfer/prefill.cuh"

namespace lane::cuda::attention {

const FlashinferPhase kFlashinferPrefillF16 = FlashinferPrefill<__half>::kPhase;

}  // namespace lane::cuda::attention
