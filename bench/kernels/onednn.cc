#include "bench/kernels/onednn.h"

#include <omp.h>

#include <cstring>
#include <dnnl.hpp>
#include <vector>

namespace lane::bench {
namespace {

using Memory = dnnl::memory;

class Matmul final : public OnednnMatmul {
 public:
  Matmul(DType dtype, int64_t m, int64_t n, int64_t k, int num_copies, int num_threads)
      : type_(dtype == DType::kF32 ? Memory::data_type::f32 : Memory::data_type::bf16), m_(m), n_(n), k_(k) {
    omp_set_num_threads(num_threads);
    const Memory::desc x_desc({m, k}, type_, Memory::format_tag::ab);
    const Memory::desc any({k, n}, type_, Memory::format_tag::any);
    const Memory::desc out_desc({m, n}, Memory::data_type::f32, Memory::format_tag::ab);
    descriptor_ = dnnl::matmul::primitive_desc(dnnl::matmul::desc(x_desc, any, out_desc), engine_);
    primitive_ = dnnl::matmul(descriptor_);
    x_ = Memory(x_desc, engine_);
    out_ = Memory(out_desc, engine_);
    Memory plain({{k, n}, type_, Memory::format_tag::ba}, engine_);
    std::memset(plain.get_data_handle(), 0, plain.get_desc().get_size());
    for (int i = 0; i < num_copies; ++i) {
      weights_.emplace_back(descriptor_.weights_desc(), engine_);
      dnnl::reorder(plain, weights_.back()).execute(stream_, plain, weights_.back());
      stream_.wait();
    }
  }

  void run(int copy, const float* x, float* out) override {
    if (type_ == Memory::data_type::f32)
      x_.set_data_handle(const_cast<float*>(x));
    else
      for (int64_t i = 0; i < m_ * k_; ++i)
        static_cast<uint16_t*>(x_.get_data_handle())[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(x[i]) >> 16);
    out_.set_data_handle(out);
    primitive_.execute(
        stream_, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, weights_[static_cast<size_t>(copy)]}, {DNNL_ARG_DST, out_}});
    stream_.wait();
  }
  std::string implementation() const override { return descriptor_.impl_info_str(); }

 private:
  Memory::data_type type_;
  int64_t m_, n_, k_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul::primitive_desc descriptor_;
  dnnl::matmul primitive_;
  Memory x_, out_;
  std::vector<Memory> weights_;
};

}  // namespace

std::unique_ptr<OnednnMatmul> make_onednn(DType dtype, int64_t m, int64_t n, int64_t k, int num_copies, int num_threads,
                                          std::string& why) {
  try {
    return std::make_unique<Matmul>(dtype, m, n, k, num_copies, num_threads);
  } catch (const dnnl::error& error) {
    why = std::string("oneDNN refuses: ") + error.what();
    return nullptr;
  }
}

}  // namespace lane::bench
