#pragma once
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// The ranks of a job meet at a socket without a file: its name lives in the kernel and goes with its owner. It is made
// of the user and the job, so that jobs and users do not meet each other. Packets keep their bounds (SOCK_SEQPACKET).
sockaddr_un meeting_address(const std::string& job, socklen_t* length);

// First packet of a rank to the first of its host ...
struct Hello {
  static constexpr uint64_t kMagic = 0x4c616e654d656574;  // "LaneMeet"
  static constexpr uint32_t kVersion = 2;                 // of these packets and of what lies in the shared memory
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  int32_t rank = 0, size = 0;
};
// ... and the answer: a refusal with its reason as text behind it, or, once all are here, the pids by rank and the
// shared memory as a file descriptor.
struct Reply {
  uint64_t magic = Hello::kMagic;
  uint32_t version = Hello::kVersion;
  uint32_t is_welcome = 0;
  uint32_t error_code = 0;  // of a refusal
};
constexpr size_t kMaxPacket = 64 << 10;

// False if the other end is gone.
bool send_packet(int socket, const Reply& reply, std::string_view rest, int passed_fd = -1);

// Who is at the other end, as the kernel says.
struct Peer {
  int pid;
  uint32_t uid;
};
Peer peer_of(int socket);

// Where the first of a host's ranks receives the others.
class Door {
 public:
  // `members`: the ranks of a job of `size` that come here, ascending; the first is this one.
  Door(const std::string& job, int size, const std::vector<int>& members);

  // Appends what to wait for. When something happened there, serve() takes it in; it never blocks.
  void add_polls(std::vector<pollfd>& polls) const;
  void serve();

  struct Seat {
    Fd connection;
    int pid = 0;            // 0: nobody came yet
    bool expected = false;  // else on another host
  };
  std::vector<Seat> seats;      // by rank; whoever takes a connection away leaves the seat taken
  std::string missing() const;  // "ranks 1, 3"; empty when all are here
  std::string refusals;         // one sentence each, for who wonders where the missing ones are

 private:
  struct Visitor {
    Fd connection;
    int pid;
  };
  void hear(Visitor visitor, const Hello* hello, size_t bytes);
  void refuse(const Visitor& visitor, const std::string& why);

  std::string job_;
  int leader_;
  Fd listener_;
  std::vector<Visitor> undecided_;  // connected, but silent so far
};

}  // namespace lane
