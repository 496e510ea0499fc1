// Sharing CUDA virtual memory between processes: handles travel as file descriptors.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <cstdint>

#include "lane/base/settings.h"
#include "lane/comm/cuda/driver.cuh"
#include "lane/comm/cuda/fd_swap.h"
#include "lane/comm/cuda/peer_blocks.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

constexpr CUmemAllocationHandleType kFdHandle = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

// Memory of some GPU at an address where the own GPU reads and writes it. The memory lives as long as somebody maps it,
// whoever made it. (The public constructors delegate, so that one that throws still runs the destructor.)
class Mapping {
 public:
  // New memory of `device`.
  Mapping(const Driver& driver, CUdevice device, int64_t bytes) : Mapping(driver, device) {
    CUmemAllocationProp wanted{};
    wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    wanted.location.id = device;
    wanted.requestedHandleTypes = kFdHandle;
    int can_rdma = 0;
    driver.check(
        driver.device_get_attribute(&can_rdma, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, device),
        "asking whether network cards reach virtual memory");
    wanted.allocFlags.gpuDirectRDMACapable = can_rdma != 0;
    size_t page = 0;
    driver.check(driver.get_granularity(&page, &wanted, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                 "asking for the page size of virtual memory");
    size_ = (static_cast<size_t>(bytes) + page - 1) / page * page;
    driver.check(driver.create(&handle_, size_, &wanted, 0), fmt::format("allocating {} B of virtual memory", size_));
    has_handle_ = true;
    map();
  }
  // Another rank's, of the size it has there.
  Mapping(const Driver& driver, CUdevice device, const Fd& shared, size_t size) : Mapping(driver, device) {
    size_ = size;
    void* fd = reinterpret_cast<void*>(static_cast<intptr_t>(shared.get()));
    driver.check(driver.import_handle(&handle_, fd, kFdHandle), "importing virtual memory");
    has_handle_ = true;
    map();
  }
  ~Mapping() {
    if (is_mapped_) driver_.unmap(address_, size_);
    if (address_) driver_.free_address(address_, size_);
    if (has_handle_) driver_.release(handle_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }
  size_t size() const { return size_; }
  CUmemGenericAllocationHandle handle() const { return handle_; }

  Fd share() const {
    int fd = -1;
    driver_.check(driver_.export_handle(&fd, handle_, kFdHandle, 0), "exporting virtual memory as a file descriptor");
    Fd shared(fd);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return shared;
  }

 private:
  Mapping(const Driver& driver, CUdevice device) : driver_(driver), device_(device) {}

  void map() {
    driver_.check(driver_.reserve(&address_, size_, 0, 0, 0), "reserving addresses for virtual memory");
    driver_.check(driver_.map(address_, size_, 0, handle_, 0), "mapping virtual memory");
    is_mapped_ = true;
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device_;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    driver_.check(driver_.set_access(address_, size_, &access, 1), "getting access to virtual memory");
  }

  const Driver& driver_;
  CUdevice device_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  size_t size_ = 0;
  bool has_handle_ = false, is_mapped_ = false;
};

class VmmBlocks final : public PeerBlocks {
 public:
  VmmBlocks(int rank, const std::vector<PeerRank>& ranks) : PeerBlocks(rank, ranks, "VMM"), driver_(find_driver()) {
    ensure(driver_ != nullptr, "virtual memory is chosen where the driver has it");
  }

  Json offer() override {
    driver_->check(driver_->device_get(&device_, own_.device_index), "choosing a GPU");
    mappings_.push_back(std::make_unique<Mapping>(*driver_, device_, bytes_));
    const Mapping& own = *mappings_.back();
    check(cudaMemset(own.data(), 0, own.size()), "clearing GPU memory to share");
    check(cudaDeviceSynchronize(), "waiting for cleared GPU memory");
    blocks_[own_.rank] = own.data();
    if (neighbours().empty()) return Json();
    shared_ = own.share();
    swap_ = std::make_unique<FdSwap>();
    return {{"socket", swap_->name()}, {"size", own.size()}};
  }

  void open(const std::vector<Json>& offers) override {
    const std::vector<PeerRank> others = neighbours();
    if (others.empty()) return;
    std::vector<FdSwap::Peer> peers;
    for (const PeerRank& other : others)
      peers.push_back({.rank = other.rank, .pid = other.pid, .name = offers[other.rank].at("socket")});
    // Half the time, so that who waits for this rank's outcome is still there to hear of a failure.
    const std::vector<Fd> fds = swap_->swap(own_.rank, shared_.get(), peers, timeout_setting() / 2);
    for (size_t i = 0; i < others.size(); ++i) {
      const auto size = offers[others[i].rank].at("size").get<size_t>();
      ensure(size >= static_cast<size_t>(bytes_), "a block has the size that was asked for");
      mappings_.push_back(import_block(others[i], fds[i], size));
      blocks_[others[i].rank] = mappings_.back()->data();
    }
    shared_ = Fd();
    swap_.reset();
  }

  std::optional<Allocation> allocation() const override {
    const Mapping& own = *mappings_.front();
    return Allocation{.handle = own.handle(), .bytes = static_cast<int64_t>(own.size())};
  }

 private:
  std::unique_ptr<Mapping> import_block(const PeerRank& other, const Fd& fd, size_t size) const try {
    return std::make_unique<Mapping>(*driver_, device_, fd, size);
  } catch (const Error& error) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} cannot map the memory of {}: {}; `nvidia-smi topo -p2p r` shows which GPUs reach each "
                            "other",
                            own_.gpu(), other.gpu(), error.what()));
  }

  const Driver* driver_;
  CUdevice device_ = 0;
  Fd shared_;
  std::unique_ptr<FdSwap> swap_;
  std::vector<std::unique_ptr<Mapping>> mappings_;  // the own one first
};

}  // namespace

std::unique_ptr<PeerBlocks> make_vmm_blocks(int rank, const std::vector<PeerRank>& ranks) {
  return std::make_unique<VmmBlocks>(rank, ranks);
}

}  // namespace lane::cuda
