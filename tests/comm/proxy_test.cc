// Sums between nodes by the host's threads. There is no GPU here: the test is the kernel.
#include "lane/comm/cuda/proxy.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <numeric>
#include <thread>

#include "lane/base/random.h"
#include "lane/base/wait.h"
#include "lane/comm/bootstrap/address.h"
#include "lane/comm/bootstrap/data_links.h"
#include "tests/support/rank_group.h"

namespace lane::cuda {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int64_t kBytes = 1 << 20;
constexpr uint32_t kFirstNumber = 0u - 3;  // numbers come round

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

DType dtype_of(WireType type) {
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI32};
  return kTypes[static_cast<size_t>(type)];
}

double value_of(WireType type, const std::byte* data, int64_t i) {
  if (type == WireType::kF32) return reinterpret_cast<const float*>(data)[i];
  if (type == WireType::kI32) return reinterpret_cast<const int32_t*>(data)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(data)[i];
  return type == WireType::kBF16 ? float_from_bf16(bits) : float_from_f16(bits);
}

void set_value(WireType type, std::byte* data, int64_t i, double value) {
  const auto narrow = static_cast<float>(value);
  if (type == WireType::kF32)
    reinterpret_cast<float*>(data)[i] = narrow;
  else if (type == WireType::kI32)
    reinterpret_cast<int32_t*>(data)[i] = static_cast<int32_t>(value * 1e6);
  else
    reinterpret_cast<uint16_t*>(data)[i] = type == WireType::kBF16 ? bf16_from_float(narrow) : f16_from_float(narrow);
}

struct Piece {
  int64_t at, count;
  WireType type = WireType::kF32;
  WireOp op = WireOp::kSum;
  uint64_t key = 0;  // of its elements

  int64_t bytes() const { return count * size_of(dtype_of(type)); }
  void fill(int rank, std::byte* to) const {
    for (int64_t i = 0; i < count; ++i)
      set_value(type, to, i,
                2 * random_uniform(mix64(key) + static_cast<uint64_t>(rank), static_cast<uint64_t>(i)) - 1);
  }
};

// What a call sums: the same on all ranks.
std::vector<Piece> pieces_of(uint64_t call) {
  uint64_t draw = call << 16;
  const auto any = [&](uint64_t below) { return random_bits(11, ++draw) % below; };
  std::vector<Piece> pieces(1 + any(any(4) == 0 ? kMailboxes : 5));
  int64_t at = 0;
  for (Piece& piece : pieces) {
    piece.at = at + static_cast<int64_t>(any(3)) * 64;
    piece.count = static_cast<int64_t>(any(8) == 0 ? any(5000) : any(300));
    piece.type = static_cast<WireType>(any(4));
    piece.op = any(2) == 0 ? WireOp::kSum : static_cast<WireOp>(any(3));  // products of integers leave their range
    piece.key = draw;
    at = piece.at + (piece.bytes() + 63) / 64 * 64;
  }
  ensure(at <= kBytes, "a call fits into the memory");
  return pieces;
}

// Sums in float32 in any order, then rounded once: |error| <= n 2^-24 sum |x| + u |sum|.
void check(const Piece& piece, const std::vector<int>& ranks, const std::byte* got) {
  std::vector<std::vector<std::byte>> inputs;
  for (const int rank : ranks) {
    inputs.emplace_back(static_cast<size_t>(piece.bytes()));
    piece.fill(rank, inputs.back().data());
  }
  const double unit = piece.type == WireType::kBF16 ? 0x1p-8 : piece.type == WireType::kF16 ? 0x1p-11 : 0;
  for (int64_t i = 0; i < piece.count; ++i) {
    double sum = 0, magnitude = 0, largest = -INFINITY, smallest = INFINITY;
    for (const auto& input : inputs) {
      const double x = value_of(piece.type, input.data(), i);
      sum += x, magnitude += std::abs(x);
      largest = std::max(largest, x), smallest = std::min(smallest, x);
    }
    const double wanted = piece.op == WireOp::kSum ? sum : piece.op == WireOp::kMax ? largest : smallest;
    const double sums_off = static_cast<double>(ranks.size()) * 0x1p-24 * magnitude;
    double allowed = sums_off + 1.01 * unit * (std::abs(sum) + sums_off) + (unit > 0 ? 0x1p-25 : 0);
    if (piece.op != WireOp::kSum || piece.type == WireType::kI32) allowed = 0;
    const double value = value_of(piece.type, got, i);
    if (!(std::abs(value - wanted) <= allowed))
      throw Error(ErrorCode::kBug,
                  fmt::format("element {} of {} (type {}, operation {}) is {}, not {}", i, piece.count,
                              static_cast<int>(piece.type), static_cast<int>(piece.op), value, wanted));
  }
}

