#include "lane/comm/bootstrap/tcp.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/random.h"
#include "lane/comm/bootstrap/data_links.h"
#include "lane/comm/bootstrap/host.h"
#include "lane/comm/bootstrap/unix.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

double seconds(milliseconds duration) { return static_cast<double>(duration.count()) * 1e-3; }

void poll_until(std::vector<pollfd>& polls, Clock::time_point deadline) {
  // Never for long: a connection that was not to be had is asked for again.
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  ::poll(polls.data(), polls.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 20)));
}

std::string with_code(const Error& error) { return static_cast<char>(error.code()) + std::string(error.what()); }
Error error_from(const std::string& body) {
  constexpr auto kLast = static_cast<unsigned char>(ErrorCode::kBug);
  if (body.empty() || static_cast<unsigned char>(body[0]) > kLast)
    return {ErrorCode::kCorruptData, "a rank sent a reason that makes no sense"};
  return {static_cast<ErrorCode>(body[0]), body.substr(1)};
}

// What rank 0 tells all once they are there.
struct Table {
  Bytes32 id{};  // of this start of the job
  std::vector<TableEntry> ranks;

  std::string to_bytes() const {
    return std::string(view(id)) +
           std::string(reinterpret_cast<const char*>(ranks.data()), ranks.size() * sizeof(TableEntry));
  }
  static Table from_bytes(const std::string& bytes, int size) {
    Table table;
    table.ranks.resize(size);
    if (bytes.size() != sizeof(id) + table.ranks.size() * sizeof(TableEntry))
      throw Error(ErrorCode::kCorruptData, "rank 0 sent a table of the ranks that has another size than expected");
    std::memcpy(table.id.data(), bytes.data(), sizeof(id));
    std::memcpy(table.ranks.data(), bytes.data() + sizeof(id), bytes.size() - sizeof(id));
    for (const TableEntry& entry : table.ranks)
      if (entry.node < 0 || entry.node >= size || entry.data_port > 65535)
        throw Error(ErrorCode::kCorruptData, "rank 0 sent a table of the ranks that cannot be");
    return table;
  }
};

// Everything from the table on is the same for all ranks, but for what they keep an eye on.
class TcpMeeting : public Watch {
 public:
  explicit TcpMeeting(const JoinOptions& options)
      : options_(options),
        self_(this_host(options.host)),
        source_(pick_interface(options.nics, options.local_rank)),
        deadline_(Clock::now() + options.timeout) {}

 protected:
  std::string own_name() const { return fmt::format("rank {} on {}", options_.rank, self_.name); }

  // Joins the ranks of this host, then those of the others; tells rank 0, waits for its word.
  Meeting proceed(const Table& table, const std::string& rank_0_host) {
    Meeting meeting;
    int num_nodes = 0;
    for (const TableEntry& entry : table.ranks) {
      meeting.layout.node_of.push_back(entry.node);
      meeting.pids.push_back(entry.pid);
      num_nodes = std::max(num_nodes, entry.node + 1);
    }
    meeting.hosts.resize(num_nodes);
    std::vector<int> members;
    const int node = table.ranks[options_.rank].node;
    for (int rank = 0; rank < options_.size; ++rank) {
      const int of = table.ranks[rank].node;
      if (num_nodes > 1) meeting.hosts[of] = get_text(table.ranks[rank].host);
      if (of == node) members.push_back(rank);
    }
    const auto left = std::chrono::ceil<milliseconds>(deadline_ - Clock::now());
    std::string id;
    for (int i = 0; i < 8; ++i) id += fmt::format("{:02x}", table.id[i]);
    HostMeeting here = meet_on_host({.job = fmt::format("{}/{}/{}", id, node, options_.job),
                                     .rank = options_.rank,
                                     .size = options_.size,
                                     .members = members,
                                     .timeout = std::max(left, milliseconds(1)),
                                     .watch = this});
    meeting.memory = std::move(here.memory);
    meeting.connections = std::move(here.connections);
    if (num_nodes > 1)
      meeting.sockets = link_hosts({.rank = options_.rank,
                                    .ranks = table.ranks,
                                    .rank_0_host = rank_0_host,
                                    .source = source_,
                                    .key = hmac(job_key(options_), {"data between hosts", view(table.id)}),
                                    .deadline = deadline_,
                                    .listener = std::move(data_listener_),
                                    .watch = this});
    finish();
    hand_over(meeting, table.ranks, num_nodes);
    return meeting;
  }

