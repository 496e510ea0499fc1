#include "lane/comm/transport/ucx_devices.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string_view>

#include "lane/base/error.h"
#include "lane/comm/bootstrap/address.h"

namespace lane {
namespace {

namespace fs = std::filesystem;

// Without the zeros of a version 4 address inside version 6, so that a socket of either version finds its interface.
std::string bytes_of(const sockaddr* address) {
  if (address->sa_family == AF_INET)
    return {reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in*>(address)->sin_addr), 4};
  if (address->sa_family != AF_INET6) return "";
  const in6_addr& six = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  const auto* bytes = reinterpret_cast<const char*>(&six);
  return IN6_IS_ADDR_V4MAPPED(&six) ? std::string(bytes + 12, 4) : std::string(bytes, 16);
}

// The interface that has this address; empty if there is none.
std::string interface_with(const Address& address) {
  const std::string wanted = bytes_of(reinterpret_cast<const sockaddr*>(&address.bytes));
  ifaddrs* first = nullptr;
  if (wanted.empty()) return "";
  if (::getifaddrs(&first) != 0) throw_system_error("listing the network interfaces");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, ::freeifaddrs);
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next)
    if (each->ifa_addr != nullptr && bytes_of(each->ifa_addr) == wanted) return each->ifa_name;
  return "";
}

void add_once(std::vector<std::string>& list, const std::string& name) {
  if (!name.empty() && std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
}

std::string first_line(const fs::path& path) {
  if (!file_exists(path.string())) return "";
  const std::string text = read_file(path.string(), 4096);
  return text.substr(0, text.find('\n'));
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator each(directory, error), end; !error && each != end; each.increment(error))
    names.push_back(each->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool is_up(const fs::path& device, const std::string& port) {
  return first_line(device / "ports" / port / "state").find("ACTIVE") != std::string::npos;
}

bool is_shared_memory(std::string_view name) {
  constexpr std::string_view kNames[] = {"all", "sm", "shm", "mm", "posix", "sysv", "cma", "xpmem", "knem"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

}  // namespace

std::vector<std::string> find_rdma_devices(const std::string& nics, const std::string& sysfs) {
  const fs::path devices = fs::path(sysfs) / "class" / "infiniband";
  std::vector<std::string> found;
  if (nics.empty()) {
    for (const std::string& device : names_in(devices))
      for (const std::string& port : names_in(devices / device / "ports"))
        if (is_up(devices / device, port)) add_once(found, device + ":" + port);
    return found;
  }
  for (size_t begin = 0; begin <= nics.size();) {
    const size_t end = std::min(nics.find(',', begin), nics.size());
    std::string name = nics.substr(begin, end - begin);
    begin = end + 1;
    if (const Address address = numeric_address(name, 0); address.length > 0) name = interface_with(address);
    if (name.empty()) continue;
    const fs::path interface = fs::path(sysfs) / "class" / "net" / name;
    const std::string place = first_line(interface / "dev_port");  // counts from 0, ports of RDMA from 1
    const std::string port = fmt::format("{}", place.empty() ? 1 : std::atoi(place.c_str()) + 1);
    for (const std::string& device : names_in(interface / "device" / "infiniband"))
      if (is_up(devices / device, port)) add_once(found, device + ":" + port);
  }
  return found;
}

std::vector<std::string> interfaces_of(const std::vector<Fd>& sockets) {
  std::vector<std::string> names;
  for (const Fd& socket : sockets) {
    sockaddr_storage bytes{};
    socklen_t length = sizeof(bytes);
    if (!socket || ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bytes), &length) != 0) continue;
    if (bytes.ss_family == AF_INET || bytes.ss_family == AF_INET6) add_once(names, interface_with({bytes, length}));
  }
  return names;
}

UcxChoice choose_ucx(bool use_rdma, std::string devices, const std::optional<std::string>& user_tls) {
  // "rc" and "dc" bring the datagrams that they need for connecting; datagrams alone have no puts of their own.
  UcxChoice choice{use_rdma ? "rc,dc" : "tcp", std::move(devices)};
  if (!user_tls) return choice;
  std::string kept;
  bool left_out = false;
  if (user_tls->starts_with('^')) {
    left_out = true;  // everything but these: shared memory is in it
  } else {
    for (size_t begin = 0; begin <= user_tls->size();) {
      const size_t end = std::min(user_tls->find(',', begin), user_tls->size());
      const std::string name = user_tls->substr(begin, end - begin);
      begin = end + 1;
      if (is_shared_memory(name))
        left_out = true;
      else if (!name.empty())
        kept += (kept.empty() ? "" : ",") + name;
    }
  }
  if (!kept.empty() && kept != "self") choice.transports = kept;
  if (left_out || choice.transports != kept)
    choice.note =
        fmt::format("UCX_TLS={}: between hosts without shared memory, that is {}", *user_tls, choice.transports);
  return choice;
}

UcxWay parse_ucx_way(std::string_view info) {
  UcxWay way;
  std::string lane_of_puts, first_name;
  std::map<std::string, std::string, std::less<>> names;  // by lane
  while (!info.empty()) {
    const size_t end = std::min(info.find('\n'), info.size());
    const std::string_view line = info.substr(0, end);
    info.remove_prefix(std::min(end + 1, info.size()));
    const size_t open = line.find('['), close = line.find("]:", std::min(open, line.size()));
    if (close == std::string_view::npos) continue;
    const std::string lane(line.substr(open + 1, close - open - 1));
    const std::string_view word = line.substr(0, open);
    if (word.ends_with(" put") && lane_of_puts.empty()) lane_of_puts = lane;
    const size_t slash = line.find('/', close), colon = line.find(':', close + 2);
    if (!word.ends_with(" lane") || slash == std::string_view::npos || colon > slash) continue;
    const std::string name(line.substr(colon + 1, slash - colon - 1));
    if (first_name.empty()) first_name = name;
    names[lane] = name;
  }
  way.has_native_puts = names.contains(lane_of_puts);
  way.name = way.has_native_puts ? names[lane_of_puts] : first_name;
  return way;
}

}  // namespace lane
