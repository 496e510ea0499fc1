// Private to lane/comm: the collectives of one rank on its GPU. cuda/group.cc implements them, or no_cuda.cc says why
// not.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/comm/group/board.h"

namespace lane {

// What a group on GPUs needs of the group on the host that it belongs to.
struct HostSide {
  int rank = 0;
  plan::Layout layout;  // which rank is on which node
  // What each rank gave, by rank. All ranks call it alike, while the group is made and before its first use of NCCL.
  std::function<std::vector<std::string>(const std::string&)> exchange;
  // Groups on the host of the ranks with one place in their nodes; only while the group is made.
  std::function<std::vector<Communicator>(int num_channels)> split_channels;
  Board* board = nullptr;  // failures of the host's side end waits on the GPU, and the other way round
  std::chrono::milliseconds timeout{};
  uint64_t first_number = 1;            // of its collectives
  TuningHardware hardware = {};         // of rank 0's host
  const TuningTable* tuning = nullptr;  // the same on all ranks, null: none; only while the group is made
};

// All ranks call the same functions in the same order with the same sizes, each on its own stream. Nothing waits on the
// host; whether an operation failed shows in check_failure() after the stream has passed it.
class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;

  virtual void all_reduce(TensorView in, TensorView out, ReduceOp op, Stream& stream) = 0;
  virtual void all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon,
                                       TensorView normed, float fp8_scale, Stream& stream) = 0;
  virtual bool fuses_norm(TensorView in) const = 0;
  virtual void reduce_scatter(TensorView in, TensorView out, ReduceOp op, Stream& stream) = 0;
  virtual void all_gather(TensorView in, TensorView out, Stream& stream) = 0;
  virtual void broadcast(TensorView inout, int root, Stream& stream) = 0;

  // Throws what a kernel reported or what ended the group.
  virtual void check_failure() = 0;

  // Names for set_algorithm(), in the order of preference among equals.
  virtual std::vector<std::string> algorithms() const = 0;
  virtual void set_algorithm(const std::string& name) = 0;  // "auto": the one expected to be the fastest
  virtual void set_most_blocks(int most) = 0;               // leaves the other multiprocessors to other kernels
  virtual void keep_one_order() = 0;
  virtual std::string algorithm(int64_t bytes, DType dtype) const = 0;
  virtual std::string explain(int64_t bytes, DType dtype) const = 0;
  virtual std::string fabric() const = 0;       // "peer memory (VMM)"
  virtual TuningHardware hardware() const = 0;  // what a measurement in this group holds for; the same on all ranks
};

// Collective. Throws Error{kUnsupported} where the GPUs cannot reach each other, on all ranks alike.
std::unique_ptr<DeviceGroup> make_device_group(HostSide host, int device_index);

}  // namespace lane
