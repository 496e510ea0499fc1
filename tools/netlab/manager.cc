#include "tools/netlab/manager.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <utility>

#include "lane/base/error.h"
#include "tools/netlab/host.h"
#include "tools/netlab/message.h"

extern char** environ;

namespace lane::netlab {
namespace {

std::string current_directory() {
  std::array<char, 4096> directory{};
  return ::getcwd(directory.data(), directory.size()) ? directory.data() : "/";
}

// "a=b" strings as exec wants them; a later value of a name replaces an earlier one.
class Environment {
 public:
  Environment() {
    for (char** entry = environ; *entry; ++entry) set(*entry);
  }
  void set(const std::string& entry) { entries_[entry.substr(0, entry.find('='))] = entry; }
  std::vector<char*> pointers() {
    std::vector<char*> result;
    for (auto& [name, entry] : entries_) result.push_back(entry.data());
    result.push_back(nullptr);
    return result;
  }

 private:
  std::map<std::string, std::string> entries_;
};

struct Start {
  int host = 0;
  std::vector<std::string> command;
  std::string directory;
  std::array<int, 3> files = {0, 1, 2};  // become standard input, output and error
  bool own_session = false;
};

// What a program prints, one line at a time.
struct Output {
  Fd from;
  int to;  // 1 or 2
  std::string prefix, line;
};

class Manager {
 public:
  Manager(const RunOptions& options, Fd outer_listener, int lifeline, int signals)
      : options_(options),
        outer_listener_(std::move(outer_listener)),
        lifeline_(lifeline),
        signals_(signals),
        directory_(current_directory()) {
    for (const Host& host : options.topology.hosts) {
      addresses_ += fmt::format("{}{}:{}", addresses_.empty() ? "" : ",", host.name, host.address);
      names_ += fmt::format("{}{}", names_.empty() ? "" : ",", host.name);
    }
    const HostOptions host_options{.socket = options.socket, .private_tmp = options.private_tmp};
    for (size_t i = 0; i < options.topology.hosts.size(); ++i)
      hosts_.emplace_back(options.topology, static_cast<int>(i), host_options);
    start_router();
  }

  int run() {
    start_commands();
    while (!commands_.empty() && !failed_) serve();
    for (Output& output : outputs_) pass_on(output);
    return failed_ ? kExitFailed : status_;
  }

 private:
  void start_router() {
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) throw_system_error("connecting the router");
    Fd ours(ends[0]), theirs(ends[1]);
    router_ = ::fork();
    if (router_ < 0) throw_system_error("starting the router");
    if (router_ == 0) {
      ours = Fd();
      be_router(theirs.get());
    }
    control_ = std::move(ours);
    for (HostSpace& host : hosts_) host.close_tun();
  }

