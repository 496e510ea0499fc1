#include "lane/runtime/histories.h"

#include <algorithm>

#include "lane/base/error.h"

namespace lane {

std::vector<Histories::Place> Histories::seat(std::span<const Row> rows) {
  ++step_;
  for (const Row& row : rows)
    if (const auto found = seats_.find(row.sequence); found != seats_.end()) found->second.last_step = step_;
  std::vector<Place> places;
  for (const Row& row : rows) {
    auto found = seats_.find(row.sequence);
    const bool is_up_to_date = found != seats_.end() && found->second.length == row.length;
    if (found == seats_.end()) found = seats_.emplace(row.sequence, Seat{free_slot(), 0, step_}).first;
    found->second.length = row.length + 1;
    places.push_back({found->second.slot, is_up_to_date});
  }
  return places;
}

int64_t Histories::free_slot() {
  const auto used = static_cast<int64_t>(seats_.size());
  if (used < most_) return used;
  const auto oldest = std::min_element(seats_.begin(), seats_.end(), [](const auto& a, const auto& b) {
    return a.second.last_step < b.second.last_step;
  });
  ensure(oldest != seats_.end() && oldest->second.last_step < step_,
         "a step has no more rows than there are histories");
  const int64_t slot = oldest->second.slot;
  seats_.erase(oldest);
  return slot;
}

}  // namespace lane
