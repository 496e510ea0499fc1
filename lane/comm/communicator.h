#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/settings.h"
#include "lane/comm/tuning.h"
#include "lane/device/stream.h"
#include "lane/device/tensor.h"
#include "lane/plan/cost.h"

namespace lane {

class DeviceGroup;

// kAvg: the sum divided by the number of ranks. int32 wraps around, and its average is rounded toward zero.
enum class ReduceOp : uint8_t { kSum, kMax, kMin, kProd, kAvg };

// Which rank of how many this process is, and where the ranks meet.
struct JoinOptions {
  int rank = 0;
  int size = 1;
  std::string job = {};  // name of the meeting point, the same on all ranks of a job and on no other job of this user
  std::chrono::milliseconds timeout = timeout_setting();  // for joining and for every wait of a collective
  std::string algorithm = "auto";                         // or the name of an all-reduce schedule; auto: LANE_ALGORITHM

  // For ranks on several hosts:
  std::string rendezvous = {};                  // "host:port" where rank 0 listens; empty: all ranks are on this host
  std::string secret = setting("LANE_SECRET");  // that all ranks of the job know and nobody else
  std::string nics = setting("LANE_NICS");      // interfaces or addresses for data; empty: the way to the rendezvous
  std::string host = setting("LANE_HOST");      // another name for this host; ranks with different ones share no memory
  int local_rank = 0;                           // place among the ranks of this host: who uses which interface

  uint64_t first_number = 1;  // of the group's collectives; tests start where counters of 32 bits would wrap
};

// One rank's seat in a group. Collectives are enqueued on `stream` and return at once (on the CPU: when done), on CUDA
// also under graph capture; `in` and `out` may be the same memory, need no registration, and must stay alive until the
// stream has passed them. All ranks of a group hold their tensors on the same kind of device. All ranks call the same
// collectives in the same order with the same sizes. A group of one copies and waits for nobody. One thread at a time
// per Communicator.
//
// When a peer dies, leaves, stops or calls something else, all ranks throw one and the same Error{kPeerLost, kTimeout
// or kInvalidArgument} that names the rank, the peer, the operation and its number; every later call fails at once. The
// timeout counts from the last progress: slow is not dead. A destructor that runs while an exception passes tells the
// others that this rank failed; otherwise it leaves, and what it sent before still arrives.
class Communicator {
 public:
  Communicator();  // a group of one
  static Communicator join(const JoinOptions& options);
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  int rank() const;
  int size() const;

  // Element by element over all ranks, accumulated in float32 (int32 in itself) and rounded once (two_shot_fp8, which
  // runs by name only, rounds coarsely: cuda/fp8_lines.h): the same bits on
  // every rank and, for a given algorithm, in every run. float32, bfloat16, float16 or int32.
  void all_reduce(TensorView in, TensorView out, ReduceOp op, Stream& stream);
  // residual += the sum of `in` over all ranks, rounded to its type first; normed = RMSNorm(residual, epsilon) * weight
  // (Zhang & Sennrich, arXiv 1910.07467), rounded once. All [rows, hidden] but weight [hidden]; no two overlap. On
  // GPUs, as one kernel; with an `fp8_scale`, `normed` is kU8 and gets that times the value as 8-bit floats (e4m3).
  void all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon, TensorView normed,
                               Stream& stream, float fp8_scale = 0);
  // Whether that is there for such an `in` and the way to go: on GPUs of one node, for rows and sizes as decoding has
  // them, unless NCCL is to carry all (LANE_NCCL=only).
  bool fuses_norm(TensorView in);
  // in [size, out...]: `out` is this rank's part of the sum. The types of all_reduce.
  void reduce_scatter(TensorView in, TensorView out, ReduceOp op, Stream& stream);
  // out [size, in...]: what each rank gave, in rank order. Any dtype.
  void all_gather(TensorView in, TensorView out, Stream& stream);
  // in and out [size, ...], apart: part d of `in` goes to rank d, part s of `out` came from rank s. Any dtype.
  void all_to_all(TensorView in, TensorView out, Stream& stream);
  // root's data reaches all. Any dtype.
  void broadcast(TensorView inout, int root, Stream& stream);
  void barrier(Stream& stream);

  // A group of those ranks that give the same color, ordered by key, of equal keys by rank here; a negative color gives
  // a group of one. All ranks call it. The groups and this one live and fail independently, and may be used at the same
  // time by different threads.
  Communicator split(int color, int key);

  // A string of root's for everybody; others pass anything. The two functions on texts carry commands, which may come
  // after minutes of loading or typing: their waits last as long as the other process shows that it runs.
  std::string broadcast_text(const std::string& text, int root);
  // What each rank gave, on `root` (empty elsewhere).
  std::vector<std::string> gather_text(const std::string& text, int root);

  // Tells all other ranks why this one leaves early; their waits end with that reason. Called before a rank
  // gives up on an error of its own.
  void abort(const std::string& reason) noexcept;

  // Which all-reduce runs for this many bytes; and why not the others, for the log and for reports.
  std::string all_reduce_algorithm(int64_t bytes, DType dtype) const;
  std::string explain_all_reduce(int64_t bytes, DType dtype = DType::kBF16) const;
  // From here on this schedule runs for every all-reduce; "auto": the one that is expected to be the fastest. To
  // measure with: all ranks call it alike.
  void set_algorithm(const std::string& name);
  // From here on `auto` keeps to all-reduces that add in one order: a sum's bits do not depend on the size of the
  // vector that it is in, so a sequence's logits do not depend on its batch. Costs a little where another order is
  // faster. All ranks call it alike.
  void keep_one_order();

  // Waits for the stream; throws if a collective on it failed. Work that was captured into graphs is not noticed by
  // the functions above: after replaying one, this is where failures show.
  void wait(Stream& stream);
  // The same for a stream's work that is known to be done: throws if a collective on a GPU failed. Costs a few loads.
  void check_failure();

  // On GPUs the ranks exchange in another way, which is set up at the first collective with tensors there, or here;
  // all ranks call it alike, ahead of any graph capture. What follows needs that.
  void open_device(Device device);
  std::string device_fabric() const;                          // "peer memory (VMM)"
  std::vector<std::string> device_algorithms(Device device);  // opens it
  void set_device_algorithm(const std::string& name);         // "auto", or of device_algorithms(), and such as
                                                              // two_shot:64x512; all ranks call it alike
  std::string device_algorithm(int64_t bytes, DType dtype) const;
  std::string explain_device(int64_t bytes, DType dtype) const;
  TuningHardware device_hardware() const;  // what a measurement on these GPUs holds for; rank 0's
  // At most so many blocks run a collective, which leaves the other multiprocessors to other kernels.
  void set_device_blocks(int most);

  const plan::Fabric& fabric() const;  // what joins the ranks, and which are on which node
  TuningHardware hardware() const;     // what a measurement in this group holds for; rank 0's

 private:
  friend std::vector<Communicator> make_local_group(int, JoinOptions, plan::Layout);
  struct Impl;
  DeviceGroup& device_group(Device device);
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
