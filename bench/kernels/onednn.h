#pragma once
#include <memory>
#include <string>

#include "lane/device/tensor.h"

// The same product by oneDNN with weights in the layout of its choice (format "any", reordered once), to compare with.
namespace lane::bench {

class OnednnMatmul {
 public:
  virtual ~OnednnMatmul() = default;
  virtual void run(int copy, const float* x, float* out) = 0;  // x and out as run() of our own kernels
  virtual std::string implementation() const = 0;              // as oneDNN names it
};

// Weights [n, k] of `dtype` (float32 or bfloat16), `num_copies` of them. Null where oneDNN was not found when this was
// built, or refuses; `why` says so.
std::unique_ptr<OnednnMatmul> make_onednn(DType dtype, int64_t m, int64_t n, int64_t k, int num_copies, int num_threads,
                                          std::string& why);

}  // namespace lane::bench
