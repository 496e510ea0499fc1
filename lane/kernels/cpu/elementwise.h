#pragma once
#include <cstdint>

// Everything but matmul, on plain float32 rows. An element depends on its own row and column alone: the same
// operations in the same order wherever it lies, whatever the vector width (-ffp-contract=off sees to that).
namespace lane::kernels::cpu {

void rms_norm_row(const float* x, const float* gain, float eps, int64_t d, float* out);

// row: cos then sin of position * inv_freq[j], times `scale`.
void rope_table_row(int32_t position, const float* inv_freq, int64_t f, float scale, float* row);

// Rotates element j of one head with element j + f.
void rope_head(float* head, const float* cos_sin, int64_t f);

// out = gate / (1 + exp(-gate)) * up
void silu_mul_row(const float* gate, const float* up, int64_t count, float* out);

void add_row(float* inout, const float* x, int64_t count);

}  // namespace lane::kernels::cpu
