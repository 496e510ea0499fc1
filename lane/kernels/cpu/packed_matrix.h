#pragma once
#include "lane/kernels/kernels.h"

// PackedMatrix in CPU memory; the layout is drawn in matmul.h.
namespace lane::kernels::cpu {

// Writes rows [first, first + rows.rows()) of a matrix of `dtype` with rows.cols() columns.
void pack_rows(DType dtype, void* packed, int64_t first, TensorView rows);

// The elements of `values` as `dtype`, one after the other, rounded to nearest even.
void convert(TensorView values, DType dtype, void* out);

// out[0, k) = row `row` as float32.
void unpack_row(DType dtype, const void* packed, int64_t k, int64_t row, float* out);

}  // namespace lane::kernels::cpu
