#include "lane/kernels/kernels.h"

#include <algorithm>
#include <vector>

#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/kernels/cpu/elementwise.h"
#include "lane/kernels/cpu/isa.h"
#include "lane/kernels/cpu/layout.h"
#include "lane/kernels/cpu/packed_matrix.h"
#include "lane/kernels/cpu/random.h"
#include "lane/kernels/impl/backend.h"

// Checks shapes and, on the CPU, cuts the work into pieces for the threads of the stream; the arithmetic is in cpu/ and
// cuda/.
namespace lane::kernels {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread takes at least: about what it computes while another wakes up

bool is_weight_type(DType type) { return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16; }

bool is_on_gpu(const Stream& stream) { return stream.device().kind == DeviceKind::kCuda; }

// A matrix of activations where the stream works.
bool fits(const TensorView& t, int64_t rows, int64_t cols, const Stream& stream, DType dtype) {
  return t.dtype == dtype && t.rows() == rows && t.cols() == cols && t.device == stream.device();
}
bool is_activation(const TensorView& t, const Stream& stream) {
  return t.device == stream.device() && (is_on_gpu(stream) ? is_weight_type(t.dtype) : t.dtype == DType::kF32);
}
bool is_list(const TensorView& t, const Stream& stream) {
  return t.dtype == DType::kI32 && t.device == stream.device();
}

impl::DeviceMatrix on_device(const PackedMatrix& matrix) {
  return {matrix.data(), matrix.dtype(), matrix.n(), matrix.k()};
}

// body(row) for every row, `row_size` elements each.
template <class Body>
void for_rows(Stream& stream, int64_t num_rows, int64_t row_size, Body&& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_size));
  stream.threads().parallel_for(num_rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

// body(row, first column, number of columns): pieces of rows, so that even one long row keeps all threads busy.
template <class Body>
void for_pieces(Stream& stream, int64_t num_rows, int64_t cols, Body&& body) {
  const int64_t pieces_per_row = (cols + kGrain - 1) / kGrain;
  const int64_t piece = pieces_per_row == 0 ? 0 : (cols + pieces_per_row - 1) / pieces_per_row;
  for_rows(stream, num_rows * pieces_per_row, piece, [&](int64_t i) {
    const int64_t first = i % pieces_per_row * piece;
    body(i / pieces_per_row, first, std::min(piece, cols - first));
  });
}

const cpu::Isa& isa() {
  static const cpu::Isa& chosen = cpu::choose_isa(cpu::candidates(), setting("LANE_ISA"));
  return chosen;
}

}  // namespace

PackedMatrix::PackedMatrix(Device device, DType dtype, int64_t n, int64_t k)
    : device_(device), dtype_(dtype), n_(n), k_(k) {
  static_assert(kRowGroup == cpu::kGroup);
  ensure(is_weight_type(dtype), "weights are float32, bfloat16 or float16");
  ensure(n >= 1 && k >= 1, "a weight matrix has rows and columns");
  if (device.kind == DeviceKind::kCuda)
    buffer_ = Buffer(dtype, {1, 1, n, k}, device);
  else
    buffer_ = Buffer(device, bytes_on(device, dtype, n, k));
}

int64_t PackedMatrix::bytes_on(Device device, DType dtype, int64_t n, int64_t k) {
  return device.kind == DeviceKind::kCuda ? n * k * size_of(dtype) : cpu::Layout(dtype, n, k).bytes;
}

void PackedMatrix::set_rows(int64_t first, TensorView rows, Stream& stream) {
  ensure(is_weight_type(rows.dtype), "rows of weights are float32, bfloat16 or float16");
  ensure(rows.cols() == k_, "a row of weights has k elements");
  ensure(first >= 0 && first + rows.rows() <= n_, "the rows lie inside the matrix");
  ensure(rows.device.kind == DeviceKind::kCpu && stream.device() == device_, "rows come from the host to the matrix");
  if (device_.kind == DeviceKind::kCpu) return cpu::pack_rows(dtype_, buffer_.data(), first, rows);
  store(rows, device_rows(first, rows.rows()), stream);
}

