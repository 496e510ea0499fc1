#include "lane/comm/executor/reduce.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>

#include "lane/base/error.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

constexpr int64_t kBlock = 512;  // elements; the block of sums stays in the first-level cache

// Everything below is inlined into one function per instruction set, so that the compiler vectorises it for each.
#define LANE_INLINE inline __attribute__((always_inline))

template <ReduceOp kOp>
LANE_INLINE float combine(float a, float b) {
  if constexpr (kOp == ReduceOp::kMax) return b > a || b != b ? b : a;
  if constexpr (kOp == ReduceOp::kMin) return b < a || b != b ? b : a;
  if constexpr (kOp == ReduceOp::kProd) return a * b;
  return a + b;
}
template <ReduceOp kOp>
LANE_INLINE int32_t combine(int32_t a, int32_t b) {
  const auto x = static_cast<uint32_t>(a), y = static_cast<uint32_t>(b);  // wraps around instead of being undefined
  if constexpr (kOp == ReduceOp::kMax) return std::max(a, b);
  if constexpr (kOp == ReduceOp::kMin) return std::min(a, b);
  if constexpr (kOp == ReduceOp::kProd) return static_cast<int32_t>(x * y);
  return static_cast<int32_t>(x + y);
}

// Between a 16-bit type and float32. Compilers make poor loops of these conversions.
struct Portable {
  template <DType kType>
  static void widen(const uint16_t* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      to[i] = kType == DType::kBF16 ? float_from_bf16(from[i]) : float_from_f16(from[i]);
  }
  template <DType kType>
  static void narrow(const float* from, uint16_t* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      to[i] = kType == DType::kBF16 ? bf16_from_float(from[i]) : f16_from_float(from[i]);
  }
  template <DType kType>
  static void add(const uint16_t* a, const uint16_t* b, uint16_t* out, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      float x, y;
      widen<kType>(a + i, &x, 1), widen<kType>(b + i, &y, 1);
      x += y;
      narrow<kType>(&x, out + i, 1);
    }
  }
};

#if defined(__x86_64__)
#define LANE_AVX2 __attribute__((target("avx2,f16c")))
struct Avx2 {
  template <DType kType>
  LANE_AVX2 static __m256 widen8(const uint16_t* from) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    if constexpr (kType == DType::kF16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  template <DType kType>
  LANE_AVX2 static void narrow8(__m256 value, uint16_t* to) {
    __m128i half;
    if constexpr (kType == DType::kF16) {
      half = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
    } else {  // bf16_from_float()
      const __m256i bits = _mm256_castps_si256(value), high = _mm256_srli_epi32(bits, 16);
      const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
      const __m256i rounded =
          _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
      const __m256i quiet_nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
      const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
      const __m256i chosen = _mm256_blendv_epi8(rounded, quiet_nan, is_nan);
      half = _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
  }
  template <DType kType>
  LANE_AVX2 static void widen(const uint16_t* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, widen8<kType>(from + i));
    Portable::widen<kType>(from + i, to + i, count - i);
  }
  template <DType kType>
  LANE_AVX2 static void narrow(const float* from, uint16_t* to, int64_t count) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) narrow8<kType>(_mm256_loadu_ps(from + i), to + i);
    Portable::narrow<kType>(from + i, to + i, count - i);
  }
  template <DType kType>
  LANE_AVX2 static void add(const uint16_t* a, const uint16_t* b, uint16_t* out, int64_t count) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) narrow8<kType>(_mm256_add_ps(widen8<kType>(a + i), widen8<kType>(b + i)), out + i);
    Portable::add<kType>(a + i, b + i, out + i, count - i);
  }
};
#endif

template <ReduceOp kOp, class Sum>
LANE_INLINE void accumulate(const Sum* data, int64_t count, bool is_first, Sum* sums) {
  if (is_first)
    for (int64_t i = 0; i < count; ++i) sums[i] = data[i];
  else
    for (int64_t i = 0; i < count; ++i) sums[i] = combine<kOp>(sums[i], data[i]);
}

template <class Sum>
LANE_INLINE void divide(Sum* sums, int64_t count, int divisor) {
  if (divisor != 1)
    for (int64_t i = 0; i < count; ++i) sums[i] /= static_cast<Sum>(divisor);
}

struct Job {
  std::span<const Operand> operands;
  void* out;
  DType out_dtype;
  int64_t count;
  ReduceOp op;
  int divisor;
};

