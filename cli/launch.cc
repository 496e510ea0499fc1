#include "lane/comm/launch.h"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "cli/commands.h"
#include "lane/base/error.h"
#include "lane/base/file.h"

namespace lane::cli {
namespace {

struct Flags {
  std::string hosts, host_file, remote_shell = "ssh -o BatchMode=yes", directory;
  int port = 0;
  bool local = false;
  std::vector<std::string> command;  // for the help alone: what stands after -- is taken as it was given
};

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

int launch(const Flags& flags, const Program& program) {
  if (flags.local) return launch_host_ranks();
  const auto mark = std::find(program.arguments.begin(), program.arguments.end(), "--");
  HostsToLaunch job{.remote_shell = words_of(flags.remote_shell), .port = flags.port, .directory = flags.directory};
  if (mark != program.arguments.end()) job.arguments.assign(mark + 1, program.arguments.end());
  if (job.arguments.empty() || job.arguments[0] == "launch")
    throw Error(ErrorCode::kInvalidArgument,
                "nothing to start: give a command of lane after --, as in: lane launch --hosts a:2,b:2 -- generate "
                "--prompt Hello");
  if (flags.hosts.empty() == flags.host_file.empty())
    throw Error(ErrorCode::kInvalidArgument, "where to start: give either --hosts a:2,b:2 or --hostfile FILE");
  job.hosts = flags.hosts.empty() ? parse_host_file(read_file(flags.host_file, 1 << 20), flags.host_file)
                                  : parse_hosts(flags.hosts);
  if (job.remote_shell.empty())
    throw Error(ErrorCode::kInvalidArgument, "--rsh is empty: give a remote shell, or none to run all on this machine");
  if (job.remote_shell == std::vector<std::string>{"none"}) job.remote_shell.clear();
  if (job.directory.empty()) {
    char here[4096];
    if (::getcwd(here, sizeof(here)) == nullptr) throw_system_error("asking for the current directory");
    job.directory = here;
  }
  return launch_on_hosts(job);
}

}  // namespace

void add_launch(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("launch", "Start the ranks of another command on several hosts");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  command->add_option("--hosts", flags->hosts, "Hosts and how many ranks run on each: a:2,b:2; rank 0 is on the first");
  command->add_option("--hostfile", flags->host_file, "File with a line for each: a:2, or a slots=2");
  command
      ->add_option("--rsh", flags->remote_shell,
                   "Remote shell, called as RSH HOST COMMAND; none: run all here, as if each were a host of its own")
      ->capture_default_str();
  command->add_option("--port", flags->port, "Port on the first host where the ranks meet (default: 20000 to 31999)")
      ->check(CLI::Range(1, 65535));
  command->add_option("--dir", flags->directory, "Directory to work in on all hosts (default: the current one)");
  command->add_flag("--local", flags->local, "The side that the remote shell starts; not for people")->group("");
  command->add_option("command", flags->command, "After --: a command of lane with its flags")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->footer(
      "Examples:\n"
      "  lane launch --hosts n1:4,n2:4 -- generate --prompt 'What is 17 + 25?'\n"
      "  lane launch --rsh none --hosts a:2,b:2 -- generate --prompt 'What is 17 + 25?'");
  command->callback([&program, flags] { program.run = [&program, flags] { return launch(*flags, program); }; });
}

}  // namespace lane::cli
