// A GPU for tests of what runs on the host: it stands in for cuda/ where a build has no CUDA. Its memory is the host's,
// filled with what nobody wrote; copies to it are made by another thread, late, as a bus makes them. It has one kernel.
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "lane/device/impl/backend.h"
#include "lane/device/tensor.h"
#include "lane/kernels/impl/backend.h"
#include "lane/kernels/kernels.h"

namespace lane {
namespace {

class LateStream final : public impl::StreamBackend {
 public:
  LateStream() : thread_([this] { run(); }) {}
  ~LateStream() override {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void enqueue(const void* from, void* to, int64_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      copies_.push_back({from, to, bytes});
    }
    changed_.notify_all();
  }
  void synchronize() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return copies_.empty(); });
  }
  bool is_done() override {
    const std::lock_guard lock(mutex_);
    return copies_.empty();
  }
  void* native() const override { return const_cast<LateStream*>(this); }

 private:
  struct Copy {
    const void* from;
    void* to;
    int64_t bytes;
  };
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return is_over_ || !copies_.empty(); });
      if (copies_.empty()) return;
      const Copy copy = copies_.front();
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
      lock.lock();
      copies_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Copy> copies_;
  bool is_over_ = false;
  std::thread thread_;
};

LateStream& late(void* native) { return *static_cast<LateStream*>(native); }

[[noreturn]] void none() { throw Error(ErrorCode::kUnsupported, "a fake GPU does not do this"); }

}  // namespace

namespace impl {

std::unique_ptr<StreamBackend> make_cuda_stream(int) { return std::make_unique<LateStream>(); }
std::unique_ptr<StreamBackend> borrow_cuda_stream(void*) { none(); }
std::unique_ptr<GraphBackend> record_cuda_graph(int, void*, const std::function<void()>&) { none(); }
PinnedMemory cuda_pin(int, int64_t bytes) {
  void* const memory = ::operator new(static_cast<size_t>(bytes));
  return {memory, memory};
}
void cuda_unpin(void* host) noexcept { ::operator delete(host); }
DeviceInfo cuda_device_info(int) { return {.name = "a fake", .sm = 90}; }
int cuda_device_count(std::string*) { return 1; }
std::string cuda_architectures() { return "90"; }
void* cuda_allocate(int, int64_t bytes) {
  void* const memory = ::operator new(static_cast<size_t>(bytes));
  return std::memset(memory, 0xff, static_cast<size_t>(bytes));
}
void cuda_free(int, void* memory) noexcept { ::operator delete(memory); }
void cuda_copy_to_device(const void* host, void* device, int64_t bytes, void* native_stream) {
  late(native_stream).enqueue(host, device, bytes);
}
void cuda_copy_on_device(const void*, void*, int64_t, void*) { none(); }
void cuda_copy_to_host(const void* device, void* host, int64_t bytes, void* native_stream) {
  late(native_stream).synchronize();
  std::memcpy(host, device, static_cast<size_t>(bytes));
}

}  // namespace impl

namespace kernels::impl {

void cuda_fill_random(TensorView out, const RandomPart& part, Stream&) {
  std::vector<float> values(static_cast<size_t>(out.count()));
  TensorView host{values.data(), DType::kF32, out.shape, {}};
  Stream here;
  fill_random({.key = part.key, .cols = part.tensor_cols, .mean = part.mean, .deviation = part.scale != 0 ? 0.02f : 0},
              part.first_row, part.first_col, host, here);
  out.device = {};
  convert(host, out);
}

void cuda_matmul(TensorView, const DeviceMatrix&, TensorView, TensorView, Stream&) { none(); }
void cuda_matmul_silu_mul(TensorView, const DeviceMatrix&, TensorView, TensorView, TensorView, Stream&) { none(); }
void cuda_embedding(const DeviceMatrix&, TensorView, int64_t, TensorView, Stream&) { none(); }
void cuda_rms_norm(TensorView, TensorView, float, TensorView, Stream&) { none(); }
void cuda_add_rms_norm(TensorView, TensorView, TensorView, float, TensorView, Stream&) { none(); }
void cuda_head_rms_norm(TensorView, int64_t, int64_t, TensorView, float, Stream&) { none(); }
void cuda_rope_table(TensorView, TensorView, float, TensorView, Stream&) { none(); }
void cuda_rope(TensorView, int64_t, int64_t, int64_t, TensorView, Stream&) { none(); }
void cuda_silu_mul(TensorView, TensorView, Stream&) { none(); }
void cuda_add(TensorView, TensorView, Stream&) { none(); }
void cuda_gather_rows(TensorView, TensorView, TensorView, Stream&) { none(); }
void cuda_open_step(const OpenStepArgs&, Stream&) { none(); }
void cuda_close_step(TensorView, TensorView, TensorView, TensorView, int, int64_t, int64_t, Stream&) { none(); }
void cuda_draw_offers(TensorView, TensorView, TensorView, int64_t, int, int, TensorView, TensorView, Stream&) {
  none();
}
void cuda_draw_choose(TensorView, int, TensorView, Stream&) { none(); }

}  // namespace kernels::impl
}  // namespace lane