TensorView PackedMatrix::device_rows(int64_t first, int64_t count) {
  ensure(device_.kind == DeviceKind::kCuda, "rows lie one after the other on a GPU");
  return buffer_.view().row_range(first, count);
}

void store(TensorView values, TensorView out, Stream& stream) {
  ensure(values.device.kind == DeviceKind::kCpu && out.device == stream.device(), "values come from the host");
  std::vector<char> converted;
  if (values.dtype != out.dtype) {
    converted.resize(static_cast<size_t>(out.bytes()));
    convert(values, {converted.data(), out.dtype, out.shape, {}});
    values.data = converted.data();
  }
  copy_to_device(values.data, out, stream);
  stream.synchronize();
}

void convert(TensorView values, TensorView out) {
  ensure(values.device.kind == DeviceKind::kCpu && out.device.kind == DeviceKind::kCpu, "both are in host memory");
  ensure(is_weight_type(values.dtype) && is_weight_type(out.dtype) && values.count() == out.count(),
         "there are as many values, of a type of weights");
  cpu::convert(values, out.dtype, out.data);
}

void fill_random(const RandomTensor& tensor, int64_t first_row, int64_t first_col, TensorView out, Stream& stream) {
  ensure(is_activation(out, stream), "what is filled is of a type of weights, float32 on the CPU");
  ensure(first_row >= 0 && first_col >= 0 && first_col + out.cols() <= tensor.cols, "a part lies inside its tensor");
  const float scale = tensor.deviation * 1.7320508f / 32768;  // uniform on (-a, a): a standard deviation of a / sqrt(3)
  const int64_t cols = tensor.cols;
  if (is_on_gpu(stream))
    return impl::cuda_fill_random(out, {tensor.key, cols, first_row, first_col, tensor.mean, scale}, stream);
  const auto fill = [&](int64_t first, int64_t count, float* to) {
    cpu::random_values(tensor.key, tensor.mean, scale, first, count, to);
  };
  float* const to = out.as<float>();
  if (out.cols() == cols) return fill(first_row * cols, out.count(), to);
  for (int64_t row = 0; row < out.rows(); ++row)
    fill((first_row + row) * cols + first_col, out.cols(), to + row * out.cols());
}

DType activation_type(DType weights, Device device) { return device.kind == DeviceKind::kCuda ? weights : DType::kF32; }

void matmul(TensorView x, const PackedMatrix& weight, TensorView bias, TensorView out, Stream& stream) {
  const TraceSpan span("matmul", TraceKind::kMatmul, weight.bytes());
  const DType type = activation_type(weight.dtype(), stream.device());
  ensure(weight.device() == stream.device(), "the weights are where the stream works");
  ensure(fits(x, x.rows(), weight.k(), stream, type), "x is [m, k]");
  ensure(fits(out, x.rows(), weight.n(), stream, type), "out is [m, n]");
  ensure(!bias.data || (bias.dtype == type && bias.count() == weight.n()), "bias is [n]");
  if (is_on_gpu(stream)) return impl::cuda_matmul(x, on_device(weight), bias, out, stream);
  cpu::matmul(isa(), x, weight, bias, out, stream.threads());
}

void matmul_silu_mul(TensorView x, const PackedMatrix& gate_up, TensorView bias, TensorView scratch, TensorView out,
                     Stream& stream) {
  const int64_t f = gate_up.n() / 2;
  if (!is_on_gpu(stream)) {
    matmul(x, gate_up, bias, scratch, stream);
    return silu_mul(scratch, out, stream);
  }
  const TraceSpan span("matmul_silu_mul", TraceKind::kMatmul, gate_up.bytes());
  const DType type = gate_up.dtype();
  ensure(gate_up.device() == stream.device() && gate_up.n() == 2 * f, "the weights are gate and up, on the GPU");
  ensure(fits(x, x.rows(), gate_up.k(), stream, type) && fits(out, x.rows(), f, stream, type),
         "x is [m, k], out [m, f]");
  ensure(fits(scratch, x.rows(), 2 * f, stream, type), "scratch is [m, 2f]");
  ensure(!bias.data || (bias.dtype == type && bias.count() == 2 * f), "bias is [2f]");
  impl::cuda_matmul_silu_mul(x, on_device(gate_up), bias, scratch, out, stream);
}

