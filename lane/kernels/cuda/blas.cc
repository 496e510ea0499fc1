#include "lane/kernels/cuda/blas.cuh"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

constexpr int kMaxCandidates = 8;
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // NVIDIA's advice for Hopper

void check_blas(cublasStatus_t status, const char* doing) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(ErrorCode::kDevice,
                std::string("cuBLASLt failed while ") + doing + ": " + cublasLtGetStatusString(status));
}

template <class T, cublasStatus_t (*kDestroy)(T)>
class Handle {
 public:
  Handle() = default;
  ~Handle() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  T* out() { return &handle_; }
  T get() const { return handle_; }

 private:
  T handle_ = nullptr;
};
using LtHandle = Handle<cublasLtHandle_t, cublasLtDestroy>;
using Product = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

// Seen by column, as cuBLAS does: out^T [n, m] = W [n, k] x^T [k, m].
struct Plan {
  Product product;
  Layout w, x, out;
  std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> found{};
  int num_found = 0;

  Plan(cublasLtHandle_t handle, DType dtype, int64_t m, int64_t n, int64_t k, bool has_bias) {
    const cudaDataType_t type = type_of(dtype);
    check_blas(cublasLtMatmulDescCreate(product.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (has_bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    }
    const auto rows = [](int64_t count) { return static_cast<uint64_t>(count); };
    check_blas(cublasLtMatrixLayoutCreate(w.out(), type, rows(k), rows(n), k), "describing weights");
    check_blas(cublasLtMatrixLayoutCreate(x.out(), type, rows(k), rows(m), k), "describing inputs");
    check_blas(cublasLtMatrixLayoutCreate(out.out(), type, rows(n), rows(m), n), "describing a result");
    Preference preference;
    check_blas(cublasLtMatmulPreferenceCreate(preference.out()), "describing a preference");
    const auto most = static_cast<size_t>(kWorkspaceBytes);
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                                    sizeof(most)),
               "limiting the workspace");
    // Parts of a split sum meet in float32, or not at all: not in the type of the result.
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                    &reductions, sizeof(reductions)),
               "choosing how parts are added");
    check_blas(cublasLtMatmulAlgoGetHeuristic(handle, product.get(), w.get(), x.get(), out.get(), out.get(),
                                              preference.get(), kMaxCandidates, found.data(), &num_found),
               "choosing an algorithm");
    if (num_found == 0)
      throw Error(ErrorCode::kUnsupported, "cuBLASLt has no algorithm for a product of " + std::to_string(m) + " x " +
                                               std::to_string(k) + " with " + std::to_string(n) + " x " +
                                               std::to_string(k) + " in " + std::string(name_of(dtype)));
  }

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_blas(cublasLtMatmulDescSetAttribute(product.get(), attribute, &value, sizeof(value)), "describing a product");
  }
};

// Of one device. Work on several streams may be under way at once: each has its workspace.
class Blas {
 public:
  Blas() { check_blas(cublasLtCreate(handle_.out()), "starting"); }

  void run(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, Stream& stream,
           int candidate) {
    const std::lock_guard lock(mutex_);
    Plan& plan = plan_for(weight.dtype, x.rows(), weight.n, weight.k, bias.data != nullptr);
    if (bias.data != nullptr) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
    const float one = 1, zero = 0;
    check_blas(cublasLtMatmul(handle_.get(), plan.product.get(), &one, weight.data, plan.w.get(), x.data, plan.x.get(),
                              &zero, out.data, plan.out.get(), out.data, plan.out.get(),
                              &plan.found[static_cast<size_t>(std::min(candidate, plan.num_found - 1))].algo,
                              workspace_for(stream), static_cast<size_t>(kWorkspaceBytes), raw(stream)),
               "multiplying");
  }

 private:
  Plan& plan_for(DType dtype, int64_t m, int64_t n, int64_t k, bool has_bias) {
    std::unique_ptr<Plan>& plan = plans_[{dtype, m, n, k, has_bias}];
    if (!plan) plan = std::make_unique<Plan>(handle_.get(), dtype, m, n, k, has_bias);
    return *plan;
  }
  void* workspace_for(const Stream& stream) {
    const auto [found, is_new] = workspaces_.try_emplace(stream.native());
    if (is_new) found->second = Buffer(stream.device(), kWorkspaceBytes);
    return found->second.data();
  }

  std::mutex mutex_;
  LtHandle handle_;
  std::map<std::tuple<DType, int64_t, int64_t, int64_t, bool>, std::unique_ptr<Plan>> plans_;
  std::map<void*, Buffer> workspaces_;
};

Blas& blas_of(Device device) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<Blas>> all;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Blas>& blas = all[device.index];
  if (!blas) {
    check(cudaSetDevice(device.index), "choosing the device of cuBLASLt");
    blas = std::make_unique<Blas>();
  }
  return *blas;
}

}  // namespace

void blas_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out,
                 Stream& stream, int candidate) {
  blas_of(stream.device()).run(x, weight, bias, out, stream, candidate);
}

}  // namespace lane::cuda
