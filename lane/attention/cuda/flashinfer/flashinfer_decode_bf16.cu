#include "lane/attention/cuda/flashinfer/decode.cuh"

namespace lane::cuda::attention {

const FlashinferPhase kFlashinferDecodeBF16 = FlashinferDecode<__nv_bfloat16>::kPhase;

}  // namespace lane::cuda::attention