  [[noreturn]] void be_router(int control) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, "netlab-router");
    try {
      std::vector<int> tuns;
      for (const HostSpace& host : hosts_) tuns.push_back(host.tun());
      run_router(options_.topology, tuns, control, options_.router);
    } catch (const std::exception& error) {
      fmt::print(stderr, "netlab: the router: {}\n", error.what());
    }
    std::fflush(nullptr);
    ::_exit(kExitFailed);
  }

  void start_commands() {
    const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const size_t count = options_.on_first ? 1 : hosts_.size();
    for (size_t i = 0; i < count; ++i) {
      Start start{.host = static_cast<int>(i), .command = options_.command, .directory = directory_};
      if (!options_.on_first) start.files[0] = nothing.get();
      std::array<Fd, 2> write_ends;
      for (int to : {1, 2}) {
        if (!options_.prefix) continue;
        int ends[2] = {-1, -1};
        if (::pipe2(ends, O_CLOEXEC) != 0) throw_system_error("making a pipe");
        ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
        outputs_.push_back({Fd(ends[0]), to, fmt::format("[{}] ", options_.topology.hosts[i].name), ""});
        start.files[static_cast<size_t>(to)] = ends[1];
        write_ends[static_cast<size_t>(to - 1)] = Fd(ends[1]);
      }
      commands_.push_back(spawn(start));
    }
  }

  pid_t spawn(const Start& start) {
    const Host& host = options_.topology.hosts[static_cast<size_t>(start.host)];
    Environment environment;
    for (const auto& [name, value] :
         std::initializer_list<std::pair<const char*, std::string>>{{"LANE_HOST", host.name},
                                                                    {"NETLAB_HOST", host.name},
                                                                    {"NETLAB_ADDRESS", host.address},
                                                                    {"NETLAB_INDEX", std::to_string(start.host)},
                                                                    {"NETLAB_HOSTS", addresses_},
                                                                    {"NETLAB_NAMES", names_},
                                                                    {"NETLAB_DEVICE", kDevice},
                                                                    {"NETLAB_SOCKET", options_.socket}})
      environment.set(fmt::format("{}={}", name, value));
    const std::vector<char*> variables = environment.pointers();
    std::vector<std::string> command = start.command;
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);

    const pid_t pid = ::fork();
    if (pid < 0) throw_system_error("starting a command");
    if (pid > 0) return pid;
    // Copies above the standard three first: a file in `files` may be one of them.
    std::array<int, 3> copies{};
    for (size_t i = 0; i < 3; ++i) copies[i] = ::fcntl(start.files[i], F_DUPFD_CLOEXEC, 3);
    for (size_t i = 0; i < 3; ++i) ::dup2(copies[i], static_cast<int>(i));
    if (start.own_session) ::setsid();
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (!hosts_[static_cast<size_t>(start.host)].enter(start.directory)) {
      fmt::print(stderr, "netlab: entering host {}: {}\n", host.name, std::strerror(errno));
    } else {
      ::execvpe(arguments[0], arguments.data(), variables.data());
      fmt::print(stderr, "netlab: {}: {}\n", arguments[0], std::strerror(errno));
    }
    std::fflush(nullptr);
    ::_exit(errno == ENOENT ? 127 : 126);
  }

  // One turn: waits for something to happen, at most a second, and deals with it.
  void serve() {
    std::vector<pollfd> watched = {{lifeline_, POLLIN, 0}, {signals_, POLLIN, 0}, {outer_listener_.get(), POLLIN, 0}};
    for (const HostSpace& host : hosts_) watched.push_back({host.listener(), POLLIN, 0});
    const size_t first_output = watched.size();
    for (const Output& output : outputs_) watched.push_back({output.from.get(), POLLIN, 0});
    const size_t first_client = watched.size();
    for (const auto& [id, client] : clients_) watched.push_back({client.socket.get(), POLLIN, 0});
    ::poll(watched.data(), watched.size(), 1000);

    if (watched[0].revents) failed_ = true;
    if (watched[1].revents) handle_signals();
    for (size_t i = first_output; i < first_client; ++i)
      if (watched[i].revents) pass_on(outputs_[i - first_output]);
    std::erase_if(outputs_, [](const Output& output) { return !output.from; });
    std::map<int, short> events;
    for (size_t i = first_client; i < watched.size(); ++i) events[watched[i].fd] = watched[i].revents;
    for (auto client = clients_.begin(); client != clients_.end();) {
      const auto at = events.find(client->second.socket.get());
      const bool keep = at == events.end() || at->second == 0 || hear(client->second);
      client = keep ? std::next(client) : clients_.erase(client);
    }
    // Last: a new client may get the file number of one that has just left.
    for (size_t i = 2; i < first_output; ++i)
      if (watched[i].revents)
        if (Fd socket = accept_at(watched[i].fd)) clients_[next_client_++] = {std::move(socket), 0};
  }

  void handle_signals() {
    signalfd_siginfo info{};
    while (::read(signals_, &info, sizeof info) == sizeof info)
      if (info.ssi_signo != SIGCHLD)
        for (const pid_t command : commands_) ::kill(command, static_cast<int>(info.ssi_signo));
    for (;;) {  // we are process 1: orphans are ours to collect, too
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, WNOHANG);
      if (pid <= 0) break;
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (pid == router_) {
        fmt::print(stderr, "netlab: the router ended with status {}; ending the laboratory\n", code);
        failed_ = true;
      }
      if (std::erase(commands_, pid) > 0 && status_ == 0) status_ = code;
      for (auto client = clients_.begin(); client != clients_.end(); ++client) {
        if (client->second.pid != pid) continue;
        send_message(client->second.socket.get(), {{"status", code}});
        clients_.erase(client);
        break;
      }
    }
  }

  // Writes full lines, and what is left when the other end is closed.
  void pass_on(Output& output) {
    std::array<char, 65536> block;
    for (;;) {
      const ssize_t bytes = ::read(output.from.get(), block.data(), block.size());
      if (bytes <= 0) {
        if (bytes == 0 || errno != EAGAIN || commands_.empty()) {
          if (!output.line.empty()) print(output, output.line + "\n");
          output.line.clear();
          output.from = Fd();
        }
        return;
      }
      output.line.append(block.data(), static_cast<size_t>(bytes));
      size_t begin = 0;
      for (size_t end; (end = output.line.find('\n', begin)) != std::string::npos; begin = end + 1)
        print(output, output.line.substr(begin, end + 1 - begin));
      output.line.erase(0, begin);
    }
  }

  static void print(const Output& output, const std::string& line) {
    const std::string text = output.prefix + line;
    for (size_t done = 0; done < text.size();) {
      const ssize_t bytes = ::write(output.to, text.data() + done, text.size() - done);
      if (bytes <= 0) return;  // nobody reads us any more
      done += static_cast<size_t>(bytes);
    }
  }

  struct Client {
    Fd socket;
    pid_t pid = 0;  // of the command it waits for
  };

  // False when the client is to be forgotten.
  bool hear(Client& client) {
    Message request;
    try {
      request = receive_message(client.socket.get(), 0, "a client");
      if (request.json.is_null()) {
        if (client.pid > 0) ::kill(-client.pid, SIGTERM);  // as when an ssh is ended: its command goes with it
        return false;
      }
      if (client.pid > 0) return true;
      if (request.json.value("do", "") == "ssh") {
        client.pid = start_remote(request);
        return true;
      }
      if (!send_message(control_.get(), request.json)) throw Error(ErrorCode::kPeerLost, "the router is gone");
      send_message(client.socket.get(), receive_message(control_.get(), 2000, "the router").json);
    } catch (const std::exception& error) {
      send_message(client.socket.get(), {{"error", error.what()}});
    }
    return false;
  }

  pid_t start_remote(const Message& request) {
    const std::string where = "the request";
    const std::string name = json_string(request.json, "host", "", where);
    if (request.files.size() != 3) throw Error(ErrorCode::kInvalidArgument, "netlab ssh did not send its three files");
    for (size_t i = 0; i < hosts_.size(); ++i) {
      const Host& host = options_.topology.hosts[i];
      if (host.name != name && host.address != name) continue;
      Start start{.host = static_cast<int>(i),
                  .directory = json_string(request.json, "directory", "/", where),
                  .own_session = true};
      start.command = {"/bin/sh", "-c", json_string(request.json, "line", "", where)};
      for (size_t file = 0; file < 3; ++file) start.files[file] = request.files[file].get();
      return spawn(start);
    }
    throw Error(ErrorCode::kInvalidArgument, fmt::format("there is no host \"{}\"; there are: {}", name, names_));
  }

  const RunOptions& options_;
  Fd outer_listener_;
  int lifeline_, signals_;
  std::string directory_, addresses_, names_;
  Fd control_;
  std::vector<HostSpace> hosts_;
  std::vector<Output> outputs_;
  std::map<int, Client> clients_;
  int next_client_ = 0;
  std::vector<pid_t> commands_;  // those still running
  pid_t router_ = -1;
  int status_ = 0;  // the first that was not 0
  bool failed_ = false;
};

}  // namespace

int manage(const RunOptions& options, int lifeline, int signals) {
  Fd outer_listener = listen_at(options.socket);  // while we are still in the caller's network
  separate();
  return Manager(options, std::move(outer_listener), lifeline, signals).run();
}

}  // namespace lane::netlab
