#pragma once
#include <immintrin.h>

#include "lane/attention/cpu/flash_tile.h"

// Conversions with AVX2 and F16C, for the files compiled with at least these. Internal linkage: see flash_loops.h.
namespace {

using lane::DType;
using lane::flash::kTileKeys;
using lane::flash::Tile;

// Eight elements of a row of the cache, as floats.
template <DType kType>
[[gnu::always_inline]] inline __m256 widen8(const void* row, int64_t i) {
  if constexpr (kType == DType::kF32) {
    return _mm256_loadu_ps(static_cast<const float*>(row) + i);
  } else {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(row) + i));
    if constexpr (kType == DType::kF16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
}

[[gnu::always_inline]] inline void transpose8(__m256 (&r)[8]) {
  const __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
  const __m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
  const __m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
  const __m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
  const __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
  const __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
  const __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
  const __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
  r[0] = _mm256_permute2f128_ps(b0, b4, 0x20), r[4] = _mm256_permute2f128_ps(b0, b4, 0x31);
  r[1] = _mm256_permute2f128_ps(b1, b5, 0x20), r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
  r[2] = _mm256_permute2f128_ps(b2, b6, 0x20), r[6] = _mm256_permute2f128_ps(b2, b6, 0x31);
  r[3] = _mm256_permute2f128_ps(b3, b7, 0x20), r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}

// Pages are shorter than what hardware prefetchers need to get going, so they are asked for one tile ahead.
[[gnu::always_inline]] inline void fetch_rows(const void* const* rows, int begin, int end, int row_bytes) {
  for (int i = begin; i < end; ++i)
    for (int at = 0; at < row_bytes; at += 64) _mm_prefetch(static_cast<const char*>(rows[i]) + at, _MM_HINT_T0);
}

template <DType kType>
inline void pack_keys_from(const Tile& tile, int begin, int end) {
  const int row_bytes = tile.head_dim * (kType == DType::kF32 ? 4 : 2);
  const int fetch_begin = begin * kTileKeys / tile.head_dim;  // this part of the next tile's keys
  const int num_fetched = end * kTileKeys / tile.head_dim - fetch_begin;
  for (int key = 0; key < kTileKeys; key += 8) {
    fetch_rows(tile.next_key_rows, fetch_begin + key * num_fetched / kTileKeys,
               fetch_begin + (key + 8) * num_fetched / kTileKeys, row_bytes);
    const void* const* rows = tile.key_rows + key;
    float* to = tile.keys + key;
    int d = begin;
    if constexpr (kType == DType::kBF16) {
      // Two bfloat16 travel through the transposition as one word and part afterwards.
      const __m256i upper = _mm256_set1_epi32(-65536);
      for (; d + 16 <= end; d += 16) {
        __m256 pairs[8];
        for (int i = 0; i < 8; ++i)
          pairs[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const uint16_t*>(rows[i]) + d));
        transpose8(pairs);
        for (int i = 0; i < 8; ++i, to += 2 * kTileKeys) {
          const __m256i pair = _mm256_castps_si256(pairs[i]);
          _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)));
          _mm256_storeu_ps(to + kTileKeys, _mm256_castsi256_ps(_mm256_and_si256(pair, upper)));
        }
      }
    }
    for (; d < end; d += 8) {
      __m256 block[8];
      for (int i = 0; i < 8; ++i) block[i] = widen8<kType>(rows[i], d);
      transpose8(block);
      for (int i = 0; i < 8; ++i, to += kTileKeys) _mm256_storeu_ps(to, block[i]);
    }
  }
}

template <DType kType>
inline void pack_values_from(const Tile& tile) {
  const int head_dim = tile.head_dim, stride = tile.stride;
  const int row_bytes = tile.head_dim * (kType == DType::kF32 ? 4 : 2);
  float* to = tile.values;
  for (int key = 0; key < kTileKeys; ++key, to += stride) {
    fetch_rows(tile.next_value_rows, key, key + 1, row_bytes);
    const void* row = tile.value_rows[key];
    for (int d = 0; d < head_dim; d += 8) _mm256_storeu_ps(to + d, widen8<kType>(row, d));
  }
}

template <class Isa>
struct Packing {
  static void pack_keys(const Tile& tile, int begin, int end) {
    if (tile.dtype == DType::kF32) return pack_keys_from<DType::kF32>(tile, begin, end);
    if (tile.dtype == DType::kBF16) return pack_keys_from<DType::kBF16>(tile, begin, end);
    pack_keys_from<DType::kF16>(tile, begin, end);
  }
  static void pack_values(const Tile& tile) {
    if (tile.dtype == DType::kF32) return pack_values_from<DType::kF32>(tile);
    if (tile.dtype == DType::kBF16) return pack_values_from<DType::kBF16>(tile);
    pack_values_from<DType::kF16>(tile);
  }

  template <DType kType>
  struct CachedValues {
    const void *const *rows, *const *next_rows;
    [[gnu::always_inline]] auto at(int key, int d) const { return Isa::template widen<kType>(rows[key], d); }
    template <int kCount>
    [[gnu::always_inline]] void fetch(int key, int d) const {
      constexpr int kBytes = kType == DType::kF32 ? 4 : 2;
      const char* next = static_cast<const char*>(next_rows[key]) + d * kBytes;
#pragma GCC unroll 8
      for (int at = 0; at < kCount * kBytes; at += 64) _mm_prefetch(next + at, _MM_HINT_T0);
    }
  };
  template <class Body>
  static void with_values(const Tile& tile, Body body) {
    if (tile.dtype == DType::kF32) return body(CachedValues<DType::kF32>{tile.value_rows, tile.next_value_rows});
    if (tile.dtype == DType::kBF16) return body(CachedValues<DType::kBF16>{tile.value_rows, tile.next_value_rows});
    body(CachedValues<DType::kF16>{tile.value_rows, tile.next_value_rows});
  }
};

// A multiple of eight elements, as every row here is.
inline void narrow8(const float* from, int64_t count, DType dtype, void* to) {
  for (int64_t i = 0; i < count; i += 8) {
    const __m256 x = _mm256_loadu_ps(from + i);
    if (dtype == DType::kF32) {
      _mm256_storeu_ps(static_cast<float*>(to) + i, x);
      continue;
    }
    __m128i halves;
    if (dtype == DType::kF16) {
      halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {  // as bf16_from_float()
      const __m256i bits = _mm256_castps_si256(x),
                    odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
      const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
      const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
      const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
      const __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
      halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint16_t*>(to) + i), halves);
  }
}

}  // namespace
