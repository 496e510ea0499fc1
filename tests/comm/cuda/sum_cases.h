// All-reduces of random vectors, each compared with a sum in double precision.
#pragma once
#include <random>

#include "lane/net/vectors.h"
#include "tests/comm/cuda/forked.h"

namespace lane::forked {

struct SumCase {
  std::string algorithm = {};
  DType dtype = DType::kF32;
  ReduceOp op = ReduceOp::kSum;
  int64_t count = 1;
  int64_t in_first = 0, out_first = 0;  // elements of the memory that the vectors begin at
  bool is_in_place = false;
  uint64_t seed = 0;

  std::string text() const {
    return fmt::format("{} of {} {} ({}) from {} to {}{}", algorithm, count, name_of(dtype), net::name_of(op), in_first,
                       out_first, is_in_place ? ", in place" : "");
  }
};

class SumCases {
 public:
  static constexpr int64_t kMostOffset = 9, kMargin = 40;  // elements before and behind a vector

  SumCases(Rank& rank, int64_t most_count, net::Rounding rounding = net::Rounding::kOnce)
      : rank_(rank),
        rounding_(rounding),
        in_(rank.device, (most_count + kMostOffset + kMargin) * 4),
        out_(rank.device, in_.bytes()),
        given_(static_cast<size_t>(most_count) * 4),
        seen_(static_cast<size_t>(in_.bytes())) {
    rank_.meet();  // an allocation may wait for kernels, and those of threads for the allocation's rank
  }

  void check(SumCase what) {
    if (what.is_in_place) what.in_first = what.out_first;
    rank_.doing = what.text();
    const int64_t size = size_of(what.dtype), all = what.out_first + what.count + kMargin;
    const TensorView out = part_of(out_, what.dtype, what.out_first, what.count);
    const TensorView in = what.is_in_place ? out : part_of(in_, what.dtype, what.in_first, what.count);
    net::fill(what.dtype, what.op, rank_.rank, what.count, given_.data(), what.seed);
    fill_bytes(out_, 0xff, all * size, rank_.stream);
    copy_to_device(given_.data(), in, rank_.stream);
    rank_.group.all_reduce(in, out, what.op, rank_.stream);
    rank_.group.wait(rank_.stream);

    copy_to_host(part_of(out_, what.dtype, 0, all), seen_.data(), rank_.stream);
    const std::byte* result = seen_.data() + what.out_first * size;
    const int64_t wrong = net::count_wrong(what.dtype, what.op, rank_.size, result, what.count, rounding_, what.seed);
    require(wrong == 0, fmt::format("{} elements are wrong", wrong));
    for (int64_t i = 0; i < all * size; ++i)
      if (i < what.out_first * size || i >= (what.out_first + what.count) * size)
        require(seen_[static_cast<size_t>(i)] == std::byte{0xff},
                fmt::format("byte {} is written, which belongs to somebody else", i - what.out_first * size));
    rank_.all_agree_on(net::fingerprint(result, what.count * size), "the result");
  }

 private:
  Rank& rank_;
  net::Rounding rounding_;
  Buffer in_, out_;
  std::vector<std::byte> given_, seen_;
};

inline constexpr std::array kSummedTypes{DType::kF32, DType::kBF16, DType::kF16};
inline constexpr std::array kAllOps{ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg};

// How much a test does: every count up to `small`, then random ones.
struct Effort {
  int64_t small = 64;
  int randoms = 2;  // of each algorithm, type and operation
  int64_t most_random = 300'000;
  int64_t large = int64_t{5} << 20;  // one of each algorithm and type; 0: none
};

// All ranks make the same cases.
inline void check_many_sums(Rank& rank, Effort effort) {
  if (rank.is_crowded) effort = {.small = 5, .randoms = 1, .most_random = 5000, .large = 0};
  SumCases cases(rank, std::max(effort.most_random, effort.large));
  std::mt19937_64 random(static_cast<uint64_t>(rank.size));
  const auto pick = [&](int64_t less_than) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(less_than));
  };
  uint64_t seed = 0;
  for (const std::string& algorithm : exact_algorithms(rank)) {
    rank.group.set_device_algorithm(algorithm);
    for (const DType dtype : kSummedTypes) {
      if (rank.is_crowded && dtype != DType::kBF16) continue;
      const auto check = [&](ReduceOp op, int64_t count) {
        const bool is_misaligned = pick(2) == 0;
        const auto offset = [&] { return is_misaligned ? pick(SumCases::kMostOffset) : 0; };
        cases.check({algorithm, dtype, op, count, offset(), offset(), pick(2) == 0, ++seed});
      };
      for (const ReduceOp op : kAllOps) {
        for (int64_t count = 1; count <= effort.small; ++count) check(op, count);
        for (int i = 0; i < effort.randoms; ++i) check(op, 1 + pick(effort.most_random));
      }
      // Whole lines have kernels of their own.
      for (const int64_t count : {8, 64, 1024, 4096})
        cases.check({algorithm, dtype, ReduceOp::kSum, count, 0, 0, false, ++seed});
      if (effort.large > 0) check(ReduceOp::kSum, effort.large);
    }
  }
}

}  // namespace lane::forked
