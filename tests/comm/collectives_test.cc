// Every collective, type, operation and algorithm, on ranks that are threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "lane/base/random.h"
#include "lane/plan/schedule.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

constexpr int kRankCounts[] = {1, 2, 3, 4, 5, 7, 8, 13};
constexpr int64_t kCounts[] = {0, 1, 3, 64, 1000, 65537};

double value_of(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  if (dtype == DType::kI32) return static_cast<const int32_t*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? float_from_bf16(bits) : float_from_f16(bits);
}

void set_value(DType dtype, void* data, int64_t i, double value) {
  const auto narrow = static_cast<float>(value);
  if (dtype == DType::kF32)
    static_cast<float*>(data)[i] = narrow;
  else if (dtype == DType::kI32)
    static_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
  else
    static_cast<uint16_t*>(data)[i] = dtype == DType::kBF16 ? bf16_from_float(narrow) : f16_from_float(narrow);
}

// What rank `rank` puts in; awkward on purpose: signs, sizes that differ by 2^8. Factors of a product stay near one.
std::vector<char> input(DType dtype, ReduceOp op, int rank, int64_t count) {
  std::vector<char> data(static_cast<size_t>(count * size_of(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const double uniform = random_uniform(static_cast<uint64_t>(rank) + 100, static_cast<uint64_t>(i)) - 0.5;
    const double scale = 1 << (random_bits(1, static_cast<uint64_t>(i)) % 8);
    if (dtype == DType::kI32)
      set_value(dtype, data.data(), i, std::floor(uniform * (op == ReduceOp::kProd ? 6 : 2e8)));
    else
      set_value(dtype, data.data(), i, op == ReduceOp::kProd ? 1 + uniform : uniform * scale);
  }
  return data;
}

TensorView view(std::vector<char>& data, DType dtype) {
  return {data.data(), dtype, {1, 1, 1, static_cast<int64_t>(data.size()) / size_of(dtype)}, {}};
}

// What element i has to be, in double precision, and how far from it float32 sums in any order may be before they are
// rounded to the type: |error| <= (n-1) 2^-24 sum |x|, for products (n-1) 2^-24 |product| to first order.
void expect_reduced(const std::vector<std::vector<char>>& inputs, const std::vector<char>& got, int64_t first,
                    DType dtype, ReduceOp op) {
  const double unit = dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
  const double tiny = dtype == DType::kF16 ? 0x1p-25 : 0;  // half of its smallest step
  const auto n = static_cast<double>(inputs.size());
  for (int64_t i = 0; i < static_cast<int64_t>(got.size()) / size_of(dtype); ++i) {
    double sum = 0, magnitude = 0, product = 1, largest = -INFINITY, smallest = INFINITY;
    uint32_t bits = 0, product_bits = 1;
    for (const auto& data : inputs) {
      const double x = value_of(dtype, data.data(), first + i);
      sum += x, magnitude += std::abs(x), product *= x;
      largest = std::max(largest, x), smallest = std::min(smallest, x);
      if (dtype == DType::kI32) {
        bits += static_cast<uint32_t>(static_cast<int32_t>(x));
        product_bits *= static_cast<uint32_t>(static_cast<int32_t>(x));
      }
    }
    double wanted = op == ReduceOp::kMax    ? largest
                    : op == ReduceOp::kMin  ? smallest
                    : op == ReduceOp::kProd ? product
                                            : sum;
    double allowed = n * 0x1p-24 * (op == ReduceOp::kProd ? std::abs(product) : magnitude) * 1.01;
    if (op == ReduceOp::kMax || op == ReduceOp::kMin) allowed = 0;
    if (op == ReduceOp::kAvg) wanted /= n, allowed = allowed / n + 0x1p-24 * std::abs(wanted);
    if (allowed > 0) allowed += unit * (std::abs(wanted) + allowed) * 1.01 + tiny;
    if (dtype == DType::kI32) {  // exact, modulo 2^32
      allowed = 0;
      if (op == ReduceOp::kSum) wanted = static_cast<int32_t>(bits);
      if (op == ReduceOp::kProd) wanted = static_cast<int32_t>(product_bits);
      if (op == ReduceOp::kAvg) wanted = static_cast<int32_t>(bits) / static_cast<int32_t>(inputs.size());
    }
    ASSERT_NEAR(value_of(dtype, got.data(), i), wanted, allowed) << "element " << i;
  }
}

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg};
constexpr DType kSummed[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI32};

// On every rank, in place and out of place: the sum, the same bits everywhere and every time.
void check_all_reduce(const std::string& algorithm, const plan::Layout& layout, DType dtype, ReduceOp op,
                      int64_t count) {
  const int n = layout.num_ranks();
  SCOPED_TRACE(algorithm + ", " + std::to_string(n) + " ranks on " + std::to_string(layout.num_nodes()) + " nodes, " +
               std::to_string(count) + " " + std::string(name_of(dtype)) + ", operation " +
               std::to_string(static_cast<int>(op)));
  std::vector<std::vector<char>> inputs, first(n), second(n);
  for (int rank = 0; rank < n; ++rank) inputs.push_back(input(dtype, op, rank, count));
  run_ranks(
      n,
      [&](Communicator& group) {
        Stream stream;
        std::vector<char> in = inputs[group.rank()], out(in.size(), '\x7f');
        group.all_reduce(view(in, dtype), view(out, dtype), op, stream);
        EXPECT_EQ(in, inputs[group.rank()]) << "the input is left alone";
        group.all_reduce(view(in, dtype), view(in, dtype), op, stream);
        first[group.rank()] = std::move(out);
        second[group.rank()] = std::move(in);
      },
      {.timeout = std::chrono::seconds(60), .algorithm = algorithm}, layout);
  expect_reduced(inputs, first[0], 0, dtype, op);
  for (int rank = 0; rank < n; ++rank) {
    EXPECT_EQ(first[rank], first[0]) << "the bits of rank " << rank;
    EXPECT_EQ(second[rank], first[0]) << "the bits of rank " << rank << ", in place";
  }
}

std::string test_name(std::string name) {
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

class AllReduce : public testing::TestWithParam<std::string> {};

TEST_P(AllReduce, OfAnyCountAmongAnyRanks) {
  for (const int num_ranks : kRankCounts)
    for (const int64_t count : kCounts) {
      check_all_reduce(GetParam(), plan::Layout::one_node(num_ranks), DType::kF32, ReduceOp::kSum, count);
      check_all_reduce(GetParam(), plan::Layout::one_node(num_ranks), DType::kBF16, ReduceOp::kSum, count);
      if (HasFailure()) return;
    }
}

TEST_P(AllReduce, OfEveryTypeByEveryOperation) {
  for (const int num_ranks : {2, 5})
    for (const DType dtype : kSummed)
      for (const ReduceOp op : kOps) {
        check_all_reduce(GetParam(), plan::Layout::one_node(num_ranks), dtype, op, 1003);
        if (HasFailure()) return;
      }
}

std::vector<std::string> flat_names() {
  std::vector<std::string> names = plan::schedule_names(plan::Collective::kAllReduce, plan::Layout::one_node(8));
  names.push_back("auto");
  return names;
}
INSTANTIATE_TEST_SUITE_P(Flat, AllReduce, testing::ValuesIn(flat_names()),
                         [](const auto& info) { return test_name(info.param); });

// Nodes of any sizes, ranks in any order.
TEST(HierarchicalAllReduce, OnUnevenNodes) {
  const plan::Layout layouts[] = {plan::Layout::uniform(2, 2), plan::Layout::uniform(3, 2),
                                  plan::Layout::of_sizes({3, 1, 2}), plan::Layout{{0, 1, 0, 2, 1, 0, 2}}};
  for (const plan::Layout& layout : layouts)
    for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, layout)) {
      for (const int64_t count : {1, 1000, 70'001}) {
        check_all_reduce(name, layout, DType::kF32, ReduceOp::kSum, count);
        check_all_reduce(name, layout, DType::kBF16, ReduceOp::kAvg, count);
      }
      if (HasFailure()) return;
    }
}

// The contract's order, exactly: ((x0 + x1) + x2) + ..., rounded once.
TEST(AllReduceOrder, OfTheDirectOnesIsTheRankOrder) {
  constexpr int kRanks = 5;
  constexpr int64_t kCount = 1000;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<char> wanted(static_cast<size_t>(kCount * size_of(dtype)));
    for (int64_t i = 0; i < kCount; ++i) {
      float sum = 0;
      for (int rank = 0; rank < kRanks; ++rank) {
        const auto x = static_cast<float>(value_of(dtype, input(dtype, ReduceOp::kSum, rank, i + 1).data(), i));
        sum = rank == 0 ? x : sum + x;
      }
      set_value(dtype, wanted.data(), i, sum);
    }
    for (const char* algorithm : {"one_shot", "two_shot", "one_shot_multicast", "two_shot_multicast"})
      run_ranks(kRanks,
                [&](Communicator& group) {
                  Stream stream;
                  std::vector<char> data = input(dtype, ReduceOp::kSum, group.rank(), kCount);
                  group.all_reduce(view(data, dtype), view(data, dtype), ReduceOp::kSum, stream);
                  EXPECT_EQ(data, wanted) << algorithm << " " << name_of(dtype);
                },
                {.timeout = std::chrono::seconds(60), .algorithm = algorithm});
  }
}

