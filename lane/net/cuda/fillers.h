#pragma once
#include <string>
#include <vector>

#include "lane/net/device_bench.h"

namespace lane::net::cuda {

// What goes on between the calls that are measured, by the name of the setting: nothing (""), something that takes the
// L2 cache ("cold"), a matrix-vector product ("gemm"), ranks that come late by chance ("skew").
class Fillers {
 public:
  Fillers(const Communicator& group, const DeviceBenchOptions& options, Device device, Stream& stream);

  const std::vector<std::string>& settings() const { return settings_; }

  // Ahead of call number `call`. `alone`: for the graph without calls, whose time is subtracted. There every rank is as
  // late as the latest is at this call, for that is when an all-reduce can begin.
  void enqueue(const std::string& setting, int64_t call, bool alone);

 private:
  void read(int64_t bytes, int64_t call);

  int rank_, size_;
  double skew_us_;
  int64_t cycles_per_ms_ = 0, l2_bytes_ = 0;
  Stream& stream_;
  std::vector<std::string> settings_ = {""};
  Buffer weights_, vector_, out_;
};

// What a GPU is, for people: its name, address and clock. And the driver.
std::string describe_gpu(int device_index);
std::string describe_driver();

// The GPU that this rank uses: by its place on the host; on emulated hosts, which share the GPUs, by its rank. Throws
// Error{kUnsupported} if there is none.
int local_device(const Communicator& group);

}  // namespace lane::net::cuda
