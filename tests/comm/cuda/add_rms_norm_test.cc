// All-reduce, residual add and RMSNorm as one kernel, against the same in double precision.
#include <cmath>

#include "tests/comm/cuda/sum_cases.h"

namespace lane::forked {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr int64_t kMostRows = 64, kMostHidden = 8192;

class Norms {
 public:
  explicit Norms(Rank& rank)
      : rank_(rank),
        in_(rank.device, kMost),
        residual_(rank.device, kMost),
        weight_(rank.device, kMostHidden * 4),
        normed_(rank.device, kMost) {}

  void check(DType dtype, int64_t rows, int64_t hidden, float fp8_scale, uint64_t seed) {
    const int64_t count = rows * hidden;
    const TensorView in = part_of(in_, dtype, 0, count), residual = part_of(residual_, dtype, 0, count);
    const TensorView weight = part_of(weight_, dtype, 0, hidden);
    const TensorView normed = part_of(normed_, fp8_scale == 0 ? dtype : DType::kU8, 0, count);
    give(in, ReduceOp::kSum, rank_.rank, seed);
    give(residual, ReduceOp::kSum, 0, net::kResidualSeed);
    give(weight, ReduceOp::kProd, 0, net::kWeightSeed);
    fill_bytes(normed_, 0xff, normed.bytes() + 64, rank_.stream);
    rank_.group.all_reduce_add_rms_norm(rows_of(in, rows), rows_of(residual, rows), weight, kEpsilon,
                                        rows_of(normed, rows), rank_.stream, fp8_scale);
    rank_.group.wait(rank_.stream);
    const auto sums = on_host<std::byte>(residual, rank_.stream), seen = on_host<std::byte>(normed, rank_.stream);
    if (fp8_scale == 0)
      require(net::count_wrong_norm(dtype, rank_.size, sums.data(), seen.data(), rows, hidden, kEpsilon,
                                    net::Rounding::kOnce, seed) == 0,
              "it is wrong");
    else
      check_fp8(dtype, rows, hidden, fp8_scale, sums, seen);
    const auto behind = on_host<uint8_t>(part_of(normed_, DType::kU8, normed.bytes(), 64), rank_.stream);
    for (const uint8_t byte : behind) require(byte == 0xff, "bytes behind the end are written");
    rank_.all_agree_on(net::fingerprint(sums.data(), residual.bytes()), "the residual");
    rank_.all_agree_on(net::fingerprint(seen.data(), normed.bytes()), "the norm");
  }

 private:
  static constexpr int64_t kMost = kMostRows * kMostHidden * 4 + 64;

  void give(const TensorView& to, ReduceOp op, int as_rank, uint64_t seed) {
    std::vector<std::byte> bytes(static_cast<size_t>(to.bytes()));
    net::fill(to.dtype, op, as_rank, to.count(), bytes.data(), seed);
    copy_to_device(bytes.data(), to, rank_.stream);
  }

  // A byte of 1, 4 and 3 bits; 0x7f is NaN.
  static double from_e4m3(uint8_t byte) {
    const int exponent = byte >> 3 & 15, mantissa = byte & 7;
    if ((byte & 0x7f) == 0x7f) return NAN;
    const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    return byte >> 7 != 0 ? -size : size;
  }

  // Of the residual as it is: half a step of three bits, or of the smallest numbers.
  void check_fp8(DType dtype, int64_t rows, int64_t hidden, float scale, const std::vector<std::byte>& sums,
                 const std::vector<std::byte>& seen) {
    std::vector<std::byte> weights(static_cast<size_t>(hidden * size_of(dtype)));
    net::fill(dtype, ReduceOp::kProd, 0, hidden, weights.data(), net::kWeightSeed);
    for (int64_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (int64_t i = row * hidden; i < (row + 1) * hidden; ++i)
        squares += std::pow(value_at(dtype, sums.data(), i), 2);
      const double factor = scale / std::sqrt(squares / static_cast<double>(hidden) + kEpsilon);
      for (int64_t col = 0; col < hidden; ++col) {
        const int64_t i = row * hidden + col;
        const double exact = value_at(dtype, sums.data(), i) * factor * value_at(dtype, weights.data(), col);
        const double wanted = std::clamp(exact, -448.0, 448.0);
        const double got = from_e4m3(static_cast<uint8_t>(seen[static_cast<size_t>(i)]));
        require(std::abs(got - wanted) <= std::abs(wanted) * (0x1p-4 + 1e-4) + 0x1p-10,
                fmt::format("{} at [{}, {}], not {}", got, row, col, wanted));
      }
    }
  }

