// How the products of decoding are computed: by a table of measurements.
#pragma once
#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {

struct MatmulWay {
  bool is_own = false;
  int candidate = 0;  // of blas_matmul(), if it is not skinny_matmul()'s
};

// What was fastest for the measured shape nearest to x [m, k] W[n, k]^T, by the logarithms of n and k. cuBLASLt's first
// candidate beyond the table's rows.
MatmulWay choose_way(int64_t m, int64_t n, int64_t k, bool gated);

}  // namespace lane::cuda
