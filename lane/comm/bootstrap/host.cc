#include "lane/comm/bootstrap/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "lane/base/random.h"

namespace lane {

void HostIdentity::describe(Introduction& introduction) const {
  set_text(introduction.host, name);
  set_text(introduction.identity, identity);
}

HostIdentity this_host(const std::string& alias) {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') std::snprintf(name, sizeof(name), "this host");
  // New at every boot of a kernel, so that no two machines share it.
  char boot[64] = {};
  const Fd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  ssize_t length = file ? ::read(file.get(), boot, sizeof(boot) - 1) : 0;
  while (length > 0 && boot[length - 1] == '\n') boot[--length] = '\0';
  struct stat network {};
  if (::stat("/proc/self/ns/net", &network) != 0) network.st_ino = 0;
  const std::string machine = fmt::format("{}/{}", boot[0] ? boot : name, network.st_ino);
  return {alias.empty() ? name : alias, alias.empty() ? machine : fmt::format("{}/{:016x}", machine, hash_name(alias))};
}

}  // namespace lane