// A rank: its memory, the kernel's side of it, and what the proxy says of failures.
class Rank {
 public:
  explicit Rank(Communicator& host)
      : rank_(host.rank()), mailboxes_(kMailboxes), to_network_(kBytes), from_network_(kBytes) {
    for (Mailbox& mailbox : mailboxes_) mailbox.posted = mailbox.landed = kFirstNumber;
  }

  Proxy::Memory memory() { return {mailboxes_.data(), to_network_.data(), from_network_.data(), kBytes}; }
  std::function<void(const Error&)> on_failure() {
    return [this](const Error& error) {
      if (num_failures_.fetch_add(1) == 0) failure_.set_value(error);
    };
  }
  std::future<Error> failure() { return failure_.get_future(); }
  int num_failures() const { return num_failures_; }

  Mailbox& mailbox(int index) { return mailboxes_[index]; }
  const std::byte* from_network() const { return from_network_.data(); }

  void post(const std::vector<Piece>& pieces, int index) {
    fill(pieces[index]);
    post_filled(pieces, index);
  }
  void post_filled(const std::vector<Piece>& pieces, int index) {
    const Piece& piece = pieces[index];
    Mailbox& mailbox = mailboxes_[index];
    mailbox.count = static_cast<uint32_t>(piece.count);
    mailbox.type = piece.type;
    mailbox.op = piece.op;
    mailbox.at = static_cast<uint64_t>(piece.at);
    mailbox.pieces = static_cast<uint32_t>(pieces.size());
    std::atomic_ref(mailbox.posted).store(mailbox.posted + 1, std::memory_order_release);
  }
  void fill(const Piece& piece) { piece.fill(rank_, to_network_.data() + piece.at); }
  // False if the proxy failed.
  bool wait(const std::vector<Piece>& pieces) {
    for (size_t p = 0; p < pieces.size(); ++p)
      for (int turn = 0; std::atomic_ref(mailboxes_[p].landed).load(std::memory_order_acquire) != mailboxes_[p].posted;
           ++turn) {
        if (num_failures_ > 0) return false;
        spin_turn(turn);
      }
    return true;
  }
  // Posts in an order and at times of this rank's own.
  bool run(const std::vector<Piece>& pieces, uint64_t seed) {
    std::vector<int> order(pieces.size());
    std::iota(order.begin(), order.end(), 0);
    const auto any = [&](uint64_t below) { return random_bits(static_cast<uint64_t>(rank_) + 20, ++seed) % below; };
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[any(i)]);
    for (const int index : order) {
      if (any(50) == 0) std::this_thread::sleep_for(std::chrono::microseconds(any(400)));
      post(pieces, index);
    }
    return wait(pieces);
  }

 private:
  int rank_;
  std::vector<Mailbox> mailboxes_;
  std::vector<std::byte> to_network_, from_network_;
  std::promise<Error> failure_;
  std::atomic<int> num_failures_ = 0;
};

// Those that sum with this one.
std::vector<int> ranks_at_place_of(const Communicator& host, int rank) {
  const auto by_node = host.fabric().layout.ranks_by_node();
  const auto& mine = by_node[host.fabric().layout.node_of[rank]];
  const auto place = std::find(mine.begin(), mine.end(), rank) - mine.begin();
  std::vector<int> ranks;
  for (const auto& node : by_node) ranks.push_back(node[place]);
  return ranks;
}

// Returns a hash of all bits that came.
uint64_t run_calls(Communicator& host, int num_channels, int num_calls, uint64_t seed) {
  Rank self(host);
  uint64_t hash = hash_name("");
  {
    Proxy proxy(split_channels(host, num_channels), self.memory(), self.on_failure());
    const std::vector<int> ranks = ranks_at_place_of(host, host.rank());
    for (int call = 0; call < num_calls; ++call) {
      const auto pieces = pieces_of(static_cast<uint64_t>(call));
      if (!self.run(pieces, seed + static_cast<uint64_t>(call) * 1000)) throw self.failure().get();
      for (size_t p = 0; p < pieces.size(); ++p) {
        const auto* got = self.from_network() + pieces[p].at;
        hash = hash_name({reinterpret_cast<const char*>(got), static_cast<size_t>(pieces[p].bytes())}, hash);
        if ((p + static_cast<size_t>(call)) % ranks.size() == 0 || call < 100) check(pieces[p], ranks, got);
      }
    }
  }
  if (self.num_failures() > 0) throw Error(ErrorCode::kBug, "failed while it left");
  return hash;
}

