#include "lane/comm/bootstrap/data_links.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "lane/base/error.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::string name_of(const LinkOptions& options, int rank) {
  return fmt::format("rank {} (pid {} on {})", rank, options.ranks[rank].pid, get_text(options.ranks[rank].host));
}

Address address_of(const LinkOptions& options, int rank) {
  const TableEntry& to = options.ranks[rank];
  const std::string host = to.data_host[0] == '\0' ? options.rank_0_host : get_text(to.data_host);
  const Address address = numeric_address(host, static_cast<int>(to.data_port));
  if (address.length == 0)
    throw Error(ErrorCode::kCorruptData, fmt::format("{} gave no address for data", name_of(options, rank)));
  return address;
}

std::string list_missing(const LinkOptions& options, const std::map<int, Visit>& visits,
                         const std::vector<bool>& expected) {
  std::string text;
  for (const auto& [rank, visit] : visits)
    text += fmt::format("{}{} at {} ({})", text.empty() ? "" : ", ", name_of(options, rank),
                        address_of(options, rank).text(), visit.trouble());
  for (int rank = 0; rank < static_cast<int>(expected.size()); ++rank)
    if (expected[rank])
      text += fmt::format("{}{}, which did not come", text.empty() ? "" : ", ", name_of(options, rank));
  return text;
}

}  // namespace

std::vector<Fd> link_hosts(LinkOptions options) {
  const int size = static_cast<int>(options.ranks.size());
  const int node = options.ranks[options.rank].node;
  std::vector<Fd> links(size);
  std::map<int, Visit> visits;  // by rank, to lower ones
  std::vector<bool> expected(size, false);
  int num_expected = 0;
  for (int rank = 0; rank < size; ++rank) {
    if (options.ranks[rank].node == node) continue;
    if (rank > options.rank) {
      expected[rank] = true;
      ++num_expected;
      continue;
    }
    const auto introduce = [rank, size, self = options.rank](int) {
      return Introduction{.purpose = Introduction::kData,
                          .rank = self,
                          .size = size,
                          .pid = ::getpid(),
                          .job = static_cast<uint64_t>(rank)};
    };
    visits.try_emplace(rank, std::vector<Address>{address_of(options, rank)}, options.source, options.key, introduce);
  }
  Gate gate(std::move(options.listener), options.key, 64 + 2 * size);

  while (num_expected > 0 || !visits.empty()) {
    for (auto each = visits.begin(); each != visits.end();) {
      Visit& visit = each->second;
      visit.step();
      if (visit.state() == Visit::State::kWelcome) {
        links[each->first] = visit.take_channel().release();
        each = visits.erase(each);
        continue;
      }
      if (visit.state() == Visit::State::kRefused)
        throw Error(ErrorCode::kPeerLost,
                    fmt::format("{} at {} turned the data connection of rank {} away, or died",
                                name_of(options, each->first), visit.peer().text(), options.rank));
      ++each;
    }
    for (Gate::Guest& guest : gate.serve()) {
      const int from = guest.introduction.rank;
      const bool fits = guest.introduction.purpose == Introduction::kData && from >= 0 && from < size &&
                        guest.introduction.job == static_cast<uint64_t>(options.rank) && expected[from];
      if (!fits || !guest.channel.send(PacketKind::kWelcome, "", Clock::now())) continue;
      links[from] = guest.channel.release();
      expected[from] = false;
      --num_expected;
    }
    if (num_expected == 0 && visits.empty()) break;
    if (Clock::now() > options.deadline)
      throw Error(ErrorCode::kTimeout,
                  fmt::format("no data connection to {}: does a firewall keep these hosts apart, or has one of them an "
                              "address that the others do not reach (LANE_NICS chooses it)?",
                              list_missing(options, visits, expected)));
    std::vector<pollfd> polls;
    gate.add_polls(polls);
    for (const auto& [rank, visit] : visits) visit.add_polls(polls);
    if (options.watch) options.watch->add_polls(polls);
    const auto left = std::chrono::ceil<milliseconds>(options.deadline - Clock::now()).count();
    ::poll(polls.data(), polls.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 20)));
    if (options.watch) options.watch->look();
  }
  return links;
}

}  // namespace lane
