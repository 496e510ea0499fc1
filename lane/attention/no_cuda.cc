#include "lane/attention/cuda/backends.h"

namespace lane {
namespace {

class Absent final : public AttentionBackend {
 public:
  std::string_view name() const override { return "cuda"; }
  std::string why_not(const AttentionShape&, DType, Device) const override {
    return "this build has no CUDA; configure with -DLANE_CUDA=ON";
  }
  void run(const AttentionShape&, const AttentionBatch&, TensorView, int, KvView, TensorView, AttentionState*,
           Stream&) const override {
    throw Error(ErrorCode::kUnsupported, "this build has no CUDA; configure with -DLANE_CUDA=ON");
  }
};

}  // namespace

std::vector<const AttentionBackend*> cuda_attention_backends() {
  static const Absent absent;
  return {&absent};
}

}  // namespace lane
