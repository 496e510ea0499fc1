#include "lane/comm/cuda/peer_memory.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <new>
#include <thread>

#include "lane/base/error.h"
#include "tests/comm/cuda/count_gpus.h"

// CUDA does not survive fork(), so the process of the tests never calls it: ranks are its children, or threads of one.
namespace lane::cuda {
namespace {

using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr int kMostRanks = 4;
constexpr int64_t kBytes = 1'000'003;  // no multiple of anything

// Memory of a test and all its ranks.
struct Board {
  static constexpr size_t kMostText = 64 << 10;
  std::atomic<int> rounds[kMostRanks] = {};  // exchanges that a rank came to
  std::string_view text(int round, int rank) const { return {texts[round % 2][rank], lengths[round % 2][rank]}; }
  char texts[2][kMostRanks][kMostText];
  size_t lengths[2][kMostRanks];
  std::atomic<bool> is_one_dead{false};
  char verdicts[kMostRanks][2000];
  void set_verdict(int rank, const std::string& text) { *fmt::format_to_n(verdicts[rank], 1999, "{}", text).out = 0; }
};

void wait_for(const std::function<bool()>& is_so, const char* what) {
  const auto deadline = Clock::now() + seconds(30);
  while (!is_so()) {
    if (Clock::now() > deadline) throw Error(ErrorCode::kTimeout, std::string("30 s are not enough for ") + what);
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

struct Seat {
  Board& board;
  int rank, size;
  int device;
  std::vector<int> nodes;

  // A rank that is one round ahead uses the other half; it cannot be two ahead.
  std::vector<std::string> exchange(const std::string& text) {
    const int round = board.rounds[rank] + 1;
    if (text.size() > Board::kMostText) throw Error(ErrorCode::kBug, "a long text");
    std::memcpy(board.texts[round % 2][rank], text.data(), text.size());
    board.lengths[round % 2][rank] = text.size();
    board.rounds[rank] = round;
    wait_for([&] { return std::all_of(board.rounds, board.rounds + size, [&](int other) { return other >= round; }); },
             "an exchange");
    std::vector<std::string> all;
    for (int other = 0; other < size; ++other) all.emplace_back(board.text(round, other));
    return all;
  }
  void barrier() { exchange(""); }
  std::unique_ptr<PeerMemory> make(int64_t bytes = kBytes) {
    return make_peer_memory([this](const std::string& text) { return exchange(text); }, rank, nodes, device, bytes);
  }
};

// What a rank does, and its verdict: "" is good.
using Body = std::function<std::string(Seat&)>;

struct Job {
  int ranks = 2;
  std::map<std::string, std::string> environment = {};  // a %d in a value is the rank of a process
  bool are_threads = false;
  int devices = 0;              // used at most; 0: all there are
  std::vector<int> nodes = {};  // by rank; empty: one node
};

void run_rank(Board& board, const Job& job, int rank, const Body& body) {
  std::string verdict;
  try {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1) throw Error(ErrorCode::kDevice, "no GPU");
    if (job.devices > 0) count = std::min(count, job.devices);
    Seat seat{.board = board,
              .rank = rank,
              .size = job.ranks,
              .device = rank % count,
              .nodes = job.nodes.empty() ? std::vector<int>(job.ranks) : job.nodes};
    if (cudaSetDevice(seat.device) != cudaSuccess) throw Error(ErrorCode::kDevice, "the GPU does not start");
    verdict = body(seat);
  } catch (const Error& error) {
    verdict = fmt::format("error {}: {}", static_cast<int>(error.code()), error.what());
  }
  board.set_verdict(rank, verdict);
}

pid_t start_child(const Job& job, int rank, const std::function<void()>& act) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  for (auto [name, value] : job.environment) {
    if (const size_t at = value.find("%d"); at != std::string::npos) value.replace(at, 2, std::to_string(rank));
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  act();
  ::_exit(0);  // no destructors of what belongs to the parent
}

// The verdicts by rank.
std::vector<std::string> run(const Job& job, const Body& body) {
  void* shared = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return {"no memory"};
  Board& board = *new (shared) Board;
  for (int rank = 0; rank < job.ranks; ++rank) board.set_verdict(rank, "ended without a verdict");
  std::vector<pid_t> children;
  if (job.are_threads)
    children.push_back(start_child(job, 0, [&] {
      std::vector<std::thread> threads;
      for (int rank = 0; rank < job.ranks; ++rank)
        threads.emplace_back([&, rank] { run_rank(board, job, rank, body); });
      for (std::thread& thread : threads) thread.join();
    }));
  else
    for (int rank = 0; rank < job.ranks; ++rank)
      children.push_back(start_child(job, rank, [&, rank] { run_rank(board, job, rank, body); }));

  const auto deadline = Clock::now() + seconds(90);
  for (bool is_late = false; !children.empty();) {
    if (!is_late && Clock::now() > deadline) {
      is_late = true;
      for (const pid_t child : children) ::kill(child, SIGKILL);
    }
    std::erase_if(children, [&](pid_t child) {
      int status = 0;
      if (::waitpid(child, &status, is_late ? 0 : WNOHANG) != child) return false;
      if (WIFSIGNALED(status)) board.is_one_dead = true;
      return true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  std::vector<std::string> verdicts(board.verdicts, board.verdicts + job.ranks);
  ::munmap(shared, sizeof(Board));
  return verdicts;
}

// What this machine lacks, if that is why it did not work.
std::string lacking(const std::vector<std::string>& verdicts) {
  for (const std::string& verdict : verdicts)
    for (const char* words : {"cannot export memory as file descriptors", "cannot access the memory of"})
      if (verdict.find(words) != std::string::npos) return verdict;
  return "";
}

#define SKIP_WITHOUT_GPUS(count) \
  if (count_gpus() < (count)) GTEST_SKIP() << "needs " << (count) << " GPUs, has " << count_gpus()
#define EXPECT_ALL(verdicts, wanted)                                                     \
  do {                                                                                   \
    const std::vector<std::string> seen = verdicts;                                      \
    if (const std::string why = lacking(seen); !why.empty()) GTEST_SKIP() << why;        \
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], wanted) << "rank " << i; \
  } while (false)

unsigned char pattern(int writer, int reader) { return static_cast<unsigned char>(1 + writer * kMostRanks + reader); }

std::string copied(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) status = cudaDeviceSynchronize();
  return status == cudaSuccess ? "" : what + ": " + cudaGetErrorString(status);
}

// Rank r's part of a block is bytes [r, r+1) * part.
std::string write_part(const Seat& seat, const PeerMemory& memory, int owner) {
  const int64_t part = memory.bytes() / seat.size;
  const std::vector<unsigned char> sent(static_cast<size_t>(part), pattern(seat.rank, owner));
  return copied(cudaMemcpy(memory.of(owner) + seat.rank * part, sent.data(), sent.size(), cudaMemcpyHostToDevice),
                fmt::format("rank {} writing to the block of rank {}", seat.rank, owner));
}

// `expected` is of a writer's part.
std::string check_block(const Seat& seat, const PeerMemory& memory, int owner,
                        const std::function<int(int)>& expected) {
  std::vector<unsigned char> seen(static_cast<size_t>(memory.bytes()));
  std::string verdict = copied(cudaMemcpy(seen.data(), memory.of(owner), seen.size(), cudaMemcpyDeviceToHost),
                               fmt::format("rank {} reading the block of rank {}", seat.rank, owner));
  const int64_t part = memory.bytes() / seat.size;
  for (int64_t i = 0; i < part * seat.size && verdict.empty(); ++i)
    if (const int wanted = expected(static_cast<int>(i / part)); seen[i] != wanted)
      verdict = fmt::format("rank {} sees {} at byte {} of the block of rank {}, not {}", seat.rank, seen[i], i, owner,
                            wanted);
  return verdict;
}

// Zeroed memory, each rank's part in every block of its node, and each finds all of them in its own.
std::string write_and_check(Seat& seat, const PeerMemory& memory) {
  std::string verdict = check_block(seat, memory, seat.rank, [](int) { return 0; });
  seat.barrier();
  for (int owner = 0; owner < seat.size && verdict.empty(); ++owner) {
    const bool is_near = seat.nodes[owner] == seat.nodes[seat.rank];
    if ((memory.of(owner) != nullptr) != is_near) verdict = fmt::format("block {} is where it should not be", owner);
    if (is_near && verdict.empty()) verdict = write_part(seat, memory, owner);
  }
  seat.barrier();
  if (verdict.empty())
    verdict = check_block(seat, memory, seat.rank, [&](int writer) {
      return seat.nodes[writer] == seat.nodes[seat.rank] ? pattern(writer, seat.rank) : 0;
    });
  seat.barrier();
  return verdict;
}

Body shares_as(const std::string& kind) {
  return [kind](Seat& seat) {
    const auto memory = seat.make();
    if (memory->kind() != kind) return fmt::format("it is {}, not {}", memory->kind(), kind);
    if (memory->bytes() != kBytes) return fmt::format("it has {} B", memory->bytes());
    return write_and_check(seat, *memory);
  };
}

TEST(PeerMemory, IsSharedByThreadsOnOneGpu) {
  SKIP_WITHOUT_GPUS(1);
  for (const int ranks : {1, 2, 4})
    EXPECT_ALL(run({.ranks = ranks, .are_threads = true, .devices = 1}, shares_as("same process")), "");
}

TEST(PeerMemory, IsSharedByThreadsOnSeveralGpus) {
  SKIP_WITHOUT_GPUS(2);
  for (const int ranks : {2, 3, 4})
    EXPECT_ALL(run({.ranks = ranks, .are_threads = true}, shares_as("same process")), "");
}

TEST(PeerMemory, IsSharedByThreadsAsVirtualMemory) {
  SKIP_WITHOUT_GPUS(1);
  EXPECT_ALL(run({.ranks = 3, .environment = {{"LANE_PEER_MEMORY", "vmm"}}, .are_threads = true}, shares_as("VMM")),
             "");
}

TEST(PeerMemory, IsSharedByProcessesAsVirtualMemory) {
  SKIP_WITHOUT_GPUS(1);
  for (const int ranks : {2, 3, 4})
    EXPECT_ALL(run({.ranks = ranks, .environment = {{"LANE_PEER_MEMORY", "vmm"}}}, shares_as("VMM")), "");
}

TEST(PeerMemory, IsSharedByProcessesWithIpcHandles) {
  SKIP_WITHOUT_GPUS(1);
  for (const int ranks : {2, 3, 4})
    EXPECT_ALL(run({.ranks = ranks, .environment = {{"LANE_PEER_MEMORY", "ipc"}}}, shares_as("IPC")), "");
}

TEST(PeerMemory, IsSharedByProcessesThatSeeOneGpuEach) {
  SKIP_WITHOUT_GPUS(2);
  for (const auto& [wanted, kind] : {std::pair("vmm", "VMM"), std::pair("ipc", "IPC")})
    EXPECT_ALL(run({.ranks = 2, .environment = {{"LANE_PEER_MEMORY", wanted}, {"CUDA_VISIBLE_DEVICES", "%d"}}},
                   shares_as(kind)),
               "");
}

TEST(PeerMemory, LeavesOutRanksOfOtherNodes) {
  SKIP_WITHOUT_GPUS(1);
  EXPECT_ALL(run({.ranks = 4, .are_threads = true, .nodes = {0, 1, 0, 1}}, shares_as("same process")), "");
  EXPECT_ALL(run({.ranks = 3, .environment = {{"LANE_PEER_MEMORY", "vmm"}}, .nodes = {0, 1, 0}}, shares_as("VMM")), "");
  EXPECT_ALL(run({.ranks = 3, .environment = {{"LANE_PEER_MEMORY", "ipc"}}, .nodes = {0, 1, 0}}, shares_as("IPC")), "");
}

TEST(PeerMemory, OfADeadProcessCanStillBeWritten) {
  SKIP_WITHOUT_GPUS(1);
  const auto outlive = [](Seat& seat) {
    const auto memory = seat.make();
    std::string verdict = write_and_check(seat, *memory);
    const int victim = seat.size - 1;
    if (seat.rank == victim) {
      seat.board.set_verdict(victim, verdict);
      ::kill(::getpid(), SIGKILL);
    }
    wait_for([&] { return seat.board.is_one_dead.load(); }, "the end of a process");
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the driver clears up behind it
    for (int turn = 0; turn < 3 && verdict.empty(); ++turn) verdict = write_part(seat, *memory, victim);
    const int64_t part = memory->bytes() / seat.size;
    unsigned char seen = 0;
    if (verdict.empty())
      verdict = copied(cudaMemcpy(&seen, memory->of(victim) + seat.rank * part, 1, cudaMemcpyDeviceToHost),
                       "reading the block of a dead rank");
    if (verdict.empty() && seen != pattern(seat.rank, victim)) verdict = "the block of a dead rank lost what it held";
    return verdict;
  };
  EXPECT_ALL(run({.ranks = 3, .environment = {{"LANE_PEER_MEMORY", "vmm"}}}, outlive), "");
}

TEST(PeerMemory, OutlivesTheThreadThatMadeIt) {
  SKIP_WITHOUT_GPUS(1);
  const auto leave_first = [](Seat& seat) {
    auto memory = seat.make();
    std::string verdict = write_and_check(seat, *memory);
    if (seat.rank == 0) memory.reset();
    seat.barrier();
    if (seat.rank != 0 && verdict.empty()) verdict = write_part(seat, *memory, 0);
    seat.barrier();
    return verdict;
  };
  EXPECT_ALL(run({.ranks = 3, .are_threads = true}, leave_first), "");
}

TEST(PeerMemory, LeavesNoFileOpen) {
  SKIP_WITHOUT_GPUS(1);
  const auto make_often = [](Seat& seat) -> std::string {
    const auto count_open = [] {
      return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
    };
    for (int i = 0; i < 3; ++i) seat.make();  // CUDA opens some of its own
    const auto before = count_open();
    for (int i = 0; i < 10; ++i) seat.make();
    const auto after = count_open();
    return before == after ? "" : fmt::format("{} files were open, now {}", before, after);
  };
  EXPECT_ALL(run({.ranks = 2, .environment = {{"LANE_PEER_MEMORY", "vmm"}}}, make_often), "");
}

// All ranks threw, with the same words, which contain `wanted`.
void expect_refused(const std::vector<std::string>& verdicts, ErrorCode code, const std::string& wanted) {
  for (const std::string& verdict : verdicts) {
    EXPECT_EQ(verdict, verdicts[0]);
    EXPECT_EQ(verdict.find(fmt::format("error {}: ", static_cast<int>(code))), 0u) << verdict;
    EXPECT_NE(verdict.find(wanted), std::string::npos) << verdict;
  }
}

TEST(PeerMemory, IsRefusedToAllIfOneMayNotShare) {
  SKIP_WITHOUT_GPUS(1);
  const auto one_may_not = [](Seat& seat) {
    if (seat.rank == 1) ::setenv("NCCL_P2P_DISABLE", "1", 1);
    return shares_as("VMM")(seat);
  };
  expect_refused(run({.ranks = 3, .devices = 1}, one_may_not), ErrorCode::kUnsupported,
                 "NCCL_P2P_DISABLE is set on rank 1");
  expect_refused(
      run({.environment = {{"NCCL_P2P_DISABLE", "1"}}, .are_threads = true, .devices = 1}, shares_as("same process")),
      ErrorCode::kUnsupported, "NCCL_P2P_DISABLE is set on rank 0");
  EXPECT_ALL(
      run({.environment = {{"NCCL_P2P_DISABLE", "0"}}, .are_threads = true, .devices = 1}, shares_as("same process")),
      "");
  EXPECT_ALL(run({.environment = {{"NCCL_P2P_DISABLE", "1"}}, .are_threads = true, .nodes = {0, 1}},
                 shares_as("same process")),
             "");  // there is nobody to share with
}

TEST(PeerMemory, IsRefusedToAllIfTheyDisagree) {
  SKIP_WITHOUT_GPUS(1);
  const auto ask_for_own_size = [](Seat& seat) {
    seat.make(1000 + seat.rank);
    return std::string();
  };
  expect_refused(run({.ranks = 3, .devices = 1}, ask_for_own_size), ErrorCode::kInvalidArgument, "1000 B");
  const auto want_another = [](Seat& seat) {
    ::setenv("LANE_PEER_MEMORY", seat.rank == 1 ? "ipc" : "vmm", 1);
    return shares_as("VMM")(seat);
  };
  expect_refused(run({.ranks = 3, .devices = 1}, want_another), ErrorCode::kInvalidArgument,
                 "LANE_PEER_MEMORY is vmm on rank 0");
  expect_refused(run({.environment = {{"LANE_PEER_MEMORY", "smoke"}}, .devices = 1}, shares_as("VMM")),
                 ErrorCode::kInvalidArgument, "LANE_PEER_MEMORY=smoke");
  expect_refused(
      run({.environment = {{"LANE_PEER_MEMORY", "ipc"}}, .are_threads = true, .devices = 1}, shares_as("IPC")),
      ErrorCode::kUnsupported, "threads of one process");
}

TEST(PeerMemory, TooLargeIsAnErrorOnAllAndTheGpuStillWorks) {
  SKIP_WITHOUT_GPUS(1);
  for (const char* wanted : {"vmm", "ipc"}) {
    const auto ask_for_much = [](Seat& seat) -> std::string {
      try {
        seat.make(int64_t{1} << 50);
      } catch (const Error& error) {
        if (lacking({error.what()}).empty() && error.code() != ErrorCode::kDevice) throw;
      }
      return seat.make()->of(seat.rank) ? "" : "no block";
    };
    EXPECT_ALL(run({.environment = {{"LANE_PEER_MEMORY", wanted}}}, ask_for_much), "");
  }
}

TEST(PeerMemory, BecomesIpcOnAllWhereOneCannotHaveVirtualMemory) {
  SKIP_WITHOUT_GPUS(1);
  const auto one_fails = [](const char* kind) {
    return [kind](Seat& seat) {  // a setting that only the passing of descriptors reads
      ::setenv("LANE_TIMEOUT_MS", seat.rank == 1 ? "soon" : "3000", 1);
      return shares_as(kind)(seat);
    };
  };
  EXPECT_ALL(run({.ranks = 3}, one_fails("IPC")), "");
  const auto verdicts = run({.ranks = 3, .environment = {{"LANE_PEER_MEMORY", "vmm"}}}, one_fails("VMM"));
  if (lacking(verdicts).empty()) expect_refused(verdicts, ErrorCode::kInvalidArgument, "rank 1: LANE_TIMEOUT_MS=soon");
}

}  // namespace
}  // namespace lane::cuda
