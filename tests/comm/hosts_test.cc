// Ranks on several hosts, which are processes of this machine that call their host by different names: how they meet,
// who is turned away, and what all are told when one of them fails.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "lane/base/random.h"
#include "lane/comm/bootstrap/address.h"
#include "lane/comm/bootstrap/data_links.h"
#include "lane/comm/bootstrap/gate.h"
#include "lane/comm/bootstrap/secret.h"
#include "lane/comm/communicator.h"
#include "lane/comm/group/relay.h"
#include "tests/comm/spawned.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kTimeoutMs = 1500;

// Below those that the kernel gives to outgoing connections, which would take it again at once.
int free_port() {
  static uint64_t draw = static_cast<uint64_t>(::getpid()) << 20;
  for (;;) {
    const int port = 20000 + static_cast<int>(random_bits(4, ++draw) % 12000);
    const Address address = numeric_address("127.0.0.1", port);
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.length) == 0) return port;
  }
}

int count(const std::string& text, const std::string& wanted) {
  int count = 0;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) ++count;
  return count;
}

void expect_in(const std::string& text, const std::string& words) {
  EXPECT_NE(text.find(words), std::string::npos) << "wanted: " << words << "\ngot: " << text;
}

// A job whose ranks are started one by one.
struct TcpJob {
  explicit TcpJob(int its_size) : size(its_size) {}
  int size;
  int port = free_port();
  std::string name = fmt::format("hosts/{}/{}", ::getpid(), port);
  std::string secret = "between us";
  std::string rendezvous_host = "127.0.0.1";

  std::string scenario = "ok";

  Spawned start(int rank, const std::string& host, int timeout_ms = 20'000, std::vector<std::string> more = {}) const {
    std::vector<std::string> variables = std::move(more);  // the first of a name counts
    for (const std::string& variable :
         {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", size), "LANE_JOB=" + name, "LANE_HOST=" + host,
          "LANE_SECRET=" + secret, fmt::format("LANE_RENDEZVOUS={}:{}", rendezvous_host, port),
          std::string("LANE_LOG=warn")})
      variables.push_back(variable);
    return Spawned({LANE_RANK_MAIN, scenario, std::to_string(size), "-1", std::to_string(timeout_ms)}, variables);
  }
};

// A connection to a port of this machine, once somebody listens there.
Fd connect_to(int port) {
  const Address address = numeric_address("127.0.0.1", port);
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (Clock::now() < deadline) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.length) == 0) return socket;
    std::this_thread::sleep_for(milliseconds(2));
  }
  throw Error(ErrorCode::kTimeout, "nobody listens at port " + std::to_string(port));
}

void run_all(const TcpJob& job, const std::vector<std::string>& hosts) {
  std::vector<Spawned> ranks;
  for (int rank = 0; rank < job.size; ++rank) ranks.push_back(job.start(rank, hosts[rank]));
  for (Spawned& rank : ranks) {
    const auto result = rank.wait();
    EXPECT_EQ(result.status, 0) << result.text;
    expect_in(result.text, " done");
  }
}

TEST(HostsMeet, AnyDivisionOfRanksOverHosts) {
  run_all(TcpJob(4), {"a", "a", "b", "b"});
  run_all(TcpJob(6), {"a", "b", "b", "c", "c", "c"});
  run_all(TcpJob(5), {"a", "b", "a", "b", "c"});
  run_all(TcpJob(3), {"a", "a", "a"});
  run_all(TcpJob(2), {"a", "b"});
}

TEST(HostsMeet, OverIpVersion6) {
  TcpJob job(3);
  job.rendezvous_host = "[::1]";
  const Address address = numeric_address("::1", 0);
  if (!is_own_address(address)) GTEST_SKIP() << "no IP version 6 here";
  run_all(job, {"a", "b", "b"});
}

TEST(HostsMeet, ByName) {
  TcpJob job(2);
  job.rendezvous_host = "localhost";
  run_all(job, {"a", "b"});
}

TEST(HostsMeet, NamesTheMissingRanks) {
  const TcpJob job(4);
  Spawned rank0 = job.start(0, "a", 600), rank2 = job.start(2, "b", 2000);
  const auto first = rank0.wait(), third = rank2.wait();
  EXPECT_EQ(first.status, 1);
  EXPECT_EQ(third.status, 1);
  const std::string words =
      fmt::format("ranks 1, 3 of 4 did not come to job {} at 127.0.0.1:{} within 0.6 s", job.name, job.port);
  expect_in(first.text, words);
  expect_in(third.text, words);
}

