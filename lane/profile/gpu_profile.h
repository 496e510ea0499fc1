#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lane/base/json.h"
#include "lane/base/trace.h"
#include "lane/device/activity.h"
#include "lane/profile/breakdown.h"

namespace lane::profile {

// All calls of one kernel (of one short name) in the steps of a phase.
struct KernelTotals {
  std::string name;
  TraceKind kind = TraceKind::kOther;
  int64_t num_calls = 0, ns = 0;
};

// A piece of the GPU's time: for as long as it is the kernel's own, see GpuProfile.
struct GpuSlice {
  int32_t name = -1;  // in GpuProfile::slice_names
  TraceKind kind = TraceKind::kOther;
  TracePhase phase = TracePhase::kPrefill;
  int64_t start_ns = 0, end_ns = 0, bytes = 0;
};

// Where one GPU's time went. A step lasts from the end of the last kernel of the step before to the end of its own last
// one; after a rest, from its launch. Kernels overlap: one may start, and wait, while the one before it still runs. So
// in the order of their starts each has the time from when all before it were done, or from its start, until its end:
// no nanosecond counts twice, and what none has is idle.
struct GpuProfile {
  RankTotals totals{};
  std::array<std::vector<KernelTotals>, kNumPhases> kernels;  // the longest first
  std::array<int64_t, kNumPhases> num_host_waits{};           // that the host began during steps
  int64_t num_dropped = 0;                                    // activities, by the recorder
  int64_t num_steps_missing = 0;                              // launched, but their end was not recorded
  std::vector<std::string> slice_names;
  std::vector<GpuSlice> slices;  // kStep: the whole step, before its kernels
  int64_t num_slices_dropped = 0;
  std::string why_not;  // a sentence: nothing could be said, and the rest is empty
};

// `steps` as they were launched since the recorder's start, which was at rest. Slices up to `max_slices`.
GpuProfile profile_gpu(const GpuActivities& activities, std::span<const LaunchedStep> steps, int64_t max_slices = 0);

// How a rank's profile travels, without its slices, which are part of the trace (export.h).
std::string profile_to_text(const GpuProfile& profile);
GpuProfile profile_from_text(const std::string& text);  // Error{kCorruptData}

// Sums over the ranks, steps too; why_not if one has no profile or recorded other steps.
GpuProfile merge_profiles(std::span<const GpuProfile> ranks);

// The kernels that took longest in a phase, per step: name, calls, time of a call and of a step, share of the step.
std::string format_kernels(const GpuProfile& profile, size_t most = 12);
Json kernels_to_json(const GpuProfile& profile);

}  // namespace lane::profile
