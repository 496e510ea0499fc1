// Values at the edges of a type, and sums whose bits depend on nothing but their terms.
#include <bit>
#include <cmath>

#include "tests/comm/cuda/sum_cases.h"

namespace lane::forked {
namespace {

constexpr int64_t kCount = 1003;

float combined(ReduceOp op, float a, float b) {
  if (op == ReduceOp::kMax) return std::fmax(a, b);
  if (op == ReduceOp::kMin) return std::fmin(a, b);
  return op == ReduceOp::kProd ? a * b : a + b;
}
float rounded(DType dtype, float value) {
  if (dtype == DType::kF32) return value;
  return dtype == DType::kF16 ? float_from_f16(f16_from_float(value)) : float_from_bf16(bf16_from_float(value));
}

// What an element of a rank is, as its bits in the type.
using Bits = std::function<uint32_t(DType dtype, int rank, int64_t i)>;

float float_of(DType dtype, uint32_t bits) {
  if (dtype == DType::kF32) return std::bit_cast<float>(bits);
  const auto narrow = static_cast<uint16_t>(bits);
  return dtype == DType::kF16 ? float_from_f16(narrow) : float_from_bf16(narrow);
}

// In rank order, each step in float32: all of it is exact but for the sign of a zero.
float expected(DType dtype, ReduceOp op, int size, int64_t i, const Bits& bits) {
  float sum = float_of(dtype, bits(dtype, 0, i));
  for (int r = 1; r < size; ++r) sum = combined(op, sum, float_of(dtype, bits(dtype, r, i)));
  return rounded(dtype, op == ReduceOp::kAvg ? sum / static_cast<float>(size) : sum);
}

std::vector<std::byte> bytes_of(DType dtype, int rank, const Bits& bits) {
  std::vector<std::byte> bytes(static_cast<size_t>(kCount * size_of(dtype)));
  for (int64_t i = 0; i < kCount; ++i) {
    const uint32_t word = bits(dtype, rank, i);
    std::memcpy(bytes.data() + i * size_of(dtype), &word, static_cast<size_t>(size_of(dtype)));
  }
  return bytes;
}

struct Vectors {
  explicit Vectors(const Rank& rank) : in(rank.device, kCount * 4), out(rank.device, kCount * 4) {}
  Buffer in, out;
};

void check_values(Rank& rank, const Vectors& vectors, DType dtype, ReduceOp op, const Bits& bits) {
  const TensorView in = part_of(vectors.in, dtype, 0, kCount), out = part_of(vectors.out, dtype, 0, kCount);
  const auto given = bytes_of(dtype, rank.rank, bits);
  copy_to_device(given.data(), in, rank.stream);
  fill_bytes(vectors.out, 0x5a, vectors.out.bytes(), rank.stream);
  rank.group.all_reduce(in, out, op, rank.stream);
  rank.group.wait(rank.stream);
  const auto seen = on_host<std::byte>(out, rank.stream);
  for (int64_t i = 0; i < kCount; ++i) {
    const float got = value_at(dtype, seen.data(), i), wanted = expected(dtype, op, rank.size, i, bits);
    require(got == wanted || (std::isnan(got) && std::isnan(wanted)), fmt::format("{} at {}, not {}", got, i, wanted));
  }
  rank.all_agree_on(net::fingerprint(seen.data(), static_cast<int64_t>(seen.size())), "the result");
}

struct Pattern {
  std::string name;
  std::vector<ReduceOp> ops;
  Bits bits;
};

void check_everywhere(const std::vector<Pattern>& patterns) {
  for (const int ranks : {3, 4})
    expect_good({.ranks = ranks}, [&](Rank& rank) {
      const Vectors vectors(rank);
      for (const std::string& algorithm : exact_algorithms(rank)) {
        rank.group.set_device_algorithm(algorithm);
        for (const auto& [name, ops, bits] : patterns)
          for (const DType dtype : kSummedTypes)
            for (const ReduceOp op : ops) {
              rank.doing = fmt::format("{} by {} ({} of {})", name, algorithm, net::name_of(op), name_of(dtype));
              check_values(rank, vectors, dtype, op, bits);
            }
      }
    });
}

const std::vector<ReduceOp> kEveryOp(kAllOps.begin(), kAllOps.end());

uint32_t bits_of(DType dtype, float value) {
  if (dtype == DType::kF32) return std::bit_cast<uint32_t>(value);
  return dtype == DType::kF16 ? f16_from_float(value) : bf16_from_float(value);
}

TEST(GpuValues, Zeros) {
  check_everywhere({{"zeros", kEveryOp, [](DType, int, int64_t) { return 0u; }}});
}

TEST(GpuValues, MinusZeros) {
  check_everywhere({{"minus zeros", kEveryOp, [](DType dtype, int, int64_t) { return bits_of(dtype, -0.0f); }}});
}

// Words of 0x80000000 mean that nothing has arrived; as data they must.
uint32_t empty_word(DType dtype, int64_t i) { return dtype == DType::kF32 ? 0x80000000u : i % 2 == 0 ? 0u : 0x8000u; }

TEST(GpuValues, WordsThatMeanEmpty) {
  check_everywhere({{"empty words", kEveryOp, [](DType dtype, int, int64_t i) { return empty_word(dtype, i); }},
                    {"empty words of all but one", kEveryOp,
                     [](DType dtype, int rank, int64_t i) {
                       return rank == 1 ? bits_of(dtype, static_cast<float>(i % 9)) : empty_word(dtype, i);
                     }},
                    {"some empty words", kEveryOp, [](DType dtype, int rank, int64_t i) {
                       return (i / 2 + rank) % 3 == 0 ? empty_word(dtype, i)
                                                      : bits_of(dtype, static_cast<float>(1 + rank));
                     }}});
}

// Sums that cancel out: the words of a result may be empty ones, too.
TEST(GpuValues, SumsThatVanish) {
  check_everywhere({{"sums that vanish", {ReduceOp::kSum, ReduceOp::kAvg}, [](DType dtype, int rank, int64_t i) {
                       const float value = static_cast<float>(1 + i % 7);
                       return bits_of(dtype, rank == 0 ? -value : rank == 1 ? value : -0.0f);
                     }}});
}

TEST(GpuValues, Subnormals) {
  check_everywhere(
      {{"subnormals",
        {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin},
        [](DType, int rank, int64_t i) { return static_cast<uint32_t>(1 + rank + i % 5); }},
       {"negative subnormals", {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}, [](DType dtype, int rank, int64_t i) {
          return bits_of(dtype, -0.0f) | static_cast<uint32_t>(rank + i % 5);
        }}});
}

TEST(GpuValues, Infinities) {
  check_everywhere(
      {{"an infinity", kEveryOp,
        [](DType dtype, int rank, int64_t i) {
          return bits_of(dtype, rank == i % 3 ? (i % 2 == 0 ? INFINITY : -INFINITY) : 2.0f);
        }},
       {"opposite infinities",
        {ReduceOp::kSum, ReduceOp::kAvg, ReduceOp::kMax, ReduceOp::kMin},
        [](DType dtype, int rank, int64_t) { return bits_of(dtype, rank % 2 == 0 ? INFINITY : -INFINITY); }}});
}

TEST(GpuValues, SumsThatOverflow) {
  check_everywhere({{"overflow", {ReduceOp::kSum, ReduceOp::kProd}, [](DType dtype, int, int64_t i) {
                       const float most = dtype == DType::kF16 ? 65504.0f : 0x1.fep127f;
                       return bits_of(dtype, i % 2 == 0 ? most : -most);
                     }}});
}

constexpr uint32_t kNans[][3] = {
    {0x7fc00000, 0x7fc0, 0x7e00}, {0xffffffff, 0xffff, 0xffff}, {0x7f800001, 0x7f81, 0x7c01}};
uint32_t nan_or_number(DType dtype, int rank, int64_t i) {
  const auto type = static_cast<size_t>(dtype);
  return rank == i % 4 ? kNans[i % 3][type] : bits_of(dtype, 1.0f);
}

TEST(GpuValues, NotANumberStaysOne) {
  check_everywhere({{"NaN", {ReduceOp::kSum, ReduceOp::kAvg, ReduceOp::kProd}, nan_or_number}});
}

// As on the CPU.
TEST(GpuValues, NotANumberIsTheLargestAndTheSmallest) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    const Vectors vectors(rank);
    for (const DType dtype : kSummedTypes)
      for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kMin}) {
        rank.doing = fmt::format("{} of {}", net::name_of(op), name_of(dtype));
        const auto given = bytes_of(dtype, rank.rank, nan_or_number);
        const TensorView view = part_of(vectors.in, dtype, 0, kCount);
        copy_to_device(given.data(), view, rank.stream);
        rank.group.all_reduce(view, view, op, rank.stream);
        rank.group.wait(rank.stream);
        const auto seen = on_host<std::byte>(view, rank.stream);
        for (int64_t i = 0; i < kCount; ++i)
          require(std::isnan(value_at(dtype, seen.data(), i)), fmt::format("NaN is lost at {}", i));
      }
  });
}

