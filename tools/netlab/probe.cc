#include "tools/netlab/probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "lane/base/error.h"
#include "lane/base/file.h"

namespace lane::netlab {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr uint16_t kPort = 7710;  // control by TCP, echo and loss by UDP; the stream comes to the next port
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kWarmUp = std::chrono::milliseconds(500);   // slow start and its aftermath
constexpr auto kStream = std::chrono::milliseconds(2500);  // warm-up included
constexpr size_t kDatagramBytes = 64;
constexpr double kWireBytes = kDatagramBytes + 28;  // with the headers of UDP and IP

sockaddr_in at(const std::string& host, uint16_t port) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_INET;
  if (::getaddrinfo(host.c_str(), nullptr, &wanted, &found) != 0 || !found)
    throw Error(ErrorCode::kInvalidArgument,
                "there is no host " + in_quotes(host) + "; inside a laboratory, NETLAB_NAMES has them");
  sockaddr_in result{};
  std::memcpy(&result, found->ai_addr, sizeof result);
  ::freeaddrinfo(found);
  result.sin_port = htons(port);
  return result;
}

Fd bound(int type, uint16_t port) {
  Fd socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const sockaddr_in here = at("0.0.0.0", port);
  const int on = 1, buffer_bytes = 64 << 20;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // Datagrams that find no room while the program waits for a CPU would count as lost. Only root may ask for more room
  // than the system's limit.
  if (type == SOCK_DGRAM && ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof on) != 0)
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof on);
  if (!socket || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
      (type == SOCK_STREAM && ::listen(socket.get(), 4) != 0))
    throw_system_error(fmt::format("opening port {}", port));
  return socket;
}

// The peer may not be listening yet.
Fd connected(int type, const std::string& address, uint16_t port) {
  const sockaddr_in there = at(address, port);
  const auto deadline = Clock::now() + kPatience / 3;
  for (;;) {
    Fd socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    const int retries = 6;  // of a SYN: half a minute
    if (type == SOCK_STREAM) ::setsockopt(socket.get(), IPPROTO_TCP, TCP_SYNCNT, &retries, sizeof retries);
    if (socket && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&there), sizeof there) == 0) return socket;
    if (Clock::now() > deadline) throw_system_error(fmt::format("connecting to {}:{}", address, port));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

bool readable(int fd, std::chrono::nanoseconds limit) {
  pollfd watched{fd, POLLIN, 0};
  const timespec time{limit.count() / 1'000'000'000, limit.count() % 1'000'000'000};
  return ::ppoll(&watched, 1, &time, nullptr) == 1;
}

// One connection with a question in flight: both are a few bytes, which TCP brings in one piece.
std::string ask(int control, char question) {
  std::array<char, 64> answer{};
  if (::send(control, &question, 1, MSG_NOSIGNAL) != 1 || !readable(control, kPatience) ||
      ::recv(control, answer.data(), answer.size() - 1, 0) <= 0)
    throw Error(ErrorCode::kTimeout, "the other host stopped answering");
  return answer.data();
}

