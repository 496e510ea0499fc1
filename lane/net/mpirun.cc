#include "lane/net/mpirun.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "lane/base/error.h"
#include "lane/topology/machine.h"

namespace lane::net {

int run_under_mpirun(int num_ranks, const std::vector<std::string>& arguments) {
  const bool enough_cpus = num_ranks <= static_cast<int>(topology::discover().usable_cpus.size());
  std::vector<std::string> command = {"mpirun",    "-n",   std::to_string(num_ranks),
                                      "--bind-to", "none", enough_cpus ? "--use-hwthread-cpus" : "--oversubscribe"};
  std::error_code ignored;
  command.push_back(std::filesystem::read_symlink("/proc/self/exe", ignored));
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv, envp;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<char[48], 2> as_root = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
  if (::geteuid() == 0)
    for (auto& variable : as_root) envp.push_back(variable);
  for (char** variable = environ; *variable; ++variable) envp.push_back(*variable);
  envp.push_back(nullptr);

  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, "mpirun", nullptr, nullptr, argv.data(), envp.data());
  if (error != 0)
    throw Error(ErrorCode::kUnsupported,
                std::string("mpirun does not start (") + std::strerror(error) +
                    "): MPI can only be compared with where it is installed; leave it out of --peers");
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) throw_system_error("waiting for mpirun");
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace lane::net