TEST(HostsMeet, SaysWhenRankZeroIsMissing) {
  const TcpJob job(2);
  const auto result = job.start(1, "b", 300).wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, fmt::format("rank 1 on b waited 0.3 s for rank 0 of job {} at 127.0.0.1:{}, which did not "
                                     "answer (Connection refused)",
                                     job.name, job.port));
}

TEST(HostsMeet, RefusesAnotherSecret) {
  const TcpJob job(2);
  Spawned rank0 = job.start(0, "a");
  const auto wrong = job.start(1, "b", 20'000, {"LANE_SECRET=a guess"}).wait();
  EXPECT_EQ(wrong.status, 1);
  expect_in(wrong.text, "rank 1 on b knows another secret than rank 0 at 127.0.0.1:");
  expect_in(wrong.text, "LANE_SECRET");
  EXPECT_EQ(job.start(1, "b").wait().status, 0) << "the right one still gets in";
  const auto first = rank0.wait();
  EXPECT_EQ(first.status, 0);
  expect_in(first.text, "refused: rank 1 on b (from 127.0.0.1:");
  expect_in(first.text, "knows another secret: LANE_SECRET must be the same on all ranks");
  EXPECT_EQ(first.text.find("between us"), std::string::npos) << "a secret is never shown";
}

TEST(HostsMeet, NeedsASecret) {
  const TcpJob job(2);
  const auto result = job.start(0, "a", 1000, {"LANE_SECRET="}).wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, "set LANE_SECRET to the same new text on all, such as the output of: openssl rand -hex 16");
}

