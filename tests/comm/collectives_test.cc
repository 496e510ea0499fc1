// Every collective, type, operation and algorithm, on ranks that are threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "lane/base/random.h"
#include "lane/plan/schedule.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

constexpr int kRankCounts[] = {1, 2, 3, 4, 5, 7, 8, 13, 16};
constexpr int64_t kCounts[] = {0, 1, 3, 64, 1000, 65537};

float value_of(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? float_from_bf16(bits) : float_from_f16(bits);
}

void set_value(DType dtype, void* data, int64_t i, float value) {
  if (dtype == DType::kF32)
    static_cast<float*>(data)[i] = value;
  else
    static_cast<uint16_t*>(data)[i] = dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value);
}

// What rank `rank` puts in; awkward on purpose: signs, sizes that differ by 2^8.
std::vector<char> input(DType dtype, int rank, int64_t count) {
  std::vector<char> data(static_cast<size_t>(count * size_of(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const double scale = 1 << (random_bits(1, static_cast<uint64_t>(i)) % 8);
    set_value(dtype, data.data(), i,
              static_cast<float>((random_uniform(static_cast<uint64_t>(rank) + 100, static_cast<uint64_t>(i)) - 0.5) *
                                 scale));
  }
  return data;
}

TensorView view(std::vector<char>& data, DType dtype) {
  return {data.data(), dtype, {1, 1, 1, static_cast<int64_t>(data.size()) / size_of(dtype)}, {}};
}

struct Case {
  std::string algorithm;
  DType dtype;
  ReduceOp op;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  std::vector<std::string> names = plan::schedule_names(plan::Collective::kAllReduce);
  names.push_back("auto");
  for (const std::string& name : names)
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) cases.push_back({name, dtype, op});
  return cases;
}

class AllReduce : public testing::TestWithParam<Case> {};

// float32 additions in any order: |error| <= (n-1) 2^-24 sum |x|; then one rounding to the type.
void expect_reduced(const std::vector<std::vector<char>>& inputs, const std::vector<char>& got, DType dtype,
                    ReduceOp op) {
  const double unit = dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  const int64_t count = static_cast<int64_t>(got.size()) / size_of(dtype);
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0, magnitude = 0, largest = -INFINITY;
    for (const auto& data : inputs) {
      const double x = value_of(dtype, data.data(), i);
      sum += x, magnitude += std::abs(x), largest = std::max(largest, x);
    }
    const double wanted = op == ReduceOp::kSum ? sum : largest;
    const double allowed = op == ReduceOp::kMax ? 0
                                                : static_cast<double>(inputs.size()) * 0x1p-24 * magnitude * 1.01 +
                                                      unit * std::abs(sum) * 1.01 + 0x1p-25;
    ASSERT_NEAR(value_of(dtype, got.data(), i), wanted, allowed) << "element " << i << " of " << count;
  }
}

TEST_P(AllReduce, AgreesWithADoubleSumAndOnEveryRank) {
  const auto [algorithm, dtype, op] = GetParam();
  for (const int num_ranks : kRankCounts)
    for (const int64_t count : kCounts) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks, " + std::to_string(count) + " elements");
      std::vector<std::vector<char>> inputs, first(num_ranks), second(num_ranks);
      for (int rank = 0; rank < num_ranks; ++rank) inputs.push_back(input(dtype, rank, count));
      run_ranks(num_ranks,
                [&, dtype = dtype, op = op](Communicator& group) {
                  Stream stream;
                  std::vector<char> in = inputs[group.rank()], out(in.size(), '\x7f');
                  group.all_reduce(view(in, dtype), view(out, dtype), op, stream);
                  EXPECT_EQ(in, inputs[group.rank()]) << "the input is left alone";
                  group.all_reduce(view(in, dtype), view(in, dtype), op, stream);  // in place, and once more
                  first[group.rank()] = std::move(out);
                  second[group.rank()] = std::move(in);
                },
                {.timeout = std::chrono::seconds(60), .algorithm = algorithm});
      expect_reduced(inputs, first[0], dtype, op);
      for (int rank = 0; rank < num_ranks; ++rank) {
        EXPECT_EQ(first[rank], first[0]) << "the bits of rank " << rank;
        EXPECT_EQ(second[rank], first[0]) << "the bits of rank " << rank << ", in place";
      }
      if (HasFailure()) return;
    }
}

INSTANTIATE_TEST_SUITE_P(All, AllReduce, testing::ValuesIn(all_cases()), [](const auto& info) {
  return info.param.algorithm + "_" + std::string(name_of(info.param.dtype)) +
         (info.param.op == ReduceOp::kSum ? "_sum" : "_max");
});

// The contract's order, exactly: ((x0 + x1) + x2) + ..., rounded once.
TEST(AllReduceOrder, IsTheRankOrder) {
  constexpr int kRanks = 5;
  constexpr int64_t kCount = 1000;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<char> wanted(static_cast<size_t>(kCount * size_of(dtype)));
    for (int64_t i = 0; i < kCount; ++i) {
      float sum = value_of(dtype, input(dtype, 0, i + 1).data(), i);
      for (int rank = 1; rank < kRanks; ++rank) sum += value_of(dtype, input(dtype, rank, i + 1).data(), i);
      set_value(dtype, wanted.data(), i, sum);
    }
    for (const char* algorithm : {"one_shot", "two_shot", "auto"})
      run_ranks(kRanks,
                [&](Communicator& group) {
                  Stream stream;
                  std::vector<char> data = input(dtype, group.rank(), kCount);
                  group.all_reduce(view(data, dtype), view(data, dtype), ReduceOp::kSum, stream);
                  EXPECT_EQ(data, wanted) << algorithm << " " << name_of(dtype);
                },
                {.timeout = std::chrono::seconds(60), .algorithm = algorithm});
  }
}

