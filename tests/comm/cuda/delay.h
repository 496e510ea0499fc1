#pragma once
#include <chrono>

#include "lane/device/stream.h"

namespace lane::forked {

// Keeps a stream busy with a kernel that does nothing.
void delay(Stream& stream, std::chrono::microseconds time);

}  // namespace lane::forked
