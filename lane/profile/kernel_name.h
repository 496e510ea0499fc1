#pragma once
#include <string>

#include "lane/base/trace.h"

namespace lane::profile {

// A kernel as people see it, and which part of a step's time it is.
struct KernelName {
  std::string text;  // short: "skinny_kernel<bf16, 2, 4, false>"
  TraceKind kind = TraceKind::kOther;
  bool closes_step = false;  // the last one of each step (kernels/cuda/step.cu)
};
KernelName read_kernel_name(const std::string& mangled);

}  // namespace lane::profile
