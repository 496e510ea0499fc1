// Links over UCX: what a Transport promises, by one-sided puts and by messages, both over UCX's TCP on this machine;
// and whole jobs on emulated hosts.
#include "lane/comm/transport/ucx.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "lane/base/random.h"
#include "lane/comm/bootstrap/address.h"
#include "lane/comm/transport/exchange.h"
#include "lane/comm/transport/ucx_devices.h"
#include "tests/comm/spawned.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using Delivery = UcxOptions::Delivery;

#define SKIP_WITHOUT_UCX() \
  if (!ucx_is_built_in()) GTEST_SKIP() << "built without UCX"

std::pair<Fd, Fd> connected() {
  const Fd listener = listen_at(numeric_address("127.0.0.1", 0));
  const Address address = local_address(listener.get());
  Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.length), 0);
  return {Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)), std::move(client)};
}

// Ranks on a host each, started side by side as each waits for the others.
std::vector<std::unique_ptr<Transport>> make_ranks(int size, Delivery delivery) {
  std::vector<std::vector<Fd>> sockets(size);
  for (auto& of_rank : sockets) of_rank.resize(size);
  for (int a = 0; a < size; ++a)
    for (int b = a + 1; b < size; ++b) std::tie(sockets[a][b], sockets[b][a]) = connected();
  std::vector<std::unique_ptr<Transport>> ranks(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      ranks[rank] =
          make_ucx_transport(std::move(sockets[rank]), {.timeout = std::chrono::seconds(20), .delivery = delivery});
    });
  for (std::thread& thread : threads) thread.join();
  return ranks;
}

unsigned char byte_at(int64_t position) { return static_cast<unsigned char>(mix64(position)); }

std::vector<unsigned char> stream(int64_t bytes) {
  std::vector<unsigned char> all(bytes);
  for (int64_t i = 0; i < bytes; ++i) all[i] = byte_at(i);
  return all;
}

void send_all(Transport& transport, int link, const void* data, int64_t bytes) {
  for (int64_t done = 0; done < bytes;) {
    const iovec piece{const_cast<char*>(static_cast<const char*>(data)) + done, static_cast<size_t>(bytes - done)};
    const int64_t sent = transport.try_send(link, {&piece, 1});
    if (sent == 0) transport.idle(milliseconds(100));
    done += sent;
  }
}

void receive_all(Transport& transport, int link, void* data, int64_t bytes) {
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  for (int64_t done = 0; done < bytes;) {
    const auto span = transport.try_peek(link, bytes - done);
    const auto taken = std::min<int64_t>(static_cast<int64_t>(span.size()), bytes - done);
    if (taken == 0) {
      ASSERT_EQ(transport.broken(link), "");
      ASSERT_LT(Clock::now(), deadline);
      transport.idle(milliseconds(10));
    }
    std::memcpy(static_cast<char*>(data) + done, span.data(), taken);
    transport.release(link, taken);
    done += taken;
  }
}

class UcxTransportTest : public testing::TestWithParam<Delivery> {
 protected:
  void SetUp() override { SKIP_WITHOUT_UCX(); }
};
INSTANTIATE_TEST_SUITE_P(Deliveries, UcxTransportTest, testing::Values(Delivery::kPuts, Delivery::kMessages),
                         [](const auto& test) { return test.param == Delivery::kPuts ? "Puts" : "Messages"; });

