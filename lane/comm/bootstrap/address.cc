#include "lane/comm/bootstrap/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "lane/base/error.h"

namespace lane {
namespace {

const sockaddr* raw(const Address& address) { return reinterpret_cast<const sockaddr*>(&address.bytes); }

Address make_address(const sockaddr* from, socklen_t length) {
  Address address;
  address.length = std::min<socklen_t>(length, sizeof(address.bytes));
  std::memcpy(&address.bytes, from, address.length);
  return address;
}

Fd listen_on(const Address& address, bool both_versions) {
  Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return {};
  const int one = 1, only_6 = both_versions ? 0 : 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (address.family() == AF_INET6) ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only_6, sizeof(only_6));
  if (::bind(socket.get(), raw(address), address.length) != 0 || ::listen(socket.get(), 4096) != 0) return {};
  return socket;
}

[[noreturn]] void throw_cannot_listen(const std::string& where) {
  throw Error(ErrorCode::kSystem,
              fmt::format("cannot listen at {}: {}{}", where, std::strerror(errno),
                          errno == EADDRINUSE ? "; another program or job has that port: choose another one" : ""));
}

struct Interface {
  std::string name;
  Address address;
  bool is_up = false;
};

std::vector<Interface> interfaces() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) throw_system_error("listing the network interfaces");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, ::freeifaddrs);
  std::vector<Interface> result;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr) continue;
    const int family = each->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const Address address =
        make_address(each->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    // A link-local address says nothing to another host.
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(&address.bytes)->sin6_addr))
      continue;
    result.push_back({each->ifa_name, address, (each->ifa_flags & IFF_UP) != 0});
  }
  // Version 4 first: it is what most clusters route.
  std::stable_sort(result.begin(), result.end(), [](const Interface& a, const Interface& b) {
    return (a.address.family() == AF_INET) > (b.address.family() == AF_INET);
  });
  return result;
}

}  // namespace

int Address::port() const {
  return family() == AF_INET ? ntohs(reinterpret_cast<const sockaddr_in*>(&bytes)->sin_port)
                             : ntohs(reinterpret_cast<const sockaddr_in6*>(&bytes)->sin6_port);
}

void Address::set_port(int port) {
  const uint16_t in_order = htons(static_cast<uint16_t>(port));
  if (family() == AF_INET)
    reinterpret_cast<sockaddr_in*>(&bytes)->sin_port = in_order;
  else
    reinterpret_cast<sockaddr_in6*>(&bytes)->sin6_port = in_order;
}

bool Address::is_loopback() const {
  if (family() == AF_INET)
    return ntohl(reinterpret_cast<const sockaddr_in*>(&bytes)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  const in6_addr& in6 = reinterpret_cast<const sockaddr_in6*>(&bytes)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&in6) || (IN6_IS_ADDR_V4MAPPED(&in6) && in6.s6_addr[12] == IN_LOOPBACKNET);
}

bool Address::is_any() const {
  if (family() == AF_INET) return reinterpret_cast<const sockaddr_in*>(&bytes)->sin_addr.s_addr == INADDR_ANY;
  return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(&bytes)->sin6_addr);
}

std::string Address::host() const {
  char text[NI_MAXHOST] = "?";
  ::getnameinfo(raw(*this), length, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  const std::string_view host = text;
  return std::string(host.starts_with("::ffff:") ? host.substr(7) : host);
}

std::string Address::text() const {
  const std::string name = host();
  return name.find(':') == std::string::npos ? fmt::format("{}:{}", name, port())
                                             : fmt::format("[{}]:{}", name, port());
}

HostAndPort parse_host_and_port(const std::string& text, const std::string& name) {
  const size_t colon = text.rfind(':');
  HostAndPort result;
  if (colon != std::string::npos) {
    result.host = text.substr(0, colon);
    const char *first = text.data() + colon + 1, *last = text.data() + text.size();
    const auto [end, error] = std::from_chars(first, last, result.port);
    if (error != std::errc{} || end != last) result.port = 0;
  }
  if (result.host.size() > 2 && result.host.front() == '[' && result.host.back() == ']')
    result.host = result.host.substr(1, result.host.size() - 2);
  else if (result.host.find(':') != std::string::npos)
    result.host.clear();  // nobody can tell where the port begins
  if (result.host.empty() || result.port < 1 || result.port > 65535)
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}={}: expected host:port, such as n1:29600, 10.0.0.1:29600 or [fd00::2]:29600", name, text));
  return result;
}

