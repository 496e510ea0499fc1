#pragma once
#include <span>
#include <string>
#include <vector>

#include "lane/base/trace.h"
#include "lane/profile/gpu_profile.h"

namespace lane::profile {

// What one rank recorded, in a form that travels: names are copied out of the program's memory.
std::string events_to_text(const TraceLog& log, const GpuProfile& gpu = {});

// The trace-event file that ui.perfetto.dev and chrome://tracing open (format: "Trace Event Format", Google): one
// track a rank and one more for its GPU, times in µs from the first event. `ranks[r]` is events_to_text() of rank r.
// All ranks of a host share one clock.
std::string make_trace_file(std::span<const std::string> ranks);

}  // namespace lane::profile
