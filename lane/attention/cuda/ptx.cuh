// The instructions that the kernels of attention are made of, and nothing else of CUDA: tests/attention/emulated/ has a
// second version of this file, in plain C++, on which the same kernels run thread by thread.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

namespace lane::cuda::attention {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(BF16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float widen(F16 value) { return __half2float(__ushort_as_half(value.bits)); }

// Rounded to nearest even.
template <class T>
__device__ T narrow(float value);
template <>
__device__ inline float narrow<float>(float value) {
  return value;
}
template <>
__device__ inline BF16 narrow<BF16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ inline F16 narrow<F16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

// Two values in a register, `low` in its lower half.
template <class T>
__device__ inline uint32_t pack(float low, float high);
template <>
__device__ inline uint32_t pack<BF16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline uint32_t pack<F16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// Elements that are loaded and stored at once.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};
// The lower halves of two registers in one, and the upper halves: `a` becomes the lower half.
__device__ inline uint32_t lower_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ inline uint32_t upper_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

struct BlockIndex {
  int x, y, z;
};
__device__ inline int grid_width() { return static_cast<int>(gridDim.x); }
__device__ inline BlockIndex block_index() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}
__device__ inline int thread_index() { return static_cast<int>(threadIdx.x); }
// The same, which the compiler does not know.
__device__ inline unsigned ask_thread_index() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / 32; }

__device__ inline char* shared_memory() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

__device__ inline void sync_warp() { __syncwarp(); }
__device__ inline void sync_block() { __syncthreads(); }
__device__ inline float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
__device__ inline int shuffle(int value, int source) { return __shfl_sync(0xffffffffu, value, source); }

__device__ inline float power_of_2(float exponent) { return exp2f(exponent); }   // 2 ulp; 0 of -infinity
__device__ inline float quotient(float a, float b) { return __fdividef(a, b); }  // 2 ulp, for b of 2^-126 to 2^126
__device__ inline float reciprocal_root(float value) { return rsqrtf(value); }
__device__ inline float hyperbolic_tangent(float value) { return tanhf(value); }
__device__ inline float greater(float a, float b) { return fmaxf(a, b); }

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// See fragments.h. `row`: the 16 bytes that this lane names.
__device__ inline void load_matrices(uint32_t (&regs)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&regs)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b
template <class T>
__device__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void multiply_add<BF16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void multiply_add<F16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes on their way from global to shared memory, or zeros where nothing is to be read.
__device__ inline void copy_async(void* shared, const void* global, bool reads) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(reads ? 16 : 0)
               : "memory");
}
__device__ inline void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the newest kOpen groups of this thread have arrived.
template <int kOpen>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// Asks for the 64 bytes around it, to be near when they are read.
__device__ inline void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }
// What other blocks wrote before they said so with arrive(), or kernels that were waited for: from the second level of
// the cache, since the first may hold what was there earlier.
template <int kBytes>
struct Raw;
template <>
struct Raw<2> {
  using Type = unsigned short;
};
template <>
struct Raw<4> {
  using Type = unsigned;
};
template <>
struct Raw<8> {
  using Type = uint2;
};
template <>
struct Raw<16> {
  using Type = uint4;
};
template <class T>
__device__ inline T load_fresh(const T* from) {
  using Type = typename Raw<sizeof(T)>::Type;
  const Type raw = __ldcg(reinterpret_cast<const Type*>(from));
  T value;
  memcpy(&value, &raw, sizeof value);
  return value;
}
// Called by one thread of each of `count` blocks, after a barrier of those that wrote: whether it is the last, which
// sees what the others wrote, and after another barrier its block does. The counter is 0 again then.
__device__ inline bool arrive(uint32_t* counter, uint32_t count) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(count - 1)
               : "memory");
  return before == count - 1;
}
__device__ inline void publish() { __threadfence(); }

// Programmatic dependent launch; both do nothing in a kernel that was launched without.
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace lane::cuda::attention
