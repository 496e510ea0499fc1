#include "lane/comm/group/relay.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace lane {
namespace {

struct Frame {
  static constexpr uint64_t kMagic = 0x4c616e654e657773;  // "LaneNews"
  static constexpr uint32_t kVersion = 1;
  enum Kind : uint32_t { kStatuses, kFailure };
  uint64_t magic = kMagic;
  uint32_t version = kVersion, kind = kStatuses;
  uint32_t bytes = 0, reserved = 0;  // that follow
};
constexpr uint32_t kMaxBody = 4 << 20;

// As it goes over the wire: no gaps.
struct StatusWire {
  int64_t beat_age_ns;
  uint64_t doing;
  int32_t rank, waiting_for;
  uint32_t left, reserved;
};

}  // namespace

Relay::Relay(Fd socket) : socket_(std::move(socket)) {}

void Relay::send(uint32_t kind, std::string_view body) {
  const Frame frame{.kind = kind, .bytes = static_cast<uint32_t>(body.size())};
  out_.append(reinterpret_cast<const char*>(&frame), sizeof(frame));
  out_ += body;
  flush();
}

void Relay::send_statuses(const std::vector<RankStatus>& statuses, bool is_last) {
  flush();
  if ((wants_to_send() && !is_last) || !can_send_) return;
  std::string body;
  for (const auto& [rank, status] : statuses) {
    const StatusWire wire{status.beat_age_ns, status.doing, rank, status.waiting_for, status.left, 0};
    body.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
  }
  send(Frame::kStatuses, body);
}

void Relay::send_failure(const Error& failure) {
  if (!can_send_) return;
  send(Frame::kFailure, static_cast<char>(failure.code()) + std::string(failure.what()));
}

void Relay::flush() {
  size_t done = 0;
  while (done < out_.size() && can_send_) {
    const ssize_t sent = ::send(socket_.get(), out_.data() + done, out_.size() - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0)
      done += static_cast<size_t>(sent);
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      break;
    else if (errno != EINTR)
      can_send_ = false;  // what it sent before may still be there to read
  }
  out_.erase(0, can_send_ ? done : out_.size());
}

Relay::News Relay::receive() {
  News news;
  char buffer[16 << 10];
  for (int i = 0; i < 64 && news.ended.empty(); ++i) {  // the others have a right to attention too
    const ssize_t got = ::recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (got <= 0) {
      news.ended = got == 0 ? "the connection was closed" : std::strerror(errno);
      break;
    }
    in_.append(buffer, static_cast<size_t>(got));
    size_t at = 0;
    while (in_.size() - at >= sizeof(Frame)) {
      Frame frame;
      std::memcpy(&frame, in_.data() + at, sizeof(frame));
      if (frame.magic != Frame::kMagic || frame.version != Frame::kVersion || frame.bytes > kMaxBody) {
        news.ended = "something came that no rank sends";
        break;
      }
      if (in_.size() - at - sizeof(frame) < frame.bytes) break;
      if (!parse(std::string_view(in_).substr(at + sizeof(frame), frame.bytes), frame.kind, news)) {
        news.ended = "something came that no rank sends";
        break;
      }
      at += sizeof(frame) + frame.bytes;
    }
    in_.erase(0, at);
  }
  return news;
}

bool Relay::parse(std::string_view body, uint32_t kind, News& news) const {
  if (kind == Frame::kFailure) {
    if (body.empty() || static_cast<uint8_t>(body[0]) > static_cast<uint8_t>(ErrorCode::kBug)) return false;
    news.failures.emplace_back(static_cast<ErrorCode>(body[0]), std::string(body.substr(1)));
    return true;
  }
  if (kind != Frame::kStatuses || body.size() % sizeof(StatusWire) != 0) return false;
  for (size_t at = 0; at < body.size(); at += sizeof(StatusWire)) {
    StatusWire wire;
    std::memcpy(&wire, body.data() + at, sizeof(wire));
    news.statuses.push_back({wire.rank, {wire.beat_age_ns, wire.doing, wire.waiting_for, wire.left}});
  }
  return true;
}

void Relay::close() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
  for (flush(); wants_to_send() && can_send_ && std::chrono::steady_clock::now() < deadline; flush()) {
    pollfd poll{socket_.get(), POLLOUT, 0};
    ::poll(&poll, 1, 20);
  }
  ::shutdown(socket_.get(), SHUT_WR);
  char unread[16 << 10];  // with these the kernel would cut the connection instead of ending it
  for (int i = 0; i < 256 && ::recv(socket_.get(), unread, sizeof(unread), MSG_DONTWAIT) > 0;) ++i;
  socket_ = Fd();
}

}  // namespace lane
