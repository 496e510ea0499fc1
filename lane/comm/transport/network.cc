#include "lane/comm/transport/network.h"

#include <fmt/format.h>

#include <cstring>

#include "lane/base/error.h"
#include "lane/base/settings.h"
#include "lane/comm/transport/exchange.h"
#include "lane/comm/transport/tcp.h"
#include "lane/comm/transport/ucx.h"
#include "lane/comm/transport/ucx_devices.h"

namespace lane {
namespace {

constexpr const char* kChoices[] = {"auto", "tcp", "ucx"};
constexpr uint8_t kAuto = 0, kTcp = 1, kUcx = 2;

// What a rank tells all ranks of other hosts, and later what it heard from them: all have to use the same.
struct Ability {
  uint32_t version = 1;
  uint8_t wanted = kAuto;
  uint8_t has_rdma = 0;
  uint8_t unused[2] = {};
};

Ability agree(Ability mine, const std::vector<Fd>& sockets, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  Ability all = mine;
  // Twice, because a rank has no socket to those of its own host: the second time others tell what they said.
  for (int turn = 0; turn < 2; ++turn) {
    const std::string message(reinterpret_cast<const char*>(&all), sizeof(all));
    const std::vector<std::string> answers =
        exchange(sockets, std::vector<std::string>(sockets.size(), message), deadline, "agreeing on LANE_TRANSPORT");
    for (size_t rank = 0; rank < sockets.size(); ++rank) {
      if (!sockets[rank]) continue;
      Ability theirs;
      if (answers[rank].size() == sizeof(theirs)) std::memcpy(&theirs, answers[rank].data(), sizeof(theirs));
      if (answers[rank].size() != sizeof(theirs) || theirs.version != mine.version || theirs.wanted > kUcx)
        throw Error(ErrorCode::kCorruptData, fmt::format("rank {} runs another version of the library", rank));
      if (theirs.wanted != mine.wanted)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("LANE_TRANSPORT is {} here and {} on rank {}: set the same on all hosts",
                                kChoices[mine.wanted], kChoices[theirs.wanted], rank));
      all.has_rdma &= theirs.has_rdma;
    }
  }
  return all;
}

}  // namespace

std::unique_ptr<Transport> make_network_transport(const JoinOptions& options, Meeting& meeting) {
  if (meeting.layout.num_nodes() < 2) return nullptr;
  const std::string name = setting("LANE_TRANSPORT");
  Ability mine;
  while (mine.wanted <= kUcx && name != kChoices[mine.wanted]) ++mine.wanted;
  if (mine.wanted > kUcx)
    throw Error(ErrorCode::kInvalidArgument, "LANE_TRANSPORT=" + name + ": expected auto, tcp or ucx");
  if (mine.wanted == kUcx && !ucx_is_built_in()) return make_ucx_transport({}, {.timeout = options.timeout});  // throws

  // Emulated hosts have no RDMA network between them, whatever the machine has.
  std::vector<std::string> devices;
  if (mine.wanted != kTcp && ucx_is_built_in() && options.host.empty()) devices = find_rdma_devices(options.nics);
  mine.has_rdma = !devices.empty();
  const bool use_rdma = agree(mine, meeting.sockets, options.timeout).has_rdma != 0;

  // Over TCP our own transport is the faster one: UCX is for RDMA.
  if (mine.wanted == kTcp || (mine.wanted == kAuto && !use_rdma)) return make_tcp_transport(std::move(meeting.sockets));
  if (options.nics.empty()) devices.clear();
  return make_ucx_transport(std::move(meeting.sockets),
                            {.timeout = options.timeout, .use_rdma = use_rdma, .rdma_devices = std::move(devices)});
}

}  // namespace lane
