#include "lane/comm/launch/link.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lane/base/random.h"

namespace lane {
namespace {

constexpr size_t kHead = 5;
constexpr uint32_t kMaxBody = 64 << 20;

}  // namespace

int port_of(std::string_view job) { return 20000 + static_cast<int>(hash_name(job) % 12000); }

void write_some(int pipe, std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = ::write(pipe, text.data() + done, text.size() - done);
    if (wrote > 0)
      done += static_cast<size_t>(wrote);
    else if (wrote < 0 && errno == EINTR)
      continue;
    else if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      break;
    else
      done = text.size();
  }
  text.erase(0, done);
}

void LaunchSender::send(LaunchWord word, std::string_view body) {
  const auto length = static_cast<uint32_t>(body.size());
  out_ += static_cast<char>(word);
  out_.append(reinterpret_cast<const char*>(&length), sizeof(length));
  out_ += body;
  flush();
}

void LaunchSender::flush() {
  if (pipe_)
    write_some(pipe_.get(), out_);
  else
    out_.clear();
}

bool LaunchReceiver::read() {
  char buffer[64 << 10];
  const ssize_t got = ::read(pipe_, buffer, sizeof(buffer));
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  in_.append(buffer, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  uint32_t length = 0;
  if (in_.size() >= kHead) std::memcpy(&length, in_.data() + 1, sizeof(length));
  return got > 0 && length <= kMaxBody;
}

std::optional<std::pair<LaunchWord, std::string>> LaunchReceiver::next() {
  if (in_.size() < kHead) return std::nullopt;
  uint32_t length;
  std::memcpy(&length, in_.data() + 1, sizeof(length));
  if (in_.size() - kHead < length) return std::nullopt;
  std::pair<LaunchWord, std::string> word{static_cast<LaunchWord>(in_[0]), in_.substr(kHead, length)};
  in_.erase(0, kHead + length);
  return word;
}

}  // namespace lane