  // The last rank may have come at the last moment.
  Clock::time_point with_time_to_link() const {
    return std::max(deadline_, Clock::now() + std::min(options_.timeout, milliseconds(1000)));
  }

  virtual void finish() = 0;  // returns when all ranks have come this far
  virtual void hand_over(Meeting& meeting, const std::vector<TableEntry>& ranks, int num_nodes) = 0;

  const JoinOptions& options_;
  const HostIdentity self_;
  const Address source_;  // of length 0: any
  Clock::time_point deadline_;
  Fd data_listener_;
};

class RankZero final : public TcpMeeting {
 public:
  RankZero(const JoinOptions& options, std::unique_ptr<TcpDoor> door)
      : TcpMeeting(options), door_(door ? std::move(door) : open_rendezvous(options)) {
    Introduction& own = door_->seats[0].introduction;
    own.size = options.size;
    self_.describe(own);
    // The address at which the others find rank 0 serves for data as well, unless another one is asked for.
    Address data = source_.length != 0 ? source_ : door_->address();
    data.set_port(0);
    data_listener_ = source_.length == 0 && data.is_any() ? listen_everywhere(0) : listen_at(data);
    if (source_.length != 0) set_text(own.data_host, source_.host());
    own.data_port = static_cast<uint32_t>(local_address(data_listener_.get()).port());
  }

  Meeting run() {
    try {
      while (!door_->missing().empty()) {
        if (Clock::now() > deadline_)
          throw Error(ErrorCode::kTimeout, fmt::format("{} of {} did not come to job {} at {} within {:.1f} s{}{}",
                                                       door_->missing(), options_.size, options_.job, rendezvous_text(),
                                                       seconds(options_.timeout), doubt(), door_->refusals));
        std::vector<pollfd> polls;
        add_polls(polls);
        poll_until(polls, deadline_);
        look();
      }
      deadline_ = with_time_to_link();
      const Table table = make_table();
      const std::string bytes = table.to_bytes();
      for (int rank = 1; rank < options_.size; ++rank)
        door_->seats[rank].channel.send(PacketKind::kWelcome, bytes, deadline_);
      return proceed(table, "");
    } catch (const Error& error) {  // everybody who came is told why it ends
      for (TcpDoor::Seat& seat : door_->seats)
        if (seat.channel) seat.channel.send(PacketKind::kRefusal, with_code(error), Clock::now() + milliseconds(100));
      throw;
    }
  }

  void add_polls(std::vector<pollfd>& polls) const override {
    for (const TcpDoor::Seat& seat : door_->seats)
      if (seat.channel) polls.push_back({seat.channel.socket(), POLLIN, 0});
    door_->add_polls(polls);
  }

  void look() override {
    for (int rank = 1; rank < options_.size; ++rank) {
      TcpDoor::Seat& seat = door_->seats[rank];
      if (!seat.channel) continue;
      bool gone = false;
      const auto message = seat.channel.receive(&gone);
      if (gone) {
        const std::string missing = door_->missing();
        throw Error(ErrorCode::kPeerLost,
                    missing.empty() ? fmt::format("{} died while the ranks were joining, or its host did", seat.name())
                                    : fmt::format("{} died, or its host did, while {} of {} had not joined yet",
                                                  seat.name(), missing, options_.size));
      }
      if (message && message->kind == PacketKind::kFailed) throw error_from(message->body);
      if (message && message->kind == PacketKind::kReady) ready_[rank] = true;
    }
    door_->serve();
  }

 private:
  void finish() override {
    while (static_cast<int>(ready_.size()) < options_.size - 1) {
      if (Clock::now() > deadline_) {
        std::string names;
        for (int rank = 1; rank < options_.size; ++rank)
          if (!ready_.contains(rank)) names += (names.empty() ? "" : ", ") + door_->seats[rank].name();
        throw Error(ErrorCode::kTimeout,
                    fmt::format("{} came to job {}, but did not get ready within {:.1f} s: stopped, or cut off from "
                                "another host?",
                                names, options_.job, seconds(options_.timeout)));
      }
      std::vector<pollfd> polls;
      add_polls(polls);
      poll_until(polls, deadline_);
      look();
    }
    for (int rank = 1; rank < options_.size; ++rank)  // one that died just now is found out later, like any
      door_->seats[rank].channel.send(PacketKind::kGo, "", deadline_);
  }