std::vector<Address> resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* first = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &first);
  if (error != 0)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("there is no address for host {}: {}", host, ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(first, ::freeaddrinfo);
  std::vector<Address> result;
  for (const addrinfo* each = first; each != nullptr; each = each->ai_next)
    if (each->ai_family == AF_INET || each->ai_family == AF_INET6)
      result.push_back(make_address(each->ai_addr, each->ai_addrlen));
  return result;
}

Address numeric_address(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* first = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &first) != 0) return {};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(first, ::freeaddrinfo);
  return make_address(first->ai_addr, first->ai_addrlen);
}

Address local_address(int socket) {
  Address address;
  address.length = sizeof(address.bytes);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address.bytes), &address.length) != 0)
    throw_system_error("asking for a socket's own address");
  return address;
}

Address peer_address(int socket) {
  Address address;
  address.length = sizeof(address.bytes);
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address.bytes), &address.length) != 0)
    throw_system_error("asking for the address at the other end of a socket");
  return address;
}

Fd listen_at(const Address& address) {
  Fd socket = listen_on(address, false);
  if (!socket) throw_cannot_listen(address.text());
  return socket;
}

Fd listen_everywhere(int port) {
  Fd socket = listen_on(numeric_address("::", port), true);
  if (!socket && errno != EADDRINUSE) socket = listen_on(numeric_address("0.0.0.0", port), false);
  if (!socket) throw_cannot_listen(fmt::format("port {}", port));
  return socket;
}

bool is_own_address(const Address& address) {
  const Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  Address any_port = address;
  any_port.set_port(0);
  return socket && ::bind(socket.get(), raw(any_port), any_port.length) == 0;
}

Address interface_address(const std::string& entry) {
  const Address numeric = numeric_address(entry, 0);
  if (numeric.length != 0 && is_own_address(numeric)) return numeric;
  std::string known;
  for (const Interface& each : interfaces()) {
    if (each.name == entry) return each.address;
    known += fmt::format("{}{} ({}{})", known.empty() ? "" : ", ", each.name, each.address.host(),
                         each.is_up ? "" : ", down");
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("LANE_NICS: this host has no interface or address {}; it has {}", entry, known));
}

Address pick_interface(const std::string& nics, int local_rank) {
  std::vector<std::string> entries;
  for (size_t at = 0; at <= nics.size();) {
    const size_t comma = std::min(nics.find(',', at), nics.size());
    if (comma > at) entries.push_back(nics.substr(at, comma - at));
    at = comma + 1;
  }
  if (entries.empty()) return {};
  return interface_address(entries[static_cast<size_t>(local_rank) % entries.size()]);
}

Address outward_address(const std::string& host) {
  // Connecting a datagram socket sends nothing, but the kernel chooses the way.
  if (!host.empty())
    for (const Address& to : resolve(host, 9)) {
      const Fd socket(::socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
      if (!socket || ::connect(socket.get(), raw(to), to.length) != 0) continue;
      Address own = local_address(socket.get());
      own.set_port(0);
      if (!own.is_loopback() || numeric_address(host, 0).length != 0 || host == "localhost") return own;
    }
  for (const Interface& each : interfaces())
    if (each.is_up && !each.address.is_loopback()) return each.address;
  return numeric_address("127.0.0.1", 0);
}

}  // namespace lane