TEST(HostsMeet, RefusesAnotherSizeAndATakenPlace) {
  const TcpJob job(3);
  Spawned rank0 = job.start(0, "a"), rank1 = job.start(1, "b");
  std::this_thread::sleep_for(milliseconds(300));
  const auto other = job.start(2, "b", 20'000, {"WORLD_SIZE=4"}).wait();
  EXPECT_EQ(other.status, 1);
  expect_in(other.text, fmt::format("job {} has 3 ranks, but rank 2 (pid ", job.name));
  expect_in(other.text, "on b) was told of 4");
  const auto twice = job.start(1, "c").wait();
  EXPECT_EQ(twice.status, 1);
  expect_in(twice.text, "is here already; rank 1 (pid ");
  EXPECT_EQ(job.start(2, "b").wait().status, 0);
  EXPECT_EQ(rank0.wait().status, 0);
  EXPECT_EQ(rank1.wait().status, 0);
}

TEST(HostsMeet, LateComersAreToldWhileTheJobRuns) {
  TcpJob job(2);
  job.scenario = "interrupt";
  Spawned rank0 = job.start(0, "a"), rank1 = job.start(1, "b");
  ASSERT_TRUE(rank0.read_until("ready", milliseconds(20'000))) << rank0.text();
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) {
    strangers.push_back(connect_to(job.port));
    ::send(strangers.back().get(), "what is this?", 13, MSG_NOSIGNAL);
  }
  const auto late = job.start(1, "c").wait();
  EXPECT_EQ(late.status, 1);
  expect_in(late.text, "is here already and the job has started; rank 1 (pid ");
  ::kill(rank0.pid(), SIGINT);
  EXPECT_EQ(rank0.wait().status, 0);
  EXPECT_EQ(rank1.wait().status, 0);
}

TEST(HostsMeet, RefusesAnotherVersion) {
  const TcpJob job(2);
  Spawned rank0 = job.start(0, "a");
  const Fd socket = connect_to(job.port);
  const PacketHead head{.version = PacketHead::kVersion + 1};
  ASSERT_EQ(::send(socket.get(), &head, sizeof(head), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(head)));
  PacketHead answer{};
  ASSERT_EQ(::recv(socket.get(), &answer, sizeof(answer), MSG_WAITALL), static_cast<ssize_t>(sizeof(answer)));
  EXPECT_EQ(answer.version, PacketHead::kVersion);
  EXPECT_EQ(answer.kind, PacketKind::kOtherVersion);
  EXPECT_EQ(job.start(1, "b").wait().status, 0);
  expect_in(rank0.wait().text, "speaks version 2, not 1: all ranks must run the same build");
}

TEST(HostsMeet, AnOlderRankZeroIsNamed) {
  TcpJob job(2);
  const Fd listener = listen_at(numeric_address("127.0.0.1", 0));
  job.port = local_address(listener.get()).port();
  Spawned rank1 = job.start(1, "b");
  Fd visitor;
  while (!visitor) visitor = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const PacketHead head{.version = 77, .kind = PacketKind::kOtherVersion};
  ASSERT_GT(::send(visitor.get(), &head, sizeof(head), MSG_NOSIGNAL), 0);
  const auto result = rank1.wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, "rank 1 on b speaks version 1 and rank 0 at 127.0.0.1:");
  expect_in(result.text, "speaks version 77: all ranks must run the same build");
}

TEST(HostsMeet, AFakeRankZeroLearnsNothing) {
  TcpJob job(2);
  const Fd listener = listen_at(numeric_address("127.0.0.1", 0));
  job.port = local_address(listener.get()).port();
  Spawned rank1 = job.start(1, "b");
  Fd visitor;
  while (!visitor) visitor = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  char hello[sizeof(PacketHead) + sizeof(Introduction)];
  ASSERT_EQ(::recv(visitor.get(), hello, sizeof(hello), MSG_WAITALL), static_cast<ssize_t>(sizeof(hello)));
  // It knows no proof, so it offers a number of its own and what it heard.
  struct {
    PacketHead head{.kind = PacketKind::kChallenge, .bytes = 2 * sizeof(Bytes32)};
    Bytes32 nonce = random_bytes(), proof = random_bytes();
  } challenge;
  static_assert(sizeof(challenge) == sizeof(PacketHead) + 2 * sizeof(Bytes32));
  ASSERT_GT(::send(visitor.get(), &challenge, sizeof(challenge), MSG_NOSIGNAL), 0);
  PacketHead answer{};
  ASSERT_EQ(::recv(visitor.get(), &answer, sizeof(answer), MSG_WAITALL), static_cast<ssize_t>(sizeof(answer)));
  EXPECT_EQ(answer.kind, PacketKind::kOtherSecret) << "and no proof of its own, which might be used elsewhere";
  char byte;
  EXPECT_LE(::recv(visitor.get(), &byte, 1, 0), 0);
  EXPECT_EQ(rank1.wait().status, 1);
}

TEST(HostsMeet, NoiseChangesNothing) {
  const TcpJob job(2);
  Spawned rank0 = job.start(0, "a", 40'000);
  std::vector<Fd> silent;
  for (uint64_t i = 0; i < 300; ++i) {
    Fd socket = connect_to(job.port);
    std::string bytes(1 + random_bits(1, i) % 3000, '\0');
    for (size_t j = 0; j < bytes.size(); ++j) bytes[j] = static_cast<char>(random_bits(i, j));
    const PacketHead head{.kind = static_cast<PacketKind>(i % 12), .bytes = static_cast<uint32_t>(random_bits(2, i))};
    if (i % 2 == 0) std::memcpy(bytes.data(), &head, std::min(bytes.size(), sizeof(head) - i % 5));
    if (i % 4 != 3) ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (i % 3 == 0) silent.push_back(std::move(socket));
  }
  const auto second = job.start(1, "b", 40'000).wait(), first = rank0.wait();
  EXPECT_EQ(first.status, 0) << first.text.substr(0, 3000);
  EXPECT_EQ(second.status, 0) << second.text;
  EXPECT_LT(count(first.text, "refused"), 60) << "noise must not fill the log";
}

TEST(HostsMeet, AProofCannotBeUsedTwice) {
  const Bytes32 key = hmac("secret", {"test"});
  Gate gate(listen_at(numeric_address("127.0.0.1", 0)), key, 8);
  const auto visit = [&](const std::string& replayed) {
    const Fd socket = connect_to(gate.port());
    Introduction who{.rank = 3};
    PacketHead head{.bytes = sizeof(who)};
    ::send(socket.get(), &head, sizeof(head), 0);
    ::send(socket.get(), &who, sizeof(who), 0);
    char challenge[sizeof(head) + 2 * sizeof(Bytes32)];
    for (int i = 0; i < 200 && ::recv(socket.get(), challenge, sizeof(challenge), MSG_PEEK | MSG_DONTWAIT) <= 0; ++i) {
      EXPECT_TRUE(gate.serve().empty());
      std::this_thread::sleep_for(milliseconds(5));
    }
    EXPECT_EQ(::recv(socket.get(), challenge, sizeof(challenge), MSG_WAITALL), static_cast<ssize_t>(sizeof(challenge)));
    std::string proof = replayed;
    if (proof.empty())
      proof = view(hmac(key, {"visitor", std::string_view(reinterpret_cast<char*>(&who), sizeof(who)),
                              std::string_view(challenge + sizeof(head), sizeof(Bytes32))}));
    head = {.kind = PacketKind::kProof, .bytes = sizeof(Bytes32)};
    const std::string packet = std::string(reinterpret_cast<const char*>(&head), sizeof(head)) + proof;
    ::send(socket.get(), packet.data(), packet.size(), MSG_NOSIGNAL);
    size_t num_guests = 0;
    for (int i = 0; i < 50; ++i) {
      num_guests += gate.serve().size();
      std::this_thread::sleep_for(milliseconds(2));
    }
    return std::pair(num_guests, proof);
  };
  const auto [welcome, proof] = visit("");
  EXPECT_EQ(welcome, 1U);
  EXPECT_EQ(visit(proof).first, 0U);
  EXPECT_EQ(visit(std::string(32, '\0')).first, 0U);
}

TEST(HostsMeet, ADeathWhileOthersAreMissingIsTold) {
  const TcpJob job(3);
  Spawned rank0 = job.start(0, "a");
  Spawned rank2 = job.start(2, "b");
  std::this_thread::sleep_for(milliseconds(500));
  ::kill(rank2.pid(), SIGKILL);
  const auto result = rank0.wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, fmt::format("rank 2 (pid {} on b) died, or its host did, while rank 1 of 3 had not joined yet",
                                     rank2.pid()));
}

TEST(HostsMeet, ADeathOfRankZeroIsTold) {
  const TcpJob job(3);
  Spawned rank0 = job.start(0, "a");
  Spawned rank2 = job.start(2, "b");
  std::this_thread::sleep_for(milliseconds(500));
  ::kill(rank0.pid(), SIGKILL);
  const auto result = rank2.wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text,
            fmt::format("rank 0 at 127.0.0.1:{} ended before all ranks of job {} had joined", job.port, job.name));
}

TEST(HostsMeet, AStoppedRankZeroIsWaitedForNoLongerThanTheTimeout) {
  const TcpJob job(2);
  Spawned rank0 = job.start(0, "a");
  connect_to(job.port);
  ::kill(rank0.pid(), SIGSTOP);
  const auto result = job.start(1, "b", 500).wait();
  EXPECT_EQ(result.status, 1);
  EXPECT_LT(result.seconds, 10);
  expect_in(result.text, "rank 1 on b waited 0.5 s for rank 0");
}

TEST(HostsMeet, UnknownInterfacesAndHosts) {
  const TcpJob job(2);
  auto result = job.start(0, "a", 1000, {"LANE_NICS=nosuch0"}).wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, "LANE_NICS: this host has no interface or address nosuch0; it has ");
  expect_in(result.text, "lo (127.0.0.1)");
  result = job.start(1, "a", 1000, {"LANE_RENDEZVOUS=no.such.host.invalid:77"}).wait();
  expect_in(result.text, "there is no address for host no.such.host.invalid");
  result = job.start(1, "a", 1000, {"LANE_RENDEZVOUS=somewhere"}).wait();
  expect_in(result.text, "LANE_RENDEZVOUS=somewhere: expected host:port");
}

TEST(HostsMeet, RanksOfAHostTakeTurnsWithTheInterfaces) {
  const TcpJob job(3);
  std::vector<Spawned> ranks;
  for (int rank = 0; rank < 3; ++rank)
    ranks.push_back(job.start(rank, rank == 0 ? "a" : "b", 20'000,
                              {"LANE_NICS=lo,127.0.0.3", fmt::format("LOCAL_RANK={}", rank), "LOCAL_WORLD_SIZE=3"}));
  for (Spawned& rank : ranks) {
    const auto result = rank.wait();
    EXPECT_EQ(result.status, 0) << result.text;
  }
}

TEST(HostsMeet, ATakenPortIsNamed) {
  TcpJob job(2);
  const Fd holder = listen_at(numeric_address("127.0.0.1", 0));
  job.port = local_address(holder.get()).port();
  const auto result = job.start(0, "a", 1000).wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text,
            fmt::format("cannot listen at 127.0.0.1:{}: Address already in use; another program or job has "
                        "that port",
                        job.port));
}

