#include "lane/net/vectors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::net {
namespace {

constexpr std::array<std::string_view, 5> kOpNames = {"sum", "max", "min", "prod", "avg"};
constexpr std::array kSummable = {DType::kF32, DType::kBF16, DType::kF16, DType::kI32};
constexpr int64_t kMostChecked = int64_t{1} << 24;  // contributions; more would take longer than what is measured

// As ranks put it in, exactly: rounded to the type.
double contribution(DType dtype, ReduceOp op, int rank, int64_t i, uint64_t seed) {
  const auto key = static_cast<uint64_t>(rank) + 100 + (seed << 32), counter = static_cast<uint64_t>(i);
  const double uniform = random_uniform(key, counter) - 0.5;
  if (dtype == DType::kI32) return std::floor(uniform * (op == ReduceOp::kProd ? 6 : 2e8));
  const double scale = 1 << (mix64(counter) % 8);
  const auto value = static_cast<float>(op == ReduceOp::kProd ? 1 + uniform : uniform * scale);
  if (dtype == DType::kBF16) return float_from_bf16(bf16_from_float(value));
  if (dtype == DType::kF16) return float_from_f16(f16_from_float(value));
  return value;
}

double value_of(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  if (dtype == DType::kI32) return static_cast<const int32_t*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? float_from_bf16(bits) : float_from_f16(bits);
}

int32_t as_int(uint32_t bits) { return static_cast<int32_t>(bits); }

// The bound is derived in tests/comm/collectives_test.cc: |error| <= (n-1) 2^-24 sum |x| for float32 sums in any order,
// for products (n-1) 2^-24 |product| to first order, and half a unit of the type for the rounding at the end.
bool is_right(DType dtype, ReduceOp op, int num_ranks, double got, int64_t i, Rounding rounding, uint64_t seed) {
  const double unit = dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
  const double step = rounding == Rounding::kEveryStep ? unit : 0x1p-24;
  const double tiny = dtype == DType::kF16 ? 0x1p-25 : 0;  // half of its smallest step
  const double n = num_ranks;
  double sum = 0, magnitude = 0, product = 1, largest = -INFINITY, smallest = INFINITY;
  uint32_t bits = 0, product_bits = 1;
  for (int rank = 0; rank < num_ranks; ++rank) {
    const double x = contribution(dtype, op, rank, i, seed);
    sum += x, magnitude += std::abs(x), product *= x;
    largest = std::max(largest, x), smallest = std::min(smallest, x);
    if (dtype != DType::kI32) continue;
    bits += static_cast<uint32_t>(static_cast<int32_t>(x));
    product_bits *= static_cast<uint32_t>(static_cast<int32_t>(x));
  }
  if (op == ReduceOp::kMax) return got == largest;
  if (op == ReduceOp::kMin) return got == smallest;
  if (dtype == DType::kI32)
    return got == (op == ReduceOp::kProd  ? as_int(product_bits)
                   : op == ReduceOp::kAvg ? as_int(bits) / num_ranks
                                          : as_int(bits));
  double wanted = op == ReduceOp::kProd ? product : sum;
  double allowed = n * step * (op == ReduceOp::kProd ? std::abs(product) : magnitude) * 1.01;
  if (op == ReduceOp::kAvg) wanted /= n, allowed = allowed / n + step * std::abs(wanted);
  allowed += unit * (std::abs(wanted) + allowed) * 1.01 + tiny * (rounding == Rounding::kEveryStep ? n : 1);
  return std::abs(got - wanted) <= allowed;
}

}  // namespace

std::string_view name_of(ReduceOp op) { return kOpNames[static_cast<size_t>(op)]; }

ReduceOp reduce_op_from_name(std::string_view name) {
  const auto found = std::find(kOpNames.begin(), kOpNames.end(), name);
  if (found == kOpNames.end())
    throw Error(ErrorCode::kInvalidArgument,
                "there is no operation \"" + std::string(name) + "\"; known: sum, max, min, prod, avg");
  return static_cast<ReduceOp>(found - kOpNames.begin());
}

DType summable_from_name(std::string_view name) {
  for (const DType dtype : kSummable)
    if (lane::name_of(dtype) == name) return dtype;
  throw Error(ErrorCode::kInvalidArgument,
              "\"" + std::string(name) + "\" is no type that is added up; known: float32, bfloat16, float16, int32");
}

