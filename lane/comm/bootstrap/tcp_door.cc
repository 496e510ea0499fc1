#include "lane/comm/bootstrap/tcp_door.h"

#include <fmt/format.h>
#include <unistd.h>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/random.h"

namespace lane {

Bytes32 job_key(const JoinOptions& options) { return hmac(options.secret, {"the ranks of a job", options.job}); }

TcpDoor::TcpDoor(const JoinOptions& options, Fd listener)
    : seats(options.size), job_(options.job), gate_(std::move(listener), job_key(options), 64 + 2 * options.size) {
  seats[0].taken = true;
  seats[0].introduction.pid = ::getpid();
  gate_.on_refusal = [this](const std::string& why) { note(why); };
}

std::string TcpDoor::Seat::name() const {
  return fmt::format("rank {} (pid {} on {})", introduction.rank, introduction.pid, get_text(introduction.host));
}

void TcpDoor::serve() {
  for (Gate::Guest& guest : gate_.serve()) hear(std::move(guest));
}

void TcpDoor::hear(Gate::Guest guest) {
  const Introduction& who = guest.introduction;
  const int size = static_cast<int>(seats.size());
  const std::string name = fmt::format("rank {} (pid {} on {})", who.rank, who.pid, get_text(who.host));
  std::string why;
  if (who.purpose != Introduction::kJoin || who.job != hash_name(job_))
    why = fmt::format("{} belongs to another job than {}", name, job_);
  else if (who.size != size)
    why = fmt::format("job {} has {} ranks, but {} was told of {}", job_, size, name, who.size);
  else if (who.rank < 1 || who.rank >= size)
    why = fmt::format("job {} has ranks 1 to {} beside rank 0, but {} came from {}", job_, size - 1, name, guest.from);
  else if (seats[who.rank].taken)
    why = fmt::format("{} of job {} is here already{}; {} came from {} too", seats[who.rank].name(), job_,
                      missing().empty() ? " and the job has started" : "", name, guest.from);
  if (!why.empty()) {
    const char code = static_cast<char>(ErrorCode::kInvalidArgument);
    guest.channel.send(PacketKind::kRefusal, code + why, Channel::Clock::now());
    return note(why);
  }
  seats[who.rank] = {true, std::move(guest.channel), who};
}

void TcpDoor::note(const std::string& why) {
  constexpr int kMaxNotes = 30;  // whoever sends noise must not fill the log
  if (++num_notes_ > kMaxNotes) return;
  log(LogLevel::kWarn, "refused: " + why + (num_notes_ == kMaxNotes ? " (no more of these are logged)" : ""));
  if (refusals.size() < 2000) refusals += "; refused: " + why;
}

std::string TcpDoor::missing() const {
  std::string list;
  int count = 0;
  for (size_t rank = 0; rank < seats.size(); ++rank)
    if (!seats[rank].taken) list += (count++ ? ", " : "") + std::to_string(rank);
  return count == 0 ? "" : (count == 1 ? "rank " : "ranks ") + list;
}

}  // namespace lane
