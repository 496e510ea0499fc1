#include "lane/attention/cuda/flashinfer/decode.cuh"

namespace lane::cuda::attention {

const FlashinferPhase kFlashinferDecodeF16 = FlashinferDecode<__half>::kPhase;

}  // namespace lane::cuda::attention
