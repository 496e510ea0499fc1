// lane/attention/cuda/ptx.cuh for the emulator: the same functions in plain C++, written from the PTX ISA and not from
// fragments.h. Found in its place because this folder comes first in the include path of one test.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lane/base/dtype.h"
#include "tests/attention/emulated/emulator.h"

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

namespace lane::cuda::attention {

namespace emulator = testing::emulator;

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(BF16 value) { return float_from_bf16(value.bits); }
inline float widen(F16 value) { return float_from_f16(value.bits); }

template <class T>
T narrow(float value);
template <>
inline float narrow<float>(float value) {
  return value;
}
template <>
inline BF16 narrow<BF16>(float value) {
  return {bf16_from_float(value)};
}
template <>
inline F16 narrow<F16>(float value) {
  return {f16_from_float(value)};
}

template <class T>
uint32_t pack(float low, float high) {
  return narrow<T>(low).bits | static_cast<uint32_t>(narrow<T>(high).bits) << 16;
}

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};
inline uint32_t lower_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
inline uint32_t upper_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

struct BlockIndex {
  int x, y, z;
};
inline int grid_width() { return emulator::grid_width(); }
inline BlockIndex block_index() {
  const auto [x, y, z, thread] = emulator::index();
  return {x, y, z};
}
inline int thread_index() { return emulator::index().thread; }
inline unsigned ask_thread_index() { return static_cast<unsigned>(thread_index()); }
inline int lane_index() { return thread_index() % 32; }
inline int warp_index() { return thread_index() / 32; }

inline char* shared_memory() { return emulator::shared_memory(); }

inline void sync_block() { emulator::sync_block(); }
inline void sync_warp() {
  emulator::together("sync_warp", nullptr, [](auto&) {});
}

inline float shuffle_xor(float value, int mask) {
  struct Part {
    float value;
    int mask;
  } part{value, mask};
  emulator::together("shuffle_xor", &part, [](void* const(&parts)[32]) {
    float values[32];
    for (int lane = 0; lane < 32; ++lane) values[lane] = static_cast<Part*>(parts[lane])->value;
    for (int lane = 0; lane < 32; ++lane) {
      auto* mine = static_cast<Part*>(parts[lane]);
      mine->value = values[lane ^ mine->mask];
    }
  });
  return part.value;
}
inline int shuffle(int value, int source) {
  struct Part {
    int value, source;
  } part{value, source};
  emulator::together("shuffle", &part, [](void* const(&parts)[32]) {
    int values[32];
    for (int lane = 0; lane < 32; ++lane) values[lane] = static_cast<Part*>(parts[lane])->value;
    for (int lane = 0; lane < 32; ++lane) {
      auto* mine = static_cast<Part*>(parts[lane]);
      mine->value = values[mine->source];
    }
  });
  return part.value;
}

inline float power_of_2(float exponent) { return std::exp2(exponent); }
inline float quotient(float a, float b) { return a / b; }
inline float reciprocal_root(float value) { return 1 / std::sqrt(value); }
inline float hyperbolic_tangent(float value) { return std::tanh(value); }
inline float greater(float a, float b) { return std::fmax(a, b); }

// "Each thread in the group of eight, starting with thread 0 for matrix 0, holds the address of a row"; "thread i holds
// elements 2 (i % 4) and 2 (i % 4) + 1 of row i / 4", or of column i / 4 with .trans.
struct MatrixPart {
  const void* row;
  uint32_t* regs;
};
inline void load_matrices(MatrixPart part, const char* what, bool transposed) {
  emulator::check_shared(part.row, 16, 16);
  emulator::together(what, &part, [transposed](void* const(&parts)[32]) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t elements[8][8];
      for (int row = 0; row < 8; ++row)
        std::memcpy(elements[row], static_cast<MatrixPart*>(parts[8 * matrix + row])->row, 16);
      for (int i = 0; i < 32; ++i) {
        const int major = i / 4, minor = 2 * (i % 4);
        const uint16_t low = transposed ? elements[minor][major] : elements[major][minor];
        const uint16_t high = transposed ? elements[minor + 1][major] : elements[major][minor + 1];
        static_cast<MatrixPart*>(parts[i])->regs[matrix] = low | static_cast<uint32_t>(high) << 16;
      }
    }
  });
}
inline void load_matrices(uint32_t (&regs)[4], const void* row) { load_matrices({row, regs}, "ldmatrix", false); }
inline void load_matrices_transposed(uint32_t (&regs)[4], const void* row) {
  load_matrices({row, regs}, "ldmatrix.trans", true);
}

// The fragments' tables of the PTX ISA, with groupID = lane >> 2 and threadID_in_group = lane % 4:
//   A: row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, groupID + 8 otherwise;
//      col = (threadID_in_group * 2) + (i & 0x1) for ai where i < 4, + 8 otherwise
//   B: row = (threadID_in_group * 2) + (i & 0x1) for bi where i < 2, + 8 otherwise; col = groupID
//   C: row = groupID for ci where i < 2, groupID + 8 otherwise; col = (threadID_in_group * 2) + (i & 0x1)
template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Part {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } part{c, a, {b0, b1}};
  emulator::together("mma", &part, [](void* const(&parts)[32]) {
    const auto element = [](const uint32_t* regs, int i) {
      return widen(T{static_cast<uint16_t>(regs[i / 2] >> 16 * (i % 2))});
    };
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto* mine = static_cast<Part*>(parts[lane]);
      const int group = lane >> 2, in_group = lane % 4;
      for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
        left[row][in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)] = element(mine->a, i);
      }
      for (int i = 0; i < 4; ++i) right[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element(mine->b, i);
    }
    for (int lane = 0; lane < 32; ++lane) {
      auto* mine = static_cast<Part*>(parts[lane]);
      for (int i = 0; i < 4; ++i) {
        const int row = (lane >> 2) + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
        float sum = mine->c[i];
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        mine->c[i] = sum;
      }
    }
  });
}

inline void copy_async(void* shared, const void* global, bool reads) { emulator::copy_async(shared, global, reads); }
inline void end_group_of_copies() { emulator::end_group_of_copies(); }
template <int kOpen>
void wait_for_copies() {
  emulator::wait_for_copies(kOpen);
}

// Of a size and at a multiple of it.
inline void prefetch(const void*) {}
template <class T>
T load_fresh(const T* from) {
  emulator::check_aligned(from, sizeof(T));
  return *from;
}
inline bool arrive(uint32_t* counter, uint32_t count) {
  const bool is_last = *counter == count - 1;
  *counter = is_last ? 0 : *counter + 1;
  return is_last;
}
inline void publish() {}
inline void wait_for_previous_kernel() { emulator::wait_for_previous_kernel(); }
inline void let_next_kernel_start() {}

}  // namespace lane::cuda::attention
