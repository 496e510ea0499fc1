#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/comm/launch.h"
#include "lane/comm/launch/children.h"
#include "lane/comm/launch/link.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using Host = HostsToLaunch::Host;

Host parse_host(std::string text, const std::string& where) {
  Host host{text};
  const size_t colon = text.rfind(':'), bracket = text.rfind(']');
  if (colon != std::string::npos && (bracket == std::string::npos || colon > bracket)) {
    host.name = text.substr(0, colon);
    const char *first = text.data() + colon + 1, *last = text.data() + text.size();
    const auto [end, error] = std::from_chars(first, last, host.num_ranks);
    if (error != std::errc{} || end != last) host.num_ranks = 0;
  }
  // A name that began with a dash would be an option of the remote shell.
  if (host.name.empty() || host.name[0] == '-' || host.num_ranks < 1 || host.num_ranks > 1 << 16)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} is not a host with its number of ranks, such as n1:2", where, in_quotes(text)));
  return host;
}

std::vector<Host> checked(std::vector<Host> hosts, const std::string& where) {
  if (hosts.empty()) throw Error(ErrorCode::kInvalidArgument, where + " names no host");
  for (size_t i = 0; i < hosts.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (hosts[i].name == hosts[j].name)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} names {} twice: give it once with all its ranks", where, hosts[i].name));
  return hosts;
}

// "user@n1" and "[fd00::2]" as others address it.
std::string address_name(const Host& host) { return host.name.substr(host.name.find('@') + 1); }

std::string own_path() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == sizeof(path)) throw_system_error("finding where this program is");
  return std::string(path, static_cast<size_t>(length));
}

std::string in_shell_quotes(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string rendezvous_of(const HostsToLaunch& job, const std::string& name) {
  const int port = job.port != 0 ? job.port : port_of(name);
  if (job.remote_shell.empty()) return fmt::format("127.0.0.1:{}", port);
  const std::string first = address_name(job.hosts[0]);
  if ((first == "localhost" || first.starts_with("127.")) && job.hosts.size() > 1)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is another machine for each host: name the first host as the others know it", first));
  return fmt::format("{}:{}", first, port);
}

bool is_free(int port) {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address{
      .sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  const int one = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// What the side of `host` is told.
std::string describe(const HostsToLaunch& job, size_t host, int first_rank, int size, const std::string& name,
                     const std::string& secret) {
  Json settings = Json::object();
  for (const Setting& known : kSettings) {
    const std::string value = setting(known.name);
    if (value != known.fallback) settings[std::string(known.name)] = value;
  }
  settings.erase("LANE_HOST");
  if (job.remote_shell.empty()) settings["LANE_HOST"] = job.hosts[host].name;
  settings["LANE_JOB"] = name;
  settings["LANE_RENDEZVOUS"] = rendezvous_of(job, name);
  settings["LANE_SECRET"] = secret;
  const Json all{{"name", job.hosts[host].name},
                 {"directory", job.directory},
                 {"size", size},
                 {"first_rank", first_rank},
                 {"num_ranks", job.hosts[host].num_ranks},
                 {"emulated", job.remote_shell.empty()},
                 {"job", name},
                 {"settings", settings},
                 {"arguments", job.arguments}};
  try {
    return all.dump();
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kInvalidArgument, "an argument or setting is not UTF-8 text and cannot be passed on");
  }
}

// Whether reading standard input would stop this process because another one has the terminal.
bool may_read_input() { return !::isatty(STDIN_FILENO) || ::tcgetpgrp(STDIN_FILENO) == ::getpgrp(); }

bool is_of_shell(int status) { return status == 255 || status == 126 || status == 127; }

// The remote shells' own failures, which no rank could report.
bool explain(const Host& host, int status, const HostsToLaunch& job) {
  if (!is_of_shell(status)) return false;
  if (job.remote_shell.empty()) return true;
  const std::string shell = fmt::format("{}", fmt::join(job.remote_shell, " "));
  log(LogLevel::kError,
      status == 255
          ? fmt::format(
                "host {} cannot be reached, or the connection to it broke: {} ended with status 255 (try: {} {} "
                "true)",
                host.name, shell, shell, host.name)
          : fmt::format("host {} has no {} that runs (status {}): install it there at the same path", host.name,
                        own_path(), status));
  return true;
}

}  // namespace

std::vector<Host> parse_hosts(const std::string& list) {
  std::vector<Host> hosts;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    hosts.push_back(parse_host(list.substr(at, comma - at), "--hosts"));
    at = comma + 1;
  }
  return checked(hosts, "--hosts");
}

