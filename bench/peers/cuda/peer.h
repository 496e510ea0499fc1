// What the plugins share: failures travel as exceptions inside and leave as sentences, on all ranks together.
#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/peers/cuda/plugin.h"

namespace lane::peer {

[[noreturn]] inline void fail(const std::string& why) { throw std::runtime_error(why); }

inline void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call, of whomever, would report it again
  fail(std::string(doing) + ": " + cudaGetErrorString(status));
}

// 0, or 1 with the exception's sentence in `error`.
template <class Body>
int guarded(std::string& error, Body&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

class Group {
 public:
  explicit Group(const LanePeerGroup& group) : group_(group) {}
  int rank() const { return group_.rank; }
  int size() const { return group_.size; }
  int num_nodes() const { return group_.num_nodes; }

  // Every rank's `bytes` bytes, in rank order.
  std::vector<char> gather_bytes(const void* mine, size_t bytes) const {
    std::vector<char> all(bytes * size());
    if (group_.all_gather(group_.context, mine, bytes, all.data()) != 0) fail("another rank has gone");
    return all;
  }
  template <class T>
  std::vector<T> gather(const T& mine) const {
    std::vector<T> all(size());
    if (group_.all_gather(group_.context, &mine, sizeof(T), all.data()) != 0) fail("another rank has gone");
    return all;
  }

  // Collective. A step that fails on one rank fails on all, so that none is left waiting in the next one.
  template <class Step>
  void together(Step&& step) const {
    std::string error;
    std::array<char, 240> mine{};
    if (guarded(error, step) != 0) std::snprintf(mine.data(), mine.size(), "rank %d: %s", rank(), error.c_str());
    for (const auto& sentence : gather(mine))
      if (sentence[0] != 0) fail(sentence.data());
  }

 private:
  LanePeerGroup group_;
};

// Memory of this rank's GPU that all ranks of the host have mapped. Its end is collective too: nobody frees what
// another may still have mapped.
class SharedMemory {
 public:
  SharedMemory(const Group& group, size_t bytes) : group_(group), mapped_(group.size()), handles_(group.size()) {
    constexpr size_t kPage = 2 << 20;  // a handle stands for whole pages
    bytes_ = (bytes + kPage - 1) / kPage * kPage;
    cudaIpcMemHandle_t mine{};
    try {
      group.together([&] {
        check(cudaMalloc(&mapped_[group.rank()], bytes_), "cudaMalloc");
        check(cudaMemset(mapped_[group.rank()], 0, bytes_), "cudaMemset");
        check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        check(cudaIpcGetMemHandle(&mine, mapped_[group.rank()]), "cudaIpcGetMemHandle");
      });
      handles_ = group.gather(mine);
      group.together([&] {
        for (int rank = 0; rank < group.size(); ++rank)
          if (rank != group.rank())
            check(cudaIpcOpenMemHandle(&mapped_[rank], handles_[rank], cudaIpcMemLazyEnablePeerAccess),
                  "cudaIpcOpenMemHandle");
      });
    } catch (...) {
      release();
      throw;
    }
  }
  ~SharedMemory() { release(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void* of(int rank) const { return mapped_[rank]; }
  void* mine() const { return mapped_[group_.rank()]; }
  size_t bytes() const { return bytes_; }
  const std::vector<cudaIpcMemHandle_t>& handles() const { return handles_; }

 private:
  void release() {
    cudaDeviceSynchronize();
    for (int rank = 0; rank < group_.size(); ++rank)
      if (rank != group_.rank() && mapped_[rank]) cudaIpcCloseMemHandle(mapped_[rank]);
    std::string ignored;  // a rank that has gone has no mappings either
    guarded(ignored, [&] { group_.gather('.'); });
    cudaFree(mine());
  }

  Group group_;
  size_t bytes_ = 0;
  std::vector<void*> mapped_;
  std::vector<cudaIpcMemHandle_t> handles_;
};

// lane_peer_open() of a plugin whose state is a Peer(group, options, max_bytes) with a string `error`.
template <class Peer>
void* open_peer(const LanePeerGroup* group, const char* options, size_t max_bytes, char* why, size_t why_bytes) {
  std::string error;
  std::unique_ptr<Peer> peer;
  if (guarded(error, [&] {
        const Group everyone(*group);
        everyone.together([&] { check(cudaSetDevice(group->device), "cudaSetDevice"); });
        peer = std::make_unique<Peer>(everyone, options ? options : "", max_bytes);
      }) != 0)
    std::snprintf(why, why_bytes, "%s", error.c_str());
  return peer.release();
}

inline size_t size_of(LanePeerType type) { return type == kLanePeerF32 ? 4 : 2; }

}  // namespace lane::peer
