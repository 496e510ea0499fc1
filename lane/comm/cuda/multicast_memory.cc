#include "lane/comm/cuda/multicast_memory.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <optional>

#include "lane/base/settings.h"
#include "lane/comm/cuda/driver.cuh"
#include "lane/comm/cuda/fd_swap.h"
#include "lane/comm/cuda/launch.cuh"
#include "lane/comm/cuda/together.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

constexpr CUmemAllocationHandleType kFdHandle = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

struct MulticastDriver {
  PFN_cuMulticastGetGranularity_v12010 get_granularity;
  PFN_cuMulticastCreate_v12010 create;
  PFN_cuMulticastAddDevice_v12010 add_device;
  PFN_cuMulticastBindMem_v12010 bind;
  PFN_cuMulticastUnbind_v12010 unbind;
};

// Null if this machine's driver has not all of them.
const MulticastDriver* find_multicast_driver() {
  static const std::optional<MulticastDriver> found = []() -> std::optional<MulticastDriver> {
    MulticastDriver driver;
    const bool has_all = find_in_driver("cuMulticastGetGranularity", 12010, driver.get_granularity) &&
                         find_in_driver("cuMulticastCreate", 12010, driver.create) &&
                         find_in_driver("cuMulticastAddDevice", 12010, driver.add_device) &&
                         find_in_driver("cuMulticastBindMem", 12010, driver.bind) &&
                         find_in_driver("cuMulticastUnbind", 12010, driver.unbind);
    return has_all ? std::optional(driver) : std::nullopt;
  }();
  return found ? &*found : nullptr;
}

// The multicast object of a node, as one of its ranks holds it. Its members are called in their order, each by all
// ranks of the node before any calls the next.
class MulticastObject final : public MulticastMemory {
 public:
  MulticastObject(int device_index, const PeerMemory::Allocation& block)
      : driver_(*find_driver()),
        multicast_(*find_multicast_driver()),
        block_(block),
        size_(static_cast<size_t>(block.bytes)) {
    driver_.check(driver_.device_get(&device_, device_index), "choosing a GPU");
  }
  ~MulticastObject() override {
    if (is_mapped_) driver_.unmap(address_, size_);
    if (address_) driver_.free_address(address_, size_);
    // Nothing is on its way to this rank: its last operation ended with all words of all ranks here (multicast.cu). Not
    // so after one that failed: see the header.
    if (is_bound_) multicast_.unbind(handle_, device_, 0, size_);
    if (has_handle_) driver_.release(handle_);
  }
  MulticastObject(const MulticastObject&) = delete;
  MulticastObject& operator=(const MulticastObject&) = delete;

  // By one rank. The others are given what it returns.
  Fd create(int num_devices) {
    CUmulticastObjectProp wanted{};
    wanted.numDevices = static_cast<unsigned>(num_devices);
    wanted.size = size_;
    wanted.handleTypes = kFdHandle;
    size_t page = 0;
    driver_.check(multicast_.get_granularity(&page, &wanted, CU_MULTICAST_GRANULARITY_MINIMUM),
                  "asking for the page size of multicast");
    if (page == 0 || size_ % page != 0)
      throw Error(ErrorCode::kUnsupported, fmt::format("blocks of {} B are no whole pages of {} B", size_, page));
    driver_.check(multicast_.create(&handle_, &wanted),
                  fmt::format("making a multicast object over {} GPUs of {} B", num_devices, size_));
    has_handle_ = true;
    int fd = -1;
    driver_.check(driver_.export_handle(&fd, handle_, kFdHandle, 0), "exporting multicast as a file descriptor");
    Fd shared(fd);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return shared;
  }
  void open(const Fd& shared) {
    void* fd = reinterpret_cast<void*>(static_cast<intptr_t>(shared.get()));
    driver_.check(driver_.import_handle(&handle_, fd, kFdHandle), "importing multicast");
    has_handle_ = true;
  }

  void add_device() { driver_.check(multicast_.add_device(handle_, device_), "adding a GPU to multicast"); }

  // Waits until all devices are added, says CUDA. Nobody stores before all ranks have done this.
  void bind() {
    driver_.check(multicast_.bind(handle_, 0, block_.handle, 0, size_, 0),
                  "binding a block to multicast (is nvidia-fabricmanager running?)");
    is_bound_ = true;
    driver_.check(driver_.reserve(&address_, size_, 0, 0, 0), "reserving addresses for multicast");
    driver_.check(driver_.map(address_, size_, 0, handle_, 0), "mapping multicast");
    is_mapped_ = true;
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device_;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    driver_.check(driver_.set_access(address_, size_, &access, 1), "getting access to multicast");
    data_ = reinterpret_cast<std::byte*>(address_);
  }

 private:
  const Driver& driver_;
  const MulticastDriver& multicast_;
  PeerMemory::Allocation block_;
  size_t size_;
  CUdevice device_ = 0;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  bool has_handle_ = false, is_bound_ = false, is_mapped_ = false;
};

