#pragma once
#include <cstdint>
#include <string_view>

// What the machine can do at most; what a kernel reaches is stated as a share of these.
namespace lane::bench {

// Floating-point operations per second of `num_threads` threads that do nothing but independent multiply-adds, with
// the instructions named as by kernels::cpu_isa(); `bf16_dot`: with its bfloat16 dot product, where it has one.
double peak_flops(std::string_view isa, bool bf16_dot, int num_threads, int64_t (*clock_ns)());

}  // namespace lane::bench