std::vector<Host> parse_host_file(const std::string& content, const std::string& name) {
  std::vector<Host> hosts;
  for (size_t at = 0; at < content.size();) {
    const size_t newline = std::min(content.find('\n', at), content.size());
    std::string line = content.substr(at, newline - at);
    at = newline + 1;
    line.resize(std::min(line.find('#'), line.size()));
    std::replace(line.begin(), line.end(), '\t', ' ');
    while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.pop_back();
    line.erase(0, std::min(line.find_first_not_of(' '), line.size()));
    if (line.empty()) continue;
    if (const size_t slots = line.find(" slots="); slots != std::string::npos)
      line = line.substr(0, line.find(' ')) + ":" + line.substr(slots + 7);
    hosts.push_back(parse_host(line, name));
  }
  return checked(hosts, name);
}

int launch_on_hosts(const HostsToLaunch& job) {
  int size = 0;
  for (const Host& host : job.hosts) size += host.num_ranks;
  std::string name = random_job_name();
  // On this machine a port that is taken can be seen.
  for (int i = 0; job.remote_shell.empty() && i < 20 && !is_free(port_of(name)); ++i) name = random_job_name();
  const std::string secret = random_job_name() + random_job_name();
  const Signals signals;
  Children shells;
  std::vector<LaunchSender> sides;
  int first_rank = 0;
  for (size_t i = 0; i < job.hosts.size(); ++i) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw_system_error("making a pipe to a remote shell");
    const Fd end(ends[0]);
    sides.emplace_back(Fd(ends[1]));
    ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
    Children::Program shell{.name = "host " + job.hosts[i].name, .variables = environment_with({}), .input = end.get()};
    if (job.remote_shell.empty()) {
      shell.arguments = {program_invocation_name, "launch", "--local"};
    } else {
      shell.path = job.remote_shell[0];
      shell.arguments = job.remote_shell;
      shell.arguments.push_back(job.hosts[i].name);
      shell.arguments.push_back("exec " + in_shell_quotes(own_path()) + " launch --local");
    }
    shells.start(std::move(shell));
    sides.back().send(LaunchWord::kJob, describe(job, i, first_rank, size, name, secret));
    first_rank += job.hosts[i].num_ranks;
  }

  constexpr size_t kMaxWaiting = 1 << 20;
  bool input_ended = false, gives_up = false;
  Clock::time_point kill_at{};
  std::vector<bool> noticed(job.hosts.size(), false);
  Supervision supervision;
  while (supervision.go_on(shells)) {
    for (size_t i = 0; i < noticed.size(); ++i) {
      if (noticed[i] || shells.runs(i)) continue;
      noticed[i] = true;
      // Ranks that wait for a host where none was started would only wait.
      if (explain(job.hosts[i], shells.exit_status(i), job)) gives_up = true;
    }
    if (gives_up && kill_at == Clock::time_point{}) {
      kill_at = Clock::now() + std::chrono::seconds(1);
      for (LaunchSender& side : sides) side.close();
    }
    if (gives_up && Clock::now() > kill_at) shells.kill_all();

    std::vector<pollfd> polls = {{signals.fd(), POLLIN, 0}};
    const bool reads = !input_ended && sides[0].waiting() < kMaxWaiting && may_read_input();
    polls.push_back({reads ? STDIN_FILENO : -1, POLLIN, 0});
    for (const LaunchSender& side : sides) polls.push_back({side.waiting() > 0 ? side.pipe() : -1, POLLOUT, 0});
    ::poll(polls.data(), polls.size(), 100);
    while (const auto info = signals.next()) {
      if (info->ssi_signo != SIGINT && info->ssi_signo != SIGTERM) continue;
      const auto which = supervision.interrupt();
      if (which == Supervision::Interrupt::kFirst) sides[0].send(LaunchWord::kInterrupt, "");
      if (which == Supervision::Interrupt::kSecond) gives_up = true;
    }
    if (polls[1].revents != 0) {
      char buffer[16 << 10];
      const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (got > 0) sides[0].send(LaunchWord::kInput, std::string_view(buffer, static_cast<size_t>(got)));
      if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) {
        input_ended = true;
        sides[0].send(LaunchWord::kInputEnd, "");
      }
    }
    for (LaunchSender& side : sides) side.flush();
  }
  for (size_t i = 0; i < noticed.size(); ++i)
    if (!noticed[i]) explain(job.hosts[i], shells.exit_status(i), job);
  const int status = shells.first_failure();
  return is_of_shell(status) ? 1 : status;
}

}  // namespace lane