void embedding(const PackedMatrix& table, TensorView ids, int64_t first_id, TensorView out, Stream& stream) {
  const TraceSpan span("embedding", TraceKind::kOther, out.bytes());
  const int64_t k = table.k();
  ensure(is_list(ids, stream), "ids are int32");
  ensure(fits(out, ids.count(), k, stream, activation_type(table.dtype(), stream.device())), "out is [ids, k]");
  if (is_on_gpu(stream)) return impl::cuda_embedding(on_device(table), ids, first_id, out, stream);
  float* const to = out.as<float>();
  const int32_t* const id = ids.as<int32_t>();
  for_rows(stream, out.rows(), k, [&](int64_t i) {
    const int64_t row = id[i] - first_id;
    if (row >= 0 && row < table.n())
      cpu::unpack_row(table.dtype(), table.data(), k, row, to + i * k);
    else
      std::fill_n(to + i * k, k, 0.0f);
  });
}

void gather_rows(TensorView x, TensorView rows, TensorView out, Stream& stream) {
  const TraceSpan span("gather_rows", TraceKind::kOther, out.bytes());
  ensure(is_list(rows, stream) && is_activation(x, stream), "rows are int32, x is where the stream works");
  ensure(fits(out, rows.count(), x.cols(), stream, x.dtype), "out is [rows, cols of x]");
  if (is_on_gpu(stream)) return impl::cuda_gather_rows(x, rows, out, stream);
  for (int64_t i = 0; i < rows.count(); ++i)
    copy_on_device(x.row_range(rows.as<int32_t>()[i], 1), out.row_range(i, 1), stream);
}

void rms_norm(TensorView x, TensorView gain, float eps, TensorView out, Stream& stream) {
  const TraceSpan span("rms_norm", TraceKind::kOther, out.bytes());
  const int64_t d = x.cols();
  ensure(is_activation(x, stream) && fits(out, x.rows(), d, stream, x.dtype), "x and out are of one shape");
  ensure(gain.dtype == x.dtype && gain.count() == d, "gain is [d]");
  if (is_on_gpu(stream)) return impl::cuda_rms_norm(x, gain, eps, out, stream);
  const float *from = x.as<float>(), *weight = gain.as<float>();
  float* const to = out.as<float>();
  for_rows(stream, x.rows(), d, [&](int64_t row) { cpu::rms_norm_row(from + row * d, weight, eps, d, to + row * d); });
}

void add_rms_norm(TensorView x, TensorView residual, TensorView gain, float eps, TensorView out, Stream& stream) {
  if (!is_on_gpu(stream)) {
    add(residual, x, stream);
    return rms_norm(residual, gain, eps, out, stream);
  }
  const TraceSpan span("add_rms_norm", TraceKind::kOther, out.bytes());
  const int64_t d = x.cols();
  ensure(is_activation(x, stream) && fits(residual, x.rows(), d, stream, x.dtype), "x and residual are of one shape");
  ensure(fits(out, x.rows(), d, stream, x.dtype) && gain.dtype == x.dtype && gain.count() == d, "gain is [d]");
  impl::cuda_add_rms_norm(x, residual, gain, eps, out, stream);
}

void head_rms_norm(TensorView x, int64_t first_col, int64_t num_heads, TensorView gain, float eps, Stream& stream) {
  const TraceSpan span("head_rms_norm", TraceKind::kOther, x.bytes());
  const int64_t cols = x.cols(), d = gain.count();
  ensure(is_activation(x, stream) && gain.dtype == x.dtype, "x and gain are of one type");
  ensure(first_col >= 0 && num_heads >= 0 && first_col + num_heads * d <= cols, "the heads lie inside the row");
  if (is_on_gpu(stream)) return impl::cuda_head_rms_norm(x, first_col, num_heads, gain, eps, stream);
  float* const data = x.as<float>();
  const float* const weight = gain.as<float>();
  for_rows(stream, x.rows(), num_heads * d, [&](int64_t row) {
    float* const heads = data + row * cols + first_col;
    for (int64_t h = 0; h < num_heads; ++h) cpu::rms_norm_row(heads + h * d, weight, eps, d, heads + h * d);
  });
}

