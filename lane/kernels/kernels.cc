#include "lane/kernels/kernels.h"

#include <algorithm>

#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/kernels/cpu/elementwise.h"
#include "lane/kernels/cpu/isa.h"
#include "lane/kernels/cpu/layout.h"
#include "lane/kernels/cpu/packed_matrix.h"

// Checks shapes and cuts the work into pieces for the threads of the stream; the arithmetic is in cpu/.
namespace lane::kernels {
namespace {

constexpr int64_t kGrain = 8192;  // elements a thread takes at least: about what it computes while another wakes up

bool is_weight_type(DType type) { return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16; }

void require_cpu(Device device) {
  if (device.kind != DeviceKind::kCpu)
    throw Error(ErrorCode::kUnsupported, "these kernels run on the CPU only; this build has no CUDA kernels");
}

bool fits(const TensorView& t, int64_t rows, int64_t cols) {
  return t.dtype == DType::kF32 && t.rows() == rows && t.cols() == cols;
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
  require_cpu(device);
  buffer_ = Buffer(device, cpu::Layout(dtype, n, k).bytes);
}

void PackedMatrix::set_rows(int64_t first, TensorView rows) {
  ensure(is_weight_type(rows.dtype), "rows of weights are float32, bfloat16 or float16");
  ensure(rows.cols() == k_, "a row of weights has k elements");
  ensure(first >= 0 && first + rows.rows() <= n_, "the rows lie inside the matrix");
  require_cpu(rows.device);
  cpu::pack_rows(dtype_, buffer_.data(), first, rows);
}

void matmul(TensorView x, const PackedMatrix& weight, TensorView bias, TensorView out, Stream& stream) {
  const TraceSpan span("matmul", TraceKind::kMatmul, weight.bytes());
  ensure(x.cols() == weight.k() && fits(x, x.rows(), weight.k()), "x is float32 [m, k]");
  ensure(fits(out, x.rows(), weight.n()), "out is float32 [m, n]");
  ensure(!bias.data || (bias.dtype == DType::kF32 && bias.count() == weight.n()), "bias is float32 [n]");
  require_cpu(stream.device());
  cpu::matmul(isa(), x, weight, bias, out, stream.threads());
}

void embedding(const PackedMatrix& table, std::span<const int32_t> ids, int64_t first_id, TensorView out,
               Stream& stream) {
  const TraceSpan span("embedding", TraceKind::kOther, out.bytes());
  const int64_t k = table.k();
  ensure(fits(out, static_cast<int64_t>(ids.size()), k), "out is float32 [ids, k]");
  require_cpu(stream.device());
  float* const to = out.as<float>();
  for_rows(stream, out.rows(), k, [&](int64_t i) {
    const int64_t row = ids[static_cast<size_t>(i)] - first_id;
    if (row >= 0 && row < table.n())
      cpu::unpack_row(table.dtype(), table.data(), k, row, to + i * k);
    else
      std::fill_n(to + i * k, k, 0.0f);
  });
}

void rms_norm(TensorView x, TensorView gain, float eps, TensorView out, Stream& stream) {
  const TraceSpan span("rms_norm", TraceKind::kOther, out.bytes());
  const int64_t d = x.cols();
  ensure(fits(x, x.rows(), d) && fits(out, x.rows(), d), "x and out are float32 of one shape");
  ensure(gain.dtype == DType::kF32 && gain.count() == d, "gain is float32 [d]");
  require_cpu(stream.device());
  const float *from = x.as<float>(), *weight = gain.as<float>();
  float* const to = out.as<float>();
  for_rows(stream, x.rows(), d, [&](int64_t row) { cpu::rms_norm_row(from + row * d, weight, eps, d, to + row * d); });
}

void head_rms_norm(TensorView x, int64_t first_col, int64_t num_heads, TensorView gain, float eps, Stream& stream) {
  const TraceSpan span("head_rms_norm", TraceKind::kOther, x.bytes());
  const int64_t cols = x.cols(), d = gain.count();
  ensure(x.dtype == DType::kF32 && gain.dtype == DType::kF32, "x and gain are float32");
  ensure(first_col >= 0 && num_heads >= 0 && first_col + num_heads * d <= cols, "the heads lie inside the row");
  require_cpu(stream.device());
  float* const data = x.as<float>();
  const float* const weight = gain.as<float>();
  for_rows(stream, x.rows(), num_heads * d, [&](int64_t row) {
    float* const heads = data + row * cols + first_col;
    for (int64_t h = 0; h < num_heads; ++h) cpu::rms_norm_row(heads + h * d, weight, eps, d, heads + h * d);
  });
}

void rope_table(std::span<const int32_t> positions, std::span<const float> inv_freq, float scale, TensorView cos_sin,
                Stream& stream) {
  const TraceSpan span("rope_table", TraceKind::kOther, cos_sin.bytes());
  const auto tokens = static_cast<int64_t>(positions.size()), f = static_cast<int64_t>(inv_freq.size());
  ensure(fits(cos_sin, tokens, 2 * f), "cos_sin is float32 [tokens, 2f]");
  require_cpu(stream.device());
  float* const to = cos_sin.as<float>();
  for_rows(stream, tokens, 8 * f, [&](int64_t i) {  // a cosine costs as much as several additions
    cpu::rope_table_row(positions[static_cast<size_t>(i)], inv_freq.data(), f, scale, to + i * 2 * f);
  });
}

void rope(TensorView x, int64_t first_col, int64_t num_heads, int64_t head_dim, TensorView cos_sin, Stream& stream) {
  const TraceSpan span("rope", TraceKind::kOther, x.bytes());
  const int64_t cols = x.cols(), f = cos_sin.cols() / 2;
  ensure(x.dtype == DType::kF32 && fits(cos_sin, x.rows(), 2 * f), "x is float32, cos_sin float32 [tokens, 2f]");
  ensure(2 * f <= head_dim, "no more elements are rotated than a head has");
  ensure(first_col >= 0 && num_heads >= 0 && first_col + num_heads * head_dim <= cols, "the heads lie inside the row");
  require_cpu(stream.device());
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
  ensure(fits(out, out.rows(), f) && fits(gate_up, out.rows(), 2 * f), "gate_up is float32 [m, 2f], out [m, f]");
  require_cpu(stream.device());
  const float* const from = gate_up.as<float>();
  float* const to = out.as<float>();
  for_pieces(stream, out.rows(), f, [&](int64_t row, int64_t first, int64_t count) {
    const float* const gate = from + row * 2 * f + first;
    cpu::silu_mul_row(gate, gate + f, count, to + row * f + first);
  });
}

void add(TensorView inout, TensorView x, Stream& stream) {
  const TraceSpan span("add", TraceKind::kOther, inout.bytes());
  ensure(fits(x, inout.rows(), inout.cols()) && inout.dtype == DType::kF32, "both are float32 of one shape");
  require_cpu(stream.device());
  float* const to = inout.as<float>();
  const float* const from = x.as<float>();
  stream.threads().parallel_for(inout.count(), 2 * kGrain, [&](int64_t begin, int64_t end) {
    cpu::add_row(to + begin, from + begin, end - begin);
  });
}

std::string_view cpu_isa() { return isa().name; }

}  // namespace lane::kernels
