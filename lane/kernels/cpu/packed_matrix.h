#pragma once
#include "lane/kernels/kernels.h"

// PackedMatrix in CPU memory; the layout is drawn in matmul.h.
namespace lane::kernels::cpu {

// Writes rows [first, first + rows.rows()) of a matrix of `dtype` with rows.cols() columns.
void pack_rows(DType dtype, void* packed, int64_t first, TensorView rows);

// out[0, k) = row `row` as float32.
void unpack_row(DType dtype, const void* packed, int64_t k, int64_t row, float* out);

}  // namespace lane::kernels::cpu