void fill(DType dtype, ReduceOp op, int rank, int64_t count, void* out, uint64_t seed) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = contribution(dtype, op, rank, i, seed);
    const auto narrow = static_cast<float>(value);
    if (dtype == DType::kF32)
      static_cast<float*>(out)[i] = narrow;
    else if (dtype == DType::kI32)
      static_cast<int32_t*>(out)[i] = static_cast<int32_t>(value);
    else
      static_cast<uint16_t*>(out)[i] = dtype == DType::kBF16 ? bf16_from_float(narrow) : f16_from_float(narrow);
  }
}

int64_t count_wrong(DType dtype, ReduceOp op, int num_ranks, const void* got, int64_t count, Rounding rounding,
                    uint64_t seed) {
  // Parts of a vector go different ways and end anywhere, so both ends are looked at closely and a prime stride
  // falls into every part.
  constexpr int64_t kEnds = 4096, kStrides[] = {1, 3, 7, 17, 37, 79, 163, 331, 673, 1361};
  int64_t stride = 1, num_wrong = 0;
  for (const int64_t candidate : kStrides) {
    stride = candidate;
    if (count * num_ranks / stride <= kMostChecked) break;
  }
  for (int64_t i = 0; i < count; i += i < kEnds || i + stride >= count - kEnds ? 1 : stride)
    if (!is_right(dtype, op, num_ranks, value_of(dtype, got, i), i, rounding, seed)) ++num_wrong;
  return num_wrong;
}

// The sum is as far off as is_right() allows a sum to be, and rounded before or after the residual is added; the norm
// is taken of a residual that is as far off, and rounded twice. `unit` is half of the type's smallest step near one.
int64_t count_wrong_norm(DType dtype, int num_ranks, const void* residual, const void* normed, int64_t rows,
                         int64_t hidden, float epsilon, Rounding rounding, uint64_t seed) {
  const double unit = dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
  const double step = rounding == Rounding::kEveryStep ? unit : 0x1p-24;
  int64_t num_wrong = 0;
  std::vector<double> wanted(static_cast<size_t>(hidden)), allowed(wanted.size());
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0, slack = 0;
    for (int64_t col = 0; col < hidden; ++col) {
      const int64_t i = row * hidden + col;
      double sum = 0, magnitude = 0;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const double x = contribution(dtype, ReduceOp::kSum, rank, i, seed);
        sum += x, magnitude += std::abs(x);
      }
      const double before = contribution(dtype, ReduceOp::kSum, 0, i, kResidualSeed), total = before + sum;
      const double error =
          num_ranks * step * magnitude * 1.01 + unit * (std::abs(sum) + std::abs(total)) * 1.1 + (unit * unit);
      wanted[static_cast<size_t>(col)] = total, allowed[static_cast<size_t>(col)] = error;
      squares += total * total, slack += 2 * std::abs(total) * error + error * error;
      if (!(std::abs(value_of(dtype, residual, i) - total) <= error)) ++num_wrong;
    }
    const double mean = squares / static_cast<double>(hidden) + epsilon, scale = 1 / std::sqrt(mean);
    const double scale_off = slack / static_cast<double>(hidden) / mean;  // relative, half of it to first order
    for (int64_t col = 0; col < hidden; ++col) {
      const double weight = contribution(dtype, ReduceOp::kProd, 0, col, kWeightSeed);
      const double total = wanted[static_cast<size_t>(col)], right = total * scale * weight;
      const double error = allowed[static_cast<size_t>(col)] * scale * std::abs(weight) * (1 + scale_off) +
                           std::abs(right) * (scale_off + 3 * unit + hidden * 0x1p-24) + unit * unit;
      if (!(std::abs(value_of(dtype, normed, row * hidden + col) - right) <= error)) ++num_wrong;
    }
  }
  return num_wrong;
}

uint64_t fingerprint(const void* data, int64_t bytes) {
  uint64_t hash = static_cast<uint64_t>(bytes), word = 0;
  const auto* at = static_cast<const char*>(data);
  for (; bytes >= 8; bytes -= 8, at += 8) {
    std::memcpy(&word, at, 8);
    hash = mix64(hash ^ word);
  }
  word = 0;
  std::memcpy(&word, at, static_cast<size_t>(bytes));
  return mix64(hash ^ word);
}

}  // namespace lane::net