// Rank 0's answer; "" on the others.
std::string different_bits(Communicator& host, uint64_t hash) {
  const auto hashes = host.gather_text(std::to_string(hash), 0);
  for (int rank = 0; rank < static_cast<int>(hashes.size()); ++rank) {
    const int first = ranks_at_place_of(host, rank)[0];
    if (hashes[rank] != hashes[first]) return fmt::format("rank {} has other bits than rank {}", rank, first);
  }
  return "";
}

void run_threads(const plan::Layout& layout, int num_channels, int num_calls) {
  std::vector<uint64_t> first(layout.num_ranks()), second(layout.num_ranks());
  run_ranks(
      layout.num_ranks(),
      [&](Communicator& host) {
        first[host.rank()] = run_calls(host, num_channels, num_calls, 1);
        EXPECT_EQ(different_bits(host, first[host.rank()]), "");
        second[host.rank()] = run_calls(host, num_channels, num_calls / 10, 2);
      },
      {.timeout = std::chrono::seconds(60)}, layout);
  // Other times and orders of posting, and another number of channels.
  run_ranks(
      layout.num_ranks(),
      [&](Communicator& host) { EXPECT_EQ(run_calls(host, num_channels + 1, num_calls / 10, 3), second[host.rank()]); },
      {.timeout = std::chrono::seconds(60)}, layout);
}

TEST(Proxy, FourNodesOfOne) { run_threads(plan::Layout::uniform(4, 1), 3, 2000); }
TEST(Proxy, TwoNodesOfTwo) { run_threads(plan::Layout::uniform(2, 2), 2, 2000); }
TEST(Proxy, OneChannelAndAsManyAsMailboxes) {
  run_threads(plan::Layout::uniform(3, 1), 1, 300);
  run_threads(plan::Layout::uniform(2, 1), kMailboxes - 1, 100);
}
TEST(Proxy, OneNodeCopies) { run_threads(plan::Layout::uniform(1, 1), 2, 100); }

TEST(Proxy, TheCutLeavesTheBitsAlone) {
  constexpr int64_t kCount = 20'000;
  for (const WireType type : {WireType::kF32, WireType::kBF16})
    run_ranks(
        4,
        [&](Communicator& host) {
          Rank self(host);
          Proxy proxy(split_channels(host, 2), self.memory(), self.on_failure());
          std::vector<std::byte> whole;
          const Piece all{.at = 0, .count = kCount, .type = type, .key = 9};
          for (const int num_pieces : {1, 2, 7, 32}) {
            // The elements of `all`, whatever the cut: they are in place before anything is posted.
            std::vector<Piece> pieces;
            for (int p = 0; p < num_pieces; ++p) {
              const int64_t first = kCount * p / num_pieces, last = kCount * (p + 1) / num_pieces;
              pieces.push_back({.at = first * size_of(dtype_of(type)), .count = last - first, .type = type});
            }
            self.fill(all);
            for (int p = 0; p < num_pieces; ++p) self.post_filled(pieces, p);
            ASSERT_TRUE(self.wait(pieces));
            const std::vector<std::byte> got(self.from_network(), self.from_network() + all.bytes());
            if (whole.empty()) whole = got;
            EXPECT_TRUE(got == whole) << num_pieces << " pieces";
          }
        },
        {.timeout = std::chrono::seconds(60)}, plan::Layout::uniform(4, 1));
}

// Every rank's failure arrives within the limit, once, and nobody's proxy takes long to go.
void expect_failure(Rank& self, std::unique_ptr<Proxy>& proxy, double limit_s, const std::string& words) {
  auto failure = self.failure();
  ASSERT_EQ(failure.wait_for(std::chrono::duration<double>(limit_s)), std::future_status::ready);
  const Error error = failure.get();
  EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  const auto start = Clock::now();
  proxy.reset();
  EXPECT_LT(seconds_since(start), 0.5);
  EXPECT_EQ(self.num_failures(), 1);
}

