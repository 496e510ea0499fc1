#include "lane/net/agreement.h"

#include <algorithm>

namespace lane::net {

std::string first_said(Communicator& group, const std::string& mine) {
  std::string said;
  for (const std::string& each : group.gather_text(mine, 0))
    if (said.empty()) said = each;
  return group.broadcast_text(said, 0);
}

void take_slowest(Communicator& group, Stream& stream, std::vector<double>& seconds) {
  if (seconds.empty()) return;
  std::vector<float> values(seconds.begin(), seconds.end());
  const TensorView view{values.data(), DType::kF32, {1, 1, 1, static_cast<int64_t>(values.size())}, {}};
  group.all_reduce(view, view, ReduceOp::kMax, stream);
  seconds.assign(values.begin(), values.end());
}

Verdict compare_results(Communicator& group, Stream& stream, int64_t num_wrong, uint64_t fingerprint) {
  struct Seen {
    int64_t num_wrong;
    uint64_t bits;
  };
  Seen mine{num_wrong, fingerprint};
  std::vector<Seen> all(static_cast<size_t>(group.size()));
  group.all_gather({&mine, DType::kU8, {1, 1, 1, sizeof(Seen)}, {}},
                   {all.data(), DType::kU8, {1, 1, group.size(), sizeof(Seen)}, {}}, stream);
  Verdict verdict;
  for (const Seen& seen : all) {
    verdict.num_wrong = std::max(verdict.num_wrong, seen.num_wrong);
    verdict.same_bits = verdict.same_bits && seen.bits == all.front().bits;
  }
  return verdict;
}

}  // namespace lane::net
