#pragma once
#include <functional>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/net/measurement.h"
#include "lane/net/peers.h"

namespace lane::net {

struct AllReduceOptions {
  std::vector<int64_t> sizes;  // bytes of the vector
  std::vector<DType> dtypes = {DType::kF32};
  std::vector<ReduceOp> ops = {ReduceOp::kSum};
  std::vector<std::string> algorithms = {"auto"};  // names of schedules; "all": every one there is, auto first
  bool check = true;
  bool in_place = false;
  int num_batches = 30;
  int num_calls = 0;  // in a batch; 0: so many that it lasts about a millisecond
  std::vector<PeerOptions> peers;
};

// One line of the table: an algorithm of Lane's, or another library, at one size.
struct AllReduceRow {
  int64_t bytes = 0, count = 0;
  DType dtype = DType::kF32;
  ReduceOp op = ReduceOp::kSum;
  std::string algorithm;  // as asked for; of a peer its library
  std::string runs;       // the schedule that auto picked
  bool is_peer = false, is_ping_pong = false;
  Measurement time;
  double algbw = 0, busbw = 0;  // bytes per second, as nccl-tests defines them
  double expected_s = 0;        // by the cost model; 0 for peers
  double of_auto = 0;           // this median over auto's; 0 if that was not measured
  int64_t num_wrong = -1;       // elements beyond the bound; -1: not checked
  bool same_bits = true;        // on all ranks
  std::string why_not;          // there is no time

  // On GPUs; docs/measuring.md defines the times.
  std::string mode;                    // "graph" or "eager"; empty on CPUs. A peer's library is in `runs`
  std::string setting;                 // what goes on between the calls: "", "cold", "gemm" or "skew"
  Measurement alone;                   // graph: of calls that are alone in their graph; `time` is of many in one
  double base_s = 0;                   // what was subtracted: the same graph without the all-reduces, per call
  int64_t hidden = 0, num_tokens = 0;  // of a fused operation
  bool is_floor = false;               // an empty kernel in place of the all-reduce
};
Json to_json(const AllReduceRow& row);

// Measures on all ranks of `group`, which call it alike; definitions are in docs/measuring.md. `on_rows` gets what was
// measured at one size: Lane's algorithms, then the peers, then the way of a single message. `on_step` is told how far
// it is, in sizes. Ends with the group's algorithm at "auto".
void bench_all_reduce(Communicator& group, const AllReduceOptions& options,
                      const std::function<void(const std::vector<AllReduceRow>&)>& on_rows,
                      const std::function<void(int64_t done, int64_t total)>& on_step);

}  // namespace lane::net
