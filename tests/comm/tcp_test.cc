// Links over sockets: what arrives is what was sent, whatever the sizes and however the bytes are cut.
#include "lane/comm/transport/tcp.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "lane/base/random.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Two connected sockets on this machine: TCP over the loopback interface, or a pair of Unix sockets.
std::pair<Fd, Fd> connected(bool tcp) {
  if (!tcp) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    return {Fd(ends[0]), Fd(ends[1])};
  }
  const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof(address);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  return {Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)), std::move(client)};
}

// Rank 0 and rank 1 of two.
struct Pair {
  explicit Pair(bool tcp = true) {
    auto [first, second] = connected(tcp);
    std::vector<Fd> of_0(2), of_1(2);
    of_0[1] = std::move(first), of_1[0] = std::move(second);
    rank0 = make_tcp_transport(std::move(of_0));
    rank1 = make_tcp_transport(std::move(of_1));
  }
  std::unique_ptr<Transport> rank0, rank1;
};

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
  for (int64_t done = 0; done < bytes;) {
    const auto span = transport.try_peek(link, bytes - done);
    const auto taken = std::min<int64_t>(static_cast<int64_t>(span.size()), bytes - done);
    if (taken == 0) {
      ASSERT_EQ(transport.broken(link), "");
      transport.idle(milliseconds(100));  // the other side may need this core
    }
    std::memcpy(static_cast<char*>(data) + done, span.data(), taken);
    transport.release(link, taken);
    done += taken;
  }
}

class TcpTransportTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Sockets, TcpTransportTest, testing::Bool(),
                         [](const auto& test) { return test.param ? "Tcp" : "Unix"; });

