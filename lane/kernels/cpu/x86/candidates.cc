#include <array>

#include "lane/kernels/cpu/isa.h"
#include "lane/kernels/cpu/x86/isas.h"

namespace lane::kernels::cpu {
namespace {

const char* missing_avx2() {
  if (!__builtin_cpu_supports("avx2")) return "avx2";
  if (!__builtin_cpu_supports("fma")) return "fma";
  if (!__builtin_cpu_supports("f16c")) return "f16c";
  return nullptr;
}

const char* missing_avx512() {
  if (!__builtin_cpu_supports("avx512f")) return "avx512f";
  if (!__builtin_cpu_supports("avx512bw")) return "avx512bw";
  if (!__builtin_cpu_supports("avx512vl")) return "avx512vl";
  if (!__builtin_cpu_supports("avx512dq")) return "avx512dq";
  return nullptr;
}

const char* missing_avx512_bf16() {
  if (const char* missing = missing_avx512()) return missing;
  return __builtin_cpu_supports("avx512bf16") ? nullptr : "avx512bf16";
}

}  // namespace

std::span<const Candidate> candidates() {
  static const std::array<Candidate, 4> all = {{{&kAvx512Bf16, missing_avx512_bf16()},
                                                {&kAvx512, missing_avx512()},
                                                {&kAvx2, missing_avx2()},
                                                {&kBaseline, nullptr}}};
  return all;
}

}  // namespace lane::kernels::cpu
