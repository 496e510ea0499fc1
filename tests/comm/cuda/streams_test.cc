// Many collectives in a row: out of graphs, by ranks that drift apart, in groups that work at the same time.
#include <random>

#include "tests/comm/cuda/delay.h"
#include "tests/comm/cuda/forked.h"
#include "tests/comm/cuda/graph.h"

namespace lane::forked {
namespace {

// All-reduces of vectors of many sizes by all algorithms, each with memory of its own; the same on all ranks.
class Calls {
 public:
  Calls(Rank& rank, int num, uint64_t seed, int64_t most = 20'000) : rank_(rank) {
    std::mt19937_64 random(seed);
    const auto algorithms = exact_algorithms(rank);
    int64_t used = 0;
    for (int i = 0; i < num; ++i) {
      Call call{.algorithm = algorithms[random() % algorithms.size()],
                .dtype = i % 2 == 0 ? DType::kBF16 : DType::kF32,
                .first = used,
                .count = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(i % 3 == 0 ? most : 500))};
      used += (call.count + 3) / 4 * 4 + (i % 5 == 0 ? 1 : 0);  // some are not whole lines
      calls_.push_back(call);
    }
    in_ = Buffer(rank.device, used * 4);
    out_ = Buffer(rank.device, used * 4);
  }

  void give(int64_t seed) {
    for (size_t i = 0; i < calls_.size(); ++i) give_wholes(rank_, in(i), wholes(i, seed));
  }
  void enqueue() {
    for (size_t i = 0; i < calls_.size(); ++i) {
      rank_.group.set_device_algorithm(calls_[i].algorithm);
      rank_.group.all_reduce(in(i), out(i), ReduceOp::kSum, rank_.stream);
    }
  }
  void poison() { fill_bytes(out_, 0xff, out_.bytes(), rank_.stream); }
  void check(int64_t seed) {
    for (size_t i = 0; i < calls_.size(); ++i) {
      rank_.doing = fmt::format("call {} by {}, given {}", i, calls_[i].algorithm, seed);
      check_sums(rank_, out(i), wholes(i, seed));
    }
  }

 private:
  struct Call {
    std::string algorithm;
    DType dtype;
    int64_t first, count;
  };
  static Wholes wholes(size_t i, int64_t seed) { return {seed * 64 + static_cast<int64_t>(i)}; }
  TensorView in(size_t i) const { return at(in_, i); }
  TensorView out(size_t i) const { return at(out_, i); }
  TensorView at(const Buffer& buffer, size_t i) const {
    const Call& call = calls_[i];
    return part_of(buffer, call.dtype, call.first * 4 / size_of(call.dtype), call.count);
  }

  Rank& rank_;
  std::vector<Call> calls_;
  Buffer in_, out_;
};

void replay(Rank& rank) {
  Calls calls(rank, 50, 1);
  Graph graph(rank.stream, [&] { calls.enqueue(); });
  const int replays = rank.is_crowded ? 3 : 200;
  for (int turn = 0; turn < replays; ++turn) {
    const bool is_looked_at = turn % 10 == 0;
    if (is_looked_at) calls.give(turn);
    calls.poison();
    graph.launch();
    if (turn % 10 == 9 || turn == replays - 1) {
      rank.group.wait(rank.stream);
      calls.check(turn / 10 * 10);
    }
  }
}

TEST(GpuGraph, OfFiftyCallsIsReplayed) {
  for (const int ranks : {2, 3, 4}) expect_good({.ranks = ranks}, replay);
}
TEST(GpuGraph, IsReplayedOnNodes) {
  for (const char* fabric : {"p2p", "proxy"}) expect_good({.ranks = 4, .nodes = 2, .fabric = fabric}, replay);
}

TEST(GpuGraph, TakesTurnsWithAnotherAndWithCallsOutsideByRanksThatDriftApart) {
  for (const int ranks : {2, 4})
    expect_good({.ranks = ranks}, [](Rank& rank) {
      Calls one(rank, 30, 1), other(rank, 7, 2), outside(rank, 5, 3);
      Graph first(rank.stream, [&] { one.enqueue(); }), second(rank.stream, [&] { other.enqueue(); });
      std::mt19937_64 random(static_cast<uint64_t>(100 + rank.rank));  // other delays on each rank
      const auto drift = [&] {
        const auto most = random() % 20 == 0 ? 200'000u : 3'000u;
        const auto time = std::chrono::microseconds(random() % most);
        if (random() % 2 == 0)
          delay(rank.stream, time);
        else
          std::this_thread::sleep_for(time);
      };
      for (int turn = 0; turn < (rank.is_crowded ? 2 : 60); ++turn) {
        for (Calls* calls : {&one, &other, &outside}) calls->give(turn), calls->poison();
        first.launch();
        drift();
        second.launch();
        if (turn % 3 == 0) drift();
        outside.enqueue();
        drift();
        rank.group.wait(rank.stream);
        for (Calls* calls : {&one, &other, &outside}) calls->check(turn);
      }
    });
}

// The fused kernel, reduce-scatter, all-gather, broadcast and a kernel of somebody else in one graph.
TEST(GpuGraph, OfAllCollectives) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    constexpr int64_t kCount = 4096;
    const Buffer sums(rank.device, kCount * 4), part(rank.device, kCount), all(rank.device, kCount * 4);
    const TensorView sum = part_of(sums, DType::kF32, 0, kCount), gathered = part_of(all, DType::kF32, 0, kCount);
    const TensorView piece = part_of(part, DType::kF32, 0, kCount / rank.size);
    Graph graph(rank.stream, [&] {
      for (int i = 0; i < 5; ++i) {
        rank.group.reduce_scatter(sum, piece, ReduceOp::kSum, rank.stream);
        delay(rank.stream, std::chrono::microseconds(i * rank.rank));
        rank.group.all_gather(piece, gathered, rank.stream);
        rank.group.barrier(rank.stream);
        rank.group.broadcast(gathered, i % rank.size, rank.stream);
      }
    });
    for (int turn = 0; turn < (rank.is_crowded ? 2 : 100); ++turn) {
      rank.doing = fmt::format("replay {}", turn);
      give_wholes(rank, sum, {turn});
      graph.launch();
      rank.group.wait(rank.stream);
      check_sums(rank, gathered, {turn});
    }
  });
}

