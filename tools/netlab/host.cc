#include "tools/netlab/host.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "lane/base/error.h"
#include "tools/netlab/message.h"

namespace lane::netlab {
namespace {

constexpr int kSpaces = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS;
constexpr std::array kSpaceNames = {"net", "uts", "ipc", "mnt"};

[[noreturn]] void unable(const std::string& doing) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}; a laboratory needs root, or a system that lets users make "
                                                   "namespaces and open /dev/net/tun",
                                                   doing, std::strerror(errno)));
}

std::vector<Fd> open_spaces() {
  std::vector<Fd> spaces;
  for (const char* name : kSpaceNames) {
    const std::string path = fmt::format("/proc/self/ns/{}", name);
    spaces.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!spaces.back()) unable("opening " + path);
  }
  return spaces;
}

bool enter_spaces(const std::vector<Fd>& spaces, const std::string& directory) {
  for (const Fd& space : spaces)
    if (::setns(space.get(), 0) != 0) return false;
  return ::chdir(directory.c_str()) == 0 || ::chdir("/") == 0;
}

void write_all(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    unable("writing " + path);
}

void mount_or_fail(const char* source, const char* target, const char* type, unsigned long flags, const char* data) {
  if (::mount(source, target, type, flags, data) != 0) unable(fmt::format("mounting {}", target));
}

// Every file made here lies in the host's own /dev/shm, which is memory: nothing remains when the host is gone.
void arrange_mounts(const Topology& topology, const HostOptions& options) {
  mount_or_fail("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  if (options.private_tmp) mount_or_fail("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  std::string hosts = "127.0.0.1 localhost\n";
  for (const Host& host : topology.hosts) hosts += fmt::format("{} {}\n", host.address, host.name);
  write_all("/dev/shm/hosts", hosts);
  mount_or_fail("/dev/shm/hosts", "/etc/hosts", nullptr, MS_BIND, nullptr);
  ::unlink("/dev/shm/hosts");
  // The rest of /sys stays as it is. Where this is refused, programs that read /sys see the devices of the outside.
  ::mkdir("/dev/shm/sys", 0755);
  if (::mount("sysfs", "/dev/shm/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, nullptr) == 0) {
    for (const char* path : {"/sys/class/net", "/sys/devices/virtual/net"})
      ::mount((std::string("/dev/shm") + path).c_str(), path, nullptr, MS_BIND, nullptr);
    ::umount2("/dev/shm/sys", MNT_DETACH);
  }
  ::rmdir("/dev/shm/sys");
}

Fd make_tun() {
  Fd tun(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tun) unable("opening /dev/net/tun");
  ifreq request{};
  std::strncpy(request.ifr_name, kDevice, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (::ioctl(tun.get(), TUNSETIFF, &request) != 0) unable("making a TUN device");
  return tun;
}

class Interface {
 public:
  explicit Interface(const char* name) : name_(name), socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    if (!socket_) unable("opening a socket");
  }
  void set(unsigned long what, ifreq request, const char* doing) const {
    std::strncpy(request.ifr_name, name_, IFNAMSIZ - 1);
    if (::ioctl(socket_.get(), what, &request) != 0) unable(fmt::format("{} of {}", doing, name_));
  }
  // Room for what a sender may have under way. Only the machine's root may ask for it; others keep the usual 500
  // packets.
  void lengthen_queue() const {
    ifreq request{};
    std::strncpy(request.ifr_name, name_, IFNAMSIZ - 1);
    request.ifr_qlen = 2000;
    ::ioctl(socket_.get(), SIOCSIFTXQLEN, &request);
  }
  void set_address(unsigned long what, const std::string& address, const char* doing) const {
    ifreq request{};
    sockaddr_in inet{};
    inet.sin_family = AF_INET;
    ::inet_pton(AF_INET, address.c_str(), &inet.sin_addr);
    std::memcpy(&request.ifr_addr, &inet, sizeof inet);
    set(what, request, doing);
  }
  void up() const {
    ifreq request{};
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    set(SIOCSIFFLAGS, request, "starting");
  }

 private:
  const char* name_;
  Fd socket_;
};

void arrange_network(const Topology& topology, const Host& host) {
  Interface("lo").up();
  // Addresses by IPv6 would lead programs to a network that is not there. Missing where the kernel has no IPv6.
  const Fd no_ipv6(
      ::open(fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", kDevice).c_str(), O_WRONLY | O_CLOEXEC));
  if (no_ipv6) [[maybe_unused]]
    const ssize_t written = ::write(no_ipv6.get(), "1", 1);
  const Interface device(kDevice);
  ifreq request{};
  request.ifr_mtu = topology.mtu;
  device.set(SIOCSIFMTU, request, "setting the MTU");
  device.lengthen_queue();
  device.set_address(SIOCSIFADDR, host.address, "setting the address");
  device.set_address(SIOCSIFNETMASK, "255.255.0.0", "setting the netmask");
  device.up();
}

}  // namespace

HostSpace::HostSpace(const Topology& topology, int index, const HostOptions& options) {
  const Host& host = topology.hosts.at(static_cast<size_t>(index));
  const std::vector<Fd> outside = open_spaces();
  std::array<char, 4096> directory{};
  if (!::getcwd(directory.data(), directory.size())) directory = {'/'};
  if (::unshare(kSpaces) != 0) unable("making namespaces");
  if (::sethostname(host.name.data(), host.name.size()) != 0) unable("setting a hostname");
  arrange_mounts(topology, options);
  tun_ = make_tun();
  arrange_network(topology, host);
  listener_ = listen_at(options.socket);
  namespaces_ = open_spaces();
  if (!enter_spaces(outside, directory.data())) unable("leaving the namespaces of a host");
}

bool HostSpace::enter(const std::string& directory) const { return enter_spaces(namespaces_, directory); }

void become_able() {
  if (::geteuid() != 0) {
    const auto user = ::geteuid();
    const auto group = ::getegid();
    if (::unshare(CLONE_NEWUSER) != 0) unable("making a user namespace");
    write_all("/proc/self/setgroups", "deny");
    write_all("/proc/self/uid_map", fmt::format("0 {} 1", user));
    write_all("/proc/self/gid_map", fmt::format("0 {} 1", group));
  }
  if (!Fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC))) unable("opening /dev/net/tun");
  if (::unshare(CLONE_NEWPID) != 0) unable("making a process namespace");
}

void separate() {
  if (::unshare(kSpaces) != 0) unable("making namespaces");
  mount_or_fail(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  mount_or_fail("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
}

}  // namespace lane::netlab
