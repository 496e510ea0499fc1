// Ranks on GPUs, for tests. CUDA does not survive fork(), so the process of the tests never calls it: ranks are its
// children, or threads of one. Rank r sits on device r modulo their number; where processes share a device they take
// turns on it, which works but takes long.
#pragma once
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lane/base/error.h"
#include "lane/comm/communicator.h"
#include "lane/comm/local_group.h"
#include "lane/device/cuda/native.cuh"
#include "lane/device/stream.h"
#include "lane/device/tensor.h"
#include "tests/comm/cuda/count_gpus.h"

namespace lane::forked {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr int kMostRanks = 4;
inline constexpr uint64_t kBeforeTheWrap = (uint64_t{1} << 32) - 5;  // numbers of 32 bits wrap after five operations

struct Job {
  int ranks = 2;
  int nodes = 1;                 // pretended hosts, with as many ranks each
  std::string fabric = "auto";   // LANE_GPU_FABRIC
  milliseconds timeout{20'000};  // of the group
  int victim = -1;               // may end by a signal, and is ended when all others have
  bool are_threads = false;      // of one process, all on device 0
  bool has_nccl = false;         // may find it
  unsigned seconds = 100;        // then a rank's process ends
  uint64_t first_number = kBeforeTheWrap;
};

// Memory of a test and all its ranks.
struct Shared {
  std::atomic<int> arrivals[4] = {};       // at meeting points
  std::atomic<int64_t> fault_ns{0};        // when something was done that others have to notice
  std::atomic<int> pids[kMostRanks] = {};  // negative: stopped, and has to be ended
  char verdicts[kMostRanks][3000] = {};