TEST(AllReduceExtremes, KeepNaN) {
  for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kMin})
    for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, plan::Layout::one_node(3)))
      run_ranks(3,
                [&](Communicator& group) {
                  Stream stream;
                  float data[] = {group.rank() == 1 ? NAN : 1.0f, -INFINITY};
                  const TensorView all{data, DType::kF32, {1, 1, 1, 2}, {}};
                  group.all_reduce(all, all, op, stream);
                  EXPECT_TRUE(std::isnan(data[0])) << name;
                  EXPECT_EQ(data[1], -INFINITY) << name;
                },
                {.timeout = std::chrono::seconds(60), .algorithm = name});
}

TEST(ReduceScatter, GivesEverybodyItsPart) {
  for (const int n : kRankCounts)
    for (const int64_t count : kCounts)
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI32}) {
        SCOPED_TRACE(std::to_string(n) + " ranks, " + std::to_string(count) + " " + std::string(name_of(dtype)));
        std::vector<std::vector<char>> inputs, parts(n);
        for (int rank = 0; rank < n; ++rank) inputs.push_back(input(dtype, ReduceOp::kSum, rank, count * n));
        run_ranks(n, [&](Communicator& group) {
          Stream stream;
          std::vector<char> in = inputs[group.rank()], out(static_cast<size_t>(count * size_of(dtype)));
          group.reduce_scatter(view(in, dtype), view(out, dtype), ReduceOp::kSum, stream);
          EXPECT_EQ(in, inputs[group.rank()]);
          parts[group.rank()] = std::move(out);
        });
        for (int rank = 0; rank < n; ++rank) expect_reduced(inputs, parts[rank], rank * count, dtype, ReduceOp::kSum);
        if (HasFailure()) return;
      }
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