// The bits of a sum of `rows` rows of a matrix that all ranks have, with the first of them at `first`.
std::vector<std::byte> summed_rows(Rank& rank, const Buffer& in, const Buffer& out, int64_t first, int64_t rows,
                                   int64_t hidden) {
  const TensorView from = part_of(in, DType::kBF16, first * hidden, rows * hidden);
  const TensorView to = part_of(out, DType::kBF16, 0, rows * hidden);
  fill_bytes(out, 0xff, to.bytes(), rank.stream);
  rank.group.all_reduce(from, to, ReduceOp::kSum, rank.stream);
  rank.group.wait(rank.stream);
  return on_host<std::byte>(to, rank.stream);
}

// However a row is summed, alone or with others, by whichever algorithm: the same bits.
void check_one_order(Rank& rank) {
  constexpr int64_t kRows = 64, kHidden = 4096, kRowBytes = 2 * kHidden;
  const Buffer in(rank.device, kRows * kRowBytes), out(rank.device, kRows * kRowBytes);
  std::vector<std::byte> given(static_cast<size_t>(in.bytes()));
  net::fill(DType::kBF16, ReduceOp::kSum, rank.rank, kRows * kHidden, given.data());
  copy_to_device(given.data(), part_of(in, DType::kBF16, 0, kRows * kHidden), rank.stream);
  rank.group.set_device_algorithm("one_shot");
  const auto wanted = summed_rows(rank, in, out, 0, kRows, kHidden);
  rank.group.keep_one_order();  // of what `auto` chooses
  for (const std::string algorithm : {"one_shot", "two_shot", "auto"}) {
    rank.group.set_device_algorithm(algorithm);
    for (const int64_t rows : {1, 3, 16, 64})
      for (int64_t first = 0; first + rows <= kRows; first += std::max<int64_t>(rows, rank.is_crowded ? 30 : 1)) {
        rank.doing = fmt::format("rows {} to {} by {}", first, first + rows - 1, algorithm);
        const auto seen = summed_rows(rank, in, out, first, rows, kHidden);
        require(std::memcmp(seen.data(), wanted.data() + first * kRowBytes, seen.size()) == 0, "other bits");
      }
  }
}

