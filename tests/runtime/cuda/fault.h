#pragma once
#include "lane/device/stream.h"

namespace lane::test {

// Enqueues a kernel that writes where there is no memory: from then on this process has lost its GPU.
void write_nowhere(Stream& stream);

}  // namespace lane::test
