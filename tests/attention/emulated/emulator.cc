#include "tests/attention/emulated/emulator.h"

#include <fmt/format.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::testing {
namespace {

constexpr size_t kStackBytes = 96 * 1024;

[[noreturn]] void wrong(const std::string& what) { throw Error(ErrorCode::kBug, "kernel: " + what); }

struct Copy {
  void* shared;
  const void* global;
  bool reads;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  int thread = 0;
  bool is_done = false;
  std::exception_ptr error;
  const char* waits_for = nullptr;  // null: it can run
  bool has_waited = false;          // for the kernel before
  void* part = nullptr;
  std::deque<std::vector<Copy>> groups;  // the last one is open
};

struct Block {
  emulator::Index index;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<char> shared;
  char* shared_begin = nullptr;
  int grid_width = 0;
  ucontext_t scheduler;
  const std::function<void()>* kernel = nullptr;
  const char* fresh = nullptr;
  const char* fresh_end = nullptr;
};
Block* block = nullptr;
Fiber* running = nullptr;

void fiber_main() {
  try {
    (*block->kernel)();
  } catch (...) {
    running->error = std::current_exception();
  }
  running->is_done = true;
  swapcontext(&running->context, &block->scheduler);
}

void wait_for(const char* what) {
  running->waits_for = what;
  swapcontext(&running->context, &block->scheduler);
}

std::string who() {
  return fmt::format("block ({}, {}, {}), thread {}", block->index.x, block->index.y, block->index.z, running->thread);
}

// Resumes every fiber that can run, in a shuffled order, until all are done.
void run_block(uint64_t seed) {
  std::vector<Fiber*> order;
  for (auto& fiber : block->fibers) order.push_back(fiber.get());
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_bits(seed, i) % i]);
  for (bool moves = true; moves;) {
    moves = false;
    for (Fiber* fiber : order) {
      if (fiber->is_done || fiber->waits_for != nullptr) continue;
      running = fiber;
      swapcontext(&block->scheduler, &fiber->context);
      moves = true;
      if (fiber->error) std::rethrow_exception(fiber->error);
    }
  }
  for (Fiber* fiber : order) {
    running = fiber;
    if (!fiber->is_done) wrong(fmt::format("{} waits in vain at {}", who(), fiber->waits_for));
    for (const auto& group : fiber->groups)
      if (!group.empty()) wrong(who() + " ended before its copies arrived");
  }
}

void start_fiber(int thread) {
  auto fiber = std::make_unique<Fiber>();
  fiber->thread = thread;
  fiber->groups.emplace_back();
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, fiber_main, 0);
  block->fibers.push_back(std::move(fiber));
}

}  // namespace

void emulate(const EmulatedLaunch& launch, const std::function<void()>& kernel) {
  std::vector<int64_t> order(static_cast<size_t>(launch.grid_x * launch.grid_y * launch.grid_z));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_bits(launch.seed + 1, i) % i]);
  for (const int64_t at : order) {
    Block mine;
    mine.index = {static_cast<int>(at % launch.grid_x), static_cast<int>(at / launch.grid_x % launch.grid_y),
                  static_cast<int>(at / launch.grid_x / launch.grid_y), 0};
    mine.shared.assign(static_cast<size_t>(launch.shared_bytes) + 128, '\xff');
    mine.shared_begin = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(mine.shared.data()) + 127) / 128 * 128);
    mine.grid_width = static_cast<int>(launch.grid_x);
    mine.kernel = &kernel;
    mine.fresh = static_cast<const char*>(launch.fresh);
    mine.fresh_end = mine.fresh + launch.fresh_bytes;
    block = &mine;
    for (int thread = 0; thread < launch.threads; ++thread) start_fiber(thread);
    run_block(launch.seed * 7919 + static_cast<uint64_t>(at));
    block = nullptr;
  }
}

namespace emulator {

Index index() {
  Index index = block->index;
  index.thread = running->thread;
  return index;
}

int grid_width() { return block->grid_width; }

char* shared_memory() { return block->shared_begin; }

void check_shared(const void* address, size_t bytes, size_t alignment) {
  const auto* at = static_cast<const char*>(address);
  const char* end = block->shared.data() + block->shared.size();
  if (at < block->shared_begin || at + bytes > end - (128 - (block->shared_begin - block->shared.data())))
    wrong(who() + " leaves the shared memory");
  if (reinterpret_cast<uintptr_t>(at) % alignment != 0) wrong(who() + ": a misaligned address in shared memory");
}

void check_aligned(const void* global, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(global) % alignment != 0) wrong(who() + ": a misaligned address in global memory");
}

void together(const char* what, void* part, const std::function<void(void* const (&parts)[32])>& act) {
  running->part = part;
  const size_t first = static_cast<size_t>(running->thread / 32 * 32);
  Fiber* const me = running;
  for (size_t lane = 0; lane < 32; ++lane) {
    const Fiber& other = *block->fibers[first + lane];
    if (&other == me) continue;
    if (other.waits_for == nullptr) return wait_for(what);
    if (std::strcmp(other.waits_for, what) != 0)
      wrong(fmt::format("{} is at {} and thread {} at {}", who(), what, other.thread, other.waits_for));
  }
  void* parts[32];
  for (size_t lane = 0; lane < 32; ++lane) parts[lane] = block->fibers[first + lane]->part;
  act(parts);
  for (size_t lane = 0; lane < 32; ++lane) block->fibers[first + lane]->waits_for = nullptr;
}

void sync_block() {
  constexpr const char* kWhat = "sync_block";
  for (const auto& other : block->fibers)
    if (other.get() != running && (other->waits_for == nullptr || std::strcmp(other->waits_for, kWhat) != 0))
      return wait_for(kWhat);
  for (const auto& fiber : block->fibers) fiber->waits_for = nullptr;
}

void copy_async(void* shared, const void* global, bool reads) {
  check_shared(shared, 16, 16);
  if (reads) check_aligned(global, 16);
  if (reads && !running->has_waited && global >= block->fresh && global < block->fresh_end)
    wrong(who() + " reads what the kernel before it has not finished");
  std::memset(shared, 0xff, 16);
  running->groups.back().push_back({shared, global, reads});
}

void wait_for_previous_kernel() { running->has_waited = true; }
void end_group_of_copies() { running->groups.emplace_back(); }

void wait_for_copies(int open) {
  // The newest `open` groups that have been ended, and the one that has not, may stay on their way.
  while (running->groups.size() > static_cast<size_t>(open) + 1) {
    for (const Copy& copy : running->groups.front()) {
      if (copy.reads)
        std::memcpy(copy.shared, copy.global, 16);
      else
        std::memset(copy.shared, 0, 16);
    }
    running->groups.pop_front();
  }
}

}  // namespace emulator
}  // namespace lane::testing
