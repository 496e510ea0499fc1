#include <immintrin.h>

#include <algorithm>

#include "bench/kernels/peak.h"
#include "lane/base/thread_pool.h"

namespace lane::bench {
namespace {

constexpr int kChains = 12;  // more than latency times throughput on any of these machines
constexpr int64_t kTurns = 1 << 20;

// Each returns the operations it did.
__attribute__((target("sse2"))) int64_t sse2_turns() {
  __m128 sum[kChains] = {}, a = _mm_set1_ps(0.5f);
  for (int64_t i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      auto chain = _mm_add_ps(_mm_mul_ps(sum[c], a), a);
      asm volatile("" : "+x"(chain));  // nothing is left out
      sum[c] = chain;
    }
  }
  float keep = 0;
  for (const __m128& s : sum) keep += _mm_cvtss_f32(s);
  asm volatile("" : : "x"(keep));
  return kTurns * kChains * 8;
}

__attribute__((target("avx2,fma"))) int64_t avx2_turns() {
  __m256 sum[kChains] = {}, a = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      auto chain = _mm256_fmadd_ps(sum[c], a, a);
      asm volatile("" : "+x"(chain));  // nothing is left out
      sum[c] = chain;
    }
  }
  float keep = 0;
  for (const __m256& s : sum) keep += _mm256_cvtss_f32(s);
  asm volatile("" : : "x"(keep));
  return kTurns * kChains * 16;
}

__attribute__((target("avx512f"))) int64_t avx512_turns() {
  __m512 sum[kChains] = {}, a = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      auto chain = _mm512_fmadd_ps(sum[c], a, a);
      asm volatile("" : "+v"(chain));  // nothing is left out
      sum[c] = chain;
    }
  }
  float keep = 0;
  for (const __m512& s : sum) keep += _mm512_cvtss_f32(s);
  asm volatile("" : : "x"(keep));
  return kTurns * kChains * 32;
}

__attribute__((target("avx512f,avx512bf16"))) int64_t avx512_bf16_turns() {
  __m512 sum[kChains] = {};
  const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f003f00);
  for (int64_t i = 0; i < kTurns; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      auto chain = _mm512_dpbf16_ps(sum[c], a, a);
      asm volatile("" : "+v"(chain));  // nothing is left out
      sum[c] = chain;
    }
  }
  float keep = 0;
  for (const __m512& s : sum) keep += _mm512_cvtss_f32(s);
  asm volatile("" : : "x"(keep));
  return kTurns * kChains * 64;
}

}  // namespace

double peak_flops(std::string_view isa, bool bf16_dot, int num_threads, int64_t (*clock_ns)()) {
  const auto turns = isa == "baseline"                  ? sse2_turns
                     : isa == "avx2"                    ? avx2_turns
                     : bf16_dot && isa == "avx512_bf16" ? avx512_bf16_turns
                                                        : avx512_turns;
  ThreadPool threads(num_threads);
  double best = 0;
  for (int repetition = 0; repetition < 8; ++repetition) {
    const int64_t start = clock_ns();
    int64_t operations = 0;
    threads.run(num_threads, [&](int64_t) {
      const int64_t mine = turns();
      __atomic_fetch_add(&operations, mine, __ATOMIC_RELAXED);
    });
    best = std::max(best, static_cast<double>(operations) / static_cast<double>(clock_ns() - start) * 1e9);
  }
  return best;
}

}  // namespace lane::bench
