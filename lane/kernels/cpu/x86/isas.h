#pragma once
#include "lane/kernels/cpu/matmul.h"

namespace lane::kernels::cpu {

extern const Isa kAvx2;        // AVX2, FMA, F16C
extern const Isa kAvx512;      // AVX-512 F, BW, VL, DQ
extern const Isa kAvx512Bf16;  // and BF16

}  // namespace lane::kernels::cpu
