#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lane/net/cuda/device_peer.h"
#include "lane/net/device_bench.h"
#include "lane/net/vectors.h"

namespace lane::net::cuda {

inline constexpr int kSets = 8;  // of buffers that calls take turns with
inline constexpr float kEpsilon = 1e-5f;

struct Case {
  int64_t bytes = 0;
  DType dtype = DType::kBF16;
  ReduceOp op = ReduceOp::kSum;
  FusedShape fused = {};  // hidden 0: an all-reduce alone

  int64_t count() const { return bytes / size_of(dtype); }
  bool is_fused() const { return fused.hidden > 0; }
};

// The buffers of one candidate, or of several that take any memory.
class Arena {
 public:
  // `memory`: of needed() bytes, somebody else's; null: its own.
  Arena(Device device, int64_t max_bytes, bool with_fused, void* memory = nullptr);
  static int64_t needed(int64_t max_bytes, bool with_fused);

  enum Area { kIn, kSum, kNormed, kResidual };
  TensorView at(Area area, int set, const Case& what) const;

 private:
  Device device_;
  int64_t stride_;
  Buffer own_;
  char* memory_;
};

// Inputs and what comes of them, the same for all candidates of a case.
class CaseData {
 public:
  CaseData(const Case& what, int rank, int num_ranks, Device device, Stream& stream);

  void load(const Arena& arena);
  void restore_residuals(const Arena& arena);
  // Makes results recognizable as old: all bits of the outputs are set, residuals are restored.
  void poison(const Arena& arena);
  TensorView weight() const;

  // Wrong elements in the results of one call on each set, and a number for their bits. Large vectors: of one set.
  struct Seen {
    int64_t num_wrong = 0;
    uint64_t bits = 0;
  };
  Seen look(const Arena& arena, Rounding rounding);

 private:
  uint64_t seed_of(int set) const { return distinct_ ? static_cast<uint64_t>(set) : 0; }

  Case what_;
  int num_ranks_;
  bool distinct_;  // each set has data of its own
  Stream& stream_;
  std::vector<std::vector<char>> inputs_;
  std::vector<char> residual_, result_, result2_;
  Buffer weight_;
};

// One way to do a case's operation.
struct Candidate {
  std::string name, runs;  // runs: what auto picked, or the peer's library
  bool is_peer = false, is_floor = false;
  std::string why_not;
  const Arena* arena = nullptr;
  Rounding rounding = Rounding::kOnce;
  std::function<void()> prepare = {};      // before calls are enqueued; may be null
  std::function<void(int set)> call = {};  // onto the stream
  std::function<void()> captured = {};     // after captures, before a replay; may be null
  std::function<void()> settle = {};       // after the stream has passed calls: throws if one failed; may be null
};

// Lane's algorithms, the peers, and an empty kernel.
class Candidates {
 public:
  Candidates(Communicator& group, const DeviceBenchOptions& options, Device device, Stream& stream);

  std::vector<Candidate> of(const Case& what, const CaseData& data);
  std::vector<const Arena*> arenas() const;
  std::vector<std::string> peer_libraries() const;  // of those that opened
  const std::string& lane_why_not() const { return lane_why_not_; }

 private:
  Candidate lane_candidate(const Case& what, const CaseData& data, const std::string& algorithm, bool apart);
  Candidate peer_candidate(const Case& what, const CaseData& data, size_t index, bool apart);

  Communicator& group_;
  const DeviceBenchOptions& options_;
  Stream& stream_;
  std::string lane_why_not_;
  std::vector<std::string> algorithms_;
  Arena plain_;
  std::vector<std::unique_ptr<PluginPeer>> peers_;
  std::vector<std::unique_ptr<Arena>> peer_arenas_;  // null: the plain one
};

}  // namespace lane::net::cuda
