#include "lane/attention/cpu/flash_tile.h"

namespace lane::flash {

const Loops& loops_for(std::string_view) { return kPortableLoops; }

}  // namespace lane::flash