void rope_table(TensorView positions, TensorView inv_freq, float scale, TensorView cos_sin, Stream& stream) {
  const TraceSpan span("rope_table", TraceKind::kOther, cos_sin.bytes());
  const int64_t tokens = positions.count(), f = inv_freq.count();
  ensure(is_list(positions, stream), "positions are int32");
  ensure(inv_freq.dtype == DType::kF32 && inv_freq.device == stream.device(), "frequencies are float32");
  ensure(fits(cos_sin, tokens, 2 * f, stream, DType::kF32), "cos_sin is float32 [tokens, 2f]");
  if (is_on_gpu(stream)) return impl::cuda_rope_table(positions, inv_freq, scale, cos_sin, stream);
  float* const to = cos_sin.as<float>();
  const int32_t* const position = positions.as<int32_t>();
  for_rows(stream, tokens, 8 * f, [&](int64_t i) {  // a cosine costs as much as several additions
    cpu::rope_table_row(position[i], inv_freq.as<float>(), f, scale, to + i * 2 * f);
  });
}

void rope(TensorView x, int64_t first_col, int64_t num_heads, int64_t head_dim, TensorView cos_sin, Stream& stream) {
  const TraceSpan span("rope", TraceKind::kOther, x.bytes());
  const int64_t cols = x.cols(), f = cos_sin.cols() / 2;
  ensure(is_activation(x, stream) && fits(cos_sin, x.rows(), 2 * f, stream, DType::kF32),
         "cos_sin is float32 [tokens, 2f]");
  ensure(2 * f <= head_dim, "no more elements are rotated than a head has");
  ensure(first_col >= 0 && num_heads >= 0 && first_col + num_heads * head_dim <= cols, "the heads lie inside the row");
  if (is_on_gpu(stream)) return impl::cuda_rope(x, first_col, num_heads, head_dim, cos_sin, stream);
  float* const data = x.as<float>();
  const float* const table = cos_sin.as<float>();
  for_rows(stream, x.rows(), num_heads * head_dim, [&](int64_t row) {
    float* const heads = data + row * cols + first_col;
    for (int64_t h = 0; h < num_heads; ++h) cpu::rope_head(heads + h * head_dim, table + row * 2 * f, f);
  });
}

void silu_mul(TensorView gate_up, TensorView out, Stream& stream) {
  const TraceSpan span("silu_mul", TraceKind::kOther, out.bytes());
  const int64_t f = out.cols();
  ensure(is_activation(out, stream) && fits(gate_up, out.rows(), 2 * f, stream, out.dtype),
         "gate_up is [m, 2f], out [m, f]");
  if (is_on_gpu(stream)) return impl::cuda_silu_mul(gate_up, out, stream);
  const float* const from = gate_up.as<float>();
  float* const to = out.as<float>();
  for_pieces(stream, out.rows(), f, [&](int64_t row, int64_t first, int64_t count) {
    const float* const gate = from + row * 2 * f + first;
    cpu::silu_mul_row(gate, gate + f, count, to + row * f + first);
  });
}

void add(TensorView inout, TensorView x, Stream& stream) {
  const TraceSpan span("add", TraceKind::kOther, inout.bytes());
  ensure(is_activation(inout, stream) && fits(x, inout.rows(), inout.cols(), stream, inout.dtype),
         "both are of one shape");
  if (is_on_gpu(stream)) return impl::cuda_add(inout, x, stream);
  float* const to = inout.as<float>();
  const float* const from = x.as<float>();
  stream.threads().parallel_for(inout.count(), 2 * kGrain, [&](int64_t begin, int64_t end) {
    cpu::add_row(to + begin, from + begin, end - begin);
  });
}

std::string_view cpu_isa() { return isa().name; }

}  // namespace lane::kernels
