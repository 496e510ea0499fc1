// Sharing what cudaMalloc gave: between threads of a process as it is, between processes with legacy IPC handles.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "lane/base/units.h"
#include "lane/comm/cuda/peer_blocks.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

// Whole pages of the GPU: an IPC handle is of a page, with whatever else lies in it.
constexpr int64_t kPageBytes = int64_t{2} << 20;

class DeviceBlock {
 public:
  explicit DeviceBlock(int64_t bytes) : DeviceBlock() {  // delegates: if it throws, the destructor still runs
    const size_t whole = static_cast<size_t>((bytes + kPageBytes - 1) / kPageBytes * kPageBytes);
    const std::string doing =
        fmt::format("allocating {} to share with other ranks", format_bytes(static_cast<double>(whole)));
    check(cudaMalloc(&memory_, whole), doing.c_str());
    check(cudaMemset(memory_, 0, whole), "clearing GPU memory to share");
    check(cudaDeviceSynchronize(), "waiting for cleared GPU memory");
  }
  ~DeviceBlock() { cudaFree(memory_); }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(memory_); }

 private:
  DeviceBlock() = default;

  void* memory_ = nullptr;
};

// Blocks on offer, by number. The ranks of a node own all its blocks together: a rank may leave while kernels of
// another still store into its block, so the last one frees it.
class BlockRegistry {
 public:
  static BlockRegistry& of_this_process() {
    static BlockRegistry registry;
    return registry;
  }
  int64_t add(const std::shared_ptr<DeviceBlock>& block) {
    const std::lock_guard lock(mutex_);
    std::erase_if(blocks_, [](const auto& entry) { return entry.second.expired(); });
    blocks_[++last_] = block;
    return last_;
  }
  std::shared_ptr<DeviceBlock> find(int64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(number);
    return found == blocks_.end() ? nullptr : found->second.lock();
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::weak_ptr<DeviceBlock>> blocks_;
  int64_t last_ = 0;
};

class ThreadBlocks final : public PeerBlocks {
 public:
  ThreadBlocks(int rank, const std::vector<PeerRank>& ranks) : PeerBlocks(rank, ranks, "same process") {}

  Json offer() override {
    held_.push_back(std::make_shared<DeviceBlock>(bytes_));
    blocks_[own_.rank] = held_.back()->data();
    return BlockRegistry::of_this_process().add(held_.back());
  }

  void open(const std::vector<Json>& offers) override {
    std::set<int> devices{own_.device_index};
    for (const PeerRank& other : neighbours()) {
      if (devices.insert(other.device_index).second) {
        const cudaError_t status = cudaDeviceEnablePeerAccess(other.device_index, 0);
        if (status != cudaSuccess) cudaGetLastError();  // else it would be taken for a later call's
        if (status != cudaSuccess && status != cudaErrorPeerAccessAlreadyEnabled)
          throw Error(ErrorCode::kUnsupported, fmt::format("{} cannot access the memory of {}: {}", own_.gpu(),
                                                           other.gpu(), cudaGetErrorString(status)));
      }
      held_.push_back(BlockRegistry::of_this_process().find(offers[other.rank].get<int64_t>()));
      if (!held_.back()) throw Error(ErrorCode::kPeerLost, fmt::format("rank {} left meanwhile", other.rank));
      blocks_[other.rank] = held_.back()->data();
    }
  }

 private:
  std::vector<std::shared_ptr<DeviceBlock>> held_;
};

class IpcBlocks final : public PeerBlocks {
 public:
  IpcBlocks(int rank, const std::vector<PeerRank>& ranks) : PeerBlocks(rank, ranks, "IPC") {}
  ~IpcBlocks() override {
    cudaSetDevice(own_.device_index);
    for (void* block : opened_) cudaIpcCloseMemHandle(block);
  }

  Json offer() override {
    block_ = std::make_unique<DeviceBlock>(bytes_);
    blocks_[own_.rank] = block_->data();
    if (neighbours().empty()) return Json();
    cudaIpcMemHandle_t handle;
    const cudaError_t status = cudaIpcGetMemHandle(&handle, block_->data());
    if (status != cudaSuccess) refuse(status, fmt::format("{} cannot offer its memory", own_.gpu()));
    const auto* bytes = reinterpret_cast<const uint8_t*>(&handle);
    return std::vector<uint8_t>(bytes, bytes + sizeof(handle));
  }

  void open(const std::vector<Json>& offers) override {
    for (const PeerRank& other : neighbours()) {
      const auto bytes = offers[other.rank].get<std::vector<uint8_t>>();
      cudaIpcMemHandle_t handle;
      ensure(bytes.size() == sizeof(handle), "an IPC handle has one size");
      std::memcpy(&handle, bytes.data(), sizeof(handle));
      void* block = nullptr;
      const cudaError_t status = cudaIpcOpenMemHandle(&block, handle, cudaIpcMemLazyEnablePeerAccess);
      if (status != cudaSuccess) refuse(status, fmt::format("{} cannot map the memory of {}", own_.gpu(), other.gpu()));
      opened_.push_back(block);
      blocks_[other.rank] = static_cast<std::byte*>(block);
    }
  }

 private:
  [[noreturn]] static void refuse(cudaError_t status, const std::string& what) {
    cudaGetLastError();  // else it would be taken for a later call's
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: {}; in containers, the ranks of a host need one IPC namespace (docker run --ipc=host)",
                            what, cudaGetErrorString(status)));
  }

  std::unique_ptr<DeviceBlock> block_;
  std::vector<void*> opened_;
};

}  // namespace

std::unique_ptr<PeerBlocks> make_thread_blocks(int rank, const std::vector<PeerRank>& ranks) {
  return std::make_unique<ThreadBlocks>(rank, ranks);
}

std::unique_ptr<PeerBlocks> make_ipc_blocks(int rank, const std::vector<PeerRank>& ranks) {
  return std::make_unique<IpcBlocks>(rank, ranks);
}

}  // namespace lane::cuda
