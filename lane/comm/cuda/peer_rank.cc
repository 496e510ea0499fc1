#include "lane/comm/cuda/peer_rank.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "lane/base/settings.h"
#include "lane/comm/cuda/driver.cuh"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

// The pid alone could be another's: containers may share a host and not its process numbers. The number alone would
// be the same after fork().
std::string own_process() {
  static const std::string number = [] {
    std::random_device random;
    return fmt::format("{:08x}{:08x}", random(), random());
  }();
  return fmt::format("{}-{}", number, ::getpid());
}

bool is_p2p_disabled() {
  const auto value = launcher_variable("NCCL_P2P_DISABLE");
  return value && *value != "0";
}

bool can_export(int device_index) {
  const Driver* driver = find_driver();
  CUdevice device;
  if (!driver || driver->device_get(&device, device_index) != CUDA_SUCCESS) return false;
  const auto has = [&](CUdevice_attribute attribute) {
    int value = 0;
    return driver->device_get_attribute(&value, attribute, device) == CUDA_SUCCESS && value != 0;
  };
  return has(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) &&
         has(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
}

std::string uuid_of(const cudaDeviceProp& properties) {
  std::string text;
  for (const char byte : properties.uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

// Calls f(a, b) for all pairs of different ranks that share a node.
template <class F>
void for_neighbours(const std::vector<PeerRank>& ranks, F&& f) {
  for (const PeerRank& a : ranks)
    for (const PeerRank& b : ranks)
      if (a.rank != b.rank && a.node == b.node) f(a, b);
}

// What no kind of memory could make up for.
void check_ranks(const std::vector<PeerRank>& ranks) {
  const PeerRank& first = ranks[0];
  for (const PeerRank& other : ranks) {
    if (other.wanted != first.wanted)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("LANE_PEER_MEMORY is {} on rank {} and {} on rank {}: it must be the same on all",
                              first.wanted, first.rank, other.wanted, other.rank));
    if (other.bytes != first.bytes || other.bytes < 1)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("rank {} asked for {} B of peer memory and rank {} for {} B: expected the same size, "
                              "1 B or more",
                              first.rank, first.bytes, other.rank, other.bytes));
  }
  if (first.wanted != "auto" && first.wanted != "vmm" && first.wanted != "ipc")
    throw Error(ErrorCode::kInvalidArgument, "LANE_PEER_MEMORY=" + first.wanted + ": expected auto, vmm or ipc");
  for_neighbours(ranks, [](const PeerRank& a, const PeerRank&) {
    if (a.is_p2p_disabled)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("NCCL_P2P_DISABLE is set on rank {}, so its GPU may not share memory with other ranks of "
                              "its host; unset it if the GPUs here do reach each other",
                              a.rank));
  });
  for_neighbours(ranks, [](const PeerRank& a, const PeerRank& b) {
    const auto known = a.can_access.find(b.uuid);
    if (known != a.can_access.end() && !known->second)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} cannot access the memory of {}: `nvidia-smi topo -p2p r` shows which pairs can; "
                              "between PCIe slots, ACS and the IOMMU must be off, and GPUs cut up by MIG never can",
                              a.gpu(), b.gpu()));
  });
}

}  // namespace

std::string PeerRank::gpu() const { return fmt::format("rank {}'s GPU ({}, {})", rank, name, pci); }

Json describe_peer(int device_index, int64_t bytes) {
  check(cudaSetDevice(device_index), "choosing a GPU to share memory with other ranks");
  check(cudaFree(nullptr), "starting to use a GPU");  // makes its context, which the driver's functions need
  Json can_access = Json::object();
  cudaDeviceProp own{};
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting GPUs");
  for (int other = 0; other < count; ++other) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, other), "asking what a GPU is");
    int can = 1;
    if (other == device_index)
      own = properties;
    else
      check(cudaDeviceCanAccessPeer(&can, device_index, other), "asking which GPUs reach each other");
    can_access[uuid_of(properties)] = can != 0;
  }
  char pci[32] = "";
  check(cudaDeviceGetPCIBusId(pci, sizeof(pci), device_index), "asking where a GPU is");
  return {{"process", own_process()},
          {"pid", ::getpid()},
          {"device_index", device_index},
          {"uuid", uuid_of(own)},
          {"name", own.name},
          {"pci", pci},
          {"can_access", can_access},
          {"has_vmm", can_export(device_index)},
          {"is_p2p_disabled", is_p2p_disabled()},
          {"wanted", setting("LANE_PEER_MEMORY")},
          {"bytes", bytes}};
}

PeerRank parse_peer(const Json& description, int rank, int node) {
  return {.rank = rank,
          .node = node,
          .process = description.at("process"),
          .pid = description.at("pid"),
          .device_index = description.at("device_index"),
          .uuid = description.at("uuid"),
          .name = description.at("name"),
          .pci = description.at("pci"),
          .can_access = description.at("can_access"),
          .has_vmm = description.at("has_vmm"),
          .is_p2p_disabled = description.at("is_p2p_disabled"),
          .wanted = description.at("wanted"),
          .bytes = description.at("bytes")};
}

PeerChoice choose_peer_kinds(const std::vector<PeerRank>& ranks) {
  check_ranks(ranks);
  bool has_threads = false, has_processes = false;
  std::string no_vmm, no_ipc;
  for_neighbours(ranks, [&](const PeerRank& a, const PeerRank& b) {
    (a.process == b.process ? has_threads : has_processes) = true;
    if (a.process == b.process)
      no_ipc = fmt::format("IPC: ranks {} and {} are threads of one process", std::min(a.rank, b.rank),
                           std::max(a.rank, b.rank));
    if (!a.has_vmm) no_vmm = fmt::format("VMM: {} or its driver cannot export memory as file descriptors", a.gpu());
  });
  const std::string& wanted = ranks[0].wanted;
  if (wanted == "auto" && !has_processes) return {.kinds = {PeerKind::kThreads}, .passed_over = ""};
  PeerChoice choice;
  for (const auto& [kind, name, why_not] :
       {std::tuple(PeerKind::kVmm, "vmm", no_vmm), std::tuple(PeerKind::kIpc, "ipc", no_ipc)}) {
    if (wanted != "auto" && wanted != name) continue;
    if (why_not.empty())
      choice.kinds.push_back(kind);
    else
      choice.passed_over += (choice.passed_over.empty() ? "" : "; ") + why_not;
  }
  if (choice.kinds.empty())
    throw Error(ErrorCode::kUnsupported,
                fmt::format("the ranks of a host cannot share GPU memory: {}; LANE_PEER_MEMORY is {}",
                            choice.passed_over, wanted));
  return choice;
}

}  // namespace lane::cuda
