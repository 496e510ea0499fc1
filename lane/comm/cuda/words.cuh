// The device's unit of exchange: a line of 16 bytes whose four 32-bit words each tell whether they have arrived.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "lane/comm/cuda/view.h"

namespace lane::cuda {

// A word of a receive buffer is EMPTY until data lands on it; a reader polls its own memory until no word of a line is
// EMPTY. That takes no flag, no barrier and no byte on the wire beside the data, and it relies on one thing only: a
// naturally aligned 32-bit store is seen whole or not at all (PTX ISA, memory consistency model: scalar accesses of up
// to 64 bits are single-copy atomic; a vector access counts as as many scalar ones in no order). EMPTY is a zero with a
// minus: data that happens to be it goes as plus zero, which is equal to it. Integer compares only: a float compare
// would call it equal to plus zero. The scheme is known as Lamport's (TensorRT-LLM) or a sentinel's (collectives by
// SGLang, vLLM); NCCL's LL protocol spends half the wire on flags instead.
//
// EMPTY is float32's minus zero, and of two 16-bit floats plus zero and minus zero: one value for all types, so that a
// buffer can be cleared before it is known who writes to it next.
inline constexpr uint32_t kEmpty = 0x80000000u;

using Line = uint4;

template <class T>
inline constexpr int kPerLine = kLineBytes / static_cast<int>(sizeof(T));

__device__ __forceinline__ Line empty_line() { return {kEmpty, kEmpty, kEmpty, kEmpty}; }
__device__ __forceinline__ bool has_arrived(const Line& line) {
  return line.x != kEmpty && line.y != kEmpty && line.z != kEmpty && line.w != kEmpty;
}
__device__ __forceinline__ Line sendable(Line line) {
  line.x = line.x == kEmpty ? 0u : line.x;
  line.y = line.y == kEmpty ? 0u : line.y;
  line.z = line.z == kEmpty ? 0u : line.z;
  line.w = line.w == kEmpty ? 0u : line.w;
  return line;
}

// Relaxed at system scope: seen by and from other GPUs, cached nowhere on the way.
__device__ __forceinline__ Line load_line(const Line* from) {
  Line line;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(line.x), "=r"(line.y), "=r"(line.z), "=r"(line.w)
               : "l"(from)
               : "memory");
  return line;
}
__device__ __forceinline__ void store_line(Line* to, const Line& line) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(line.x), "r"(line.y), "r"(line.z),
               "r"(line.w)
               : "memory");
}
__device__ __forceinline__ uint32_t load_word(const uint32_t* from) {
  uint32_t word;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}
__device__ __forceinline__ void store_word(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}

// A line's elements, in the float32 that sums are kept in.
template <class T>
struct Floats {
  float at[kPerLine<T>];
};

__device__ __forceinline__ Floats<float> to_floats(const Line& line, float) {
  return {{__uint_as_float(line.x), __uint_as_float(line.y), __uint_as_float(line.z), __uint_as_float(line.w)}};
}
__device__ __forceinline__ Floats<__nv_bfloat16> to_floats(const Line& line, __nv_bfloat16) {
  Floats<__nv_bfloat16> floats;
  const uint32_t words[4] = {line.x, line.y, line.z, line.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // a bfloat16 is the upper half of a float32
    floats.at[2 * i] = __uint_as_float(words[i] << 16);
    floats.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return floats;
}
__device__ __forceinline__ Floats<__half> to_floats(const Line& line, __half) {
  Floats<__half> floats;
  const uint32_t words[4] = {line.x, line.y, line.z, line.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    floats.at[2 * i] = pair.x, floats.at[2 * i + 1] = pair.y;
  }
  return floats;
}
template <class T>
__device__ __forceinline__ Floats<T> floats_of(const Line& line) {
  return to_floats(line, T{});
}

__device__ __forceinline__ Line to_line(const Floats<float>& floats) {
  return {__float_as_uint(floats.at[0]), __float_as_uint(floats.at[1]), __float_as_uint(floats.at[2]),
          __float_as_uint(floats.at[3])};
}
__device__ __forceinline__ Line to_line(const Floats<__nv_bfloat16>& floats) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(floats.at[2 * i], floats.at[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  return {words[0], words[1], words[2], words[3]};
}
__device__ __forceinline__ Line to_line(const Floats<__half>& floats) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __half2 pair = __floats2half2_rn(floats.at[2 * i], floats.at[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  return {words[0], words[1], words[2], words[3]};
}

}  // namespace lane::cuda