TEST(AllReduceMax, KeepsNaN) {
  run_ranks(3, [](Communicator& group) {
    Stream stream;
    float data[] = {group.rank() == 1 ? NAN : 1.0f, -INFINITY};
    const TensorView all{data, DType::kF32, {1, 1, 1, 2}, {}};
    group.all_reduce(all, all, ReduceOp::kMax, stream);
    EXPECT_TRUE(std::isnan(data[0]));
    EXPECT_EQ(data[1], -INFINITY);
  });
}

std::vector<char> noise(int key, size_t bytes) {
  std::vector<char> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<char>(mix64(i + static_cast<uint64_t>(key) * 1'000'003));
  return data;
}

TEST(AllGather, GivesEverybodyEverything) {
  for (const int num_ranks : kRankCounts)
    for (const int64_t count : kCounts)
      for (const DType dtype : {DType::kU8, DType::kF16, DType::kI32}) {
        const size_t bytes = static_cast<size_t>(count * size_of(dtype));
        std::vector<char> wanted;
        for (int rank = 0; rank < num_ranks; ++rank) {
          const std::vector<char> part = noise(rank, bytes);
          wanted.insert(wanted.end(), part.begin(), part.end());
        }
        run_ranks(num_ranks, [&](Communicator& group) {
          Stream stream;
          std::vector<char> in = noise(group.rank(), bytes), out(wanted.size());
          group.all_gather(view(in, dtype), view(out, dtype), stream);
          EXPECT_TRUE(out == wanted) << num_ranks << " ranks, " << count << " " << name_of(dtype);
        });
      }
}

TEST(Broadcast, ReachesAllFromEveryRoot) {
  for (const int num_ranks : kRankCounts)
    for (const int64_t count : kCounts)
      run_ranks(num_ranks, [&](Communicator& group) {
        Stream stream;
        for (int root = 0; root < num_ranks; ++root) {
          const std::vector<char> wanted = noise(root, static_cast<size_t>(count));
          std::vector<char> data = group.rank() == root ? wanted : std::vector<char>(wanted.size());
          group.broadcast(view(data, DType::kU8), root, stream);
          EXPECT_TRUE(data == wanted) << num_ranks << " ranks, root " << root << ", " << count << " B";
        }
      });
}

TEST(Text, IsBroadcastAndGathered) {
  for (const int num_ranks : {1, 2, 5})
    run_ranks(num_ranks, [&](Communicator& group) {
      for (int root = 0; root < num_ranks; ++root) {
        const std::string long_text(200'000, static_cast<char>('a' + root));
        EXPECT_EQ(group.broadcast_text(group.rank() == root ? long_text : "ignored", root), long_text);
        EXPECT_EQ(group.broadcast_text("", root), "");
        const auto all = group.gather_text(std::string(static_cast<size_t>(group.rank()) * 70'000, 'x') + "end", root);
        ASSERT_EQ(all.size(), group.rank() == root ? static_cast<size_t>(num_ranks) : 0u);
        for (size_t rank = 0; rank < all.size(); ++rank) EXPECT_EQ(all[rank], std::string(rank * 70'000, 'x') + "end");
      }
    });
}

// Nobody passes a barrier before all have come to it.
TEST(Barrier, HoldsEverybody) {
  constexpr int kRanks = 7, kRounds = 200;
  std::atomic<int> arrived{0};
  run_ranks(kRanks, [&](Communicator& group) {
    Stream stream;
    for (int round = 1; round <= kRounds; ++round) {
      ++arrived;
      group.barrier(stream);
      ASSERT_GE(arrived.load(), round * kRanks);
      group.barrier(stream);
    }
  });
}

// Ranks that run ahead, sizes that change: nothing mixes.
TEST(Mixed, ManyOperationsInARow) {
  run_ranks(3, [](Communicator& group) {
    Stream stream;
    for (int i = 0; i < 2000; ++i) {
      const int64_t count = static_cast<int64_t>(random_bits(7, static_cast<uint64_t>(i)) % 3000);
      std::vector<float> data(static_cast<size_t>(count), static_cast<float>(group.rank() + i));
      const TensorView all{data.data(), DType::kF32, {1, 1, 1, count}, {}};
      if (i % 3 == 0) {
        group.broadcast(all, i % group.size(), stream);
        for (const float x : data) ASSERT_EQ(x, static_cast<float>(i % group.size() + i));
      } else {
        group.all_reduce(all, all, ReduceOp::kSum, stream);
        for (const float x : data) ASSERT_EQ(x, static_cast<float>(3 + 3 * i));
      }
    }
  });
}

TEST(Choice, SaysWhichAndWhyNotTheOthers) {
  run_ranks(4, [](Communicator& group) {
    for (const int64_t bytes : {0, 1 << 13, 1 << 24}) {
      const std::string text = group.explain_all_reduce(bytes);
      for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce))
        EXPECT_NE(text.find(name), std::string::npos) << text;
    }
    EXPECT_EQ(group.explain_all_reduce(8).find("one_shot"), 0u);
  });
  EXPECT_THROW(make_local_group(2, {.algorithm = "fastest"}), Error);
  try {
    make_local_group(2, {.algorithm = "fastest"});
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("one_shot, two_shot, ring"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace lane
