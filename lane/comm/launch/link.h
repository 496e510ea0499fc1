#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "lane/base/file.h"

namespace lane {

// What `lane launch` tells each host's side, through its standard input. The end of the stream means: kill all.
enum class LaunchWord : uint8_t { kJob = 'J', kInput = 'D', kInputEnd = 'E', kInterrupt = 'I' };

// The sending end; never blocks.
class LaunchSender {
 public:
  explicit LaunchSender(Fd pipe) : pipe_(std::move(pipe)) {}
  int pipe() const { return pipe_.get(); }
  void send(LaunchWord word, std::string_view body);
  void flush();
  void close() { pipe_ = Fd(); }
  size_t waiting() const { return out_.size(); }  // bytes

 private:
  Fd pipe_;
  std::string out_;
};

// The receiving end.
class LaunchReceiver {
 public:
  explicit LaunchReceiver(int pipe) : pipe_(pipe) {}
  // Reads what is there. False at the end of the stream, or when something else came.
  bool read();
  std::optional<std::pair<LaunchWord, std::string>> next();

 private:
  int pipe_;
  std::string in_;
};

// A port for a job's rendezvous that follows from its name: below those that Linux gives to outgoing connections.
int port_of(std::string_view job);

// Writes as much of `text` as the pipe takes and removes it; all of it when nobody reads any more.
void write_some(int pipe, std::string& text);

}  // namespace lane