std::vector<Piece> some_pieces(int count) {
  std::vector<Piece> pieces;
  for (int p = 0; p < count; ++p) pieces.push_back({.at = p * 4096, .count = 1000, .key = static_cast<uint64_t>(p)});
  return pieces;
}

// `misbehave` is what rank 2 does while the others wait for their pieces.
void run_with_failure(const std::function<void(Rank&, std::unique_ptr<Proxy>&)>& misbehave, milliseconds timeout,
                      double limit_s, const std::string& words) {
  run_ranks(
      4,
      [&](Communicator& host) {
        Rank self(host);
        auto proxy = std::make_unique<Proxy>(split_channels(host, 3), self.memory(), self.on_failure());
        const auto pieces = some_pieces(6);
        for (uint64_t call = 0; call < 5; ++call) ASSERT_TRUE(self.run(pieces, call * 1000));
        if (host.rank() == 2) return misbehave(self, proxy);
        for (int p = 0; p < 6; ++p) self.post(pieces, p);
        expect_failure(self, proxy, limit_s, words);
        EXPECT_FALSE(self.wait(pieces));
      },
      {.timeout = timeout}, plan::Layout::uniform(4, 1));
}

TEST(ProxyFault, AnOrderThatCannotBe) {
  struct Case {
    std::function<void(Mailbox&)> spoil;
    std::string words;
  };
  const Case cases[] = {
      {[](Mailbox& order) { order.at = kBytes - 3996; }, "a kernel posted 4000 B at 1044580 of a buffer of 1048576 B"},
      {[](Mailbox& order) { order.at = ~uint64_t{3}; }, "a kernel posted 4000 B at 18446744073709551612"},
      {[](Mailbox& order) { order.type = static_cast<WireType>(9); }, "a kernel posted elements of type 9"},
      {[](Mailbox& order) { order.op = static_cast<WireOp>(4); }, "a kernel posted the operation 4"},
      {[](Mailbox& order) { order.pieces = 33; }, "a kernel posted 33 pieces in mailbox 1"},
      {[](Mailbox& order) { order.pieces = 1; }, "a kernel posted 1 pieces in mailbox 1"},
  };
  for (const Case& each : cases)
    run_with_failure(
        [&](Rank& self, std::unique_ptr<Proxy>& proxy) {
          Mailbox& mailbox = self.mailbox(1);
          each.spoil(mailbox);
          std::atomic_ref(mailbox.posted).store(mailbox.posted + 1, std::memory_order_release);
          expect_failure(self, proxy, 5, each.words);
        },
        std::chrono::seconds(60), 5, each.words);
}

TEST(ProxyFault, ARankLeaves) {
  run_with_failure(
      [](Rank& self, std::unique_ptr<Proxy>& proxy) {
        proxy.reset();
        EXPECT_EQ(self.num_failures(), 0);
      },
      std::chrono::seconds(60), 5, "rank 2 has left");
}

TEST(ProxyFault, ARankLeavesInTheMiddleOfASum) {
  run_ranks(
      4,
      [](Communicator& host) {
        Rank self(host);
        auto proxy = std::make_unique<Proxy>(split_channels(host, 3), self.memory(), self.on_failure());
        if (host.rank() == 0) {  // all others wait for this one
          std::this_thread::sleep_for(milliseconds(800));
          EXPECT_EQ(self.num_failures(), 0);
          return;
        }
        for (int p = 0; p < 6; ++p) self.post(some_pieces(6), p);
        if (host.rank() != 2) return expect_failure(self, proxy, 5, "rank 2 gave up: it left in the middle of a sum");
        std::this_thread::sleep_for(milliseconds(200));
        const auto start = Clock::now();
        proxy.reset();
        EXPECT_LT(seconds_since(start), 0.5);
        EXPECT_EQ(self.num_failures(), 0);
      },
      {.timeout = std::chrono::seconds(60)}, plan::Layout::uniform(4, 1));
}

TEST(ProxyFault, ARankPostsNothing) {
  run_with_failure(
      [](Rank& self, std::unique_ptr<Proxy>& proxy) {
        std::this_thread::sleep_for(milliseconds(1500));
        EXPECT_EQ(self.num_failures(), 0) << "it waits for nothing";
        self.post(some_pieces(6), 0);
        expect_failure(self, proxy, 5, "rank 2");
      },
      milliseconds(500), 3, "for rank 2");
}