// LANE_TEST_CALLS makes the stress tests longer; scripts/gpu_check.sh asks for a million.
int many_calls() {
  const char* text = std::getenv("LANE_TEST_CALLS");
  return text != nullptr ? std::atoi(text) : 20'000;
}

// Averages of vectors that are all alike change nothing: after thousands of calls, any slip would still show. Each rank
// falls behind for a while now and then.
void average_often(Rank& rank, int calls) {
  constexpr int kVectors = 12;
  const std::array<int64_t, kVectors> counts{1, 5, 8, 64, 100, 513, 1024, 2000, 4096, 8000, 16384, 33'333};
  std::vector<Buffer> vectors;
  std::vector<TensorView> views;
  const auto dtype = [](int v) { return v % 2 == 0 ? DType::kBF16 : DType::kF32; };
  const auto of = [](int v, int as_rank, int64_t i) { return static_cast<float>((i * 3 + v) % 64 + 16 * as_rank); };
  for (int v = 0; v < kVectors; ++v) {
    vectors.emplace_back(rank.device, counts[static_cast<size_t>(v)] * 4);
    views.push_back(part_of(vectors.back(), dtype(v), 0, counts[static_cast<size_t>(v)]));
    const auto given = as_dtype(dtype(v), views.back().count(), [&](int64_t i) { return of(v, rank.rank, i); });
    copy_to_device(given.data(), views.back(), rank.stream);
  }
  rank.meet();  // an allocation may wait for kernels, and those of threads for the allocation's rank
  const auto algorithms = exact_algorithms(rank);
  std::mt19937_64 random(7), delays(static_cast<uint64_t>(rank.rank));
  for (int call = 0; call < calls; ++call) {
    rank.doing = fmt::format("call {}", call);
    if (delays() % 512 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 500));
    if (random() % 8 == 0) rank.group.set_device_algorithm(algorithms[random() % algorithms.size()]);
    const TensorView& view = views[call < kVectors ? static_cast<size_t>(call) : random() % kVectors];
    rank.group.all_reduce(view, view, ReduceOp::kAvg, rank.stream);
    if (call % 1000 == 999) rank.group.wait(rank.stream);
  }
  rank.group.wait(rank.stream);
  for (int v = 0; v < kVectors; ++v) {
    const auto seen = on_host<std::byte>(views[static_cast<size_t>(v)], rank.stream);
    for (int64_t i = 0; i < views[static_cast<size_t>(v)].count(); ++i) {
      const float got = value_at(dtype(v), seen.data(), i),
                  wanted = of(v, 0, i) + 8.0f * static_cast<float>(rank.size - 1);
      require(got == wanted, fmt::format("{} at {} of vector {}, not {}", got, i, v, wanted));
    }
  }
}

