#include "lane/comm/cuda/nvshmem_memory.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>

#include "lane/base/error.h"
#include "lane/comm/cuda/nvshmem_library.h"
#include "lane/comm/cuda/peer_rank.h"
#include "lane/comm/cuda/together.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

struct Block {
  std::byte* at;
  int64_t bytes;
  bool is_taken;
};
// What this process is to NVSHMEM, for good. Blocks are numbered alike on all ranks.
struct World {
  std::mutex mutex;
  std::string id;  // empty: not started
  int pe = -1, size = 0, device_index = -1;
  std::vector<Block> blocks;
};
World& world() {
  static World own;
  return own;
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

Json describe(int device_index, int64_t bytes) {
  if (const std::string missing = nvshmem::load(); !missing.empty()) throw Error(ErrorCode::kUnsupported, missing);
  Json own = describe_peer(device_index, bytes);
  const std::lock_guard lock(world().mutex);
  if (!world().id.empty() && world().device_index != device_index)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("NVSHMEM runs on GPU {} of this process and cannot on GPU {} as well", world().device_index,
                            device_index));
  own["host"] = host_name();
  own["world"] = world().id;
  own["world_size"] = world().size;
  own["pe"] = world().pe;
  return own;
}

// A rank of NVSHMEM is a process with a GPU of its own.
void check_ranks(const std::vector<PeerRank>& ranks) {
  for (const PeerRank& a : ranks) {
    if (a.bytes != ranks[0].bytes)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("rank {} asked for {} B of peer memory and rank 0 for {} B",
                                                           a.rank, a.bytes, ranks[0].bytes));
    for (const PeerRank& b : ranks) {
      if (a.rank >= b.rank) continue;
      if (a.process == b.process)
        throw Error(
            ErrorCode::kUnsupported,
            fmt::format("NVSHMEM needs a process for each rank; ranks {} and {} are threads of one", a.rank, b.rank));
      if (a.uuid == b.uuid)
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("NVSHMEM needs a GPU for each rank; ranks {} and {} share one ({}, {})", a.rank, b.rank,
                                a.name, a.pci));
    }
  }
}

// Texts of an exchange are JSON, and an id is any bytes.
std::string to_hex(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}
std::string from_hex(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return bytes;
}

void start_world(const PeerMemory::Exchange& exchange, int rank, int device_index, const std::vector<Json>& met) {
  const bool is_one_host =
      std::all_of(met.begin(), met.end(), [&](const Json& other) { return other.at("host") == met[0].at("host"); });
  if (is_one_host) ::setenv("NVSHMEM_REMOTE_TRANSPORT", "none", 0);
  const auto ids = all_together(exchange, [&] { return rank == 0 ? Json(to_hex(nvshmem::make_id())) : Json(); });
  const std::string id = ids[0];
  const int size = static_cast<int>(met.size());
  all_together(exchange, [&] {
    nvshmem::start(from_hex(id), rank, size);
    return Json();
  });
  const std::lock_guard lock(world().mutex);
  world().id = id;
  world().pe = rank;
  world().size = size;
  world().device_index = device_index;
}

// The ranks' numbers in the world, which starts now or is there already.
std::vector<int> join_world(const PeerMemory::Exchange& exchange, int rank, int device_index,
                            const std::vector<Json>& met) {
  const auto is_in = [&](const std::string& id) {
    return std::all_of(met.begin(), met.end(), [&](const Json& other) { return other.at("world") == id; });
  };
  std::vector<int> pes(met.size());
  if (is_in("")) {
    start_world(exchange, rank, device_index, met);
    for (size_t i = 0; i < pes.size(); ++i) pes[i] = static_cast<int>(i);
    return pes;
  }
  const std::string first = met[0].at("world");
  if (first.empty() || !is_in(first) || met[0].at("world_size").get<size_t>() != met.size())
    throw Error(
        ErrorCode::kUnsupported,
        "NVSHMEM was started by a group of other ranks, and a process starts it once: open the device on the group "
        "of all ranks first and on no other group of several nodes, or use LANE_GPU_FABRIC=proxy");
  for (size_t i = 0; i < pes.size(); ++i) pes[i] = met[i].at("pe");
  return pes;
}