// Whoever comes to a data port with noise while the ranks link up.
TEST(HostsMeet, DataListenersTurnStrangersAway) {
  const Bytes32 key = hmac("secret", {"data"});
  std::vector<TableEntry> table(2);
  table[1].node = 1;
  Fd listener = listen_at(numeric_address("127.0.0.1", 0)), other = listen_at(numeric_address("127.0.0.1", 0));
  const int port = local_address(listener.get()).port();
  table[0].data_port = static_cast<uint32_t>(port);
  std::snprintf(table[0].host, sizeof(table[0].host), "a");
  std::snprintf(table[0].data_host, sizeof(table[0].data_host), "127.0.0.1");
  std::vector<Fd> strangers;
  for (int i = 0; i < 100; ++i) {
    strangers.push_back(connect_to(port));
    const std::string noise(200, static_cast<char>(i));
    if (i % 2) ::send(strangers.back().get(), noise.data(), noise.size(), MSG_NOSIGNAL);
  }
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  std::vector<Fd> of_0, of_1;
  const auto link = [&](int rank, Fd own, const Bytes32& its_key) {
    return link_hosts({.rank = rank, .ranks = table, .key = its_key, .deadline = deadline, .listener = std::move(own)});
  };
  std::thread rank0([&] { of_0 = link(0, std::move(listener), key); });
  EXPECT_THROW(link_hosts({.rank = 1,
                           .ranks = table,
                           .key = hmac("another", {"data"}),
                           .deadline = deadline,
                           .listener = listen_at(numeric_address("127.0.0.1", 0))}),
               Error)
      << "nor does one with another secret get in";
  of_1 = link(1, std::move(other), key);
  rank0.join();
  ASSERT_TRUE(of_0[1] && of_1[0]);
  EXPECT_EQ(::send(of_0[1].get(), "x", 1, 0), 1);
  char byte = 0;
  EXPECT_EQ(::recv(of_1[0].get(), &byte, 1, 0), 1);
  EXPECT_EQ(byte, 'x');
}