// Why this rank cannot multicast, or nothing.
std::string own_why_not(int device_index, const PeerMemory& blocks) {
  if (!blocks.allocation())
    return fmt::format("its memory is shared as {}; multicast needs VMM (LANE_PEER_MEMORY=vmm)", blocks.kind());
  const Driver* driver = find_driver();
  if (!driver || !find_multicast_driver()) return "its driver has no multicast, which came with CUDA 12.1";
  CUdevice device;
  int can = 0;
  driver->check(driver->device_get(&device, device_index), "choosing a GPU");
  driver->check(driver->device_get_attribute(&can, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, device),
                "asking whether a GPU can multicast");
  if (can == 0) return "its GPU cannot multicast: that takes NVSwitch, and Hopper or later";
  return load_multicast() ? ""
                          : "this build has no multicast kernels for its GPU: they are compiled for sm_90 or later";
}

// What the others must know of this rank. Nothing of the driver is touched while multicast is off.
Json describe(int device_index, const PeerMemory& blocks) {
  const std::string wanted = setting("LANE_MULTICAST");
  if (wanted != "on" && wanted != "off")
    throw Error(ErrorCode::kInvalidArgument, "LANE_MULTICAST=" + wanted + ": expected on or off");
  if (wanted == "off") return {{"wanted", wanted}};
  check(cudaSetDevice(device_index), "choosing a GPU for multicast");
  char pci[32] = "";
  check(cudaDeviceGetPCIBusId(pci, sizeof(pci), device_index), "asking where a GPU is");
  return {{"wanted", wanted},
          {"why_not", own_why_not(device_index, blocks)},
          {"pci", pci},
          {"pid", ::getpid()},
          {"bytes", blocks.allocation().value_or(PeerMemory::Allocation{}).bytes}};
}

// Depends on what all said alone, so all ranks find the same.
std::string why_not(const std::vector<Json>& said, const std::vector<int>& nodes) {
  for (size_t r = 1; r < said.size(); ++r)
    if (said[r].at("wanted") != said[0].at("wanted"))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("LANE_MULTICAST is {} on rank 0 and {} on rank {}: it must be the same on all",
                              said[0].at("wanted").get<std::string>(), said[r].at("wanted").get<std::string>(), r));
  if (said[0].at("wanted") == "off") return std::string(kMulticastIsOff);
  for (size_t r = 0; r < said.size(); ++r) {
    const auto why = said[r].at("why_not").get<std::string>();
    if (!why.empty()) return fmt::format("no NVLink multicast, rank {}: {}", r, why);
  }
  for (size_t a = 0; a < said.size(); ++a) {
    bool is_alone = true;
    for (size_t b = 0; b < said.size(); ++b) {
      if (a == b || nodes[a] != nodes[b]) continue;
      is_alone = false;
      if (said[a].at("pci") == said[b].at("pci"))
        return fmt::format("no NVLink multicast: ranks {} and {} share a GPU", a, b);
      ensure(said[a].at("bytes") == said[b].at("bytes"), "blocks of a node have one size");
    }
    if (is_alone) return fmt::format("no NVLink multicast: rank {} is alone on its node", a);
  }
  return "";
}

// The results of all ranks, or one rank's failure on all.
std::vector<Json> all_do(const PeerMemory::Exchange& exchange, const std::function<Json()>& step) {
  Outcome outcome = together(exchange, step);
  if (outcome.failure)
    throw Error(outcome.failure->code(),
                fmt::format("NVLink multicast (LANE_MULTICAST=on) cannot be set up: {}", outcome.failure->what()));
  return std::move(outcome.results);
}

}  // namespace

Multicast make_multicast_memory(const PeerMemory::Exchange& exchange, int rank, const std::vector<int>& nodes,
                                int device_index, const PeerMemory& blocks) {
  const Outcome met = together(exchange, [&] { return describe(device_index, blocks); });
  if (met.failure) throw *met.failure;
  const std::vector<Json>& said = met.results;
  ensure(said.size() == nodes.size(), "an exchange brings one text of each rank");
  std::string why = why_not(said, nodes);
  if (!why.empty()) return {nullptr, std::move(why)};

  std::vector<int> members;  // of this node; the first one makes what all use
  for (size_t r = 0; r < nodes.size(); ++r)
    if (nodes[r] == nodes[rank]) members.push_back(static_cast<int>(r));
  const int maker = members.front();

  std::unique_ptr<MulticastObject> object;
  Fd shared;
  std::optional<FdSwap> swap;
  const std::vector<Json> names = all_do(exchange, [&]() -> Json {
    object = std::make_unique<MulticastObject>(device_index, *blocks.allocation());
    if (rank == maker) {
      shared = object->create(static_cast<int>(members.size()));
      return Json();
    }
    swap.emplace();
    return swap->name();
  });

  const auto peer = [&](int other) {
    return FdSwap::Peer{
        .rank = other, .pid = said[other].at("pid"), .name = names[other].is_null() ? "" : names[other]};
  };
  all_do(exchange, [&] {
    if (rank == maker) {
      std::vector<FdSwap::Peer> others;
      for (const int other : members)
        if (other != maker) others.push_back(peer(other));
      FdSwap::give(rank, shared.get(), others);
    } else {
      // Half the time, so that who waits for this rank's outcome is still there to hear of a failure.
      object->open(swap->take({peer(maker)}, timeout_setting() / 2).front());
    }
    object->add_device();
    return Json();
  });
  all_do(exchange, [&] {
    object->bind();
    return Json();
  });
  return {std::move(object), ""};
}

}  // namespace lane::cuda
