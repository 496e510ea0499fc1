// A vector on the wire as 8-bit floats (e4m3) with scales: what two_shot_fp8 sends, and the same in plain C++.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace lane::cuda {

// 128 values share a scale, a float32 that is a power of two: value = e4m3 * scale. A warp sends 512 values, a line of
// 16 for each lane, and their four scales: 33 lines of 16 bytes, 8.25 bits a value, which is 0.516 of bfloat16 and
// float16 and 0.258 of float32. Lines and scales lie apart in a buffer, so that what a warp stores begins at a multiple
// of 512 bytes:
//
//   lines    slot 0: part lines | slot 1 | ... | last slot
//   scales   in the same order, a word for every 8 lines
//
// with a slot for each other rank's words of this rank's part, then one for each other rank's sums. A part is a
// multiple of 32 lines, so that loops never split a warp. A thread waits for its line and for the word of its scale. As
// always, no word that is sent is EMPTY (0x80000000): a scale is positive, and four e4m3 that read as EMPTY are zeros,
// one of them with a minus, and go as plus zeros.
//
// Error. Let A be the largest magnitude of the 128 and s their scale: the least power of two with A / s <= 448, e4m3's
// largest value, hence A / s > 224. Scaling is exact. e4m3 has 4 significant bits, so rounding x / s takes at most half
// of 2^-3 of the power of two below it, 1/17 of it at worst; under 2^-6, its least normal number, at most 2^-10:
//
//   |Q(x) - x| <= E(x) := max(|x| / 17, A 2^-17)          (s 2^-10 < A 2^-10 / 224)
//
// and 2^-136 more where A is below 2^-118, as s is at least 2^-126. e4m3 spans 18 powers of two, so an outlier among
// 128 costs the others little: smaller groups, or scales other than powers of two, would gain next to nothing. The
// owner o of a part adds its own values as they are; with S the sum over the ranks, S' what the owner got and R = Q(S')
// what all have:
//
//   |S' - S| <= sum of E(x_r) over r != o
//   |R - S|  <= |S' - S| + E(S') <= 18/17 (sum of E(x_r) over r != o) + E(S)          (A in E(S) is that of S')
//
// This is at most 1/8 of the sum of |x_r|, apart from the small terms and float32's rounding of sums. Errors that are
// independent come out at 4 % of S, as root mean squares. Rounding R to bfloat16 or float16 adds nothing within
// their normal numbers; what is within 1/32 of the type's largest number may become infinite.
//
// NaN and infinity are seen: one of them among 128 values, of a rank or of the sum, makes all 128 of the result NaN.
inline constexpr int kFp8PerLine = 16;
inline constexpr int kLinesPerScale = 8;
inline constexpr int kLinesPerWarp = 32;

// A vector of `count` elements among `size` ranks.
struct Fp8Parts {
  int64_t lines;  // of the vector; the last may be short, and the rest of it is zeros
  int64_t part;   // lines of a rank's part; the last parts may be short or empty
  int64_t slots;  // lines of all slots of a buffer; the scales come after them
  int64_t used;   // lines of a buffer with the scales
};
constexpr Fp8Parts fp8_parts(int64_t count, int size) {
  const int64_t lines = (count + kFp8PerLine - 1) / kFp8PerLine;
  const int64_t warps = (lines + kLinesPerWarp - 1) / kLinesPerWarp;
  const int64_t part = (warps + size - 1) / size * kLinesPerWarp, slots = 2 * (size - 1) * part;
  return {lines, part, slots, slots + slots / kLinesPerWarp};
}

// To nearest, ties to even; beyond the largest to the largest; NaN stays NaN.
constexpr uint8_t e4m3_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7e);  // 448
  if (magnitude < 0x3c800000u) {                                           // 2^-6: subnormal or zero
    // Adding 2^14, whose last bit is 2^-9, has the float adder round.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t rounded = magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u);  // exponent 120 becomes 0
  return static_cast<uint8_t>(sign | (rounded >> 20));
}
constexpr float float_from_e4m3(uint8_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x80u) << 24, magnitude = value & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(0x7fc00000u);
  const float size =
      magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f : std::bit_cast<float>((magnitude << 20) + 0x3c000000u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// Bits of the scale of values whose largest magnitude has these bits: bits of positive floats have their order, those
// of infinity and NaN the largest.
constexpr uint32_t fp8_scale(uint32_t largest) {
  if (largest >= 0x7f800000u) return 0x7fc00000u;
  const uint32_t exponent = (largest + 0x1fffffu) >> 23;  // one more where the mantissa is above 1.75 = 448 / 256
  return (exponent > 9 ? exponent - 8 : 1u) << 23;
}
// Of 1 / scale.
constexpr uint32_t fp8_inverse(uint32_t scale) { return 0x7f000000u - scale; }

// Up to 128 values that share a scale.
struct Fp8Group {
  std::array<uint32_t, kFp8PerLine * kLinesPerScale / 4> words{};
  uint32_t scale = 0;

  float at(int i) const {
    return float_from_e4m3(static_cast<uint8_t>(words[i / 4] >> i % 4 * 8)) * std::bit_cast<float>(scale);
  }
};
inline Fp8Group fp8_group(std::span<const float> values) {
  uint32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  Fp8Group group;
  group.scale = fp8_scale(largest);
  const float inverse = std::bit_cast<float>(fp8_inverse(group.scale));
  for (size_t i = 0; i < values.size(); ++i)
    group.words[i / 4] |= static_cast<uint32_t>(e4m3_from_float(values[i] * inverse)) << i % 4 * 8;
  std::replace(group.words.begin(), group.words.end(), 0x80000000u, 0u);
  return group;
}

// E(value) above, where `largest` is A.
inline double fp8_error(double value, double largest) {
  return std::max(std::abs(value) / 17, largest * 0x1p-17) + 0x1p-136;
}

}  // namespace lane::cuda
