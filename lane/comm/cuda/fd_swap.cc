#include "lane/comm/cuda/fd_swap.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <random>

#include "lane/base/error.h"
#include "lane/comm/bootstrap/door.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;

Fd new_socket() {
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) throw_system_error("making a socket to pass GPU memory between ranks");
  return socket;
}

// Does not wait for the other side: a socket keeps what was sent after its sender closed it.
void send_to(const FdSwap::Peer& peer, int own_rank, int own_fd) {
  const Fd socket = new_socket();
  socklen_t length;
  const sockaddr_un address = meeting_address(peer.name, &length);
  const auto lost = [&](const std::string& why) {
    return Error(ErrorCode::kPeerLost,
                 fmt::format("rank {} (pid {}) cannot be given GPU memory: {}", peer.rank, peer.pid, why));
  };
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
    throw lost(std::strerror(errno));
  const Peer there = peer_of(socket.get());
  if (there.uid != ::geteuid() || there.pid != peer.pid)
    throw lost(fmt::format("pid {} of user {} answers in its place", there.pid, there.uid));
  const std::string_view rank(reinterpret_cast<const char*>(&own_rank), sizeof(own_rank));
  if (!send_packet(socket.get(), Reply{.is_welcome = 1}, rank, own_fd)) throw lost(std::strerror(errno));
}

struct Packet {
  int rank = -1;  // -1: not one of ours
  Fd fd;
};

// Nothing if there is none yet.
std::optional<Packet> receive(int socket) {
  Reply reply;
  Packet packet;
  iovec parts[] = {{&reply, sizeof(reply)}, {&packet.rank, sizeof(packet.rank)}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  const cmsghdr* passed = CMSG_FIRSTHDR(&message);
  if (passed && passed->cmsg_level == SOL_SOCKET && passed->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(passed), sizeof(fd));
    packet.fd = Fd(fd);
  }
  if (got != sizeof(reply) + sizeof(packet.rank) || reply.magic != Hello::kMagic || !reply.is_welcome) packet.rank = -1;
  return packet;
}

// Where the descriptors of the peers come in.
class Inbox {
 public:
  Inbox(int listener, const std::vector<FdSwap::Peer>& peers)
      : listener_(listener), peers_(peers), fds_(peers.size()) {}

  std::vector<Fd> contents() && { return std::move(fds_); }

  const FdSwap::Peer* missing() const {
    for (size_t i = 0; i < fds_.size(); ++i)
      if (!fds_[i]) return &peers_[i];
    return nullptr;
  }

  void wait(std::chrono::milliseconds limit) {
    std::vector<pollfd> polls{{listener_, POLLIN, 0}};
    for (const Visitor& visitor : visitors_) polls.push_back({visitor.socket.get(), POLLIN, 0});
    ::poll(polls.data(), polls.size(), static_cast<int>(std::min<int64_t>(limit.count(), 1000)));
  }

  // Takes in what came; never blocks.
  void serve() {
    for (;;) {
      Fd socket(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) break;
      const Peer there = peer_of(socket.get());
      const auto is_there = [&](const FdSwap::Peer& peer) { return peer.pid == there.pid; };
      if (there.uid == ::geteuid() && std::any_of(peers_.begin(), peers_.end(), is_there))
        visitors_.push_back({std::move(socket), there.pid});
    }
    std::vector<Visitor> silent;
    for (Visitor& visitor : visitors_) {
      if (std::optional<Packet> packet = receive(visitor.socket.get()))
        take(std::move(*packet), visitor.pid);
      else
        silent.push_back(std::move(visitor));
    }
    visitors_ = std::move(silent);
  }

 private:
  struct Visitor {
    Fd socket;
    int pid;
  };

  void take(Packet packet, int pid) {
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i].rank != packet.rank || peers_[i].pid != pid) continue;
      if (!packet.fd)
        throw Error(
            ErrorCode::kSystem,
            fmt::format("what rank {} passed did not arrive: too many open files here (ulimit -n)?", packet.rank));
      fds_[i] = std::move(packet.fd);
    }
  }

  int listener_;
  const std::vector<FdSwap::Peer>& peers_;
  std::vector<Fd> fds_;  // as peers_
  std::vector<Visitor> visitors_;
};

std::string random_name() {
  std::random_device random;
  return fmt::format("gpu-{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace

FdSwap::FdSwap() : name_(random_name()), listener_(new_socket()) {
  socklen_t length;
  const sockaddr_un address = meeting_address(name_, &length);
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0)
    throw_system_error("naming the socket where GPU memory is passed");
  if (::listen(listener_.get(), 256) != 0) throw_system_error("listening for GPU memory of other ranks");
}

std::vector<Fd> FdSwap::swap(int own_rank, int own_fd, const std::vector<Peer>& peers,
                             std::chrono::milliseconds limit) {
  give(own_rank, own_fd, peers);
  return take(peers, limit);
}

void FdSwap::give(int own_rank, int own_fd, const std::vector<Peer>& peers) {
  std::optional<Error> failure;  // one that is lost must not keep the others waiting for this rank
  for (const Peer& peer : peers) {
    try {
      send_to(peer, own_rank, own_fd);
    } catch (const Error& error) {
      if (!failure) failure = error;
    }
  }
  if (failure) throw *failure;
}

std::vector<Fd> FdSwap::take(const std::vector<Peer>& peers, std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  Inbox inbox(listener_.get(), peers);
  while (const Peer* late = inbox.missing()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0)
      throw Error(ErrorCode::kTimeout, fmt::format("rank {} (pid {}) passed no GPU memory within {:.1f} s", late->rank,
                                                   late->pid, static_cast<double>(limit.count()) * 1e-3));
    inbox.wait(left);
    inbox.serve();
  }
  return std::move(inbox).contents();
}

}  // namespace lane
