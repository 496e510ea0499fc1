#pragma once
#include <immintrin.h>

#include "lane/kernels/cpu/tile.h"

// Included by the two AVX-512 files; in an unnamed namespace, so that each compiles its own (see matmul.h).
namespace lane::kernels::cpu {
namespace {

// A group is one register. 32 registers hold 24 sums, two weights and an input.
struct Vector {
  using Register = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kNumRegisters = 32;
  static constexpr int kMaxRows = 12;
  static constexpr int wide_groups(int rows) { return rows == 1 ? 8 : rows <= 4 ? 4 : 2; }

  static Register zero() { return _mm512_setzero_ps(); }
  static Register load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Register value) { _mm512_storeu_ps(p, value); }
  static Register broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
  static Register kept(Register sum) {
    asm volatile("" : "+v"(sum));
    return sum;
  }
};

struct F32 {
  static constexpr int kPairBytes = 128;
  static __m512 even(const char* group, int) { return _mm512_loadu_ps(group); }
  static __m512 odd(const char* group, int) { return _mm512_loadu_ps(group + 64); }
};

struct F16 {
  static constexpr int kPairBytes = 64;
  static __m512 even(const char* group, int) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group)));
  }
  static __m512 odd(const char* group, int v) { return even(group + 32, v); }
};

}  // namespace
}  // namespace lane::kernels::cpu