TEST_P(TcpTransportTest, AnyCutOfTheStreamArrivesInOrder) {
  constexpr int64_t kBytes = 12'345'678;
  const auto data = stream(kBytes);
  Pair pair(GetParam());
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
      const int64_t sent = pair.rank0->try_send(1, pieces);
      if (sent == 0 && next > at) pair.rank0->idle(milliseconds(10));
      at += sent;
    }
  });
  uint64_t draw = 0;
  int64_t at = 0, num_wrong = 0;
  while (at < kBytes) {
    const auto span = pair.rank1->try_peek(0, 1 + static_cast<int64_t>(random_bits(3, ++draw) % 300'000));
    const auto shown = static_cast<int64_t>(span.size());
    ASSERT_EQ(reinterpret_cast<uintptr_t>(span.data()) % Transport::kAlignment, at % Transport::kAlignment);
    for (int64_t i = 0; i < shown; ++i) num_wrong += static_cast<unsigned char>(span[i]) != data[at + i];
    ASSERT_EQ(num_wrong, 0) << at;
    if (shown == 0) pair.rank1->idle(milliseconds(10));
    // Sometimes nothing is taken, sometimes all of it.
    const uint64_t choice = random_bits(2, ++draw);
    const int64_t taken = choice % 5 == 0   ? 0
                          : choice % 5 == 1 ? shown
                                            : static_cast<int64_t>(choice >> 8) % (shown + 1);
    pair.rank1->release(0, std::max<int64_t>(taken, 0));
    at += std::max<int64_t>(taken, 0);
  }
  sender.join();
  EXPECT_EQ(pair.rank1->broken(0), "");
}

TEST_P(TcpTransportTest, AUnitOf64BytesIsNeverCutOnceItHasArrived) {
  constexpr int64_t kUnits = 40'000;
  const auto data = stream(kUnits * 64);
  Pair pair(GetParam());
  std::thread sender([&] { send_all(*pair.rank0, 1, data.data(), kUnits * 64); });
  for (int64_t at = 0; at < kUnits;) {
    const auto span = pair.rank1->try_peek(0, 640);
    const int64_t whole = static_cast<int64_t>(span.size()) / 64;
    if (whole == 0) pair.rank1->idle(milliseconds(100));
    // Taking all but one keeps the buffer from ever being empty, so that it wraps around.
    const int64_t taken = whole > 1 ? whole - 1 : whole;
    ASSERT_EQ(std::memcmp(span.data(), data.data() + at * 64, taken * 64), 0);
    pair.rank1->release(0, taken * 64);
    at += taken;
  }
  sender.join();
}

TEST_P(TcpTransportTest, ManySmallMessagesBothWays) {
  constexpr int kMessages = 20'000;
  Pair pair(GetParam());
  std::thread other([&] {
    for (int i = 0; i < kMessages; ++i) {
      int64_t value = -1;
      receive_all(*pair.rank1, 0, &value, sizeof(value));
      value = value * 3 + 1;
      send_all(*pair.rank1, 0, &value, sizeof(value));
    }
  });
  int num_wrong = 0;
  for (int i = 0; i < kMessages; ++i) {
    int64_t value = i;
    send_all(*pair.rank0, 1, &value, sizeof(value));
    receive_all(*pair.rank0, 1, &value, sizeof(value));
    num_wrong += value != i * 3 + 1;
  }
  other.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST_P(TcpTransportTest, WithoutRoomNothingIsLost) {
  constexpr int64_t kBytes = 64 << 20;
  Pair pair(GetParam());
  std::vector<char> data(1 << 20, 'x');
  const iovec piece{data.data(), data.size()};
  int64_t sent = 0;
  while (true) {
    const int64_t more = pair.rank0->try_send(1, {&piece, 1});
    sent += more;
    if (more == 0) break;
    ASSERT_LT(sent, kBytes) << "there is no end to the room";
  }
  EXPECT_GE(sent, Transport::kLeastRoom);
  const auto start = Clock::now();
  pair.rank0->idle(milliseconds(50));
  EXPECT_GE(Clock::now() - start, milliseconds(40)) << "nothing happened, yet it did not wait";
  int64_t got = 0;
  while (got < sent) {
    const auto span = pair.rank1->try_peek(0, 1);
    got += static_cast<int64_t>(span.size());
    pair.rank1->release(0, static_cast<int64_t>(span.size()));
  }
  EXPECT_EQ(got, sent);
  const auto again = Clock::now();
  pair.rank0->idle(milliseconds(5000));
  EXPECT_LT(Clock::now() - again, milliseconds(2500)) << "there is room again, which ends the wait";
  EXPECT_GT(pair.rank0->try_send(1, {&piece, 1}), 0);
}

TEST_P(TcpTransportTest, WhatWasSentBeforeTheEndArrives) {
  Pair pair(GetParam());
  const auto data = stream(100'000);
  // Something unread on the side that ends, which would make the kernel cut the connection.
  send_all(*pair.rank1, 0, data.data(), 1000);
  send_all(*pair.rank0, 1, data.data(), 100'000);
  pair.rank0.reset();
  EXPECT_EQ(pair.rank1->try_peek(0, 1).empty(), false);
  EXPECT_EQ(pair.rank1->broken(0), "");
  std::vector<unsigned char> got(100'000);
  receive_all(*pair.rank1, 0, got.data(), 100'000);
  EXPECT_EQ(got, data);
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  while (pair.rank1->broken(0).empty() && Clock::now() < deadline) {
    EXPECT_TRUE(pair.rank1->try_peek(0, 1).empty());
    pair.rank1->idle(milliseconds(10));
  }
  EXPECT_NE(pair.rank1->broken(0), "");
  // Sending fails without a signal, and waiting does not spin on a link that is done.
  for (int i = 0; i < 3; ++i) {
    const iovec piece{got.data(), got.size()};
    pair.rank1->try_send(0, {&piece, 1});
    pair.rank1->idle(milliseconds(5));
  }
  const auto start = Clock::now();
  pair.rank1->idle(milliseconds(50));
  EXPECT_GE(Clock::now() - start, milliseconds(40));
}

TEST_P(TcpTransportTest, IdleEndsWhenSomethingArrives) {
  Pair pair(GetParam());
  std::thread sender([&] {
    std::this_thread::sleep_for(milliseconds(20));
    send_all(*pair.rank0, 1, "word", 4);
  });
  const auto start = Clock::now();
  while (pair.rank1->try_peek(0, 1).empty() && Clock::now() - start < std::chrono::seconds(10))
    pair.rank1->idle(std::chrono::seconds(5));
  EXPECT_LT(Clock::now() - start, milliseconds(2500));
  sender.join();
  // What lies there unread does not end every further wait.
  const auto again = Clock::now();
  pair.rank1->idle(milliseconds(50));
  EXPECT_GE(Clock::now() - again, milliseconds(40));
}

}  // namespace
}  // namespace lane
