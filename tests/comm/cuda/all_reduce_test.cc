// Sums over GPUs: right, whatever the algorithm, type, operation, length and place in memory.
#include "tests/comm/cuda/graph.h"
#include "tests/comm/cuda/sum_cases.h"

namespace lane::forked {
namespace {

void check_on_one_node(int ranks) {
  expect_good({.ranks = ranks}, [](Rank& rank) { check_many_sums(rank, {}); });
}

TEST(GpuAllReduce, IsRightAmongTwo) { check_on_one_node(2); }
TEST(GpuAllReduce, IsRightAmongThree) { check_on_one_node(3); }
TEST(GpuAllReduce, IsRightAmongFour) { check_on_one_node(4); }

TEST(GpuAllReduce, IsRightAmongThreadsOnOneGpu) {
  for (const int ranks : {2, 3, 4})
    expect_good({.ranks = ranks, .are_threads = true}, [](Rank& rank) {
      rank.group.set_device_blocks(8);  // the kernels of all ranks have to be there at once
      check_many_sums(rank, {.small = 20, .randoms = 1, .most_random = 20'000, .large = 0});
    });
}

TEST(GpuAllReduce, IsRightOnAnyGrid) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    SumCases cases(rank, 100'000);
    uint64_t seed = 0;
    for (const char* way : {"one_shot", "two_shot"})
      for (const char* grid : {"1x32", "1x512", "3x96", "100x64", "131x512", "255x32"}) {
        if (rank.is_crowded && grid[0] != '3') continue;
        const std::string algorithm = fmt::format("{}:{}", way, grid);
        rank.group.set_device_algorithm(algorithm);
        for (const int64_t count : {1, 1000, 65536, 99'999})
          cases.check({algorithm, DType::kBF16, ReduceOp::kSum, count, 0, 0, false, ++seed});
      }
  });
}

TEST(GpuAllReduce, PassesTheSelfTest) {
  for (const int nodes : {1, 2})
    expect_good({.ranks = 4, .nodes = nodes, .fabric = "p2p", .has_nccl = true}, [](Rank& rank) {
      if (rank.is_crowded) return;
      ::setenv("LANE_GPU_SELF_TEST", "on", 1);
      Communicator again = rank.group.split(0, rank.rank);
      again.open_device(rank.device);
      require(again.device_algorithm(1024, DType::kBF16) == rank.group.device_algorithm(1024, DType::kBF16),
              "the self-test leaves an algorithm behind");
    });
}

// A grid of which the other ranks know nothing.
TEST(GpuAllReduce, IsRightAmongRanksWithDifferentGrids) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    rank.group.set_device_blocks(3 + 17 * rank.rank);
    check_many_sums(rank, {.small = 8, .randoms = 2, .most_random = 100'000, .large = 0});
  });
}

TEST(GpuAllReduce, GoesInSeveralOperationsWhereItIsLong) {
  expect_good({.ranks = 2}, [](Rank& rank) {
    if (rank.is_crowded) return;
    SumCases cases(rank, int64_t{9} << 20);
    for (const int64_t count : {(int64_t{8} << 20) / 4, (int64_t{8} << 20) / 4 + 1, (int64_t{9} << 20) - 3})
      for (const bool is_in_place : {false, true})
        cases.check({"auto", DType::kF32, ReduceOp::kSum, count, 0, 0, is_in_place, static_cast<uint64_t>(count)});
  });
}

TEST(GpuAllReduce, IsRightWithNccl) {
  if (count_gpus() < 2) GTEST_SKIP() << "needs two GPUs, has " << count_gpus();
  expect_good({.ranks = std::min(4, count_gpus()), .has_nccl = true}, [](Rank& rank) {
    const auto names = rank.group.device_algorithms(rank.device);
    if (std::find(names.begin(), names.end(), "nccl") == names.end()) return;
    rank.group.set_device_algorithm("nccl");
    SumCases cases(rank, 300'000, net::Rounding::kEveryStep);
    uint64_t seed = 0;
    for (const DType dtype : kSummedTypes)
      for (const ReduceOp op : kAllOps)
        for (const int64_t count : {1, 100, 299'999}) cases.check({"nccl", dtype, op, count, 0, 0, false, ++seed});
  });
}

// For comparisons: whatever the size and whoever else could, also in a graph and where one order of additions is
// wanted.
TEST(GpuAllReduce, GoesThroughNcclAloneWhereThatIsAskedFor) {
  if (count_gpus() < 2) GTEST_SKIP() << "needs two GPUs, has " << count_gpus();
  expect_good({.ranks = std::min(4, count_gpus()), .has_nccl = true}, [](Rank& rank) {
    const auto names = rank.group.device_algorithms(rank.device);
    const Buffer few(DType::kBF16, {1, 1, 4, 4096}, rank.device), many(DType::kBF16, {1, 1, 4096, 4096}, rank.device);
    require(rank.group.fuses_norm(few.view()), "a node's GPUs fuse the norm of few rows");
    require(!rank.group.fuses_norm(many.view()), "32 MiB are more than the fused kernel takes");
    ::setenv("LANE_NCCL", "only", 1);
    Communicator alone = rank.group.split(0, rank.rank);
    alone.keep_one_order();
    if (std::find(names.begin(), names.end(), "nccl") == names.end()) {
      try {
        alone.open_device(rank.device);
      } catch (const Error& error) {
        return require(error.code() == ErrorCode::kUnsupported, fmt::format("another error: {}", error.what()));
      }
      require(false, "it is asked for where it is not, and that is no error");
    }
    alone.open_device(rank.device);
    require(!alone.fuses_norm(few.view()), "the kernel that fuses the norm is not NCCL's");
    for (const int64_t bytes : {16, 8192, 1 << 20, 64 << 20})
      require(alone.device_algorithm(bytes, DType::kBF16) == "nccl", fmt::format("{} bytes go another way", bytes));
    Rank there{alone, rank.stream, rank.device, rank.rank, rank.size, rank.is_crowded, rank.shared};
    SumCases cases(there, 40'000, net::Rounding::kEveryStep);
    for (const int64_t count : {1, 4096, 40'000})
      cases.check({"nccl", DType::kBF16, ReduceOp::kSum, count, 0, 0, false, static_cast<uint64_t>(count)});

    const Buffer memory(rank.device, 4096);
    const TensorView values = part_of(memory, DType::kF32, 0, 1000);
    std::vector<float> ones(1000, 1.0f);
    Graph graph(rank.stream, [&] { alone.all_reduce(values, values, ReduceOp::kSum, rank.stream); });
    copy_to_device(ones.data(), values, rank.stream);
    for (int i = 0; i < 3; ++i) graph.launch();
    alone.wait(rank.stream);
    copy_to_host(values, ones.data(), rank.stream);
    const auto wanted = static_cast<float>(rank.size * rank.size * rank.size);
    for (const float value : ones)
      require(value == wanted, fmt::format("{}, not {}, after three replays", value, wanted));
  });
}

TEST(GpuAllReduce, OfNothingIsNothing) {
  expect_good({.ranks = 2}, [](Rank& rank) {
    SumCases cases(rank, 100);
    const TensorView nothing{nullptr, DType::kF32, {1, 1, 1, 0}, rank.device};
    for (int i = 0; i < 3; ++i) rank.group.all_reduce(nothing, nothing, ReduceOp::kSum, rank.stream);
    rank.group.wait(rank.stream);
    cases.check({"auto", DType::kF32, ReduceOp::kSum, 100});
  });
}

// What the GPUs do not do is refused before anybody waits, and the group lives on.
TEST(GpuAllReduce, RefusesWhatItCannotDo) {
  expect_good({.ranks = 2}, [](Rank& rank) {
    const auto expect_refused = [&](ErrorCode code, const std::function<void()>& act) {
      try {
        act();
      } catch (const Error& error) {
        return require(error.code() == code, fmt::format("another error: {}", error.what()));
      }
      require(false, "it is not refused");
    };
    const Buffer memory(rank.device, 1024);
    const TensorView whole = part_of(memory, DType::kI32, 0, 100);
    expect_refused(ErrorCode::kUnsupported, [&] { rank.group.all_reduce(whole, whole, ReduceOp::kSum, rank.stream); });
    expect_refused(ErrorCode::kInvalidArgument, [&] { rank.group.set_device_algorithm("three_shot"); });
    expect_refused(ErrorCode::kUnsupported, [&] { rank.group.set_device_algorithm("proxy"); });
    SumCases(rank, 100).check({"auto", DType::kF32, ReduceOp::kSum, 100});
  });
}

// Hosts that are pretended; their GPUs reach each other, or are told not to.
void check_on_nodes(int ranks, int nodes, const std::string& fabric) {
  expect_good({.ranks = ranks, .nodes = nodes, .fabric = fabric},
              [](Rank& rank) { check_many_sums(rank, {.small = 40, .randoms = 1, .most_random = 200'000}); });
}

TEST(GpuAllReduceOnNodes, IsRightOnTwoOfTwo) { check_on_nodes(4, 2, "p2p"); }
TEST(GpuAllReduceOnNodes, IsRightOnFourOfOne) { check_on_nodes(4, 4, "p2p"); }
TEST(GpuAllReduceOnNodes, IsRightOnThreeOfOne) { check_on_nodes(3, 3, "p2p"); }
TEST(GpuAllReduceByProxy, IsRightOnTwoOfTwo) { check_on_nodes(4, 2, "proxy"); }
TEST(GpuAllReduceByProxy, IsRightOnFourOfOne) { check_on_nodes(4, 4, "proxy"); }
TEST(GpuAllReduceByProxy, IsRightOnTwoOfOne) { check_on_nodes(2, 2, "proxy"); }

}  // namespace
}  // namespace lane::forked
