#include "lane/profile/roofline.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/trace.h"

namespace lane::profile {
namespace {

// The sum of a block, read as four streams side by side: one alone does not keep the memory of a core busy. Eight words
// of each are added at a time; g++ vectorises them.
uint64_t sum_of(const uint64_t* words, int64_t count) {
  constexpr int64_t kStreams = 4, kWords = 8;
  const int64_t length = count / kStreams;
  uint64_t sums[kStreams * kWords] = {};
  for (int64_t i = 0; i + kWords <= length; i += kWords)
    for (int64_t stream = 0; stream < kStreams; ++stream)
      for (int64_t j = 0; j < kWords; ++j) sums[stream * kWords + j] += words[stream * length + i + j];
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

double measure_read_bandwidth(ThreadPool& threads, int64_t bytes, double seconds) {
  const auto unmap = [bytes](uint64_t* memory) { ::munmap(memory, static_cast<size_t>(bytes)); };
  void* memory =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_system_error("allocating memory to measure its bandwidth");
  const std::unique_ptr<uint64_t, decltype(unmap)> words(static_cast<uint64_t*>(memory), unmap);
  ::madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);

  constexpr int64_t kBlockWords = int64_t{1} << 17;  // 1 MiB a task: small enough that no thread ends much later
  const int64_t num_blocks = bytes / (kBlockWords * 8);
  threads.run(num_blocks, [&](int64_t block) {
    std::fill_n(words.get() + block * kBlockWords, kBlockWords, static_cast<uint64_t>(block) + 1);
  });
  std::atomic<uint64_t> total{0};
  double best = 0;
  const int64_t begin_ns = now_ns();
  for (int sweep = 0; sweep < 3 || now_ns() - begin_ns < static_cast<int64_t>(seconds * 1e9); ++sweep) {
    const int64_t start_ns = now_ns();
    threads.run(num_blocks, [&](int64_t block) {
      total.fetch_add(sum_of(words.get() + block * kBlockWords, kBlockWords), std::memory_order_relaxed);
    });
    best = std::max(best,
                    static_cast<double>(num_blocks * kBlockWords * 8) * 1e9 / static_cast<double>(now_ns() - start_ns));
  }
  ensure(total.load() != 0, "the sweeps really read the memory");
  return best;
}

}  // namespace lane::profile
