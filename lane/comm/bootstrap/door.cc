#include "lane/comm/bootstrap/door.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/random.h"

namespace lane {

sockaddr_un meeting_address(const std::string& job, socklen_t* length) {
  std::string name = fmt::format("lane/{}/{}", ::geteuid(), job);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.size() > sizeof(address.sun_path) - 1) name = fmt::format("{:.64}/{:016x}", name, hash_name(job));
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // the leading zero makes it a name without a file
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

bool send_packet(int socket, const Reply& reply, std::string_view rest, int passed_fd) {
  iovec parts[] = {{const_cast<Reply*>(&reply), sizeof(reply)}, {const_cast<char*>(rest.data()), rest.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (passed_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &passed_fd, sizeof(int));
  }
  ssize_t sent;
  do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent >= 0;
}

Peer peer_of(int socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    throw_system_error("asking who is at the other end of a socket");
  return {credentials.pid, credentials.uid};
}

Door::Door(const std::string& job, int size, const std::vector<int>& members)
    : seats(size), job_(job), leader_(members[0]) {
  for (const int rank : members) seats[rank].expected = true;
  seats[leader_].pid = ::getpid();
  listener_ = Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_) throw_system_error("making the socket where the ranks meet");
  socklen_t length;
  const sockaddr_un address = meeting_address(job, &length);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno == EADDRINUSE)
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("job {0} has a rank {1} already: two processes were started as rank {1}, or another job of "
                      "this user has the same name",
                      job, leader_));
    throw_system_error("naming the socket where the ranks meet");
  }
  if (::listen(listener_.get(), 256) != 0) throw_system_error("listening where the ranks meet");
}

void Door::add_polls(std::vector<pollfd>& polls) const {
  polls.push_back({listener_.get(), POLLIN, 0});
  for (const Visitor& visitor : undecided_) polls.push_back({visitor.connection.get(), POLLIN, 0});
}

void Door::serve() {
  for (;;) {
    Fd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) break;
    const Peer peer = peer_of(connection.get());
    Visitor visitor{std::move(connection), peer.pid};
    if (peer.uid != ::geteuid()) {
      refuse(visitor,
             fmt::format("pid {} belongs to user {}, job {} to user {}", peer.pid, peer.uid, job_, ::geteuid()));
      continue;
    }
    if (undecided_.size() >= 64) undecided_.erase(undecided_.begin());  // the one that has been silent for longest
    undecided_.push_back(std::move(visitor));
  }
  std::vector<Visitor> silent;
  for (Visitor& visitor : undecided_) {
    alignas(Hello) char packet[256];
    const ssize_t got = ::recv(visitor.connection.get(), packet, sizeof(packet), MSG_TRUNC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
      silent.push_back(std::move(visitor));
    } else if (got > 0) {  // 0: gone again, without a word
      Hello hello;
      std::memcpy(&hello, packet, sizeof(hello));
      hear(std::move(visitor), &hello, static_cast<size_t>(got));
    }
  }
  undecided_ = std::move(silent);
}

void Door::hear(Visitor visitor, const Hello* hello, size_t bytes) {
  const int size = static_cast<int>(seats.size());
  if (bytes < offsetof(Hello, rank) || hello->magic != Hello::kMagic)
    return refuse(visitor,
                  fmt::format("pid {} is no rank of job {}: it sent {} B of something else", visitor.pid, job_, bytes));
  if (hello->version != Hello::kVersion || bytes != sizeof(Hello))
    return refuse(visitor, fmt::format("pid {} speaks version {} and job {} speaks version {}: all ranks must run the "
                                       "same build",
                                       visitor.pid, hello->version, job_, Hello::kVersion));
  if (hello->size != size)
    return refuse(visitor, fmt::format("job {} has {} ranks, but rank {} (pid {}) was told of {}", job_, size,
                                       hello->rank, visitor.pid, hello->size));
  if (hello->rank < 0 || hello->rank >= size)
    return refuse(visitor, fmt::format("job {} has ranks 0 to {}, but pid {} came as rank {}", job_, size - 1,
                                       visitor.pid, hello->rank));
  Seat& seat = seats[hello->rank];
  if (!seat.expected)
    return refuse(visitor, fmt::format("rank {} of job {} is on another host, but pid {} came as rank {}", hello->rank,
                                       job_, visitor.pid, hello->rank));
  if (seat.pid != 0)
    return refuse(visitor, fmt::format("rank {} of job {} is here already (pid {}); pid {} came as rank {} too",
                                       hello->rank, job_, seat.pid, visitor.pid, hello->rank));
  seat.connection = std::move(visitor.connection);
  seat.pid = visitor.pid;
}

void Door::refuse(const Visitor& visitor, const std::string& why) {
  send_packet(visitor.connection.get(), Reply{.error_code = static_cast<uint32_t>(ErrorCode::kInvalidArgument)}, why);
  log(LogLevel::kWarn, "refused: " + why);
  if (refusals.size() < 2000) refusals += "; refused: " + why;
}

std::string Door::missing() const {
  std::string list;
  int count = 0;
  for (size_t rank = 0; rank < seats.size(); ++rank)
    if (seats[rank].expected && seats[rank].pid == 0) list += (count++ ? ", " : "") + std::to_string(rank);
  return count == 0 ? "" : (count == 1 ? "rank " : "ranks ") + list;
}

}  // namespace lane
