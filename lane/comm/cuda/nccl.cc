#include "lane/comm/cuda/nccl.cuh"

#include <dlfcn.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>

#include "lane/base/error.h"
#include "lane/base/settings.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {
namespace {

struct Library {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) init_rank;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclGetErrorString) error_string;

  // Empty, or what is missing.
  std::string load() {
    void* library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return ::dlerror();
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    const bool all = find(get_version, "ncclGetVersion") && find(get_unique_id, "ncclGetUniqueId") &&
                     find(init_rank, "ncclCommInitRank") && find(abort, "ncclCommAbort") &&
                     find(all_reduce, "ncclAllReduce") && find(error_string, "ncclGetErrorString");
    return all ? "" : "libnccl.so.2 lacks functions";
  }
};

ncclDataType_t type_of(DType type) {
  switch (type) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF16:
      return ncclFloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  return ncclUint8;
}
ncclRedOp_t op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
    case ReduceOp::kProd:
      return ncclProd;
    case ReduceOp::kAvg:
      return ncclAvg;
  }
  return ncclSum;
}

class LoadedNccl final : public Nccl {
 public:
  LoadedNccl(Library library, PeerMemory::Exchange exchange, int rank, int size)
      : library_(library), exchange_(std::move(exchange)), rank_(rank), size_(size) {}
  // Not ncclCommDestroy: it waits for the other ranks, which may be gone.
  ~LoadedNccl() override {
    if (comm_ != nullptr) library_.abort(comm_);
  }

  bool is_ready(cudaStream_t stream) override {
    if (comm_ != nullptr) return true;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cuda::check(cudaStreamIsCapturing(stream, &status), "asking whether a stream is captured");
    if (status != cudaStreamCaptureStatusNone) return false;
    ncclUniqueId id{};
    if (rank_ == 0) check(library_.get_unique_id(&id), "making an id");
    const std::string all = exchange_(std::string(id.internal, sizeof(id.internal)))[0];
    std::memcpy(id.internal, all.data(), sizeof(id.internal));
    check(library_.init_rank(&comm_, size_, id, rank_), "starting");
    return true;
  }
  void all_reduce(const void* in, void* out, int64_t count, DType type, ReduceOp op, cudaStream_t stream) override {
    check(library_.all_reduce(in, out, static_cast<size_t>(count), type_of(type), op_of(op), comm_, stream), "summing");
  }
  std::string version() const override {
    int version = 0;
    library_.get_version(&version);
    return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }

 private:
  void check(ncclResult_t result, const char* doing) const {
    if (result != ncclSuccess)
      throw Error(ErrorCode::kDevice, fmt::format("NCCL failed while {}: {}; NCCL_DEBUG=INFO tells more, LANE_NCCL=off "
                                                  "does without",
                                                  doing, library_.error_string(result)));
  }
  Library library_;
  PeerMemory::Exchange exchange_;
  int rank_, size_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<Nccl> Nccl::find(const PeerMemory::Exchange& exchange, int rank, int size) {
  const std::string wanted = setting("LANE_NCCL");
  if (wanted != "auto" && wanted != "on" && wanted != "off" && wanted != "only")
    throw Error(ErrorCode::kInvalidArgument, fmt::format("LANE_NCCL={}: it is auto, on, off or only", wanted));
  Library library{};
  const std::string problem = wanted == "off" ? "LANE_NCCL=off" : library.load();
  for (const std::string& each : exchange(problem)) {
    if (each.empty()) continue;
    if (wanted == "only")
      throw Error(ErrorCode::kUnsupported, fmt::format("LANE_NCCL=only, but a rank has no NCCL: {}; put the folder of "
                                                       "libnccl.so.2 into LD_LIBRARY_PATH",
                                                       each));
    return nullptr;
  }
  auto nccl = std::make_unique<LoadedNccl>(library, exchange, rank, size);
  if (wanted == "on" || wanted == "only") nccl->is_ready(nullptr);
  return nccl;
}

}  // namespace lane::cuda
