#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/settings.h"
#include "lane/device/stream.h"
#include "lane/device/tensor.h"

namespace lane {

enum class ReduceOp : uint8_t { kSum, kMax };

// Which rank of how many this process is, and where the ranks meet.
struct JoinOptions {
  int rank = 0;
  int size = 1;
  std::string job = {};  // name of the meeting point, the same on all ranks of a job and on no other job of this user
  std::chrono::milliseconds timeout = timeout_setting();  // for joining and for every wait of a collective
  std::string algorithm = "auto";                         // or the name of an all-reduce schedule; auto: LANE_ALGORITHM
};

// One rank's seat in a group. Collectives are enqueued on `stream` and return at once (on the CPU: when done); `in` and
// `out` may be the same memory and must stay alive until the stream has passed them. All ranks call the same
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

  // Element by element over all ranks, accumulated in float32 and rounded once: the same bits on every rank and in
  // every run. one_shot and two_shot add in rank order, ring in the order of its path. float32, bfloat16 or float16.
  void all_reduce(TensorView in, TensorView out, ReduceOp op, Stream& stream);
  // out [size, in...]: what each rank gave, in rank order. Any dtype.
  void all_gather(TensorView in, TensorView out, Stream& stream);
  // root's data reaches all. Any dtype.
  void broadcast(TensorView inout, int root, Stream& stream);
  void barrier(Stream& stream);

  // A string of root's for everybody; others pass anything. The two functions on texts carry commands, which may come
  // after minutes of loading or typing: their waits last as long as the other process shows that it runs.
  std::string broadcast_text(const std::string& text, int root);
  // What each rank gave, on `root` (empty elsewhere).
  std::vector<std::string> gather_text(const std::string& text, int root);

  // Tells all other ranks why this one leaves early; their waits end with that reason. Called before a rank
  // gives up on an error of its own.
  void abort(const std::string& reason) noexcept;

  // Which all-reduce runs for this many bytes (of a 16-bit type), and why not the others. For the log and for reports.
  std::string explain_all_reduce(int64_t bytes) const;

 private:
  friend std::vector<Communicator> make_local_group(int, JoinOptions);
  struct Impl;
  explicit Communicator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
