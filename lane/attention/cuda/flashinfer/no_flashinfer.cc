#include "lane/attention/cuda/flashinfer/flashinfer.h"

namespace lane {
namespace {

constexpr const char* kWhy =
    "this build has no FlashInfer; unpack the wheel flashinfer-python and configure with -DLANE_FLASHINFER_DIR=FOLDER";

class Absent final : public AttentionBackend {
 public:
  std::string_view name() const override { return "flashinfer"; }
  std::string why_not(const AttentionShape&, DType, Device) const override { return kWhy; }
  void run(const AttentionShape&, const AttentionBatch&, TensorView, int, KvView, TensorView, AttentionState*,
           Stream&) const override {
    throw Error(ErrorCode::kUnsupported, kWhy);
  }
};

}  // namespace

const AttentionBackend& flashinfer_attention() {
  static const Absent absent;
  return absent;
}

}  // namespace lane
