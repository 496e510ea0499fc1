// Runs a kernel on the CPU: each thread of a block is a fiber, blocks run one after the other. What a warp or a block
// does together waits until all of its threads have come to it, and it is an error if they come to different things or
// if some never do. Copies into shared memory arrive only when their thread waits for them; until then their place
// holds NaN. The order of blocks, and of fibers between two meetings, is shuffled by a seed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace lane::testing {

struct EmulatedLaunch {
  int64_t grid_x = 1, grid_y = 1, grid_z = 1;
  int threads = 32;
  int shared_bytes = 0;
  uint64_t seed = 0;
  // Copies from here are an error before the kernel has waited for the one before it.
  const void* fresh = nullptr;
  int64_t fresh_bytes = 0;
};

// Throws Error{kBug} that says what a kernel did wrong.
void emulate(const EmulatedLaunch& launch, const std::function<void()>& kernel);

// What the emulated ptx.cuh is made of; called by kernels alone.
namespace emulator {

struct Index {
  int x, y, z, thread;
};
Index index();
int grid_width();
char* shared_memory();
void check_shared(const void* address, size_t bytes, size_t alignment);
void check_aligned(const void* global, size_t alignment);

// All 32 threads of the warp bring their part; the last to come runs `act` on all of them, in the order of lanes.
void together(const char* what, void* part, const std::function<void(void* const (&parts)[32])>& act);
void sync_block();

void copy_async(void* shared, const void* global, bool reads);
void end_group_of_copies();
void wait_for_copies(int open);
void wait_for_previous_kernel();

}  // namespace emulator
}  // namespace lane::testing
