#include "lane/comm/bootstrap/unix.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "lane/base/error.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

double seconds(milliseconds duration) { return static_cast<double>(duration.count()) * 1e-3; }

int poll_until(std::vector<pollfd>& polls, Clock::time_point deadline) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return ::poll(polls.data(), polls.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
}

// Tells everybody who came why it ends, then ends it.
[[noreturn]] void give_up(Door& door, ErrorCode code, const std::string& why) {
  for (const Door::Seat& seat : door.seats)
    if (seat.connection) send_packet(seat.connection.get(), Reply{.error_code = static_cast<uint32_t>(code)}, why);
  throw Error(code, why);
}

HostMeeting receive_all(const HostRanks& options) {
  HostMeeting meeting;
  meeting.door = std::make_unique<Door>(options.job, options.size, options.members);
  Door& door = *meeting.door;
  const auto deadline = Clock::now() + options.timeout;
  while (!door.missing().empty()) {
    if (Clock::now() > deadline)
      give_up(door, ErrorCode::kTimeout,
              fmt::format("{} of {} did not come to job {} within {:.1f} s{}", door.missing(), options.size,
                          options.job, seconds(options.timeout), door.refusals));
    std::vector<pollfd> polls;
    std::vector<int> ranks;
    for (const int rank : options.members)
      if (door.seats[rank].connection) {
        polls.push_back({door.seats[rank].connection.get(), POLLRDHUP, 0});
        ranks.push_back(rank);
      }
    door.add_polls(polls);
    if (options.watch) options.watch->add_polls(polls);
    poll_until(polls, deadline);
    if (options.watch) options.watch->look();
    for (size_t i = 0; i < ranks.size(); ++i)
      if (polls[i].revents != 0)
        give_up(door, ErrorCode::kPeerLost,
                fmt::format("rank {} (pid {}) died while {} of {} had not joined yet", ranks[i],
                            door.seats[ranks[i]].pid, door.missing(), options.size));
    door.serve();
  }
  meeting.memory = GroupMemory::create(options.size, options.members);
  for (const Door::Seat& seat : door.seats) meeting.pids.push_back(seat.pid);
  const std::string_view pids(reinterpret_cast<const char*>(meeting.pids.data()), meeting.pids.size() * sizeof(int));
  meeting.connections.resize(options.size);
  for (const int rank : options.members) {
    if (rank == options.rank) continue;
    // One that died just now is found out by its connection, like any later death.
    send_packet(door.seats[rank].connection.get(), Reply{.is_welcome = 1}, pids, meeting.memory->fd());
    meeting.connections[rank] = std::move(door.seats[rank].connection);
  }
  return meeting;
}

Fd connect_to_leader(const HostRanks& options, Clock::time_point deadline) {
  socklen_t length;
  const sockaddr_un address = meeting_address(options.job, &length);
  for (milliseconds pause(1);; pause = std::min(pause * 2, milliseconds(20))) {
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) throw_system_error("making a socket to meet the other ranks");
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return socket;
    if (errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR)
      throw_system_error(fmt::format("connecting to rank {} of job {}", options.members[0], options.job));
    if (options.watch) options.watch->look();
    // It may simply be slower to start; nothing tells when it is there but trying.
    if (Clock::now() > deadline)
      throw Error(ErrorCode::kTimeout,
                  fmt::format("rank {} waited {:.1f} s for rank {} of job {}, which did not come", options.rank,
                              seconds(options.timeout), options.members[0], options.job));
    std::this_thread::sleep_for(pause);
  }
}

HostMeeting visit_leader(const HostRanks& options) {
  const int leader = options.members[0];
  Fd socket = connect_to_leader(options, Clock::now() + options.timeout);
  const Peer host = peer_of(socket.get());
  if (host.uid != ::geteuid())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the meeting point of job {} is held by pid {} of user {}, not by a rank of user {}",
                            options.job, host.pid, host.uid, ::geteuid()));
  const Hello hello{.rank = options.rank, .size = options.size};
  ::send(socket.get(), &hello, sizeof(hello), MSG_NOSIGNAL);  // if it is gone, the answer will say so

  // The leader keeps the deadline for all and names who is missing; only if it is stuck itself does this one count.
  const auto deadline = Clock::now() + options.timeout + milliseconds(500);
  for (bool answered = false; !answered;) {
    std::vector<pollfd> polls{{socket.get(), POLLIN, 0}};
    if (options.watch) options.watch->add_polls(polls);
    poll_until(polls, deadline);
    if (options.watch) options.watch->look();
    answered = polls[0].revents != 0;
    if (!answered && Clock::now() > deadline)
      throw Error(ErrorCode::kTimeout,
                  fmt::format("rank {} waited {:.1f} s for rank {} (pid {}, stopped?) to gather "
                              "job {}",
                              options.rank, seconds(options.timeout), leader, host.pid, options.job));
  }
  std::vector<char> packet(kMaxPacket);
  iovec part{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  Fd memory;
  if (const cmsghdr* passed = CMSG_FIRSTHDR(&message); passed && passed->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(passed), sizeof(fd));
    memory = Fd(fd);
  }
  if (got <= 0)
    throw Error(ErrorCode::kPeerLost, fmt::format("rank {} (pid {}) ended before all ranks of job {} had joined",
                                                  leader, host.pid, options.job));
  Reply reply;
  if (static_cast<size_t>(got) >= sizeof(reply)) std::memcpy(&reply, packet.data(), sizeof(reply));
  if (static_cast<size_t>(got) < sizeof(reply) || reply.magic != Hello::kMagic)
    throw Error(
        ErrorCode::kCorruptData,
        fmt::format("pid {}, which holds the meeting point of job {}, is no rank of Lane", host.pid, options.job));
  const std::string_view rest(packet.data() + sizeof(reply), static_cast<size_t>(got) - sizeof(reply));
  if (!reply.is_welcome) throw Error(static_cast<ErrorCode>(reply.error_code), std::string(rest));
  HostMeeting meeting;
  meeting.pids.resize(options.size);
  if (!memory || rest.size() != meeting.pids.size() * sizeof(int))
    throw Error(ErrorCode::kCorruptData, fmt::format("rank {} welcomed this rank without the memory to share", leader));
  std::memcpy(meeting.pids.data(), rest.data(), rest.size());
  meeting.memory = GroupMemory::open(std::move(memory), options.size, options.members);
  meeting.connections.resize(options.size);
  meeting.connections[leader] = std::move(socket);
  return meeting;
}

}  // namespace

HostMeeting meet_on_host(const HostRanks& ranks) {
  return ranks.rank == ranks.members[0] ? receive_all(ranks) : visit_leader(ranks);
}

}  // namespace lane
