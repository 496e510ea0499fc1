// Medians of calls in CUDA graphs, in microseconds, from docs/performance/allreduce_h200.md (`lane bench allreduce
// --device cuda`). They hold where nobody ran `lane tune collectives --device cuda`.
#include <array>

#include "lane/comm/cuda/measured.h"

namespace lane::cuda {
namespace {

constexpr int64_t operator""_K(unsigned long long number) { return static_cast<int64_t>(number) << 10; }
constexpr int64_t operator""_M(unsigned long long number) { return static_cast<int64_t>(number) << 20; }

// Four ranks of one node. A vector of float32 takes as long as one of 16-bit elements and as many bytes.
constexpr std::array kFourOneShot = {
    ShippedPoint{8_K, 2.35},   ShippedPoint{16_K, 2.41},  ShippedPoint{32_K, 2.56},  ShippedPoint{64_K, 2.83},
    ShippedPoint{128_K, 3.39}, ShippedPoint{256_K, 4.58}, ShippedPoint{512_K, 7.03}, ShippedPoint{1_M, 12.1},
    ShippedPoint{2_M, 22.2},   ShippedPoint{4_M, 43.3},
};
constexpr std::array kFourTwoShot = {
    ShippedPoint{8_K, 3.75},   ShippedPoint{16_K, 3.81},  ShippedPoint{32_K, 3.9},   ShippedPoint{64_K, 3.95},
    ShippedPoint{128_K, 4.04}, ShippedPoint{256_K, 4.24}, ShippedPoint{512_K, 5.26}, ShippedPoint{1_M, 7.07},
    ShippedPoint{2_M, 12.2},   ShippedPoint{4_M, 23.6},   ShippedPoint{8_M, 43.6},   ShippedPoint{16_M, 88.0},
    ShippedPoint{64_M, 381},   ShippedPoint{256_M, 1594},
};
constexpr std::array kFourNccl = {
    ShippedPoint{8_K, 9.74},   ShippedPoint{16_K, 10.5},  ShippedPoint{32_K, 10.8},  ShippedPoint{64_K, 11.1},
    ShippedPoint{128_K, 11.1}, ShippedPoint{256_K, 11.4}, ShippedPoint{512_K, 14.2}, ShippedPoint{1_M, 17.9},
    ShippedPoint{2_M, 29.2},   ShippedPoint{4_M, 42.2},   ShippedPoint{8_M, 62.1},   ShippedPoint{16_M, 99.1},
    ShippedPoint{64_M, 322},   ShippedPoint{256_M, 1183},
};
// Two.
constexpr std::array kTwoOneShot = {
    ShippedPoint{8_K, 2.17},   ShippedPoint{16_K, 2.24},  ShippedPoint{32_K, 2.3},  ShippedPoint{64_K, 2.39},
    ShippedPoint{128_K, 2.59}, ShippedPoint{256_K, 2.99}, ShippedPoint{512_K, 3.8}, ShippedPoint{1_M, 5.52},
    ShippedPoint{2_M, 9.19},   ShippedPoint{4_M, 17.8},
};
constexpr std::array kTwoTwoShot = {
    ShippedPoint{8_K, 3.07},   ShippedPoint{16_K, 3.17},  ShippedPoint{32_K, 3.23}, ShippedPoint{64_K, 3.29},
    ShippedPoint{128_K, 3.42}, ShippedPoint{256_K, 3.67}, ShippedPoint{512_K, 4.2}, ShippedPoint{1_M, 5.48},
    ShippedPoint{2_M, 9.08},   ShippedPoint{4_M, 16.6},
};
constexpr std::array kTwoNccl = {
    ShippedPoint{8_K, 6.84},   ShippedPoint{16_K, 6.97},  ShippedPoint{32_K, 7.06},  ShippedPoint{64_K, 7.2},
    ShippedPoint{128_K, 7.45}, ShippedPoint{256_K, 8.63}, ShippedPoint{512_K, 10.2}, ShippedPoint{1_M, 14.4},
    ShippedPoint{2_M, 27.3},   ShippedPoint{4_M, 33.5},
};

constexpr std::array kCurves = {
    ShippedCurve{"NVIDIA H200", 4, 1, 16, "one_shot", kFourOneShot},
    ShippedCurve{"NVIDIA H200", 4, 1, 16, "two_shot", kFourTwoShot},
    ShippedCurve{"NVIDIA H200", 4, 1, 16, "nccl", kFourNccl},
    ShippedCurve{"NVIDIA H200", 2, 1, 16, "one_shot", kTwoOneShot},
    ShippedCurve{"NVIDIA H200", 2, 1, 16, "two_shot", kTwoTwoShot},
    ShippedCurve{"NVIDIA H200", 2, 1, 16, "nccl", kTwoNccl},
    ShippedCurve{"NVIDIA H200", 4, 1, 32, "one_shot", kFourOneShot},
    ShippedCurve{"NVIDIA H200", 4, 1, 32, "two_shot", kFourTwoShot},
    ShippedCurve{"NVIDIA H200", 4, 1, 32, "nccl", kFourNccl},
    ShippedCurve{"NVIDIA H200", 2, 1, 32, "one_shot", kTwoOneShot},
    ShippedCurve{"NVIDIA H200", 2, 1, 32, "two_shot", kTwoTwoShot},
    ShippedCurve{"NVIDIA H200", 2, 1, 32, "nccl", kTwoNccl},
};

}  // namespace

std::span<const ShippedCurve> shipped_curves() { return kCurves; }

}  // namespace lane::cuda
