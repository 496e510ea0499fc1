#include "bench/kernels/onednn.h"

namespace lane::bench {

std::unique_ptr<OnednnMatmul> make_onednn(DType, int64_t, int64_t, int64_t, int, int, std::string& why) {
  why = "oneDNN was not found when this was built; install libdnnl-dev and configure again";
  return nullptr;
}

}  // namespace lane::bench
