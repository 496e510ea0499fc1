// CUPTI's activity API. The library is opened when it is asked for: nobody else needs it.
#include "lane/device/activity.h"

#include <cuda.h>
#include <cupti.h>
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include "lane/base/trace.h"
#include "lane/device/cuda/native.cuh"

namespace lane {
namespace {

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                         CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_SYNCHRONIZATION};
constexpr size_t kBufferBytes = size_t{8} << 20;

// CUPTI adds fields at the end of its records; these versions, the oldest, are the beginning of all later ones.
using KernelRecord = CUpti_ActivityKernel4;
using CopyRecord = CUpti_ActivityMemcpy;
using FillRecord = CUpti_ActivityMemset;
using WaitRecord = CUpti_ActivitySynchronization;

struct Library {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityRegisterTimestampCallback) register_clock;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityDisable) disable;
  decltype(&cuptiActivityFlushAll) flush_all;
  decltype(&cuptiActivityGetNextRecord) next_record;
  decltype(&cuptiActivityGetNumDroppedRecords) num_dropped;
  decltype(&cuptiGetResultString) result_string;
  CUptiResult (*record_all_waits)(uint8_t) = nullptr;  // cuptiActivityEnableAllSyncRecords, of 12.8 and newer

  Library() {
    // Of the toolkit's major version, as the layout of records is.
    const std::string file = "libcupti.so." + std::to_string(CUDA_VERSION / 1000);
    void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    for (const char* folder : {LANE_CUPTI_FOLDER, "/usr/local/cuda/lib64", "/usr/local/cuda/extras/CUPTI/lib64"})
      if (library == nullptr) library = ::dlopen((std::string(folder) + "/" + file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      throw Error(ErrorCode::kUnsupported,
                  "what a GPU does is shown by " + file +
                      ", which was not found; it comes with the "
                      "CUDA toolkit and with PyPI's nvidia-cuda-cupti: put its folder on LD_LIBRARY_PATH");
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      if (function == nullptr)
        throw Error(ErrorCode::kUnsupported, file + " lacks " + name + "; a newer one is needed");
    };
    find(register_callbacks, "cuptiActivityRegisterCallbacks");
    find(register_clock, "cuptiActivityRegisterTimestampCallback");
    find(enable, "cuptiActivityEnable");
    find(disable, "cuptiActivityDisable");
    find(flush_all, "cuptiActivityFlushAll");
    find(next_record, "cuptiActivityGetNextRecord");
    find(num_dropped, "cuptiActivityGetNumDroppedRecords");
    find(result_string, "cuptiGetResultString");
    record_all_waits =
        reinterpret_cast<decltype(record_all_waits)>(::dlsym(library, "cuptiActivityEnableAllSyncRecords"));
  }

  void check(CUptiResult result, const char* doing) const {
    if (result == CUPTI_SUCCESS) return;
    const char* text = nullptr;
    result_string(result, &text);
    throw Error(ErrorCode::kDevice, std::string("CUPTI failed while ") + doing + ": " + (text ? text : "unknown"));
  }
};

// What CUPTI's threads write to; there is one, as there is one CUPTI.
class Records {
 public:
  void start(int64_t max_activities) {
    const std::lock_guard lock(mutex_);
    found_ = {};
    ids_.clear();
    max_ = max_activities;
  }
  GpuActivities take() {
    const std::lock_guard lock(mutex_);
    max_ = 0;
    return std::exchange(found_, {});
  }
  void read(const Library& library, uint8_t* buffer, size_t bytes) {
    const std::lock_guard lock(mutex_);
    CUpti_Activity* record = nullptr;
    while (library.next_record(buffer, bytes, &record) == CUPTI_SUCCESS) add(record);
    size_t lost = 0;
    if (library.num_dropped(nullptr, 0, &lost) == CUPTI_SUCCESS) found_.num_lost += static_cast<int64_t>(lost);
  }

 private:
  template <class Record>
  static GpuActivity times_of(const Record& record, GpuActivity::Kind kind) {
    return {.kind = kind, .start_ns = static_cast<int64_t>(record.start), .end_ns = static_cast<int64_t>(record.end)};
  }