  Rank& rank_;
  Buffer in_, residual_, weight_, normed_;
};

void check_norms(Rank& rank) {
  Norms norms(rank);
  uint64_t seed = 0;
  for (const char* algorithm : {"one_shot", "two_shot", "auto"}) {
    rank.group.set_device_algorithm(algorithm);
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
      for (const int64_t hidden : {256, 4096, 8192})
        for (const int64_t rows : {1, 3, 16, 64})
          for (const float fp8_scale : {0.0f, 16.0f, 300.0f}) {
            if (rank.is_crowded && (dtype != DType::kBF16 || rows == 64 || fp8_scale == 300)) continue;
            if (dtype != DType::kBF16 && (rows == 16 || fp8_scale == 300)) continue;  // in less time
            rank.doing =
                fmt::format("{} of [{}, {}] {}, fp8 scale {}", algorithm, rows, hidden, name_of(dtype), fp8_scale);
            norms.check(dtype, rows, hidden, fp8_scale, ++seed);
          }
  }
}

TEST(GpuAddRmsNorm, IsRightAmongTwo) { expect_good({.ranks = 2}, check_norms); }
TEST(GpuAddRmsNorm, IsRightAmongThree) { expect_good({.ranks = 3}, check_norms); }
TEST(GpuAddRmsNorm, IsRightAmongFour) { expect_good({.ranks = 4}, check_norms); }

// Rows of any number of lines, more of them than fit at once, between operations of other kinds.
TEST(GpuAddRmsNorm, IsRightInOddShapesAndBetweenOthers) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    Norms norms(rank);
    SumCases sums(rank, 10'000);
    uint64_t seed = 0;
    for (const auto& [rows, hidden] : {std::pair{1, 8}, {5, 24}, {200, 1032}, {64, 2880}, {7, 7168}}) {
      if (rank.is_crowded && rows > 10) continue;
      for (const char* algorithm : {"one_shot", "two_shot"}) {
        rank.group.set_device_algorithm(algorithm);
        rank.doing = fmt::format("{} of [{}, {}]", algorithm, rows, hidden);
        norms.check(DType::kBF16, rows, hidden, 0, ++seed);
        sums.check({algorithm, DType::kF32, ReduceOp::kSum, 1 + 37 * rows, 0, 0, false, ++seed});
      }
    }
  });
}

// The residual is what all_reduce and an addition give, bit for bit: the sum is rounded first.
TEST(GpuAddRmsNorm, RoundsTheSumBeforeItAddsTheResidual) {
  expect_good({.ranks = 3}, [](Rank& rank) {
    constexpr int64_t kRows = 4, kHidden = 1024, kCount = kRows * kHidden;
    const Buffer in(rank.device, kCount * 2), sum(rank.device, kCount * 2), residual(rank.device, kCount * 2),
        weight(rank.device, kHidden * 2), normed(rank.device, kCount * 2);
    std::vector<uint16_t> mine(kCount), before(kCount);
    net::fill(DType::kBF16, ReduceOp::kSum, rank.rank, kCount, mine.data());
    net::fill(DType::kBF16, ReduceOp::kSum, 0, kCount, before.data(), net::kResidualSeed);
    const auto view = [&](const Buffer& of) { return rows_of(part_of(of, DType::kBF16, 0, kCount), kRows); };
    for (const char* algorithm : {"one_shot", "two_shot"}) {
      rank.doing = algorithm;
      rank.group.set_device_algorithm(algorithm);
      copy_to_device(mine.data(), view(in), rank.stream);
      copy_to_device(before.data(), view(residual), rank.stream);
      fill_bytes(weight, 0x3c, weight.bytes(), rank.stream);
      rank.group.all_reduce(view(in), view(sum), ReduceOp::kSum, rank.stream);
      rank.group.all_reduce_add_rms_norm(view(in), view(residual), part_of(weight, DType::kBF16, 0, kHidden), kEpsilon,
                                         view(normed), rank.stream);
      rank.group.wait(rank.stream);
      const auto sums = on_host<uint16_t>(view(sum), rank.stream),
                 after = on_host<uint16_t>(view(residual), rank.stream);
      for (size_t i = 0; i < sums.size(); ++i)
        require(after[i] == bf16_from_float(float_from_bf16(sums[i]) + float_from_bf16(before[i])),
                fmt::format("other bits at {}", i));
    }
  });
}

TEST(GpuAddRmsNorm, RefusesShapesThatItHasNoKernelFor) {
  expect_good({.ranks = 2}, [](Rank& rank) {
    const Buffer memory(rank.device, 1 << 20);
    const auto at = [&](int64_t first, int64_t rows, int64_t hidden) {
      return rows_of(part_of(memory, DType::kBF16, first, rows * hidden), rows);
    };
    for (const int64_t hidden : {1, 7, 100, 65536 + 8}) {
      rank.doing = fmt::format("rows of {}", hidden);
      try {
        rank.group.all_reduce_add_rms_norm(at(0, 1, hidden), at(70'000, 1, hidden),
                                           part_of(memory, DType::kBF16, 140'000, hidden), kEpsilon,
                                           at(210'000, 1, hidden), rank.stream);
        require(false, "it is not refused");
      } catch (const Error& error) {
        require(error.code() == ErrorCode::kUnsupported, error.what());
      }
    }
    rank.group.barrier(rank.stream);
    rank.group.wait(rank.stream);
  });
}

}  // namespace
}  // namespace lane::forked