// The number of a block that is free on all ranks, or of a new one. It is this rank's from now on.
size_t take_block(const PeerMemory::Exchange& exchange, int64_t bytes) {
  const auto offers = all_together(exchange, [&] {
    const std::lock_guard lock(world().mutex);
    Json free = Json::array();
    for (const Block& block : world().blocks) free.push_back(!block.is_taken && block.bytes >= bytes);
    return free;
  });
  size_t number = 0;
  const size_t blocks = offers[0].size();
  const auto is_free = [&](const Json& offer) { return offer.at(number).get<bool>(); };
  while (number < blocks && !std::all_of(offers.begin(), offers.end(), is_free)) ++number;
  if (number == blocks)
    all_together(exchange, [&] {
      std::byte* at = nvshmem::allocate(bytes);
      if (at == nullptr)
        throw Error(ErrorCode::kDevice,
                    fmt::format("NVSHMEM's heap has no {} B left; NVSHMEM_SYMMETRIC_SIZE is its size", bytes));
      const std::lock_guard lock(world().mutex);
      world().blocks.push_back({at, bytes, false});
      return Json();
    });
  const std::lock_guard lock(world().mutex);
  world().blocks[number].is_taken = true;
  return number;
}

class WorldMemory final : public NvshmemMemory {
 public:
  WorldMemory(const PeerMemory::Exchange& exchange, std::vector<int> pes, int64_t bytes)
      : number_(take_block(exchange, bytes)) {
    kind_ = "NVSHMEM";
    bytes_ = bytes;
    pes_ = std::move(pes);
    blocks_.resize(pes_.size());
  }
  ~WorldMemory() override {
    const std::lock_guard lock(world().mutex);
    world().blocks[number_].is_taken = false;
  }

  void map(int rank, const std::vector<int>& nodes) {
    std::byte* own = at();
    check(cudaMemset(own, 0, static_cast<size_t>(bytes_)), "clearing NVSHMEM's memory");
    check(cudaStreamSynchronize(nullptr), "clearing NVSHMEM's memory");
    for (size_t other = 0; other < pes_.size(); ++other) {
      blocks_[other] = nvshmem::mapped(own, pes_[other]);
      if (blocks_[other] == nullptr && nodes[other] == nodes[rank])
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("NVSHMEM does not map the memory of rank {}'s GPU, which is on the same node: "
                                "`nvidia-smi topo -p2p r` shows which GPUs reach each other",
                                other));
    }
  }

 private:
  std::byte* at() const {
    const std::lock_guard lock(world().mutex);
    return world().blocks[number_].at;
  }
  size_t number_;
};

}  // namespace

std::unique_ptr<NvshmemMemory> make_nvshmem_memory(const PeerMemory::Exchange& exchange, int rank,
                                                   const std::vector<int>& nodes, int device_index, int64_t bytes) {
  const std::vector<Json> met = all_together(exchange, [&] { return describe(device_index, bytes); });
  ensure(met.size() == nodes.size(), "an exchange brings one text of each rank");
  std::vector<PeerRank> ranks;
  for (size_t i = 0; i < nodes.size(); ++i) ranks.push_back(parse_peer(met[i], static_cast<int>(i), nodes[i]));
  check_ranks(ranks);
  std::vector<int> pes = join_world(exchange, rank, device_index, met);
  auto memory = std::make_unique<WorldMemory>(exchange, std::move(pes), bytes);
  all_together(exchange, [&] {  // nobody returns before the memory of all is zeroed
    memory->map(rank, nodes);
    return Json();
  });
  return memory;
}

}  // namespace lane::cuda
