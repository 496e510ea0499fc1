// Linked instead of nvshmem_library.cc and hierarchical_put.cu when NVSHMEM is off.
#include "lane/base/error.h"
#include "lane/comm/cuda/nvshmem_library.h"
#include "lane/comm/cuda/put.cuh"

namespace lane::cuda {
namespace {

[[noreturn]] void fail() { throw Error(ErrorCode::kUnsupported, nvshmem::load()); }

}  // namespace

std::string nvshmem::load() {
  return "this build has no NVSHMEM; configure with -DLANE_NVSHMEM=ON and -DLANE_NVSHMEM_DIR=<folder nvidia/nvshmem of "
         "the wheel nvidia-nvshmem-cu13>";
}
std::string nvshmem::make_id() { fail(); }
void nvshmem::start(const std::string&, int, int) { fail(); }
std::byte* nvshmem::allocate(int64_t) { fail(); }
std::byte* nvshmem::mapped(std::byte*, int) { fail(); }

int64_t lines_needed_put(Between, const Group&, DType, int64_t) { fail(); }
void put_all_reduce(const Group&, const PutPeers&, Between, DType, ReduceOp, const void*, void*, int64_t,
                    const Launch&) {
  fail();
}
void load_put_kernels() { fail(); }

}  // namespace lane::cuda
