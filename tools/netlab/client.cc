#include "tools/netlab/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "tools/netlab/message.h"

namespace lane::netlab {
namespace {

constexpr int kAnswerMs = 10'000;
constexpr std::string_view kSshOptionsWithValue = "BbcDEeFIiJLlmOopQRSWw";

}  // namespace

std::string laboratory_socket() {
  const char* socket = std::getenv("NETLAB_SOCKET");
  if (!socket || !*socket)
    throw Error(
        ErrorCode::kInvalidArgument,
        "no laboratory: NETLAB_SOCKET is not set. Inside `netlab run` it is; outside, start `netlab run --socket "
        "@name` and set NETLAB_SOCKET=@name");
  return socket;
}

int remote_shell(const std::vector<std::string>& arguments) {
  bool no_input = false;
  size_t at = 0;
  for (; at < arguments.size() && arguments[at].size() > 1 && arguments[at][0] == '-'; ++at) {
    if (arguments[at] == "--") {
      ++at;
      break;
    }
    for (size_t i = 1; i < arguments[at].size(); ++i) {
      no_input |= arguments[at][i] == 'n';
      if (kSshOptionsWithValue.find(arguments[at][i]) == std::string_view::npos) continue;
      if (i + 1 == arguments[at].size()) ++at;  // its value is the next word
      break;
    }
  }
  if (at >= arguments.size()) throw Error(ErrorCode::kInvalidArgument, "usage: netlab ssh [options] HOST [COMMAND...]");
  const std::string host =
      arguments[at].substr(arguments[at].find('@') == std::string::npos ? 0 : arguments[at].find('@') + 1);
  std::string line;
  for (++at; at < arguments.size(); ++at) line += (line.empty() ? "" : " ") + arguments[at];
  if (line.empty()) line = "exec \"${SHELL:-/bin/sh}\"";

  std::array<char, 4096> directory{};
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Fd laboratory = connect_to(laboratory_socket());
  const Json request = {{"do", "ssh"},
                        {"host", host},
                        {"line", line},
                        {"directory", ::getcwd(directory.data(), directory.size()) ? directory.data() : "/"}};
  if (!send_message(laboratory.get(), request, {no_input ? nothing.get() : 0, 1, 2}))
    throw Error(ErrorCode::kPeerLost, "the laboratory is gone");
  // No limit here: the command may take as long as the laboratory lives, and its end closes the socket.
  const Json reply = receive_message(laboratory.get(), -1, "the laboratory").json;
  if (reply.is_null()) throw Error(ErrorCode::kPeerLost, "the laboratory ended before the command did");
  if (reply.contains("error")) throw Error(ErrorCode::kInvalidArgument, reply["error"].get<std::string>());
  return reply.value("status", 255);
}

Json ask_laboratory(const Json& request) {
  const Fd laboratory = connect_to(laboratory_socket());
  if (!send_message(laboratory.get(), request)) throw Error(ErrorCode::kPeerLost, "the laboratory is gone");
  Json reply = receive_message(laboratory.get(), kAnswerMs, "the laboratory").json;
  if (reply.is_null()) throw Error(ErrorCode::kPeerLost, "the laboratory ended before it answered");
  if (reply.contains("error")) throw Error(ErrorCode::kInvalidArgument, reply["error"].get<std::string>());
  return reply;
}

void print_stats(const Json& stats) {
  fmt::print("{:<10} {:<9} {:>12} {:>14} {:>8} {:>10} {:>8}\n", "link", "", "packets", "bytes", "lost", "overflowed",
             "cut");
  for (const Json& link : stats.at("links"))
    for (const char* direction : {"sent", "received"}) {
      const Json& lane = link.at(direction);
      const auto count = [&](const char* what) { return format_count(lane.at(what).get<int64_t>()); };
      fmt::print("{:<10} {:<9} {:>12} {:>14} {:>8} {:>10} {:>8}\n", link.at("name").get<std::string>(), direction,
                 count("packets"), count("bytes"), count("lost"), count("overflowed"), count("cut"));
    }
  const Json& router = stats.at("router");
  fmt::print("router: {} packets delivered, on average {:.0f} µs late, at most {:.0f} µs; {:.2f} s of CPU time\n",
             format_count(router.at("delivered").get<int64_t>()), router.at("mean_late_us").get<double>(),
             router.at("max_late_us").get<double>(), router.at("cpu_s").get<double>());
}

}  // namespace lane::netlab
