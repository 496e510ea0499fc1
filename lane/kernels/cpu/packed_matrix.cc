#include "lane/kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "lane/kernels/cpu/layout.h"

namespace lane::kernels::cpu {
namespace {

constexpr int64_t kChunk = 512;  // inputs converted at a time, even: 16 rows of them stay in the first-level cache

// One row of `rows` each, or null for a row of the group that is not being written.
using GroupRows = std::array<const char*, kGroup>;

template <DType kType>
auto from_float(float value) {
  if constexpr (kType == DType::kF32) return value;
  if constexpr (kType == DType::kBF16) return bf16_from_float(value);
  if constexpr (kType == DType::kF16) return f16_from_float(value);
}

template <DType kFrom, DType kTo>
void convert_to(const char* from, int64_t count, char* to) {
  for (int64_t i = 0; i < count; ++i) {
    decltype(from_float<kFrom>(0)) given;
    std::memcpy(&given, from + i * sizeof given, sizeof given);
    float value;
    if constexpr (kFrom == DType::kF32) value = given;
    if constexpr (kFrom == DType::kBF16) value = float_from_bf16(given);
    if constexpr (kFrom == DType::kF16) value = float_from_f16(given);
    const auto wanted = from_float<kTo>(value);
    std::memcpy(to + i * sizeof wanted, &wanted, sizeof wanted);
  }
}

template <DType kFrom>
void convert_from(const char* from, int64_t count, DType to_type, char* to) {
  if (to_type == DType::kF32) return convert_to<kFrom, DType::kF32>(from, count, to);
  if (to_type == DType::kBF16) return convert_to<kFrom, DType::kBF16>(from, count, to);
  convert_to<kFrom, DType::kF16>(from, count, to);
}

void convert(DType from_type, const char* from, int64_t count, DType to_type, char* to) {
  if (from_type == DType::kF32) return convert_from<DType::kF32>(from, count, to_type, to);
  if (from_type == DType::kBF16) return convert_from<DType::kBF16>(from, count, to_type, to);
  convert_from<DType::kF16>(from, count, to_type, to);
}

// out[i][lane] = rows[lane][i]
template <class Word>
void interleave(const GroupRows& rows, int64_t count, char* out) {
  if (std::find(rows.begin(), rows.end(), nullptr) == rows.end()) {
    for (int64_t i = 0; i < count; ++i) {
      Word words[kGroup];
      for (int lane = 0; lane < kGroup; ++lane) std::memcpy(words + lane, rows[lane] + i * sizeof(Word), sizeof(Word));
      std::memcpy(out + i * sizeof words, words, sizeof words);
    }
    return;
  }
  for (int lane = 0; lane < kGroup; ++lane)
    if (rows[lane])
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(out + (i * kGroup + lane) * sizeof(Word), rows[lane] + i * sizeof(Word), sizeof(Word));
}

// Rows that have the matrix's dtype already; `out` is where their first input goes.
void pack_chunk(DType dtype, const GroupRows& rows, int64_t count, char* out) {
  if (dtype == DType::kF32) return interleave<uint32_t>(rows, count, out);
  if (dtype == DType::kF16) return interleave<uint16_t>(rows, count, out);
  interleave<uint32_t>(rows, count / 2, out);  // a pair of bfloat16 moves as one word
  if (count % 2 == 0) return;
  for (int lane = 0; lane < kGroup; ++lane) {  // the last input of an odd row has zero for a partner
    if (!rows[lane]) continue;
    uint32_t word = 0;
    std::memcpy(&word, rows[lane] + (count - 1) * 2, 2);
    std::memcpy(out + (count / 2 * kGroup + lane) * 4, &word, 4);
  }
}

}  // namespace

void convert(TensorView values, DType dtype, void* out) {
  convert(values.dtype, static_cast<const char*>(values.data), values.count(), dtype, static_cast<char*>(out));
}

void pack_rows(DType dtype, void* packed, int64_t first, TensorView rows) {
  const int64_t k = rows.cols(), end = first + rows.rows();
  const Layout layout(dtype, end, k);
  const int64_t element = size_of(dtype), row_bytes = k * size_of(rows.dtype);
  alignas(64) static thread_local char converted[kGroup * kChunk * 4];
  for (int64_t group = first / kGroup; group * kGroup < end; ++group) {
    char* const out = static_cast<char*>(packed) + group * layout.group_bytes;
    for (int64_t begin = 0; begin < k; begin += kChunk) {
      const int64_t count = std::min(kChunk, k - begin);
      GroupRows chunk{};
      for (int lane = 0; lane < kGroup; ++lane) {
        const int64_t row = group * kGroup + lane - first;
        if (row < 0 || row >= rows.rows()) continue;
        const char* const from = static_cast<const char*>(rows.data) + row * row_bytes + begin * size_of(rows.dtype);
        chunk[lane] = from;
        if (rows.dtype == dtype) continue;
        char* const to = converted + lane * kChunk * element;
        convert(rows.dtype, from, count, dtype, to);
        chunk[lane] = to;
      }
      pack_chunk(dtype, chunk, count, out + begin / 2 * layout.pair_bytes);
    }
  }
}

void unpack_row(DType dtype, const void* packed, int64_t k, int64_t row, float* out) {
  const Layout layout(dtype, row + 1, k);
  const char* const group = static_cast<const char*>(packed) + row / kGroup * layout.group_bytes;
  const int64_t lane = row % kGroup;
  const auto half = [&](int64_t index) {
    uint16_t value;
    std::memcpy(&value, group + 2 * index, 2);
    return value;
  };
  if (dtype == DType::kF32)
    for (int64_t i = 0; i < k; ++i) std::memcpy(out + i, group + 4 * (i * kGroup + lane), 4);
  else if (dtype == DType::kF16)
    for (int64_t i = 0; i < k; ++i) out[i] = float_from_f16(half(i * kGroup + lane));
  else
    for (int64_t i = 0; i < k; ++i) out[i] = float_from_bf16(half((i / 2 * kGroup + lane) * 2 + i % 2));
}

}  // namespace lane::kernels::cpu
