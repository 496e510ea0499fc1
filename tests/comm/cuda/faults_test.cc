// What happens to collectives on GPUs when a rank fails: every other one hears of it in time, from a wait that ends,
// with words that name the rank; it can end; and being slow is no failure.
#include <optional>

#include "lane/base/trace.h"
#include "tests/comm/cuda/forked.h"
#include "tests/comm/cuda/graph.h"

namespace lane::forked {
namespace {

constexpr milliseconds kTimeout{2000}, kGrace{2000};
constexpr int64_t kCount = 4608;  // parts of whole lines for two, three and four ranks

struct Vector {
  explicit Vector(const Rank& rank) : memory(rank.device, kCount * 4) {}
  TensorView view(DType dtype = DType::kBF16, int64_t count = kCount) const { return part_of(memory, dtype, 0, count); }
  Buffer memory;
};

void sum(Rank& rank, const Vector& vector, DType dtype = DType::kBF16, int64_t count = kCount,
         ReduceOp op = ReduceOp::kSum) {
  const TensorView view = vector.view(dtype, count);
  rank.group.all_reduce(view, view, op, rank.stream);
  rank.group.wait(rank.stream);
}

Job faulty(int ranks, int victim, int nodes = 1, const std::string& fabric = "auto") {
  return {.ranks = ranks, .nodes = nodes, .fabric = fabric, .timeout = kTimeout, .victim = victim, .seconds = 60};
}

std::string name_of(Rank& rank, int victim) {
  return fmt::format("rank {} (pid {}", victim, std::abs(rank.shared.pids[victim].load()));
}

void begin_fault(Rank& rank) { rank.shared.fault_ns = now_ns(); }

std::optional<Error> error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

// Acts until it fails, and looks whether that is as it has to be.
void expect_failure(Rank& rank, const std::function<void()>& act, ErrorCode code,
                    const std::vector<std::string>& words) {
  const auto failure = error_of([&] {
    for (const int64_t end_ns = now_ns() + 20'000'000'000; now_ns() < end_ns;) act();
  });
  require(failure.has_value(), "it went on for 20 s");
  const std::string text = failure->what();
  require(rank.shared.fault_ns != 0, "it failed before its time: " + text);
  const auto late = std::chrono::nanoseconds(now_ns() - rank.shared.fault_ns);
  require(late < kTimeout + kGrace, fmt::format("it took {} ms: {}", late.count() / 1'000'000, text));
  require(failure->code() == code,
          fmt::format("code {}, not {}: {}", static_cast<int>(failure->code()), static_cast<int>(code), text));
  for (const std::string& each : words)
    require(text.find(each) != std::string::npos, fmt::format("no \"{}\" in: {}", each, text));

  const int64_t again_ns = now_ns();
  const auto again = error_of(act);
  require(again.has_value(), "a call after the failure went through");
  require(now_ns() - again_ns < 200'000'000, "a call after the failure took long");
  require(again->code() == code && again->what() == text, fmt::format("another failure later: {}", again->what()));
}

// Some calls that work, and then the victim's fault.
void run_until(Rank& rank, const Vector& vector, int victim, const std::function<void()>& fault, ErrorCode code,
               const std::vector<std::string>& words) {
  const int calls = rank.is_crowded ? 5 : 50;
  for (int i = 0; i < calls; ++i) sum(rank, vector);
  meet_at(rank.shared, 2, rank.size);  // the fault ends no wait of these
  if (rank.rank == victim) {
    begin_fault(rank);
    fault();
    return;
  }
  std::vector<std::string> all = words;
  all.push_back(name_of(rank, victim));
  expect_failure(
      rank, [&] { sum(rank, vector); }, code, all);
}

void kill_in_a_stream_of_calls(Rank& rank, const Vector& vector) {
  for (int i = 0; i < 3; ++i) rank.group.all_reduce(vector.view(), vector.view(), ReduceOp::kSum, rank.stream);
  ::kill(::getpid(), SIGKILL);
}
void check_killed(const Job& job, const std::string& algorithm = "auto") {
  expect_good(job, [&](Rank& rank) {
    const Vector vector(rank);
    rank.group.set_device_algorithm(algorithm);
    run_until(rank, vector, job.victim, [&] { kill_in_a_stream_of_calls(rank, vector); }, ErrorCode::kPeerLost,
              {"died"});
  });
}

TEST(GpuFault, Killed) {
  check_killed(faulty(4, 0));
  check_killed(faulty(3, 2), "two_shot");
}
TEST(GpuFault, KilledAmongTwo) { check_killed(faulty(2, 1)); }
TEST(GpuFault, KilledOnNodes) {
  check_killed(faulty(4, 3, 2, "p2p"));
  check_killed(faulty(4, 2, 4, "p2p"));
}
TEST(GpuFault, KilledBehindAProxy) {
  check_killed(faulty(4, 3, 2, "proxy"));
  check_killed(faulty(4, 2, 4, "proxy"));
}
TEST(GpuFault, KilledBehindAProxyAmongTwo) { check_killed(faulty(2, 1, 2, "proxy")); }

// On whichever device: the survivors' next collectives in a new group work.
TEST(GpuFault, KilledAndOthersGoOn) {
  const Job job = faulty(4, 3);
  expect_good(job, [&](Rank& rank) {
    Communicator others = rank.group.split(rank.rank == job.victim ? -1 : 0, rank.rank);
    if (rank.rank != job.victim) others.open_device(rank.device);
    const Vector vector(rank);
    run_until(rank, vector, job.victim, [&] { kill_in_a_stream_of_calls(rank, vector); }, ErrorCode::kPeerLost, {});
    Rank in_others{others, rank.stream, rank.device, others.rank(), others.size(), rank.is_crowded, rank.shared};
    for (int i = 0; i < 5; ++i) {
      give_wholes(in_others, vector.view(), {i});
      sum(in_others, vector);
      check_sums(in_others, vector.view(), {i});
    }
  });
}

TEST(GpuFault, Stopped) {
  for (const int victim : {0, 2}) {
    const Job job = faulty(3, victim);
    expect_good(job, [&](Rank& rank) {
      const Vector vector(rank);
      const auto stop = [&] {
        rank.shared.pids[rank.rank] = -::getpid();
        ::kill(::getpid(), SIGSTOP);
      };
      run_until(rank, vector, victim, stop, ErrorCode::kTimeout, {"all_reduce", "stopped?"});
    });
  }
}

TEST(GpuFault, NeverCalls) {
  for (const char* algorithm : {"one_shot", "two_shot"})
    expect_good(faulty(3, -1), [&](Rank& rank) {
      const Vector vector(rank);
      rank.group.set_device_algorithm(algorithm);
      const auto sleep_and_call = [&] {
        std::this_thread::sleep_for(kTimeout + kGrace / 2);
        expect_failure(rank, [&] { sum(rank, vector); }, ErrorCode::kTimeout, {"all_reduce", name_of(rank, 1)});
      };
      run_until(rank, vector, 1, sleep_and_call, ErrorCode::kTimeout, {"all_reduce", "of bfloat16 (sum)"});
    });
}

// The victim calls something else than the others, over and over.
void check_mismatch(const std::function<void(Rank&, const Vector&)>& call, const std::vector<std::string>& words) {
  constexpr int kVictim = 1;
  for (const int ranks : {2, 3})
    expect_good(faulty(ranks, -1), [&](Rank& rank) {
      const Vector vector(rank);
      for (int i = 0; i < 5; ++i) sum(rank, vector);
      rank.meet();
      if (rank.rank == kVictim) begin_fault(rank);
      rank.meet();
      std::vector<std::string> all = words;
      all.push_back("rank 1");  // without a process where it is its own GPU that tells of it
      if (rank.rank == kVictim)
        expect_failure(
            rank, [&] { call(rank, vector); }, ErrorCode::kInvalidArgument, all);
      else
        expect_failure(
            rank, [&] { sum(rank, vector); }, ErrorCode::kInvalidArgument, all);
    });
}

TEST(GpuFault, CallsAnotherSize) {
  check_mismatch([](Rank& rank, const Vector& vector) { sum(rank, vector, DType::kBF16, kCount / 2); },
                 {"all_reduce of bfloat16", "of another size"});
}
TEST(GpuFault, CallsAnotherOperation) {
  check_mismatch([](Rank& rank, const Vector& vector) { sum(rank, vector, DType::kBF16, kCount, ReduceOp::kMax); },
                 {"(sum)", "(max)"});
}
TEST(GpuFault, CallsAnotherType) {
  check_mismatch([](Rank& rank, const Vector& vector) { sum(rank, vector, DType::kF16); },
                 {"of bfloat16", "of float16"});
}
TEST(GpuFault, CallsAnotherCollective) {
  check_mismatch(
      [](Rank& rank, const Vector& vector) {
        rank.group.broadcast(vector.view(), 0, rank.stream);
        rank.group.wait(rank.stream);
      },
      {"all_reduce", "broadcast"});
}
TEST(GpuFault, CallsAnotherAlgorithm) {
  check_mismatch(
      [](Rank& rank, const Vector& vector) {
        rank.group.set_device_algorithm("two_shot");
        sum(rank, vector);
      },
      {"by another algorithm"});
}

TEST(GpuFault, AbortsDuringAReplay) {
  expect_good(faulty(4, -1), [&](Rank& rank) {
    const Vector vector(rank);
    Graph graph(rank.stream, [&] {
      for (int i = 0; i < 20; ++i) rank.group.all_reduce(vector.view(), vector.view(), ReduceOp::kAvg, rank.stream);
    });
    const auto replay = [&] {
      graph.launch();
      rank.group.wait(rank.stream);
    };
    for (int i = 0; i < 3; ++i) replay();
    meet_at(rank.shared, 2, rank.size);
    if (rank.rank == 1) {
      graph.launch();
      begin_fault(rank);
      rank.group.abort("layer 3 is missing");
    }
    expect_failure(rank, replay, ErrorCode::kPeerLost, {name_of(rank, 1), "layer 3 is missing"});
  });
}

TEST(GpuFault, ThrowsBetweenCalls) {
  const Job job = faulty(3, 1);  // whose verdict does not count
  expect_good(job, [&](Rank& rank) {
    const Vector vector(rank);
    run_until(rank, vector, job.victim, [] { throw std::runtime_error("on purpose"); }, ErrorCode::kPeerLost,
              {"ended with an error"});
  });
}

TEST(GpuFault, SlowIsNotDead) {
  for (const int nodes : {1, 3})
    expect_good(faulty(3, -1, nodes, nodes > 1 ? "proxy" : "auto"), [](Rank& rank) {
      const Vector vector(rank);
      for (int i = 0; i < 3; ++i) {
        if (rank.rank == 1) std::this_thread::sleep_for(kTimeout / 2);
        rank.doing = fmt::format("call {}", i);
        give_wholes(rank, vector.view(), {i});
        sum(rank, vector);
        check_sums(rank, vector.view(), {i});
      }
    });
}

// Leaving is no failure of what was enqueued before: the others still get all of it.
TEST(GpuFault, LeavingAfterTheLastCallIsNone) {
  for (int turn = 0; turn < 3; ++turn)
    expect_good(faulty(4, -1), [&](Rank& rank) {
      const Vector vector(rank);
      give_wholes(rank, vector.view(), {turn});
      if (rank.rank != turn) std::this_thread::sleep_for(milliseconds(200));
      rank.group.all_reduce(vector.view(), vector.view(), ReduceOp::kSum, rank.stream);
      rank.group.wait(rank.stream);
      if (rank.rank != turn) std::this_thread::sleep_for(milliseconds(100));
      rank.group.wait(rank.stream);
      check_sums(rank, vector.view(), {turn});
    });
}

}  // namespace
}  // namespace lane::forked