TEST(ProxyFault, OtherSizesAreNoticed) {
  run_with_failure(
      [](Rank& self, std::unique_ptr<Proxy>& proxy) {
        auto pieces = some_pieces(6);
        pieces[0].count = 999;
        self.post(pieces, 0);
        expect_failure(self, proxy, 5, "of 3996 B");
      },
      std::chrono::seconds(60), 5, "of 3996 B");
}

TEST(Proxy, UnequalNodesAreRefused) {
  run_ranks(
      3,
      [](Communicator& host) {
        try {
          split_channels(host, 2);
          FAIL();
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
        }
      },
      {}, plan::Layout::of_sizes({2, 1}));
}

TEST(Proxy, ChannelsSetting) {
  EXPECT_EQ(proxy_channels_setting(), 4);
  for (const char* wrong : {"0", "33", "four", "4x", "-1"}) {
    ::setenv("LANE_PROXY_CHANNELS", wrong, 1);
    EXPECT_THROW(proxy_channels_setting(), Error) << wrong;
  }
  ::setenv("LANE_PROXY_CHANNELS", "32", 1);
  EXPECT_EQ(proxy_channels_setting(), 32);
  ::unsetenv("LANE_PROXY_CHANNELS");
}

// Processes that call their host by different names, so that all goes over TCP.
class ProxyHosts : public testing::Test {
 protected:
  static constexpr int kHosts = 4;

  // Exit statuses by rank.
  std::vector<int> run(const std::function<int(Communicator&)>& body) {
    const int port = 20000 + static_cast<int>(mix64(static_cast<uint64_t>(::getpid()) + 77 * ++num_jobs_) % 12000);
    std::vector<pid_t> pids;
    for (int rank = 0; rank < kHosts; ++rank) {
      pids.push_back(::fork());
      if (pids.back() == 0) ::_exit(run_rank(rank, port, body));
    }
    std::vector<int> statuses;
    for (const pid_t pid : pids) {
      int status = -1;
      ::waitpid(pid, &status, 0);
      statuses.push_back(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
    return statuses;
  }

 private:
  static int run_rank(int rank, int port, const std::function<int(Communicator&)>& body) {
    ::alarm(120);
    try {
      Communicator host = Communicator::join({.rank = rank,
                                              .size = kHosts,
                                              .job = fmt::format("proxy/{}", port),
                                              .timeout = std::chrono::seconds(20),
                                              .rendezvous = fmt::format("127.0.0.1:{}", port),
                                              .secret = "between us",
                                              .host = fmt::format("host{}", rank)});
      return body(host);
    } catch (const Error& error) {
      fmt::print(stderr, "rank {}: {}\n", rank, error.what());
      return 1;
    }
  }
  uint64_t num_jobs_ = 0;
};

TEST_F(ProxyHosts, OverTcp) {
  const auto statuses = run([](Communicator& host) {
    const std::string wrong = different_bits(host, run_calls(host, 3, 2000, 1));
    if (!wrong.empty()) throw Error(ErrorCode::kBug, wrong);
    return 0;
  });
  EXPECT_EQ(statuses, std::vector<int>(kHosts, 0));
}

TEST_F(ProxyHosts, OneIsKilled) {
  constexpr int kVictim = 1;
  const auto statuses = run([](Communicator& host) {
    Rank self(host);
    auto failure = self.failure();
    auto proxy = std::make_unique<Proxy>(split_channels(host, 3), self.memory(), self.on_failure());
    const auto pieces = some_pieces(6);
    for (uint64_t call = 0;; ++call) {
      if (call == 100 && host.rank() == kVictim) ::raise(SIGKILL);
      if (!self.run(pieces, call * 1000)) break;
    }
    const std::string what = failure.get().what();
    const auto start = Clock::now();
    proxy.reset();
    if (seconds_since(start) > 0.5) throw Error(ErrorCode::kBug, "leaving took long");
    if (what.find("rank 1 (pid") == std::string::npos) throw Error(ErrorCode::kBug, "told: " + what);
    return 7;
  });
  std::vector<int> wanted(kHosts, 7);
  wanted[kVictim] = 128 + SIGKILL;
  EXPECT_EQ(statuses, wanted);
}

}  // namespace
}  // namespace lane::cuda
