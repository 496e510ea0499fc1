#include "lane/comm/transport/exchange.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lane/base/error.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;

struct Prefix {
  uint32_t magic = 0x4c414e45;
  uint32_t bytes = 0;
};
constexpr uint32_t kMostBytes = 1 << 20;

struct Half {
  std::string out, in;
  size_t sent = 0, got = 0, wanted = sizeof(Prefix);
  bool knows_length = false;
  bool is_over() const { return sent == out.size() && knows_length && got == wanted; }
};

[[noreturn]] void throw_lost(int rank, const std::string& doing, const std::string& why) {
  throw Error(ErrorCode::kPeerLost, fmt::format("rank {} was lost while {}: {}", rank, doing, why));
}

bool is_for_later() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

void step(int socket, Half& half, int rank, const std::string& doing) {
  if (half.sent < half.out.size()) {
    const ssize_t sent =
        ::send(socket, half.out.data() + half.sent, half.out.size() - half.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) half.sent += static_cast<size_t>(sent);
    if (sent < 0 && !is_for_later()) throw_lost(rank, doing, std::strerror(errno));
  }
  while (half.got < half.wanted) {
    half.in.resize(half.wanted);
    const ssize_t got = ::recv(socket, half.in.data() + half.got, half.wanted - half.got, MSG_DONTWAIT);
    if (got < 0 && is_for_later()) return;
    if (got <= 0) throw_lost(rank, doing, got == 0 ? "it closed the connection" : std::strerror(errno));
    half.got += static_cast<size_t>(got);
    if (half.got < half.wanted || half.knows_length) continue;
    Prefix prefix;
    std::memcpy(&prefix, half.in.data(), sizeof(prefix));
    if (prefix.magic != Prefix{}.magic || prefix.bytes > kMostBytes)
      throw Error(ErrorCode::kCorruptData,
                  fmt::format("rank {} sent something else than expected while {}: do all ranks run the same version?",
                              rank, doing));
    half.knows_length = true;
    half.wanted += prefix.bytes;
  }
}

}  // namespace

std::vector<std::string> exchange(const std::vector<Fd>& sockets, const std::vector<std::string>& messages,
                                  Clock::time_point deadline, const std::string& doing,
                                  const std::function<void()>& meanwhile) {
  const int size = static_cast<int>(sockets.size());
  std::vector<Half> halves(sockets.size());
  for (int rank = 0; rank < size; ++rank) {
    ensure(messages[rank].size() <= kMostBytes, "a message of the wire-up is short");
    const Prefix prefix{.bytes = static_cast<uint32_t>(messages[rank].size())};
    halves[rank].out.assign(reinterpret_cast<const char*>(&prefix), sizeof(prefix));
    halves[rank].out += messages[rank];
  }
  for (;;) {
    std::vector<pollfd> polls;
    std::string missing;
    for (int rank = 0; rank < size; ++rank) {
      if (!sockets[rank]) continue;
      Half& half = halves[rank];
      step(sockets[rank].get(), half, rank, doing);
      if (half.is_over()) continue;
      const bool sends = half.sent < half.out.size();
      polls.push_back({sockets[rank].get(), static_cast<short>(POLLIN | (sends ? POLLOUT : 0)), 0});
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", rank);
    }
    if (polls.empty()) break;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) throw Error(ErrorCode::kTimeout, fmt::format("no answer from rank {} while {}", missing, doing));
    if (meanwhile) meanwhile();
    ::poll(polls.data(), polls.size(), static_cast<int>(meanwhile ? 1 : std::min<int64_t>(left, 1000)));
  }
  std::vector<std::string> received(sockets.size());
  for (int rank = 0; rank < size; ++rank)
    if (sockets[rank]) received[rank] = halves[rank].in.substr(sizeof(Prefix));
  return received;
}

}  // namespace lane
