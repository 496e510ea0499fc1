// Linked instead of lane/net/cuda/ when CUDA is off.
#include "lane/base/error.h"
#include "lane/net/device_bench.h"

namespace lane::net {

void require_cuda_build() {
  throw Error(ErrorCode::kUnsupported,
              "--device cuda: this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)");
}

void bench_device_all_reduce(Communicator&, const DeviceBenchOptions&, const std::function<void(const DeviceMachine&)>&,
                             const std::function<void(const std::vector<AllReduceRow>&)>&,
                             const std::function<void(int64_t, int64_t)>&) {
  require_cuda_build();
}

}  // namespace lane::net