TEST(HostsMeet, MissingDataConnectionsAreNamed) {
  std::vector<TableEntry> table(2);
  table[1].node = 1;
  table[1].pid = 4711;
  std::snprintf(table[1].host, sizeof(table[1].host), "b");
  try {
    link_hosts({.rank = 0,
                .ranks = table,
                .deadline = Clock::now() + milliseconds(100),
                .listener = listen_at(numeric_address("127.0.0.1", 0))});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kTimeout);
    expect_in(error.what(), "no data connection to rank 1 (pid 4711 on b), which did not come");
    expect_in(error.what(), "firewall");
  }
}

TEST(Relay, NewsArriveAndNoiseEndsIt) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  Relay one{Fd(ends[0])}, other{Fd(ends[1])};
  one.send_statuses({{.rank = 2, .status = {.beat_age_ns = 5, .doing = 7, .waiting_for = 1, .left = 1}}}, false);
  one.send_failure(Error(ErrorCode::kPeerLost, "rank 1 died"));
  auto news = other.receive();
  ASSERT_EQ(news.statuses.size(), 1U);
  EXPECT_EQ(news.statuses[0].rank, 2);
  EXPECT_EQ(news.statuses[0].status.doing, 7U);
  EXPECT_EQ(news.statuses[0].status.left, 1U);
  ASSERT_EQ(news.failures.size(), 1U);
  EXPECT_STREQ(news.failures[0].what(), "rank 1 died");
  EXPECT_EQ(news.failures[0].code(), ErrorCode::kPeerLost);
  EXPECT_EQ(news.ended, "");
  // A full socket takes no status any more, but a failure waits for its turn.
  for (int i = 0; i < 100'000; ++i) one.send_statuses({{.rank = 1, .status = {}}}, false);
  one.send_failure(Error(ErrorCode::kTimeout, "late"));
  size_t num_failures = 0;
  for (int i = 0; i < 10'000 && num_failures == 0; ++i) {
    one.flush();
    num_failures += other.receive().failures.size();
  }
  EXPECT_EQ(num_failures, 1U);
  EXPECT_EQ(::send(ends[0], "GET / HTTP/1.1, and more than a head", 36, 0), 36);
  EXPECT_EQ(other.receive().ended, "something came that no rank sends");
}

