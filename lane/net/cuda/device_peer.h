#pragma once
#include <memory>
#include <string>

#include "lane/comm/communicator.h"
#include "lane/net/device_bench.h"

namespace lane::net::cuda {

// On emulated hosts (LANE_HOST): tells NCCL that ranks of different ones share no memory and to go through the
// loopback. Before anything of NCCL's is loaded.
void pretend_hosts_to_nccl(const Communicator& group);

// A peer's plugin (bench/peers/cuda/plugin.h), opened on all ranks or on none. All ranks call the same functions in the
// same order. What a call cannot do is an Error{kUnsupported} with the plugin's sentence.
class PluginPeer {
 public:
  // `max_bytes`: of a vector. `device`: this rank's, current in the calling thread.
  PluginPeer(Communicator& group, const DevicePeer& peer, const std::string& directory, int device, int64_t max_bytes);
  ~PluginPeer();
  PluginPeer(const PluginPeer&) = delete;
  PluginPeer& operator=(const PluginPeer&) = delete;

  const std::string& library() const;  // "NCCL 2.28.9, symmetric windows"
  const std::string& why_not() const;  // it did not open; empty if it did

  void* allocate(int64_t bytes);  // null if any memory will do. The peer's: gone with it
  std::string why_not(int64_t count, DType dtype) const;
  bool has_fused() const;

  void all_reduce(TensorView in, TensorView out, Stream& stream);
  void all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon, TensorView normed,
                               Stream& stream);
  void captured();  // between the end of captures and the first replay

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane::net::cuda
