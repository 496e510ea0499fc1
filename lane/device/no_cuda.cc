// Linked instead of lane/device/cuda/ when CUDA is off.
#include "lane/base/error.h"
#include "lane/device/impl/backend.h"

namespace lane::impl {
namespace {

[[noreturn]] void no_cuda() {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)");
}

}  // namespace

std::unique_ptr<StreamBackend> make_cuda_stream(int) { no_cuda(); }
std::unique_ptr<StreamBackend> borrow_cuda_stream(void*) { no_cuda(); }
std::unique_ptr<GraphBackend> record_cuda_graph(int, void*, const std::function<void()>&) { no_cuda(); }
PinnedMemory cuda_pin(int, int64_t) { no_cuda(); }
void cuda_unpin(void*) noexcept {}
DeviceInfo cuda_device_info(int) { no_cuda(); }
int cuda_device_count(std::string* why_none) {
  *why_none = "this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)";
  return 0;
}
std::string cuda_architectures() { return {}; }
void* cuda_allocate(int, int64_t) { no_cuda(); }
void cuda_free(int, void*) noexcept {}
void cuda_copy_to_device(const void*, void*, int64_t, void*) { no_cuda(); }
void cuda_copy_on_device(const void*, void*, int64_t, void*) { no_cuda(); }
void cuda_copy_to_host(const void*, void*, int64_t, void*) { no_cuda(); }

}  // namespace lane::impl