TEST(GpuStress, OfManyCalls) {
  for (const int ranks : {2, 3, 4})
    expect_good({.ranks = ranks}, [](Rank& rank) { average_often(rank, rank.is_crowded ? 30 : many_calls()); });
}
TEST(GpuStress, OnNodes) {
  expect_good({.ranks = 4, .nodes = 2, .fabric = "p2p"},
              [](Rank& rank) { average_often(rank, rank.is_crowded ? 15 : 20'000); });
  expect_good({.ranks = 4, .nodes = 4, .fabric = "p2p"},
              [](Rank& rank) { average_often(rank, rank.is_crowded ? 15 : 20'000); });
  expect_good({.ranks = 4, .nodes = 2, .fabric = "proxy"},
              [](Rank& rank) { average_often(rank, rank.is_crowded ? 15 : 2'000); });
}
TEST(GpuStress, OfThreadsOnOneGpu) {
  expect_good({.ranks = 4, .are_threads = true}, [](Rank& rank) {
    rank.group.set_device_blocks(8);
    average_often(rank, 3'000);
  });
}

// Enqueues in two groups on two streams, in another order on each rank, and looks at both.
void use_both(Rank& rank, Communicator& other, int turns) {
  constexpr int64_t kCount = 16'384;
  Stream second(rank.device);
  other.open_device(rank.device);
  const Buffer a(rank.device, kCount * 4), b(rank.device, kCount * 4), c(rank.device, kCount * 4),
      d(rank.device, kCount * 4);
  const auto view = [&](const Buffer& buffer) { return part_of(buffer, DType::kF32, 0, kCount); };
  Rank in_other{other, second, rank.device, other.rank(), other.size(), rank.is_crowded, rank.shared};
  for (int turn = 0; turn < turns; ++turn) {
    rank.doing = fmt::format("turn {}", turn);
    give_wholes(rank, view(a), {turn});
    give_wholes(in_other, view(c), {turn + 1000});
    const auto in_first = [&] { rank.group.all_reduce(view(a), view(b), ReduceOp::kSum, rank.stream); };
    const auto in_second = [&] { other.all_reduce(view(c), view(d), ReduceOp::kSum, second); };
    for (int i = 0; i < 4; ++i)
      if ((turn + rank.rank) % 2 == 0)
        in_first(), in_second();
      else
        in_second(), in_first();
    rank.group.wait(rank.stream);
    other.wait(second);
    check_sums(rank, view(b), {turn});
    check_sums(in_other, view(d), {turn + 1000});
  }
}

TEST(GpuGroups, OfAllTwiceOnTwoStreams) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    Communicator other = rank.group.split(0, -rank.rank);  // in another order
    require(other.rank() == rank.size - 1 - rank.rank, "the ranks of the other group are in another order");
    use_both(rank, other, rank.is_crowded ? 2 : 200);
  });
}

TEST(GpuGroups, OfPairsWithinOneOfAll) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    Communicator pair = rank.group.split(rank.rank / 2, rank.rank);
    require(pair.size() == 2 && pair.rank() == rank.rank % 2, "it is a pair");
    use_both(rank, pair, rank.is_crowded ? 2 : 200);
  });
}

// One leaves; the other does not notice.
TEST(GpuGroups, LiveAndEndIndependently) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    for (int turn = 0; turn < 3; ++turn) {
      Communicator pair = rank.group.split(rank.rank % 2, rank.rank);
      use_both(rank, pair, 2);
    }
    Communicator pair = rank.group.split(rank.rank / 2, rank.rank);
    pair.open_device(rank.device);
    if (rank.rank == 1) pair.abort("it is told to");
    const Buffer memory(rank.device, 4000);
    const TensorView view = part_of(memory, DType::kF32, 0, 1000);
    bool has_failed = false;
    try {
      for (int i = 0; i < 1000 && rank.rank < 2; ++i) {
        pair.all_reduce(view, view, ReduceOp::kSum, rank.stream);
        pair.wait(rank.stream);
      }
    } catch (const Error& error) {
      has_failed = std::string(error.what()).find("it is told to") != std::string::npos;
    }
    require(has_failed == (rank.rank < 2), "only the group that was told to ends");
    give_wholes(rank, view, {5});
    rank.group.all_reduce(view, view, ReduceOp::kSum, rank.stream);
    rank.group.wait(rank.stream);
    check_sums(rank, view, {5});
  });
}

}  // namespace
}  // namespace lane::forked