TEST(GpuOneOrder, OfRowsAloneAndTogether) {
  for (const int ranks : {2, 3, 4}) expect_good({.ranks = ranks}, check_one_order);
}

// Every run gives the bits that the run before gave.
TEST(GpuOneOrder, OnNodesFromRunToRun) {
  for (const char* fabric : {"p2p", "proxy"})
    expect_good({.ranks = 4, .nodes = 2, .fabric = fabric}, [](Rank& rank) {
      constexpr int64_t kSome = 50'000;
      const Buffer in(rank.device, kSome * 2), out(rank.device, kSome * 2);
      std::vector<std::byte> given(static_cast<size_t>(in.bytes()));
      net::fill(DType::kBF16, ReduceOp::kSum, rank.rank, kSome, given.data());
      copy_to_device(given.data(), part_of(in, DType::kBF16, 0, kSome), rank.stream);
      for (const std::string& algorithm : exact_algorithms(rank)) {
        rank.doing = algorithm;
        rank.group.set_device_algorithm(algorithm);
        const auto wanted = summed_rows(rank, in, out, 0, 1, kSome);
        for (int turn = 0; turn < 10; ++turn) require(summed_rows(rank, in, out, 0, 1, kSome) == wanted, "other bits");
        rank.all_agree_on(net::fingerprint(wanted.data(), static_cast<int64_t>(wanted.size())), "the result");
      }
    });
}

}  // namespace
}  // namespace lane::forked