  void add(const CUpti_Activity* record) {
    GpuActivity activity;
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_KERNEL:
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& kernel = *reinterpret_cast<const KernelRecord*>(record);
        activity = times_of(kernel, GpuActivity::Kind::kKernel);
        activity.name = id_of(kernel.name);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const auto& copy = *reinterpret_cast<const CopyRecord*>(record);
        activity = times_of(copy, GpuActivity::Kind::kCopy);
        activity.bytes = static_cast<int64_t>(copy.bytes);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMSET: {
        const auto& fill = *reinterpret_cast<const FillRecord*>(record);
        activity = times_of(fill, GpuActivity::Kind::kFill);
        activity.bytes = static_cast<int64_t>(fill.bytes);
        break;
      }
      case CUPTI_ACTIVITY_KIND_SYNCHRONIZATION: {
        const auto& wait = *reinterpret_cast<const WaitRecord*>(record);
        if (wait.type != CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE &&
            wait.type != CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE &&
            wait.type != CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE)
          return;  // a stream waits for another, or was merely looked at
        activity = times_of(wait, GpuActivity::Kind::kHostWait);
        break;
      }
      default:
        return;
    }
    const bool is_timed = activity.start_ns > 0 && activity.end_ns >= activity.start_ns;  // CUPTI says 0 if it cannot
    if (!is_timed)
      ++found_.num_lost;
    else if (static_cast<int64_t>(found_.list.size()) < max_)
      found_.list.push_back(activity);
    else
      ++found_.num_dropped;
  }

  int32_t id_of(const char* name) {
    const std::string text = name == nullptr ? "?" : name;
    const auto [at, is_new] = ids_.try_emplace(text, static_cast<int32_t>(found_.names.size()));
    if (is_new) found_.names.push_back(text);
    return at->second;
  }

  std::mutex mutex_;
  GpuActivities found_;
  std::unordered_map<std::string, int32_t> ids_;
  int64_t max_ = 0;
};

const Library& library();

Records& records() {
  static Records all;
  return all;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(ACTIVITY_RECORD_ALIGNMENT, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;
}
void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t bytes) {
  if (buffer != nullptr && bytes > 0) records().read(library(), buffer, bytes);
  std::free(buffer);
}
uint64_t CUPTIAPI clock_ns() { return static_cast<uint64_t>(now_ns()); }

// Loaded and told of us once a process; tried again after a failure.
const Library& library() {
  static const Library loaded = [] {
    const Library cupti;
    cupti.check(cupti.register_clock(clock_ns), "setting its clock");
    cupti.check(cupti.register_callbacks(give_buffer, take_buffer), "being opened");
    if (cupti.record_all_waits != nullptr) cupti.record_all_waits(0);  // a look that finds work under way is no wait
    return cupti;
  }();
  return loaded;
}

}  // namespace

struct ActivityRecorder::Impl {
  Device gpu;
  bool is_on = false;

  void turn_off() noexcept {
    for (const CUpti_ActivityKind kind : kKinds) library().disable(kind);
    is_on = false;
  }
};

ActivityRecorder::ActivityRecorder(Device gpu) : impl_(new Impl{gpu}) { library(); }

ActivityRecorder::~ActivityRecorder() {
  if (impl_->is_on) impl_->turn_off();
}

void ActivityRecorder::start(int64_t max_activities) {
  if (impl_->is_on) stop();
  const Library& cupti = library();
  cuda::check(cudaSetDevice(impl_->gpu.index), "choosing the device to watch");
  records().start(max_activities);
  impl_->is_on = true;
  for (const CUpti_ActivityKind kind : kKinds) cupti.check(cupti.enable(kind), "starting to watch a GPU");
}

GpuActivities ActivityRecorder::stop() {
  if (!impl_->is_on) return {};
  const Library& cupti = library();
  cupti.disable(CUPTI_ACTIVITY_KIND_SYNCHRONIZATION);  // the wait below is ours
  cuda::check(cudaSetDevice(impl_->gpu.index), "choosing the device to watch");
  cuda::check(cudaDeviceSynchronize(), "waiting for a GPU");
  cupti.check(cupti.flush_all(0), "collecting what a GPU did");
  impl_->turn_off();
  cupti.check(cupti.flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "collecting what a GPU did");
  return records().take();
}

}  // namespace lane