class Server {
 public:
  void run() {
    const auto deadline = Clock::now() + 3 * kPatience;
    while (Clock::now() < deadline) {
      std::array<pollfd, 5> watched = {pollfd{control_port_.get(), POLLIN, 0},
                                       {stream_port_.get(), POLLIN, 0},
                                       {datagrams_.get(), POLLIN, 0},
                                       {control_.get(), POLLIN, 0},
                                       {stream_.get(), POLLIN, 0}};
      ::poll(watched.data(), watched.size(), 1000);
      if (watched[0].revents) control_ = Fd(::accept4(control_port_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (watched[1].revents) stream_ = Fd(::accept4(stream_port_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (watched[2].revents) take_datagrams();
      if (watched[4].revents) take_stream();
      if (watched[3].revents && !answer()) return;
    }
    throw Error(ErrorCode::kTimeout, "no other host came to measure");
  }

 private:
  void take_datagrams() {
    std::array<char, 2048> datagram{};
    sockaddr_in from{};
    socklen_t length = sizeof from;
    for (;;) {
      const ssize_t bytes = ::recvfrom(datagrams_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT,
                                       reinterpret_cast<sockaddr*>(&from), &length);
      if (bytes <= 0) return;
      if (datagram[0] == 'p')
        ::sendto(datagrams_.get(), datagram.data(), static_cast<size_t>(bytes), 0, reinterpret_cast<sockaddr*>(&from),
                 length);
      else
        ++num_counted_;
    }
  }

  void take_stream() {
    std::array<char, 256 << 10>& block = block_;
    const ssize_t bytes = ::recv(stream_.get(), block.data(), block.size(), MSG_DONTWAIT);
    const auto now = Clock::now();
    if (bytes <= 0) {
      stream_ = Fd();
      return;
    }
    if (first_ == Clock::time_point()) first_ = now;
    if (now - first_ < kWarmUp) {
      begin_ = now;
    } else {
      bytes_ += bytes;
      last_ = now;
    }
  }

  bool answer() {
    char question = 0;
    if (::recv(control_.get(), &question, 1, MSG_DONTWAIT) != 1) return false;
    std::string words = std::to_string(num_counted_);
    if (question == 'r') {
      const auto deadline = Clock::now() + kPatience / 2;
      while (stream_ && Clock::now() < deadline)
        if (readable(stream_.get(), std::chrono::milliseconds(100))) take_stream();
      const double seconds = Seconds(last_ - begin_).count();
      words = fmt::format("{}", seconds > 0 ? 8 * static_cast<double>(bytes_) / seconds : 0.0);
    }
    return ::send(control_.get(), words.data(), words.size(), MSG_NOSIGNAL) > 0;
  }

  Fd control_port_ = bound(SOCK_STREAM, kPort), stream_port_ = bound(SOCK_STREAM, kPort + 1);
  Fd datagrams_ = bound(SOCK_DGRAM, kPort);
  Fd control_, stream_;
  int64_t num_counted_ = 0, bytes_ = 0;
  Clock::time_point first_, begin_, last_;
  std::array<char, 256 << 10> block_;
};

void measure_delay(int datagrams, PathMeasurement& result) {
  std::vector<double> round_trips;
  std::array<char, kDatagramBytes> ping{'p'}, pong{};
  constexpr auto kLimit = std::chrono::seconds(2);
  const auto begin = Clock::now();
  for (uint32_t i = 0; i < 1000 && (i < 5 || Clock::now() - begin < std::chrono::seconds(2)); ++i) {
    std::memcpy(ping.data() + 1, &i, sizeof i);
    const auto sent = Clock::now();
    ::send(datagrams, ping.data(), ping.size(), 0);
    while (readable(datagrams, kLimit))  // an answer to an earlier ping that was thought lost is passed over
      if (::recv(datagrams, pong.data(), pong.size(), MSG_DONTWAIT) > 0 && pong == ping) {
        round_trips.push_back(Seconds(Clock::now() - sent).count());
        break;
      }
    // Idle for a moment, as between the steps of a program: back to back would meet a router that is still awake.
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (round_trips.empty()) return;
  std::ranges::sort(round_trips);
  result.round_trips = static_cast<int64_t>(round_trips.size());
  result.one_way_s = round_trips[round_trips.size() / 2] / 2;
  result.one_way_p99_s = round_trips[round_trips.size() * 99 / 100] / 2;
}

void measure_loss(int control, int datagrams, double rate_bits_per_s, PathMeasurement& result) {
  std::array<char, kDatagramBytes> datagram{'l'};
  const double rate = rate_bits_per_s > 0 ? rate_bits_per_s : 1e9;
  const double gap_s = std::max(kWireBytes * 8 / (rate / 4), 50e-6);  // a quarter of the rate: no queue overflows
  const auto begin = Clock::now();
  auto next = begin;
  while (result.sent < 20'000 && Clock::now() - begin < std::chrono::seconds(3)) {
    // After a while without a CPU, go on at the same pace: a burst could overflow a queue.
    next = std::max(next, Clock::now() - std::chrono::milliseconds(2));
    for (; next <= Clock::now() && result.sent < 20'000; ++result.sent) {
      ::send(datagrams, datagram.data(), datagram.size(), 0);
      next += std::chrono::duration_cast<Clock::duration>(Seconds(gap_s));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  int64_t arrived = -1;  // wait until no more come: the path may be long
  for (int64_t before = -2; arrived != before;) {
    before = arrived;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    arrived = std::stoll(ask(control, 'c'));
  }
  result.loss = 1 - static_cast<double>(arrived) / static_cast<double>(std::max<int64_t>(1, result.sent));
}

void measure_rate(int control, const std::string& address, PathMeasurement& result) {
  Fd stream = connected(SOCK_STREAM, address, kPort + 1);
  const std::vector<char> block(128 << 10, 'x');
  const auto begin = Clock::now();
  while (Clock::now() - begin < kStream) {
    pollfd room{stream.get(), POLLOUT, 0};
    if (::poll(&room, 1, 100) == 1) ::send(stream.get(), block.data(), block.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  stream = Fd();
  result.bits_per_s = std::stod(ask(control, 'r'));
}

}  // namespace

void serve_probe() { std::make_unique<Server>()->run(); }

PathMeasurement probe_path(const ProbeOptions& options) {
  PathMeasurement result;
  const Fd control = connected(SOCK_STREAM, options.host, kPort);
  const Fd datagrams = connected(SOCK_DGRAM, options.host, kPort);
  if (options.delay) measure_delay(datagrams.get(), result);
  if (options.loss) measure_loss(control.get(), datagrams.get(), options.rate_bits_per_s, result);
  if (options.rate) measure_rate(control.get(), options.host, result);
  return result;
}

Json to_json(const PathMeasurement& measured) {
  return {{"one_way_s", measured.one_way_s},
          {"one_way_p99_s", measured.one_way_p99_s},
          {"round_trips", measured.round_trips},
          {"bits_per_s", measured.bits_per_s},
          {"loss", measured.loss},
          {"datagrams", measured.sent}};
}

}  // namespace lane::netlab
