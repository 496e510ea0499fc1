#include "lane/attention/cpu/flash_tile.h"

namespace lane::flash {

extern const Loops kAvx2Loops, kAvx512Loops;  // in files compiled for these instructions

const Loops& loops_for(std::string_view isa) {
  if (isa.starts_with("avx512")) return kAvx512Loops;
  return isa == "avx2" ? kAvx2Loops : kPortableLoops;
}

}  // namespace lane::flash
