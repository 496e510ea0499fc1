#include "lane/net/cuda/fillers.h"

#include <algorithm>

#include "lane/device/cuda/native.cuh"
#include "lane/net/cuda/kernels.h"

namespace lane::net::cuda {
namespace {

using lane::cuda::check;
using lane::cuda::raw;

constexpr int64_t kGemmBytes = 20 << 20;  // of weights, read once a call: 4 to 10 us on GPUs of 2 to 5 TB/s

int64_t attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "asking for an attribute of the device");
  return value;
}

}  // namespace

Fillers::Fillers(const Communicator& group, const DeviceBenchOptions& options, Device device, Stream& stream)
    : rank_(group.rank()), size_(group.size()), skew_us_(options.skew_us), stream_(stream) {
  if (options.cold) settings_.push_back("cold");
  if (options.with_gemm) settings_.push_back("gemm");
  if (options.skew_us > 0) settings_.push_back("skew");
  if (settings_.size() == 1) return;
  cycles_per_ms_ = attribute(cudaDevAttrClockRate, device.index);
  l2_bytes_ = attribute(cudaDevAttrL2CacheSize, device.index);
  // Twice the cache, so that nothing of what was read last is still in it when its turn comes again.
  const int64_t bytes = std::max(2 * l2_bytes_, 8 * kGemmBytes) / kGemmBytes * kGemmBytes + kGemmBytes;
  weights_ = Buffer(device, bytes);
  vector_ = Buffer(device, kGemvRowBytes);
  out_ = Buffer(device, bytes / kGemvRowBytes * static_cast<int64_t>(sizeof(float)));
  for (const Buffer* each : {&weights_, &vector_})
    check(cudaMemsetAsync(each->data(), 0, static_cast<size_t>(each->bytes()), raw(stream)), "clearing weights");
  stream.synchronize();
}

void Fillers::read(int64_t bytes, int64_t call) {
  const int64_t parts = weights_.bytes() / bytes;
  const char* from = static_cast<const char*>(weights_.data()) + call % parts * bytes;
  enqueue_gemv(from, vector_.data(), static_cast<float*>(out_.data()), bytes / kGemvRowBytes, stream_);
}

void Fillers::enqueue(const std::string& setting, int64_t call, bool alone) {
  if (setting == "cold") read(weights_.bytes() / kGemvRowBytes * kGemvRowBytes, 0);
  if (setting == "gemm") read(kGemmBytes, call);
  if (setting != "skew") return;
  double us = skew_of(rank_, call, skew_us_);
  for (int rank = 0; alone && rank < size_; ++rank) us = std::max(us, skew_of(rank, call, skew_us_));
  enqueue_delay(static_cast<int64_t>(us * 1e-3 * static_cast<double>(cycles_per_ms_)), stream_);
}

}  // namespace lane::net::cuda
