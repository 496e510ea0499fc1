#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

namespace lane {

// Where time goes. Every operation belongs to one of the first four; what is left of a step's wall clock is
// idle. A kStep span encloses the operations of one step.
enum class TraceKind : uint8_t { kMatmul, kCommunication, kAttention, kOther, kStep };
inline constexpr int kNumOpKinds = 4;

enum class TracePhase : uint8_t { kPrefill, kDecode };  // a step that carries prompt tokens is a prefill step
inline constexpr int kNumPhases = 2;

struct TraceEvent {
  const char* name;  // a string literal
  TraceKind kind;
  TracePhase phase;
  int64_t start_ns, end_ns;
  int64_t bytes;  // of data the operation was about; 0 where that says nothing
};

// A step at the moment when it was handed to a device that works by itself; the device's records are cut by these.
struct LaunchedStep {
  int64_t launch_ns;
  TracePhase phase;
  bool from_rest;  // nothing was under way or waiting before it: the device's time until then is no step's
};

struct PhaseTotals {
  int64_t num_steps = 0, step_ns = 0;
  std::array<int64_t, kNumOpKinds> op_ns{};
};

// What one thread recorded. Totals are always kept; single events only up to the capacity given to start(), so
// that recording never allocates. Later events are counted as dropped.
class TraceLog {
 public:
  void start(int64_t max_events, int64_t max_launches = 0);
  void restart() { start(max_events_, max_launches_); }
  void push(const TraceEvent& event);
  // A step of `phase` is launched; kept up to max_launches.
  void launch();

  bool on() const { return on_; }
  TracePhase phase = TracePhase::kPrefill;  // of the step in progress
  bool at_rest = true;                      // no step is under way or waiting
  const std::array<PhaseTotals, kNumPhases>& totals() const { return totals_; }
  const std::vector<TraceEvent>& events() const { return events_; }
  int64_t num_dropped() const { return num_dropped_; }
  const std::vector<LaunchedStep>& launches() const { return launches_; }

 private:
  bool on_ = false;
  std::array<PhaseTotals, kNumPhases> totals_{};
  std::vector<TraceEvent> events_;
  std::vector<LaunchedStep> launches_;
  int64_t max_events_ = 0, max_launches_ = 0, num_dropped_ = 0;
};

inline thread_local TraceLog trace_log;  // of the thread that runs a rank; read by lane/profile

inline int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Marks the enclosing block. Off, it costs one load, so it is always compiled in and a trace from the field
// needs no rebuild.
class TraceSpan {
 public:
  TraceSpan(const char* name, TraceKind kind, int64_t bytes = 0)
      : event_{name, kind, TracePhase::kPrefill, trace_log.on() ? now_ns() : 0, 0, bytes} {}
  ~TraceSpan() {
    if (event_.start_ns == 0) return;
    event_.end_ns = now_ns();
    event_.phase = trace_log.phase;
    trace_log.push(event_);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  TraceEvent event_;
};

}  // namespace lane
