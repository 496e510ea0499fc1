#pragma once
#include <string_view>

#include "lane/device/stream.h"
#include "lane/device/tensor.h"

// The mathematics of a decoder. Every function runs where its tensors are and is enqueued on `stream`. Shapes are
// checked here, once; the implementations under cpu/ (and cuda/) trust them. A shape that does not fit is a bug of
// the caller: ensure() fails.
//
// On the CPU activations are float32; weights are float32, bfloat16 or float16 and every product is accumulated in
// float32, one input after the other (k = 0, 1, 2, ...). The result of a row therefore depends on that row alone:
// not on the batch it travels in, not on the number of threads. It may differ in its last bits between instruction
// sets (cpu_isa), and "avx512_bf16" rounds x to bfloat16 where the weights are and adds inputs in pairs.
//
// On GPUs activations, gains and biases are of the weights' type; sums are kept in float32 and rounded once. How a row
// is added up depends on how many rows travel with it: results differ between batches by rounding. Calls return at
// once and may be captured in a graph, once they ran before.
namespace lane::kernels {

// A weight matrix W [n, k] in the layout that matmul wants, made once when a model is loaded. It replaces the
// row-major original: nothing is held twice. Rows are filled in any order and by any number of threads, as long as
// no two of them write the same group of 16 rows (kRowGroup).
class PackedMatrix {
 public:
  static constexpr int64_t kRowGroup = 16;

  PackedMatrix() = default;
  PackedMatrix(Device device, DType dtype, int64_t n, int64_t k);  // dtype: float32, bfloat16 or float16

  // What the constructor takes from `device`.
  static int64_t bytes_on(Device device, DType dtype, int64_t n, int64_t k);

  // Stores `rows` (in host memory, row-major [count, k], float32, bfloat16 or float16; converted with rounding to
  // nearest even) as rows [first, first + count). On a GPU they are copied by `stream`, which is waited for.
  void set_rows(int64_t first, TensorView rows, Stream& stream);

  // Rows [first, first + count) as they lie on a GPU, [count, k]: for copies and kernels that fill them.
  TensorView device_rows(int64_t first, int64_t count);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  DType dtype() const { return dtype_; }
  int64_t bytes() const { return buffer_.bytes(); }
  const void* data() const { return buffer_.data(); }
  Device device() const { return device_; }

 private:
  Device device_;
  DType dtype_ = DType::kF32;
  int64_t n_ = 0, k_ = 0;
  Buffer buffer_;
};

// Copies `values` (in host memory, float32, bfloat16 or float16) to `out` on the stream's device, converted to its
// type, and waits for it.
void store(TensorView values, TensorView out, Stream& stream);

// The same from host memory to host memory, on the calling thread.
void convert(TensorView values, TensorView out);

// Random numbers in the form of a tensor of `cols` columns, any part of which can be made anywhere, with the same bits
// on every device: element i, counted row by row, is the quarter i % 4 (of 16 bits, the lowest first) of
// mix64(key ^ i / 4), spread evenly around `mean` with a standard deviation of `deviation`.
struct RandomTensor {
  uint64_t key = 0;
  int64_t cols = 1;
  float mean = 0, deviation = 0;
};

// out[i, j] = element (first_row + i, first_col + j), rounded to the type of `out`: one of weights on a GPU, float32 on
// the CPU.
void fill_random(const RandomTensor& tensor, int64_t first_row, int64_t first_col, TensorView out, Stream& stream);

// The type of activations beside weights of `weights` on `device`.
DType activation_type(DType weights, Device device);

// out[m, n] = x[m, k] · W[n, k]^T (+ bias[n] if bias.data).
void matmul(TensorView x, const PackedMatrix& weight, TensorView bias, TensorView out, Stream& stream);

// out[m, f] = silu(gate) * up, where x · W^T (+ bias) holds gate in its first f columns, then up: the first half of an
// MLP. `scratch` [m, 2f] may be written.
void matmul_silu_mul(TensorView x, const PackedMatrix& gate_up, TensorView bias, TensorView scratch, TensorView out,
                     Stream& stream);

// out[i] = table row (ids[i] - first_id), or zeros where that row is not in this table (another rank has it). ids
// int32.
void embedding(const PackedMatrix& table, TensorView ids, int64_t first_id, TensorView out, Stream& stream);

// out[i] = x row rows[i]; rows int32.
void gather_rows(TensorView x, TensorView rows, TensorView out, Stream& stream);

// out = x / sqrt(mean(x^2) + eps) * gain, row by row (Zhang, Sennrich: Root Mean Square Layer Normalization, 2019).
// x and out [rows, d] may be the same memory; gain [d].
void rms_norm(TensorView x, TensorView gain, float eps, TensorView out, Stream& stream);

// residual += x; out = rms_norm(residual). `out` is neither of them.
void add_rms_norm(TensorView x, TensorView residual, TensorView gain, float eps, TensorView out, Stream& stream);

// The inner part of one row: rms_norm over each `gain.count()`-wide head of columns [first, first + heads * d) of
// x [rows, cols], in place (the QK norm of Qwen3).
void head_rms_norm(TensorView x, int64_t first_col, int64_t num_heads, TensorView gain, float eps, Stream& stream);

// cos_sin [tokens, 2 * f] float32: cos then sin of position * inv_freq[j], times `scale`. Once per step, for all
// layers. positions int32, inv_freq float32 [f].
void rope_table(TensorView positions, TensorView inv_freq, float scale, TensorView cos_sin, Stream& stream);

// Rotates, in place, the heads in columns [first_col, first_col + num_heads * head_dim) of x [tokens, cols]: element j
// of a head pairs with j + f, for the first 2f elements (Su et al., RoFormer, 2021, in the half-split form of Hugging
// Face); f = cos_sin.cols() / 2 at most head_dim / 2.
void rope(TensorView x, int64_t first_col, int64_t num_heads, int64_t head_dim, TensorView cos_sin, Stream& stream);

// out[m, f] = silu(gate) * up, where gate_up [m, 2f] holds gate in its first f columns.
void silu_mul(TensorView gate_up, TensorView out, Stream& stream);

// inout += x
void add(TensorView inout, TensorView x, Stream& stream);

// The instructions that matmul uses on this machine: "avx512_bf16", "avx512", "avx2" or "baseline".
std::string_view cpu_isa();

}  // namespace lane::kernels
