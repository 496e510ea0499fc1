#include "tools/netlab/message.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "lane/base/error.h"

namespace lane::netlab {
namespace {

constexpr size_t kMaxBytes = 100'000;
constexpr size_t kMaxFiles = 8;

sockaddr_un address_of(const std::string& name, socklen_t& length) {
  sockaddr_un address{};
  if (name.size() < 2 || name[0] != '@' || name.size() >= sizeof address.sun_path)
    throw Error(ErrorCode::kInvalidArgument,
                "socket " + in_quotes(name) + ": expected '@' and a name of at most 100 letters, such as @lab");
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  return address;
}

}  // namespace

bool send_message(int socket, const Json& json, const std::vector<int>& files) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxBytes || files.size() > kMaxFiles)
    throw Error(ErrorCode::kInvalidArgument, "a command or message is longer than 100 KB; put it into a file");
  iovec part{text.data(), text.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFiles * sizeof(int))> control{};
  if (!files.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), files.data(), files.size() * sizeof(int));
  }
  for (int attempt = 0; attempt < 50; ++attempt) {
    if (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
    if (errno != EAGAIN && errno != EINTR) return false;
    pollfd room{socket, POLLOUT, 0};
    ::poll(&room, 1, 100);
  }
  return false;
}

Message receive_message(int socket, int timeout_ms, const std::string& from_whom) {
  pollfd readable{socket, POLLIN, 0};
  const int ready = ::poll(&readable, 1, timeout_ms);
  if (ready == 0) throw Error(ErrorCode::kTimeout, from_whom + " did not answer in time");
  std::string text(kMaxBytes, '\0');
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFiles * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t bytes = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  Message message;
  if (bytes <= 0) return message;
  for (cmsghdr* part_of = CMSG_FIRSTHDR(&header); part_of; part_of = CMSG_NXTHDR(&header, part_of)) {
    if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SCM_RIGHTS) continue;
    std::vector<int> files((part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(files.data(), CMSG_DATA(part_of), files.size() * sizeof(int));
    for (const int file : files) message.files.emplace_back(file);
  }
  text.resize(static_cast<size_t>(bytes));
  try {
    message.json = parse_json(text, from_whom);
  } catch (const Error&) {
    return {};
  }
  if (!message.json.is_object()) return {};
  return message;
}

Fd listen_at(const std::string& name) {
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, length);
  Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener || ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::listen(listener.get(), 128) != 0)
    throw_system_error("listening at " + name);
  return listener;
}

Fd connect_to(const std::string& name) {
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, length);
  Fd connection(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!connection || ::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
    throw_system_error("no laboratory answers at " + name);
  return connection;
}

Fd accept_at(int listener) {
  Fd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  ucred peer{};
  socklen_t length = sizeof peer;
  if (connection && ::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
      (peer.uid == 0 || peer.uid == ::geteuid()))
    return connection;
  return Fd();
}

}  // namespace lane::netlab
