#include "lane/device/stream.h"

#include "lane/base/error.h"
#include "lane/device/impl/backend.h"

namespace lane {

struct Stream::Impl {
  Device device;
  std::unique_ptr<impl::StreamBackend> cuda;  // null on the CPU
  ThreadPool threads;
};

Stream::Stream(Device device, int num_threads) : impl_(new Impl{device, nullptr, ThreadPool(num_threads)}) {
  if (device.kind == DeviceKind::kCuda) impl_->cuda = impl::make_cuda_stream(device.index);
}
Stream::Stream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Stream Stream::borrow(Device device, void* native) {
  if (device.kind != DeviceKind::kCuda)
    throw Error(ErrorCode::kInvalidArgument, "a stream to borrow is a GPU's; on CPUs, make one");
  return Stream(std::unique_ptr<Impl>(new Impl{device, impl::borrow_cuda_stream(native), ThreadPool(1)}));
}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;

Device Stream::device() const { return impl_->device; }
void Stream::synchronize() {
  if (impl_->cuda) impl_->cuda->synchronize();
}
bool Stream::is_done() { return !impl_->cuda || impl_->cuda->is_done(); }
ThreadPool& Stream::threads() { return impl_->threads; }
void* Stream::native() const { return impl_->cuda ? impl_->cuda->native() : nullptr; }

}  // namespace lane