TEST(AllToAll, BringsEachPartToItsRank) {
  for (const int n : kRankCounts)
    for (const int64_t count : kCounts) {
      const auto part = [&](int from, int to) { return noise(from * 100 + to, static_cast<size_t>(count)); };
      run_ranks(n, [&](Communicator& group) {
        Stream stream;
        std::vector<char> in, wanted, out(static_cast<size_t>(count * n));
        for (int peer = 0; peer < n; ++peer) {
          const std::vector<char> there = part(group.rank(), peer), here = part(peer, group.rank());
          in.insert(in.end(), there.begin(), there.end());
          wanted.insert(wanted.end(), here.begin(), here.end());
        }
        group.all_to_all(view(in, DType::kU8), view(out, DType::kU8), stream);
        EXPECT_TRUE(out == wanted) << n << " ranks, " << count << " B";
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

// Groups of groups, each with its own order, used at the same time from different threads.
TEST(Split, MakesGroupsThatLiveAtOnce) {
  constexpr int kRanks = 6;
  run_ranks(kRanks, [](Communicator& world) {
    Communicator pair = world.split(world.rank() / 2, 0);                // {0,1} {2,3} {4,5}
    Communicator column = world.split(world.rank() % 2, -world.rank());  // {4,2,0} {5,3,1}
    Communicator alone = world.split(-1, 0);
    ASSERT_EQ(pair.size(), 2);
    ASSERT_EQ(pair.rank(), world.rank() % 2);
    ASSERT_EQ(column.size(), 3);
    ASSERT_EQ(column.rank(), 2 - world.rank() / 2);
    ASSERT_EQ(alone.size(), 1);
    const auto sum = [&](Communicator& group, int64_t count, int64_t wanted) {
      Stream stream;
      std::vector<int32_t> data(static_cast<size_t>(count), world.rank());
      const TensorView all{data.data(), DType::kI32, {1, 1, 1, count}, {}};
      group.all_reduce(all, all, ReduceOp::kSum, stream);
      for (const int32_t x : data) ASSERT_EQ(x, wanted);
    };
    std::thread other([&] {
      for (int i = 0; i < 300; ++i) sum(column, i * 7, world.rank() % 2 ? 1 + 3 + 5 : 0 + 2 + 4);
    });
    for (int i = 0; i < 300; ++i) sum(pair, 1000 - i, world.rank() / 2 * 4 + 1);
    other.join();
    sum(world, 10, 15);
    Communicator within = pair.split(0, -pair.rank());
    ASSERT_EQ(within.rank(), 1 - pair.rank());
    sum(within, 10, world.rank() / 2 * 4 + 1);
  });
}

// Numbers of collectives that would wrap in 32 bits do not disturb anybody.
TEST(Numbers, GoPastTheEndOf32Bits) {
  run_ranks(3,
            [](Communicator& group) {
              Stream stream;
              for (int i = 0; i < 100; ++i) {
                std::vector<float> data(static_cast<size_t>(i * 50), static_cast<float>(group.rank()));
                const TensorView all{data.data(), DType::kF32, {1, 1, 1, i * 50}, {}};
                group.all_reduce(all, all, ReduceOp::kSum, stream);
                for (const float x : data) ASSERT_EQ(x, 3.0f);
              }
            },
            {.timeout = std::chrono::seconds(60), .first_number = (uint64_t{1} << 32) - 5});
}

// A sum has the same bits in vectors of any size, on any nodes.
TEST(OneOrder, HoldsForAllSizes) {
  for (const plan::Layout& layout : {plan::Layout::one_node(5), plan::Layout::uniform(3, 2),
                                     plan::Layout::uniform(8, 1), plan::Layout::of_sizes({3, 1, 2})})
    run_ranks(
        layout.num_ranks(),
        [&](Communicator& group) {
          Stream stream;
          group.keep_one_order();
          std::vector<float> first;
          for (const int64_t repeats : {1, 3, 40, 700}) {
            std::vector<float> data;
            for (int64_t i = 0; i < repeats * 251; ++i)
              data.push_back(static_cast<float>(
                  random_uniform(static_cast<uint64_t>(group.rank()), static_cast<uint64_t>(i % 251)) - 0.5));
            const TensorView all{data.data(), DType::kF32, {1, 1, 1, repeats * 251}, {}};
            group.all_reduce(all, all, ReduceOp::kSum, stream);
            if (first.empty()) first = data;
            for (size_t i = 0; i < data.size(); ++i)
              ASSERT_EQ(data[i], first[i % 251]) << layout.num_ranks() << " ranks, element " << i;
          }
        },
        {.timeout = std::chrono::seconds(60)}, layout);
}

TEST(Choice, SaysWhichAndWhyNotTheOthers) {
  run_ranks(4, [](Communicator& group) {
    for (const int64_t bytes : {0, 1 << 13, 1 << 24}) {
      const std::string text = group.explain_all_reduce(bytes);
      for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, group.fabric().layout))
        EXPECT_NE(text.find(name), std::string::npos) << text;
    }
    EXPECT_EQ(group.explain_all_reduce(8).find("one_shot"), 0u);
  });
  try {
    make_local_group(2, {.algorithm = "fastest"});
    ADD_FAILURE() << "an unknown algorithm was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("known: one_shot, "), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace lane
