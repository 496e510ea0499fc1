#include "lane/comm/cuda/peer_memory.h"

#include <fmt/format.h>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/comm/cuda/peer_blocks.h"
#include "lane/comm/cuda/peer_rank.h"
#include "lane/comm/cuda/together.h"

namespace lane::cuda {
namespace {

std::unique_ptr<PeerBlocks> make_blocks(PeerKind kind, int rank, const std::vector<PeerRank>& ranks) {
  if (kind == PeerKind::kThreads) return make_thread_blocks(rank, ranks);
  return kind == PeerKind::kVmm ? make_vmm_blocks(rank, ranks) : make_ipc_blocks(rank, ranks);
}

}  // namespace

std::unique_ptr<PeerMemory> make_peer_memory(const PeerMemory::Exchange& exchange, int rank,
                                             const std::vector<int>& nodes, int device_index, int64_t bytes) {
  const Outcome met = together(exchange, [&] { return describe_peer(device_index, bytes); });
  if (met.failure) throw *met.failure;
  ensure(met.results.size() == nodes.size(), "an exchange brings one text of each rank");
  std::vector<PeerRank> ranks;
  for (size_t i = 0; i < nodes.size(); ++i) ranks.push_back(parse_peer(met.results[i], static_cast<int>(i), nodes[i]));

  PeerChoice choice = choose_peer_kinds(ranks);
  for (const PeerKind kind : choice.kinds) {
    auto blocks = make_blocks(kind, rank, ranks);
    // No block is written to before the memory of all is zeroed, and nobody returns before all are mapped.
    Outcome outcome = together(exchange, [&] { return blocks->offer(); });
    if (!outcome.failure)
      outcome = together(exchange, [&] {
        blocks->open(outcome.results);
        return Json();
      });
    if (!outcome.failure) return blocks;
    const std::string why = blocks->kind() + ": " + outcome.failure->what();
    if (kind == choice.kinds.back())
      throw Error(outcome.failure->code(), "the ranks of a host cannot share GPU memory: " +
                                               (choice.passed_over.empty() ? why : choice.passed_over + "; " + why));
    log(LogLevel::kInfo, "GPU memory is shared another way, " + why);
    choice.passed_over += (choice.passed_over.empty() ? "" : "; ") + why;
  }
  throw Error(ErrorCode::kBug, "no way to share GPU memory was chosen");
}

}  // namespace lane::cuda