  void hand_over(Meeting& meeting, const std::vector<TableEntry>& ranks, int num_nodes) override {
    if (num_nodes > 1) meeting.relays.resize(num_nodes);
    std::vector<bool> has_leader(num_nodes, false);
    has_leader[0] = true;
    for (int rank = 1; rank < options_.size; ++rank) {
      Fd connection = door_->seats[rank].channel.release();
      const int node = ranks[rank].node;
      if (!has_leader[node]) meeting.relays[node] = std::move(connection);
      has_leader[node] = true;
    }
    meeting.tcp_door = std::move(door_);
  }

  // Hosts are numbered as they first appear by rank.
  Table make_table() const {
    Table table{.id = random_bytes()};
    std::map<std::string, int> nodes;
    for (const TcpDoor::Seat& seat : door_->seats) {
      const Introduction& who = seat.introduction;
      const std::string identity(who.identity, sizeof(who.identity));
      TableEntry& entry = table.ranks.emplace_back();
      entry.node = nodes.emplace(identity, static_cast<int>(nodes.size())).first->second;
      entry.pid = who.pid;
      entry.data_port = who.data_port;
      set_text(entry.host, get_text(who.host));
      set_text(entry.data_host, get_text(who.data_host));
    }
    return table;
  }

  std::string rendezvous_text() const {
    return options_.rendezvous.empty() ? door_->address().text() : options_.rendezvous;
  }
  // Perhaps the others look for rank 0 where it is not.
  std::string doubt() const {
    if (options_.rendezvous.empty()) return "";
    const std::string host = parse_host_and_port(options_.rendezvous, "LANE_RENDEZVOUS").host;
    try {
      for (const Address& address : resolve(host, 0))
        if (is_own_address(address)) return "";
    } catch (const Error&) {
    }
    return fmt::format("; {} is no address of {}, where rank 0 is: LANE_RENDEZVOUS must name that host", host,
                       self_.name);
  }

  std::unique_ptr<TcpDoor> door_;
  std::map<int, bool> ready_;  // by rank
};

class OtherRank final : public TcpMeeting {
 public:
  explicit OtherRank(const JoinOptions& options) : TcpMeeting(options) {}

  Meeting run() {
    const HostAndPort where = parse_host_and_port(options_.rendezvous, "LANE_RENDEZVOUS");
    Visit visit(resolve(where.host, where.port), source_, job_key(options_),
                [this](int socket) { return introduce(socket); });
    // Rank 0 keeps the deadline for all and names who is missing; only if it is stuck itself does this one count.
    const auto last = deadline_ + milliseconds(500);
    while (visit.state() != Visit::State::kWelcome) {
      visit.step();
      if (visit.state() == Visit::State::kRefused) throw refusal_of(visit);
      const bool waits = visit.state() == Visit::State::kWaiting;
      if (Clock::now() > (waits ? last : deadline_)) throw timeout_of(visit);
      std::vector<pollfd> polls;
      visit.add_polls(polls);
      poll_until(polls, last);
    }
    channel_ = visit.take_channel();
    deadline_ = with_time_to_link();
    try {
      return proceed(Table::from_bytes(visit.body(), options_.size), visit.peer().host());
    } catch (const Error& error) {
      report(error);
      throw;
    }
  }

  void add_polls(std::vector<pollfd>& polls) const override { polls.push_back({channel_.socket(), POLLIN, 0}); }

  void look() override {
    if (may_go_) return;
    bool gone = false;
    const auto message = channel_.receive(&gone);
    if (gone) {
      was_told_ = true;
      throw Error(ErrorCode::kPeerLost, fmt::format("rank 0 at {} ended before all ranks of job {} had joined",
                                                    options_.rendezvous, options_.job));
    }
    if (message && message->kind == PacketKind::kRefusal) {
      was_told_ = true;
      throw error_from(message->body);
    }
    if (message && message->kind == PacketKind::kGo) may_go_ = true;
  }

 private:
  Introduction introduce(int socket) {
    Introduction own{.rank = options_.rank, .size = options_.size, .pid = ::getpid(), .job = hash_name(options_.job)};
    self_.describe(own);
    Address data = source_.length != 0 ? source_ : local_address(socket);
    data.set_port(0);
    // A rank on rank 0's host may have come by the loopback interface, which says nothing to other hosts: they find it
    // where they found rank 0.
    const bool everywhere = source_.length == 0 && data.is_loopback();
    data_listener_ = everywhere ? listen_everywhere(0) : listen_at(data);
    if (!everywhere) set_text(own.data_host, data.host());
    own.data_port = static_cast<uint32_t>(local_address(data_listener_.get()).port());
    return own;
  }