TEST(Relay, WhatWasSentBeforeTheEndArrives) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  Relay one{Fd(ends[0])}, other{Fd(ends[1])};
  other.send_statuses({{.rank = 0, .status = {}}}, false);
  one.send_statuses({{.rank = 1, .status = {.left = 1}}}, true);
  one.close();
  const auto news = other.receive();
  ASSERT_EQ(news.statuses.size(), 1U);
  EXPECT_EQ(news.statuses[0].status.left, 1U);
  EXPECT_NE(news.ended, "");
}

// Whole jobs, as `lane launch` starts them. The third host has one rank, rank 4.
constexpr const char* kHosts = "a:2,b:2,c:1";
constexpr int kRanks = 5;

Spawned::Result run_hosts(const std::string& scenario, int victim, const std::string& input = "",
                          const std::string& hosts = kHosts, std::vector<std::string> variables = {}) {
  variables.push_back("LANE_TIMEOUT_MS=" + std::to_string(kTimeoutMs));
  Spawned job({LANE_RANK_MAIN, scenario, hosts, std::to_string(victim), std::to_string(kTimeoutMs)}, variables, input);
  const Spawned::Result result = job.wait();
  EXPECT_TRUE(result.ended) << "a process is left:\n" << result.text;
  return result;
}

// All ranks but the victim failed, each with a line that contains `words` and the victim's name.
void expect_survivors_say(const Spawned::Result& result, int victim, const std::string& words) {
  const std::string name = "rank " + std::to_string(victim) + " (pid ";
  for (int rank = 0; rank < kRanks; ++rank) {
    if (rank == victim) continue;
    const std::string start = "rank " + std::to_string(rank) + " failed";
    const size_t at = result.text.find(start);
    ASSERT_NE(at, std::string::npos) << "nothing from rank " << rank << ":\n" << result.text;
    const std::string line = result.text.substr(at, result.text.find('\n', at) - at);
    EXPECT_NE(line.find(name), std::string::npos) << line;
    EXPECT_NE(line.find(words), std::string::npos) << line;
  }
}

TEST(HostsJob, RunsAndOnlyRankZeroHasInput) {
  const auto result = run_hosts("ok", -1, "input");
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(count(result.text, " done"), kRanks) << result.text;
  EXPECT_EQ(count(result.text, "rank 0 of 5 done, with input"), 1) << result.text;
  EXPECT_EQ(count(result.text, "with input"), 1) << result.text;
}

TEST(HostsJob, EndsWithoutAFalseAlarm) {
  for (int i = 0; i < 10; ++i) {
    const auto result = run_hosts("ok", -1, "", i % 2 ? "a:1,b:2,c:3" : "a:2,b:1");
    EXPECT_EQ(result.status, 0) << result.text;
    EXPECT_EQ(count(result.text, "failed"), 0) << result.text;
  }
}

TEST(HostsFault, Killed) {
  for (int victim = 0; victim < kRanks; ++victim) {
    const auto result = run_hosts("kill", victim);
    EXPECT_EQ(result.status, 128 + SIGKILL) << result.text;
    expect_survivors_say(result, victim, "died");
    EXPECT_LT(result.seconds, kTimeoutMs * 1e-3 + 1) << "a death is noticed, not waited for";
  }
}

TEST(HostsFault, KilledInTheMiddleOfAMessage) {
  for (const int victim : {0, 3}) {
    const auto result = run_hosts("kill_in_message", victim);
    EXPECT_EQ(result.status, 128 + SIGKILL) << result.text;
    expect_survivors_say(result, victim, "died");
  }
}

TEST(HostsFault, Stopped) {
  for (const int victim : {0, 1, 2, 3}) {
    const auto result = run_hosts("stop", victim);
    EXPECT_EQ(result.status, 1) << result.text;
    expect_survivors_say(result, victim, "stopped");
  }
}

TEST(HostsFault, ThrowsExitsAndLeaves) {
  for (const int victim : {1, 2, 3}) {
    auto result = run_hosts("throw", victim);
    EXPECT_EQ(result.status, 1) << result.text;
    expect_survivors_say(result, victim, "gave up: layer 3 is missing");
    result = run_hosts("exit", victim);
    EXPECT_EQ(result.status, 1) << result.text;
    expect_survivors_say(result, victim, "died");
    result = run_hosts("leave", victim);
    EXPECT_EQ(result.status, 1) << result.text;
    // That it left and that its connections ended are seen at the same time; each host tells what it saw first.
    expect_survivors_say(result, victim, " #5");
  }
}