TEST_P(UcxTransportTest, AnyCutOfTheStreamArrivesInOrder) {
  constexpr int64_t kBytes = 12'345'678;
  const auto data = stream(kBytes);
  auto ranks = make_ranks(2, GetParam());
  EXPECT_EQ(ranks[0]->name(), "UCX (tcp)");
  std::thread sender([&] {
    uint64_t draw = 0;
    for (int64_t at = 0; at < kBytes;) {
      iovec pieces[3];
      int64_t next = at;
      for (iovec& piece : pieces) {
        ++draw;
        const auto size = static_cast<int64_t>(random_bits(1, draw) % (draw % 7 == 0 ? 400'000 : 300));
        piece = {const_cast<unsigned char*>(data.data()) + next, static_cast<size_t>(std::min(size, kBytes - next))};
        next += static_cast<int64_t>(piece.iov_len);
      }
      const int64_t sent = ranks[0]->try_send(1, pieces);
      if (sent == 0 && next > at) ranks[0]->idle(milliseconds(10));
      at += sent;
    }
  });
  uint64_t draw = 0;
  int64_t at = 0, num_wrong = 0;
  while (at < kBytes) {
    const auto span = ranks[1]->try_peek(0, 1 + static_cast<int64_t>(random_bits(3, ++draw) % 300'000));
    const auto shown = static_cast<int64_t>(span.size());
    const auto place = static_cast<int64_t>(reinterpret_cast<uintptr_t>(span.data()) % Transport::kAlignment);
    if (place != at % Transport::kAlignment) ++num_wrong;
    for (int64_t i = 0; i < shown; ++i) num_wrong += static_cast<unsigned char>(span[i]) != data[at + i];
    if (num_wrong > 0) break;
    if (shown == 0) ranks[1]->idle(milliseconds(10));
    // Sometimes nothing is taken, sometimes all of it.
    const uint64_t choice = random_bits(2, ++draw);
    const int64_t taken = choice % 5 == 0   ? 0
                          : choice % 5 == 1 ? shown
                                            : static_cast<int64_t>(choice >> 8) % (shown + 1);
    ranks[1]->release(0, std::max<int64_t>(taken, 0));
    at += std::max<int64_t>(taken, 0);
  }
  EXPECT_EQ(num_wrong, 0) << at;
  sender.join();
  EXPECT_EQ(ranks[1]->broken(0), "");
}

TEST_P(UcxTransportTest, AUnitOf64BytesIsNeverCutOnceItHasArrived) {
  constexpr int64_t kUnits = 40'000;
  const auto data = stream(kUnits * 64);
  auto ranks = make_ranks(2, GetParam());
  std::thread sender([&] { send_all(*ranks[0], 1, data.data(), kUnits * 64); });
  bool is_right = true;
  for (int64_t at = 0; at < kUnits && is_right;) {
    const auto span = ranks[1]->try_peek(0, 640);
    const int64_t whole = static_cast<int64_t>(span.size()) / 64;
    is_right = span.size() % 64 == 0;
    const int64_t taken = whole > 1 ? whole - 1 : whole;
    is_right &= std::memcmp(span.data(), data.data() + at * 64, taken * 64) == 0;
    ranks[1]->release(0, taken * 64);
    at += taken;
  }
  EXPECT_TRUE(is_right);
  sender.join();
}

TEST_P(UcxTransportTest, ManySmallMessagesBothWays) {
  constexpr int kMessages = 3'000;
  auto ranks = make_ranks(2, GetParam());
  std::thread other([&] {
    for (int i = 0; i < kMessages; ++i) {
      int64_t value = -1;
      receive_all(*ranks[1], 0, &value, sizeof(value));
      value = value * 3 + 1;
      send_all(*ranks[1], 0, &value, sizeof(value));
    }
  });
  int num_wrong = 0;
  for (int i = 0; i < kMessages; ++i) {
    int64_t value = i;
    send_all(*ranks[0], 1, &value, sizeof(value));
    receive_all(*ranks[0], 1, &value, sizeof(value));
    num_wrong += value != i * 3 + 1;
  }
  other.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST_P(UcxTransportTest, ThreeRanksAllAtOnce) {
  constexpr int64_t kBytes = 3'000'000;
  const auto data = stream(kBytes + 2);
  auto ranks = make_ranks(3, GetParam());
  std::vector<std::thread> threads;
  std::vector<int> num_right(3);
  for (int rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      std::vector<std::vector<unsigned char>> got(3);
      std::vector<int64_t> sent(3, 0);
      for (bool is_over = false; !is_over;) {
        is_over = true;
        for (int peer = 0; peer < 3; ++peer) {
          if (peer == rank) continue;
          const iovec piece{const_cast<unsigned char*>(data.data()) + rank + sent[peer],
                            static_cast<size_t>(kBytes - sent[peer])};
          sent[peer] += ranks[rank]->try_send(peer, {&piece, 1});
          const auto span = ranks[rank]->try_peek(peer, 1);
          const auto* bytes = reinterpret_cast<const unsigned char*>(span.data());
          got[peer].insert(got[peer].end(), bytes, bytes + span.size());
          ranks[rank]->release(peer, static_cast<int64_t>(span.size()));
          is_over &= sent[peer] == kBytes && static_cast<int64_t>(got[peer].size()) == kBytes;
        }
        if (!is_over) ranks[rank]->idle(milliseconds(1));
      }
      for (int peer = 0; peer < 3; ++peer)
        if (peer != rank) num_right[rank] += std::equal(got[peer].begin(), got[peer].end(), data.begin() + peer);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_right, std::vector<int>({2, 2, 2}));
}

TEST_P(UcxTransportTest, WithoutRoomNothingIsLost) {
  constexpr int64_t kBytes = 64 << 20;
  auto ranks = make_ranks(2, GetParam());
  const auto data = stream(1 << 20);
  int64_t sent = 0;
  // While UCX's own queue is full there may be room again.
  for (auto last = Clock::now(); Clock::now() - last < milliseconds(200);) {
    const int64_t at = sent % (1 << 20);
    const iovec piece{const_cast<unsigned char*>(data.data()) + at, static_cast<size_t>((1 << 20) - at)};
    const int64_t more = ranks[0]->try_send(1, {&piece, 1});
    sent += more;
    if (more > 0) last = Clock::now();
    ASSERT_LT(sent, kBytes) << "there is no end to the room";
  }
  EXPECT_GE(sent, Transport::kLeastRoom);
  const auto start = Clock::now();
  while (Clock::now() - start < milliseconds(50)) ranks[0]->idle(milliseconds(50));
  int64_t got = 0, num_wrong = 0;
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (got < sent && Clock::now() < deadline) {
    const auto span = ranks[1]->try_peek(0, 1);
    for (const std::byte byte : span) num_wrong += static_cast<unsigned char>(byte) != data[got++ % (1 << 20)];
    ranks[1]->release(0, static_cast<int64_t>(span.size()));
  }
  EXPECT_EQ(got, sent);
  EXPECT_EQ(num_wrong, 0);
  const iovec piece{const_cast<unsigned char*>(data.data()), 100};
  int64_t more = 0;
  while (more == 0 && Clock::now() < deadline) {
    ranks[0]->idle(milliseconds(100));
    more = ranks[0]->try_send(1, {&piece, 1});
  }
  EXPECT_GT(more, 0) << "there is room again";
}

TEST_P(UcxTransportTest, AReceiverThatComputesStillTakesIn) {
  auto ranks = make_ranks(2, GetParam());
  const auto data = stream(700'000);
  std::this_thread::sleep_for(milliseconds(20));  // rank 1 has not called for a while
  const auto start = Clock::now();
  send_all(*ranks[0], 1, data.data(), 700'000);
  ranks[0].reset();  // waits until all has arrived, at most for a second
  EXPECT_LT(Clock::now() - start, milliseconds(900)) << "nobody took it in";
  std::vector<unsigned char> got(700'000);
  receive_all(*ranks[1], 0, got.data(), 700'000);
  EXPECT_EQ(got, data);
}

TEST_P(UcxTransportTest, WhatWasSentBeforeTheEndArrives) {
  auto ranks = make_ranks(2, GetParam());
  const auto data = stream(100'000);
  send_all(*ranks[1], 0, data.data(), 1000);  // nobody reads it
  send_all(*ranks[0], 1, data.data(), 100'000);
  ranks[0].reset();
  EXPECT_FALSE(ranks[1]->try_peek(0, 1).empty());
  EXPECT_EQ(ranks[1]->broken(0), "");
  std::vector<unsigned char> got(100'000);
  receive_all(*ranks[1], 0, got.data(), 100'000);
  EXPECT_EQ(got, data);
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  while (ranks[1]->broken(0).empty() && Clock::now() < deadline) {
    EXPECT_TRUE(ranks[1]->try_peek(0, 1).empty());
    ranks[1]->idle(milliseconds(10));
  }
  EXPECT_NE(ranks[1]->broken(0), "");
  for (int i = 0; i < 3; ++i) {
    const iovec piece{got.data(), got.size()};
    ranks[1]->try_send(0, {&piece, 1});
    ranks[1]->idle(milliseconds(5));
  }
  // Waiting does not spin on a link that is done, and an end with a dead peer is quick.
  const auto start = Clock::now();
  ranks[1]->idle(milliseconds(50));
  EXPECT_GE(Clock::now() - start, milliseconds(40));
  const auto end = Clock::now();
  ranks[1].reset();
  EXPECT_LT(Clock::now() - end, milliseconds(900));
}

TEST_P(UcxTransportTest, IdleEndsWhenSomethingArrives) {
  auto ranks = make_ranks(2, GetParam());
  std::thread sender([&] {
    std::this_thread::sleep_for(milliseconds(20));
    send_all(*ranks[0], 1, "word", 4);
  });
  const auto start = Clock::now();
  while (ranks[1]->try_peek(0, 1).empty() && Clock::now() - start < std::chrono::seconds(10))
    ranks[1]->idle(std::chrono::seconds(5));
  EXPECT_LT(Clock::now() - start, milliseconds(2500));
  sender.join();
}

TEST(UcxWireUp, APeerThatDoesNotAnswerIsNamed) {
  SKIP_WITHOUT_UCX();
  auto [mine, theirs] = connected();
  std::vector<Fd> sockets(2);
  sockets[1] = std::move(mine);
  try {
    make_ucx_transport(std::move(sockets), {.timeout = milliseconds(100)});
    FAIL() << "nobody was there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kTimeout);
    EXPECT_STREQ(error.what(), "no answer from rank 1 while exchanging addresses of UCX");
  }
}

TEST(UcxWireUp, OtherWordsAreRefused) {
  auto [mine, theirs] = connected();
  ASSERT_EQ(::send(theirs.get(), "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
  std::vector<Fd> sockets(1);
  sockets[0] = std::move(mine);
  const auto deadline = Clock::now() + std::chrono::seconds(5);
  EXPECT_THROW(exchange(sockets, {"hello"}, deadline, "testing"), Error);
  theirs = Fd();
  try {
    exchange(sockets, {"hello"}, deadline, "testing");
    FAIL() << "nobody was there";
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kTimeout);
  }
}

TEST(UcxWireUp, APeerThatTalksNonsenseEndsAllOfIt) {
  SKIP_WITHOUT_UCX();
  auto [a_to_b, b_to_a] = connected();
  std::vector<Fd> strangers(2);
  std::vector<std::vector<Fd>> sockets(2);
  for (int rank = 0; rank < 2; ++rank) {
    sockets[rank].resize(3);
    std::tie(sockets[rank][2], strangers[rank]) = connected();
  }
  sockets[0][1] = std::move(a_to_b), sockets[1][0] = std::move(b_to_a);
  std::vector<std::thread> threads;
  std::vector<ErrorCode> codes(2);
  std::vector<std::string> said(2);
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      try {
        make_ucx_transport(std::move(sockets[rank]), {.timeout = std::chrono::seconds(5)});
      } catch (const Error& error) {
        codes[rank] = error.code(), said[rank] = error.what();
      }
    });
  exchange(strangers, {"not a hello", "not a hello"}, Clock::now() + std::chrono::seconds(5), "testing");
  for (std::thread& thread : threads) thread.join();
  // Whoever reads the nonsense first leaves; the other may see that before its own.
  EXPECT_TRUE(std::find(codes.begin(), codes.end(), ErrorCode::kCorruptData) != codes.end());
  for (const std::string& sentence : said) EXPECT_NE(sentence, "");
}

TEST(UcxChoiceTest, LeavesSharedMemoryOut) {
  EXPECT_EQ(choose_ucx(false, "eth0", {}).transports, "tcp");
  EXPECT_EQ(choose_ucx(true, "", {}).transports, "rc,dc");
  EXPECT_EQ(choose_ucx(true, "", "rc_x,tcp").transports, "rc_x,tcp");
  EXPECT_EQ(choose_ucx(true, "", "rc_x,tcp").note, "");
  EXPECT_EQ(choose_ucx(true, "", "sm,rc,self").transports, "rc,self");
  EXPECT_EQ(choose_ucx(true, "", "sm,rc,self").note,
            "UCX_TLS=sm,rc,self: between hosts without shared memory, that is rc,self");
  EXPECT_EQ(choose_ucx(false, "", "all").transports, "tcp");
  EXPECT_EQ(choose_ucx(false, "", "^ib").transports, "tcp");
  EXPECT_NE(choose_ucx(false, "", "^ib").note, "");
}

TEST(UcxDevices, AreThoseThatAreUp) {
  namespace fs = std::filesystem;
  const fs::path sys = fs::temp_directory_path() / fmt::format("lane_sysfs_{}", ::getpid());
  const auto put = [&](const std::string& path, const std::string& text) {
    fs::create_directories((sys / path).parent_path());
    std::ofstream(sys / path) << text << "\n";
  };
  EXPECT_TRUE(find_rdma_devices("", sys).empty());
  put("class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE");
  put("class/infiniband/mlx5_1/ports/1/state", "1: DOWN");
  put("class/infiniband/mlx4_0/ports/1/state", "4: ACTIVE");
  put("class/infiniband/mlx4_0/ports/2/state", "4: ACTIVE");
  put("class/net/eth1/device/infiniband/mlx5_0/name", "");
  put("class/net/eth2/device/infiniband/mlx5_1/name", "");
  put("class/net/ib1/device/infiniband/mlx4_0/name", "");
  put("class/net/ib1/dev_port", "1");
  put("class/net/eth0/address", "");
  using Names = std::vector<std::string>;
  EXPECT_EQ(find_rdma_devices("", sys), Names({"mlx4_0:1", "mlx4_0:2", "mlx5_0:1"}));
  EXPECT_EQ(find_rdma_devices("eth1", sys), Names({"mlx5_0:1"}));
  EXPECT_EQ(find_rdma_devices("eth1,ib1", sys), Names({"mlx5_0:1", "mlx4_0:2"}));
  EXPECT_EQ(find_rdma_devices("eth0,eth2", sys), Names());
  fs::remove_all(sys);
}

TEST(UcxWayTest, IsReadFromWhatUcxPrints) {
  const UcxWay tcp = parse_ucx_way(
      "#\n# UCP endpoint \n#\n#               peer: <no debug data>\n"
      "#                 lane[0]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] am am_bw#0 keepalive "
      "wireup\n"
      "#\n#                 am_send: 0..<egr/short>..65529..<egr/zcopy>..90763..<rndv>..(inf)\n"
      "#\n#                  rma_bw: mds rndv_rkey_size 9\n#\n");
  EXPECT_EQ(tcp.name, "tcp");
  EXPECT_FALSE(tcp.has_native_puts);
  const UcxWay two = parse_ucx_way(
      "#                 lane[0]:  5:ud_mlx5/mlx5_0:1.0 md[4] -> md[4]/ib/sysdev[255] wireup\n"
      "#                 lane[1]:  3:rc_mlx5/mlx5_0:1.0 md[4] -> addr[1].md[4]/ib/sysdev[255] am am_bw#0\n"
      "#\n#                  put[1]: 0..<short>..4294967296..<bcopy>..(inf)\n");
  EXPECT_EQ(two.name, "rc_mlx5");
  EXPECT_TRUE(two.has_native_puts);
  EXPECT_FALSE(parse_ucx_way("something else").has_native_puts);
}

// Ranks that call their host by different names. The first of a name among the variables counts.
std::vector<Spawned> start_job(const std::string& scenario, const std::vector<std::string>& hosts, int victim,
                               int timeout_ms, std::vector<std::string> more = {}) {
  const int port = local_address(listen_at(numeric_address("127.0.0.1", 0)).get()).port();  // one that is free
  std::vector<Spawned> ranks;
  for (int rank = 0; rank < static_cast<int>(hosts.size()); ++rank) {
    std::vector<std::string> variables;
    if (rank < static_cast<int>(more.size())) variables.push_back(more[rank]);
    for (const std::string& variable :
         {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", hosts.size()),
          fmt::format("LANE_JOB=ucx/{}", port), "LANE_HOST=" + hosts[rank], std::string("LANE_SECRET=between us"),
          fmt::format("LANE_RENDEZVOUS=127.0.0.1:{}", port), std::string("LANE_TRANSPORT=ucx"),
          std::string("LANE_LOG=warn")})
      variables.push_back(variable);
    ranks.push_back(Spawned(
        {LANE_RANK_MAIN, scenario, std::to_string(hosts.size()), std::to_string(victim), std::to_string(timeout_ms)},
        variables));
  }
  return ranks;
}

TEST(UcxJob, CollectivesAreRight) {
  SKIP_WITHOUT_UCX();
  for (const std::vector<std::string>& hosts :
       {std::vector<std::string>{"a", "b"}, {"a", "a", "b", "b"}, {"a", "b", "c"}}) {
    std::vector<Spawned> ranks =
        start_job("ok", hosts, -1, 20'000, std::vector<std::string>(hosts.size(), "LANE_LOG=debug"));
    for (Spawned& rank : ranks) {
      const auto result = rank.wait();
      EXPECT_EQ(result.status, 0) << result.text;
      EXPECT_NE(result.text.find("data between hosts goes over UCX (tcp)"), std::string::npos) << result.text;
      EXPECT_NE(result.text.find(" done"), std::string::npos) << result.text;
    }
  }
}

TEST(UcxJob, ADeadPeerIsToldToAll) {
  SKIP_WITHOUT_UCX();
  for (const char* scenario : {"kill", "kill_in_message"}) {
    std::vector<Spawned> ranks = start_job(scenario, {"a", "a", "b"}, 2, 5'000);
    for (int rank = 0; rank < 2; ++rank) {
      const auto result = ranks[rank].wait();
      EXPECT_TRUE(result.ended);
      EXPECT_EQ(result.status, 1) << result.text;
      EXPECT_NE(result.text.find("rank 2"), std::string::npos) << result.text;
      EXPECT_LT(result.seconds, 8) << result.text;
    }
  }
}

TEST(UcxJob, AStoppedPeerIsToldToAll) {
  SKIP_WITHOUT_UCX();
  std::vector<Spawned> ranks = start_job("stop", {"a", "b"}, 1, 1'500);
  const auto result = ranks[0].wait();
  EXPECT_TRUE(result.ended);
  EXPECT_EQ(result.status, 1) << result.text;
  EXPECT_NE(result.text.find("rank 1"), std::string::npos) << result.text;
  EXPECT_LT(result.seconds, 10) << result.text;
}

TEST(UcxJob, RanksHaveToAgree) {
  SKIP_WITHOUT_UCX();
  std::vector<Spawned> ranks = start_job("ok", {"a", "b"}, -1, 5'000, {"LANE_TRANSPORT=tcp", "LANE_TRANSPORT=auto"});
  int num_told = 0;
  for (Spawned& rank : ranks) {
    const auto result = rank.wait();
    EXPECT_EQ(result.status, 1) << result.text;
    num_told += result.text.find("set the same on all hosts") != std::string::npos;
  }
  EXPECT_GE(num_told, 1);
  EXPECT_EQ(start_job("ok", {"a", "b"}, -1, 1'000, {"LANE_TRANSPORT=ib"})[0].wait().status, 1);
}

}  // namespace
}  // namespace lane
