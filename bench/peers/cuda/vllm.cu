// vLLM's custom all-reduce, from the copy of its kernels in FlashInfer's wheel: inputs lie in memory that all ranks
// have mapped (lane_peer_allocate), as vLLM's own registered inputs of CUDA graphs do. It takes no options.
#include <cstring>
#include <stdexcept>
#include <string>

#include "bench/peers/cuda/peer.h"
#include "flashinfer/comm/vllm_custom_all_reduce.cuh"

namespace {

using namespace lane::peer;

class Vllm {
 public:
  Vllm(const Group& group, const std::string& options, size_t max_bytes) : group_(group), max_bytes_(max_bytes) {
    if (!options.empty()) fail("vLLM's all-reduce has no option " + options);
    if (group.num_nodes() > 1) fail("vLLM's all-reduce works within one host");
    if (group.size() % 2 != 0 || group.size() > 8) fail("vLLM's all-reduce is for 2, 4, 6 or 8 ranks");
    signals_ = std::make_unique<SharedMemory>(group, sizeof(vllm::Signal) + max_bytes);
    std::vector<vllm::Signal*> signals;
    for (int rank = 0; rank < group.size(); ++rank) signals.push_back(static_cast<vllm::Signal*>(signals_->of(rank)));
    group.together([&] {
      check(cudaMalloc(&rank_data_, kRankDataBytes), "cudaMalloc");
      library_ = std::make_unique<vllm::CustomAllreduce>(signals.data(), rank_data_, kRankDataBytes, group.rank(),
                                                         group.size(), /*full_nvlink=*/true);
    });
  }
  ~Vllm() {
    cudaDeviceSynchronize();
    if (library_) {  // its own destructor throws when closing fails
      for (auto& [handle, mapped] : library_->ipc_handles_) cudaIpcCloseMemHandle(mapped);
      library_->ipc_handles_.clear();
    }
    cudaFree(rank_data_);
  }

  void* allocate(size_t bytes) {
    inputs_.push_back(std::make_unique<SharedMemory>(group_, bytes));
    return inputs_.back()->mine();
  }

  const char* why_not(size_t count, LanePeerType type) const {
    if (count * size_of(type) % 16 != 0) return "vLLM's all-reduce takes multiples of 16 bytes";
    if (count * size_of(type) > max_bytes_) return "the vector is longer than the peer was opened for";
    return nullptr;
  }

  template <class T>
  void all_reduce(const void* in, void* out, size_t count, cudaStream_t stream) {
    T* input = static_cast<T*>(const_cast<void*>(in));
    cudaStreamCaptureStatus capture{};
    check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    if (capture == cudaStreamCaptureStatusNone && !library_->buffers_.contains(input)) {
      const Place place = place_of(input);
      void* everyones[8];
      for (int rank = 0; rank < group_.size(); ++rank)
        everyones[rank] = static_cast<char*>(inputs_[place.input]->of(rank)) + place.offset;
      library_->register_buffer(everyones);
    }
    library_->allreduce<T>(stream, input, static_cast<T*>(out), static_cast<int>(count), kBlocks, kThreads);
    check(cudaGetLastError(), "vLLM's kernel");
  }

  void all_reduce(const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
    if (const char* reason = why_not(count, type)) fail(reason);
    if (in == out) fail("vLLM's all-reduce cannot work in place");
    if (type == kLanePeerF32) return all_reduce<float>(in, out, count, stream);
    if (type == kLanePeerBF16) return all_reduce<nv_bfloat16>(in, out, count, stream);
    all_reduce<half>(in, out, count, stream);
  }

  // Its protocol for graphs: the addresses that were captured are told to all, then filled in where the kernels look.
  void captured() {
    std::vector<Place> mine;
    group_.together([&] {
      for (void* input : library_->graph_unreg_buffers_) mine.push_back(place_of(input));
    });
    for (size_t calls : group_.gather(mine.size()))
      if (calls != mine.size()) fail("the ranks have captured different numbers of calls");
    if (mine.empty()) return;
    const std::vector<char> bytes = group_.gather_bytes(mine.data(), mine.size() * sizeof(Place));
    const auto* places = reinterpret_cast<const Place*>(bytes.data());
    std::vector<std::string> handles(group_.size());
    std::vector<std::vector<int64_t>> offsets(group_.size());
    for (int rank = 0; rank < group_.size(); ++rank)
      for (size_t call = 0; call < mine.size(); ++call) {
        const Place place = places[rank * mine.size() + call];
        const cudaIpcMemHandle_t& handle = inputs_.at(place.input)->handles()[rank];
        handles[rank].append(reinterpret_cast<const char*>(&handle), sizeof(handle));
        offsets[rank].push_back(static_cast<int64_t>(place.offset));
      }
    group_.together([&] { library_->register_graph_buffers(handles, offsets); });
  }

  std::string error;

 private:
  static constexpr int kBlocks = 36, kThreads = 512;         // what vLLM launches
  static constexpr size_t kRankDataBytes = size_t{8} << 20;  // vLLM's, for 131072 calls in graphs

  struct Place {
    size_t input, offset;  // in a call the same on all ranks when it is not captured
  };
  Place place_of(const void* address) const {
    for (size_t input = 0; input < inputs_.size(); ++input) {
      const ptrdiff_t offset = static_cast<const char*>(address) - static_cast<const char*>(inputs_[input]->mine());
      if (offset >= 0 && static_cast<size_t>(offset) < inputs_[input]->bytes())
        return {input, static_cast<size_t>(offset)};
    }
    fail("the input is not from lane_peer_allocate");
  }

  Group group_;
  size_t max_bytes_;
  std::unique_ptr<SharedMemory> signals_;
  std::vector<std::unique_ptr<SharedMemory>> inputs_;
  void* rank_data_ = nullptr;
  std::unique_ptr<vllm::CustomAllreduce> library_;
};

Vllm& self(void* peer) { return *static_cast<Vllm*>(peer); }

}  // namespace

const char* lane_peer_name() { return "vLLM custom all-reduce (as in FlashInfer " LANE_FLASHINFER_VERSION ")"; }
void* lane_peer_open(const LanePeerGroup* group, const char* options, size_t max_bytes, char* why, size_t why_bytes) {
  return open_peer<Vllm>(group, options, max_bytes, why, why_bytes);
}
void lane_peer_close(void* peer) { delete &self(peer); }
void* lane_peer_allocate(void* peer, size_t bytes) {
  void* memory = nullptr;
  guarded(self(peer).error, [&] { memory = self(peer).allocate(bytes); });
  return memory;
}
const char* lane_peer_why_not(void* peer, size_t count, LanePeerType type) { return self(peer).why_not(count, type); }
int lane_peer_all_reduce(void* peer, const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
  return guarded(self(peer).error, [&] { self(peer).all_reduce(in, out, count, type, stream); });
}
int lane_peer_captured(void* peer) {
  return guarded(self(peer).error, [&] { self(peer).captured(); });
}
const char* lane_peer_error(void* peer) { return self(peer).error.c_str(); }
