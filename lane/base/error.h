#pragma once
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lane {

enum class ErrorCode : uint8_t {
  kInvalidArgument,  // the caller asked for something that cannot be
  kUnsupported,      // it could be, but this build or version does not do it
  kTimeout,          // a wait reached its deadline
  kPeerLost,         // another rank died or left
  kSystem,           // the operating system refused
  kDevice,           // the accelerator or its driver refused
  kCorruptData,      // a file or message is not what its format says
  kCancelled,        // somebody asked us to stop
  kBug               // an invariant of ours does not hold
};

// The one exception of the project. It is caught in three places only: the CLI's main, the server's
// request loop and the C interface. Whoever decides which error it is writes the message; callers pass it on.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Error{kSystem} that ends in strerror(errno): "opening model.safetensors: No such file or directory".
[[noreturn]] void throw_system_error(const std::string& doing);

// States an invariant of ours. A failure is a bug in this project, never a user's mistake.
inline void ensure(bool holds, std::string_view invariant, std::source_location at = std::source_location::current()) {
  if (!holds) [[unlikely]]
    throw Error(ErrorCode::kBug,
                std::string(at.file_name()) + ":" + std::to_string(at.line()) + ": " + std::string(invariant));
}

}  // namespace lane