TEST(HostsFault, CallsSomethingElse) {
  auto result = run_hosts("wrong_size", 3);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "of 308 B of float32 (sum)"), kRanks) << result.text;
  result = run_hosts("wrong_collective", 0);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "barrier #52"), kRanks) << result.text;
}

TEST(HostsFault, SlowIsNotDead) {
  const auto result = run_hosts("slow", 3);
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(count(result.text, " done"), kRanks) << result.text;
}

// A remote shell for tests: it forgets the environment, as a real one does, and some hosts do not exist.
std::string make_remote_shell() {
  const std::string path = testing::TempDir() + "/rsh_" + std::to_string(::getpid());
  std::ofstream(path) << "#!/bin/sh\n"
                         "host=$1; shift\n"
                         "case $host in\n"
                         "  nowhere) echo 'rsh: connect to host nowhere: No route to host' >&2; exit 255;;\n"
                         "esac\n"
                         "exec env -i PATH=\"$PATH\" LANE_HOST=$host HOME=/ sh -c \"$*\"\n";
  EXPECT_EQ(::chmod(path.c_str(), 0755), 0);
  return path;
}

TEST(HostsLaunch, ThroughARemoteShell) {
  const std::string shell = "LANE_TEST_RSH=" + make_remote_shell();
  auto result = run_hosts("ok", -1, "input", "127.0.0.1:2", {shell});
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(count(result.text, "rank 0 of 2 done, with input"), 1) << result.text;
  EXPECT_EQ(count(result.text, " done"), 2) << result.text;
  result = run_hosts("kill", 1, "", "127.0.0.1:3", {shell});
  EXPECT_EQ(result.status, 128 + SIGKILL) << result.text;
}

TEST(HostsLaunch, AnUnreachableHostIsNamedAndNobodyWaits) {
  const Address own = outward_address("");
  if (own.is_loopback() || own.family() != AF_INET) GTEST_SKIP() << "no network interface here";
  const auto result = run_hosts("ok", -1, "", own.host() + ":2,nowhere:2", {"LANE_TEST_RSH=" + make_remote_shell()});
  EXPECT_EQ(result.status, 1) << result.text;
  expect_in(result.text, "host nowhere cannot be reached, or the connection to it broke");
  EXPECT_LT(result.seconds, 5);
}

TEST(HostsLaunch, InterruptReachesRankZeroWhichEndsAll) {
  for (const int number : {SIGINT, SIGTERM}) {
    Spawned job({LANE_RANK_MAIN, "interrupt", kHosts, "-1"});
    ASSERT_TRUE(job.read_until("ready", milliseconds(20'000))) << job.text();
    ::kill(job.pid(), number);
    const auto result = job.wait();
    ASSERT_TRUE(result.ended) << result.text;
    EXPECT_EQ(result.status, 0) << result.text;
    EXPECT_EQ(count(result.text, " ended"), kRanks) << result.text;
  }
}

TEST(HostsLaunch, ASecondInterruptKillsAll) {
  Spawned job({LANE_RANK_MAIN, "elsewhere", kHosts, "1", "20000"}, {"LANE_TIMEOUT_MS=20000"});
  std::this_thread::sleep_for(milliseconds(1500));
  ::kill(job.pid(), SIGINT);
  std::this_thread::sleep_for(milliseconds(700));
  ::kill(job.pid(), SIGINT);
  const auto result = job.wait(std::chrono::seconds(10));
  EXPECT_TRUE(result.ended) << result.text;
  EXPECT_NE(result.status, 0);
}

TEST(HostsLaunch, TakesItsRanksAlong) {
  for (const bool through_shell : {false, true}) {
    std::vector<std::string> variables;
    if (through_shell) variables.push_back("LANE_TEST_RSH=" + make_remote_shell());
    Spawned job({LANE_RANK_MAIN, "interrupt", through_shell ? "127.0.0.1:2" : kHosts, "-1"}, variables);
    ASSERT_TRUE(job.read_until("ready", milliseconds(20'000))) << job.text();
    ::kill(job.pid(), SIGKILL);
    const auto result = job.wait();
    EXPECT_TRUE(result.ended) << "its ranks live on:\n" << result.text;
    EXPECT_EQ(result.status, 128 + SIGKILL);
  }
}

}  // namespace
}  // namespace lane