  Error refusal_of(const Visit& visit) const {
    const std::string where = visit.peer().text();
    switch (visit.refusal()) {
      case PacketKind::kOtherSecret:
        return {
            ErrorCode::kInvalidArgument,
            fmt::format("{} knows another secret than rank 0 at {}: LANE_SECRET and the job's name ({}) must be the "
                        "same on all ranks",
                        own_name(), where, options_.job)};
      case PacketKind::kOtherVersion:
        return {
            ErrorCode::kInvalidArgument,
            fmt::format("{} speaks version {} and rank 0 at {} speaks version {}: all ranks must run the same build",
                        own_name(), PacketHead::kVersion, where, visit.other_version())};
      case PacketKind::kRefusal:
        return error_from(visit.body());
      default:
        return {ErrorCode::kPeerLost,
                fmt::format("rank 0 at {} ended before all ranks of job {} had joined", where, options_.job)};
    }
  }

  Error timeout_of(const Visit& visit) const {
    if (visit.state() == Visit::State::kWaiting)
      return {ErrorCode::kTimeout,
              fmt::format("{} waited {:.1f} s for rank 0 at {} (stopped?) to gather job {}", own_name(),
                          seconds(options_.timeout), options_.rendezvous, options_.job)};
    return {
        ErrorCode::kTimeout,
        fmt::format("{} waited {:.1f} s for rank 0 of job {} at {}, which did not answer ({}): is it started there, "
                    "and does a firewall let {} through?",
                    own_name(), seconds(options_.timeout), options_.job, options_.rendezvous, visit.trouble(),
                    visit.peer().text())};
  }

  // Rank 0 tells the others. Of two reasons its own is the better one: it may know why this rank was left alone.
  void report(const Error& error) {
    if (was_told_ || !channel_) return;
    channel_.send(PacketKind::kFailed, with_code(Error(error.code(), own_name() + ": " + error.what())),
                  Clock::now() + milliseconds(100));
    if (error.code() != ErrorCode::kPeerLost && error.code() != ErrorCode::kTimeout) return;
    const auto until = Clock::now() + milliseconds(300);
    may_go_ = false;
    while (Clock::now() < until) {
      std::vector<pollfd> polls;
      add_polls(polls);
      poll_until(polls, until);
      look();
    }
  }

  void finish() override {
    channel_.send(PacketKind::kReady, "", deadline_);
    const auto last = deadline_ + milliseconds(500);
    while (!may_go_) {
      if (Clock::now() > last)
        throw Error(ErrorCode::kTimeout, fmt::format("{} waited for rank 0 at {} (stopped?) to start job {}",
                                                     own_name(), options_.rendezvous, options_.job));
      std::vector<pollfd> polls;
      add_polls(polls);
      poll_until(polls, last);
      look();
    }
  }

  void hand_over(Meeting& meeting, const std::vector<TableEntry>& ranks, int num_nodes) override {
    const int node = ranks[options_.rank].node;
    for (int rank = 0; rank < options_.rank; ++rank)
      if (ranks[rank].node == node) return;  // that one leads; this connection ends here
    meeting.relays.resize(num_nodes);
    meeting.relays[0] = channel_.release();
  }

  Channel channel_;
  bool may_go_ = false, was_told_ = false;
};

}  // namespace

std::unique_ptr<TcpDoor> open_rendezvous(const JoinOptions& options) {
  const HostAndPort where = parse_host_and_port(options.rendezvous, "LANE_RENDEZVOUS");
  const Address numeric = numeric_address(where.host == "localhost" ? "127.0.0.1" : where.host, where.port);
  // A name may mean another address here than elsewhere (Debian's 127.0.1.1): only numbers are taken at their word.
  Fd listener = numeric.length != 0 && is_own_address(numeric) ? listen_at(numeric) : listen_everywhere(where.port);
  return std::make_unique<TcpDoor>(options, std::move(listener));
}

Meeting meet_over_tcp(const JoinOptions& options, std::unique_ptr<TcpDoor> door) {
  if (options.secret.empty())
    throw Error(ErrorCode::kInvalidArgument,
                "ranks on several hosts meet over the network and need a secret that all of them know: set LANE_SECRET "
                "to the same new text on all, such as the output of: openssl rand -hex 16");
  if (options.rank == 0) return RankZero(options, std::move(door)).run();
  return OtherRank(options).run();
}

}  // namespace lane
