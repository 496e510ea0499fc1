#include "lane/kernels/cpu/isa.h"

namespace lane::kernels::cpu {

std::span<const Candidate> candidates() {
  static const Candidate only = {&kBaseline, nullptr};
  return {&only, 1};
}

}  // namespace lane::kernels::cpu
