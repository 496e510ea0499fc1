#include "lane/base/trace.h"

namespace lane {

void TraceLog::start(int64_t max_events, int64_t max_launches) {
  totals_ = {};
  events_.clear();
  events_.reserve(static_cast<size_t>(max_events));
  launches_.clear();
  launches_.reserve(static_cast<size_t>(max_launches));
  max_events_ = max_events;
  max_launches_ = max_launches;
  num_dropped_ = 0;
  on_ = true;
}

void TraceLog::push(const TraceEvent& event) {
  PhaseTotals& totals = totals_[static_cast<size_t>(event.phase)];
  if (event.kind == TraceKind::kStep) {
    ++totals.num_steps;
    totals.step_ns += event.end_ns - event.start_ns;
  } else {
    totals.op_ns[static_cast<size_t>(event.kind)] += event.end_ns - event.start_ns;
  }
  if (static_cast<int64_t>(events_.size()) < max_events_)
    events_.push_back(event);
  else if (max_events_ > 0)
    ++num_dropped_;
}

void TraceLog::launch() {
  if (static_cast<int64_t>(launches_.size()) < max_launches_) launches_.push_back({now_ns(), phase, at_rest});
  at_rest = false;
}

}  // namespace lane