template <ReduceOp kOp>
LANE_INLINE void reduce_integers(const Job& job) {
  alignas(64) int32_t sums[kBlock];
  for (int64_t first = 0; first < job.count; first += kBlock) {
    const int64_t length = std::min(kBlock, job.count - first);
    for (const Operand& operand : job.operands)
      accumulate<kOp>(static_cast<const int32_t*>(operand.data) + first, length, &operand == job.operands.data(), sums);
    divide(sums, length, job.divisor);
    std::copy_n(sums, length, static_cast<int32_t*>(job.out) + first);
  }
}

template <class Isa, ReduceOp kOp>
LANE_INLINE void reduce_floats(const Job& job) {
  alignas(64) float sums[kBlock], wide[kBlock];
  for (int64_t first = 0; first < job.count; first += kBlock) {
    const int64_t length = std::min(kBlock, job.count - first);
    for (const Operand& operand : job.operands) {
      const bool is_first = &operand == job.operands.data();
      if (operand.dtype == DType::kF32) {
        accumulate<kOp>(static_cast<const float*>(operand.data) + first, length, is_first, sums);
        continue;
      }
      const uint16_t* from = static_cast<const uint16_t*>(operand.data) + first;
      float* to = is_first ? sums : wide;
      if (operand.dtype == DType::kBF16)
        Isa::template widen<DType::kBF16>(from, to, length);
      else
        Isa::template widen<DType::kF16>(from, to, length);
      if (!is_first) accumulate<kOp>(wide, length, false, sums);
    }
    divide(sums, length, job.divisor);
    if (job.out_dtype == DType::kF32)
      std::copy_n(sums, length, static_cast<float*>(job.out) + first);
    else if (job.out_dtype == DType::kBF16)
      Isa::template narrow<DType::kBF16>(sums, static_cast<uint16_t*>(job.out) + first, length);
    else
      Isa::template narrow<DType::kF16>(sums, static_cast<uint16_t*>(job.out) + first, length);
  }
}

// The commonest sums by far, of two vectors of one type, without a detour through the block.
template <class Isa>
LANE_INLINE bool add_pair(const Job& job) {
  if (job.operands.size() != 2 || job.divisor != 1 || job.operands[0].dtype != job.out_dtype ||
      job.operands[1].dtype != job.out_dtype)
    return false;
  const void *a = job.operands[0].data, *b = job.operands[1].data;
  if (job.out_dtype == DType::kF32) {
    const auto *x = static_cast<const float*>(a), *y = static_cast<const float*>(b);
    auto* out = static_cast<float*>(job.out);
    for (int64_t i = 0; i < job.count; ++i) out[i] = x[i] + y[i];
    return true;
  }
  const auto *x = static_cast<const uint16_t*>(a), *y = static_cast<const uint16_t*>(b);
  if (job.out_dtype == DType::kBF16)
    Isa::template add<DType::kBF16>(x, y, static_cast<uint16_t*>(job.out), job.count);
  else
    Isa::template add<DType::kF16>(x, y, static_cast<uint16_t*>(job.out), job.count);
  return true;
}

template <class Isa, ReduceOp kOp>
LANE_INLINE void reduce_with(const Job& job) {
  if (job.out_dtype == DType::kI32) return reduce_integers<kOp>(job);
  if constexpr (kOp == ReduceOp::kSum)
    if (add_pair<Isa>(job)) return;
  reduce_floats<Isa, kOp>(job);
}

template <class Isa>
LANE_INLINE void reduce_any(const Job& job) {
  switch (job.op) {
    case ReduceOp::kMax:
      return reduce_with<Isa, ReduceOp::kMax>(job);
    case ReduceOp::kMin:
      return reduce_with<Isa, ReduceOp::kMin>(job);
    case ReduceOp::kProd:
      return reduce_with<Isa, ReduceOp::kProd>(job);
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
      return reduce_with<Isa, ReduceOp::kSum>(job);
  }
}

using Reduce = void (*)(const Job&);

void reduce_baseline(const Job& job) { reduce_any<Portable>(job); }

#if defined(__x86_64__)
LANE_AVX2 void reduce_avx2(const Job& job) { reduce_any<Avx2>(job); }

Reduce best_reduce() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && setting("LANE_ISA") != "baseline"
             ? reduce_avx2
             : reduce_baseline;
}
#else
Reduce best_reduce() { return reduce_baseline; }
#endif

}  // namespace

void reduce(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op, int divisor) {
  static const Reduce kReduce = best_reduce();
  kReduce({operands, out, out_dtype, count, op, divisor});
}

}  // namespace lane
