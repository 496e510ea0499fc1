// NVSHMEM's nvshmemx_TYPE_sum_reduce_on_stream. Options: "" for its own choice, which is NCCL where it finds one, or
// "own" for its own kernels. NVSHMEM is one to a process: open it once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <nvshmem_host.h>

#include "bench/peers/cuda/peer.h"

namespace {

using namespace lane::peer;

std::string version() {
  int major = 0, minor = 0, patch = 0;
  nvshmemx_vendor_get_version_info(&major, &minor, &patch);
  return "NVSHMEM " + std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

std::string name = version();

class Nvshmem {
 public:
  Nvshmem(const Group& group, const std::string& options, size_t) {
    if (!options.empty() && options != "own") fail("NVSHMEM: no option " + options + "; there is own");
    if (group.num_nodes() > 1) fail("NVSHMEM needs RDMA between hosts");
    setenv("NVSHMEM_DISABLE_NVLS", "1", 1);  // no NVLink multicast, neither its own nor NCCL's
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    setenv("NVSHMEM_REMOTE_TRANSPORT", "none", 0);
    if (options == "own") setenv("NVSHMEM_DISABLE_NCCL", "1", 1);
    name = version() + (options == "own" ? ", own kernels" : "");

    nvshmemx_uniqueid_t id = NVSHMEMX_UNIQUEID_INITIALIZER;
    group.together([&] {
      if (group.rank() == 0 && nvshmemx_get_uniqueid(&id) != 0) fail("nvshmemx_get_uniqueid failed");
    });
    id = group.gather(id)[0];
    group.together([&] {
      nvshmemx_init_attr_t attributes = NVSHMEMX_INIT_ATTR_INITIALIZER;
      if (nvshmemx_set_attr_uniqueid_args(group.rank(), group.size(), &id, &attributes) != 0 ||
          nvshmemx_hostlib_init_attr(NVSHMEMX_INIT_WITH_UNIQUEID, &attributes) != 0)
        fail("nvshmemx_hostlib_init_attr failed; NVSHMEM_DEBUG=INFO says more");
    });
  }
  ~Nvshmem() {
    cudaDeviceSynchronize();
    for (void* memory : memory_) nvshmem_free(memory);
    nvshmemx_hostlib_finalize();
  }

  void* allocate(size_t bytes) {
    void* memory = nvshmem_malloc(bytes);
    if (!memory)
      fail("nvshmem_malloc of " + std::to_string(bytes) + " bytes failed; NVSHMEM_SYMMETRIC_SIZE is its heap");
    memory_.push_back(memory);
    return memory;
  }

  template <class T>
  using Reduce = int(nvshmem_team_t, T*, const T*, size_t, cudaStream_t);
  template <class T>
  static void call(Reduce<T>* reduce, const void* in, void* out, size_t count, cudaStream_t stream) {
    if (reduce(NVSHMEM_TEAM_WORLD, static_cast<T*>(out), static_cast<const T*>(in), count, stream) != 0)
      fail("NVSHMEM's sum_reduce_on_stream failed");
    check(cudaGetLastError(), "NVSHMEM's sum_reduce_on_stream");
  }
  void all_reduce(const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
    if (memory_.empty()) fail("the vectors are not on NVSHMEM's heap: " + error);
    if (type == kLanePeerF32) return call<float>(nvshmemx_float_sum_reduce_on_stream, in, out, count, stream);
    if (type == kLanePeerBF16)
      return call<__nv_bfloat16>(nvshmemx_bfloat16_sum_reduce_on_stream, in, out, count, stream);
    call<half>(nvshmemx_half_sum_reduce_on_stream, in, out, count, stream);
  }

  std::string error;

 private:
  std::vector<void*> memory_;
};

using Peer = Nvshmem;

}  // namespace

#include "bench/peers/cuda/exports.h"