  void set_verdict(int rank, const std::string& text) { *fmt::format_to_n(verdicts[rank], 2999, "{}", text).out = 0; }
};

// Ends a rank's test; its verdict is `what`.
inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// Waits for all ranks, without their group.
inline void meet_at(Shared& shared, int point, int size) {
  const auto deadline = Clock::now() + seconds(60);
  const int wanted = (shared.arrivals[point].fetch_add(1) / size + 1) * size;
  while (shared.arrivals[point] < wanted) {
    require(Clock::now() < deadline, "a rank did not come to a meeting within 60 s");
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

struct Rank {
  Communicator& group;
  Stream& stream;
  Device device;
  int rank, size;
  bool is_crowded;  // several processes on a device: fewer cases have to do
  Shared& shared;
  std::string doing = {};  // the case at hand, for the verdict
  int meetings = 0;

  void meet() { meet_at(shared, ++meetings % 2, size); }
  void all_agree_on(uint64_t number, const char* what) {
    Stream cpu;
    std::vector<uint64_t> all(static_cast<size_t>(size));
    group.all_gather({&number, DType::kU8, {1, 1, 1, 8}, {}}, {all.data(), DType::kU8, {1, 1, size, 8}, {}}, cpu);
    for (int r = 0; r < size; ++r)
      require(all[static_cast<size_t>(r)] == number, fmt::format("{} differs between ranks {} and {}", what, rank, r));
  }
};

// Throws where something is wrong.
using Body = std::function<void(Rank&)>;

namespace impl {

inline int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  const bool works = ::bind(socket, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                     ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  ::close(socket);
  return works ? ntohs(address.sin_port) : 0;
}

struct Place {
  std::string job;
  int port;
};

inline JoinOptions options_of(const Job& job, const Place& place, int rank) {
  JoinOptions options;
  options.rank = rank, options.size = job.ranks;
  options.job = place.job;
  options.timeout = job.timeout;
  options.first_number = job.first_number;
  if (job.nodes > 1) {
    const int on_node = job.ranks / job.nodes;
    options.host = fmt::format("h{}", rank / on_node);
    options.local_rank = rank % on_node;
    options.rendezvous = fmt::format("127.0.0.1:{}", place.port);
    options.secret = "of a test";
  }
  return options;
}

inline void run_seat(const Job& job, Shared& shared, int rank, Communicator& group, Device device, const Body& body) {
  Stream stream(device);
  group.open_device(device);
  const bool is_crowded = !job.are_threads && count_gpus() < job.ranks;
  Rank seat{group, stream, device, rank, job.ranks, is_crowded, shared};
  try {
    body(seat);
  } catch (const Error& error) {
    throw Error(error.code(), seat.doing.empty() ? error.what() : seat.doing + ": " + error.what());
  } catch (const std::exception& error) {
    throw std::runtime_error(seat.doing.empty() ? error.what() : seat.doing + ": " + error.what());
  }
}

inline void write_verdict(Shared& shared, int rank, const std::function<void()>& act) {
  std::string verdict;
  try {
    act();
  } catch (const Error& error) {
    verdict = fmt::format("error {}: {}", static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    verdict = error.what();
  }
  shared.set_verdict(rank, verdict);
}

// Starting CUDA and loading kernels takes a time that short timeouts have no room for: a first group does it.
inline void warm_up(const Job& job, const Place& place, Shared& shared, int rank, Device device) {
  Job patient = job;
  patient.timeout = seconds(30), patient.nodes = 1;
  Communicator group = Communicator::join(options_of(patient, {place.job + "-warm", 0}, rank));
  Stream stream(device);
  group.open_device(device);
  group.barrier(stream);
  group.wait(stream);
  meet_at(shared, 2, job.ranks);
}

inline void run_process(const Job& job, const Place& place, Shared& shared, int rank, const Body& body) {
  const Device device{DeviceKind::kCuda, rank % std::max(1, count_gpus())};
  cuda::check(cudaSetDevice(device.index), "choosing a device");
  cuda::check(cudaFree(nullptr), "starting");
  meet_at(shared, 3, job.ranks);
  if (job.timeout < seconds(10)) warm_up(job, place, shared, rank, device);
  Communicator group = Communicator::join(options_of(job, place, rank));
  run_seat(job, shared, rank, group, device, body);
}

inline void run_threads(const Job& job, const Place& place, Shared& shared, const Body& body) {
  std::vector<Communicator> groups = make_local_group(job.ranks, options_of(job, place, 0));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < job.ranks; ++rank)
    threads.emplace_back([&, rank, group = std::move(groups[static_cast<size_t>(rank)])]() mutable {
      write_verdict(shared, rank, [&] {
        Communicator mine = std::move(group);
        cuda::check(cudaSetDevice(0), "choosing a device");
        run_seat(job, shared, rank, mine, {DeviceKind::kCuda, 0}, body);
      });
    });
  for (std::thread& thread : threads) thread.join();
}

inline pid_t start(const Job& job, const std::function<void()>& act) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(job.seconds);
  ::setenv("LANE_GPU_FABRIC", job.fabric.c_str(), 1);
  ::setenv("LANE_NCCL", job.has_nccl ? "auto" : "off", 1);
  ::setenv("LANE_TUNING", "off", 1);
  act();
  ::_exit(0);  // no destructors of what belongs to the parent
}

// Until all have ended; one that a signal ended gets that as its verdict.
inline void wait_for(const Job& job, Shared& shared, std::vector<pid_t> children) {
  for (size_t left = children.size(); left > 0;) {
    for (size_t c = 0; c < children.size(); ++c) {
      int status = 0;
      if (children[c] <= 0 || ::waitpid(children[c], &status, WNOHANG) != children[c]) continue;
      children[c] = 0, --left;
      const int rank = static_cast<int>(c);
      if (!WIFSIGNALED(status) || rank == job.victim) continue;
      shared.set_verdict(rank, fmt::format("ended by signal {} ({}) with the verdict \"{}\"", WTERMSIG(status),
                                           ::strsignal(WTERMSIG(status)), shared.verdicts[rank]));
    }
    if (left == 1 && job.victim >= 0 && children[static_cast<size_t>(job.victim)] > 0 &&
        shared.pids[job.victim] < 0)  // it says that it has stopped
      ::kill(children[static_cast<size_t>(job.victim)], SIGKILL);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

// The verdicts by rank; "" is good.
inline std::vector<std::string> run(const Job& job, const Body& body) {
  static int jobs = 0;
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return {"no memory"};
  Shared& shared = *new (memory) Shared;
  const Place place{fmt::format("gpu-test-{}-{}", ::getpid(), jobs++), job.nodes > 1 ? free_port() : 0};
  for (int rank = 0; rank < job.ranks; ++rank) shared.set_verdict(rank, "ended without a verdict");
  std::vector<pid_t> children;
  if (job.are_threads)
    children.push_back(start(job, [&] {
      try {
        run_threads(job, place, shared, body);
      } catch (const std::exception& error) {
        shared.set_verdict(0, error.what());
      }
    }));
  else
    for (int rank = 0; rank < job.ranks; ++rank)
      children.push_back(start(job, [&, rank] {
        shared.pids[rank] = ::getpid();
        write_verdict(shared, rank, [&] { run_process(job, place, shared, rank, body); });
      }));
  wait_for(job, shared, children);
  std::vector<std::string> verdicts(shared.verdicts, shared.verdicts + job.ranks);
  ::munmap(memory, sizeof(Shared));
  return verdicts;
}

// What this machine lacks, if that is why it did not work.
inline std::string lacking(const std::vector<std::string>& verdicts) {
  for (const std::string& verdict : verdicts)
    for (const char* words : {"cannot export memory as file descriptors", "cannot access the memory of"})
      if (verdict.find(words) != std::string::npos) return verdict;
  return "";
}

}  // namespace impl

// Runs a job and tells which ranks failed and why.
inline void expect_good(const Job& job, const Body& body) {
  if (count_gpus() < 1) GTEST_SKIP() << "needs a GPU";
  const std::vector<std::string> verdicts = impl::run(job, body);
  if (const std::string why = impl::lacking(verdicts); !why.empty()) GTEST_SKIP() << why;
  for (size_t rank = 0; rank < verdicts.size(); ++rank)
    if (!verdicts[rank].empty() && static_cast<int>(rank) != job.victim)
      ADD_FAILURE() << "rank " << rank << " of " << job.ranks << " on " << job.nodes << " nodes: " << verdicts[rank];
}

// The all-reduces that add in float32 and round once, by kernels of ours.
inline std::vector<std::string> exact_algorithms(Rank& rank) {
  std::vector<std::string> names = rank.group.device_algorithms(rank.device);
  std::erase_if(names, [](const std::string& name) {
    return name == "nccl" || name.find("fp8") != std::string::npos || name.find("multicast") != std::string::npos;
  });
  return names;
}

// Vectors on a device.

inline TensorView part_of(const Buffer& buffer, DType dtype, int64_t first, int64_t count) {
  return {static_cast<char*>(buffer.data()) + first * size_of(dtype), dtype, {1, 1, 1, count}, buffer.view().device};
}
inline TensorView rows_of(const TensorView& view, int64_t rows) {
  return view.reshaped({1, 1, rows, view.count() / rows});
}
inline void fill_bytes(const Buffer& buffer, int value, int64_t bytes, Stream& stream) {
  cuda::check(
      cudaMemsetAsync(buffer.data(), value, static_cast<size_t>(std::min(bytes, buffer.bytes())), cuda::raw(stream)),
      "filling");
}
template <class T>
std::vector<T> on_host(const TensorView& view, Stream& stream) {
  std::vector<T> result(static_cast<size_t>(view.bytes()) / sizeof(T));
  copy_to_host(view, result.data(), stream);
  return result;
}

// Whole numbers that a sum over four ranks keeps in any type: what a rank gives, and the sum.
struct Wholes {
  int64_t seed = 0;
  float of(int rank, int64_t i) const { return static_cast<float>((i * 7 + seed * 13) % 50 + 8 * rank); }
  float sum(int size, int64_t i) const {
    return static_cast<float>(size * ((i * 7 + seed * 13) % 50) + 4 * size * (size - 1));
  }
};
inline std::vector<std::byte> as_dtype(DType dtype, int64_t count, const std::function<float(int64_t)>& value) {
  std::vector<std::byte> bytes(static_cast<size_t>(count * size_of(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const float wide = value(i);
    const uint16_t narrow = dtype == DType::kF16 ? f16_from_float(wide) : bf16_from_float(wide);
    if (dtype == DType::kF32)
      std::memcpy(bytes.data() + 4 * i, &wide, 4);
    else
      std::memcpy(bytes.data() + 2 * i, &narrow, 2);
  }
  return bytes;
}
inline float value_at(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kF16 ? float_from_f16(bits) : float_from_bf16(bits);
}
inline void give_wholes(const Rank& rank, const TensorView& to, Wholes wholes) {
  const auto bytes = as_dtype(to.dtype, to.count(), [&](int64_t i) { return wholes.of(rank.rank, i); });
  copy_to_device(bytes.data(), to, rank.stream);
}
inline void check_sums(const Rank& rank, const TensorView& of, Wholes wholes) {
  const auto seen = on_host<std::byte>(of, rank.stream);
  for (int64_t i = 0; i < of.count(); ++i)
    if (const float got = value_at(of.dtype, seen.data(), i); got != wholes.sum(rank.size, i))
      throw std::runtime_error(fmt::format("{} at {} of {}, not {}", got, i, of.count(), wholes.sum(rank.size, i)));
}

}  // namespace lane::forked
