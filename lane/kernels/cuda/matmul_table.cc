// Made by scripts/make_matmul_table.py from measurements of bench_matmul_cuda on an H200. Do not edit.
#include "lane/kernels/cuda/matmul_table.cuh"

#include <algorithm>
#include <array>
#include <cmath>

namespace lane::cuda {
namespace {

constexpr std::array<int64_t, 9> kRows = {1, 2, 4, 8, 16, 24, 32, 48, 64};

constexpr MatmulWay kOwn = {.is_own = true};
constexpr MatmulWay blas(int candidate) { return {.candidate = candidate}; }

struct Measured {
  int64_t n, k;
  bool gated;
  std::array<MatmulWay, kRows.size()> ways;  // for up to kRows[i] rows of x
};
// clang-format off
constexpr Measured kTable[] = {
    {1536, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(2)}}},
    {2560, 8192, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(0)}}},
    {3072, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(1), blas(5), blas(1), blas(0)}}},
    {4096, 1024, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(0)}}},
    {4096, 2048, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(0)}}},
    {4096, 3584, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(1), blas(0), blas(1), blas(0)}}},
    {4096, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(2), blas(0), blas(2), blas(0)}}},
    {4096, 7168, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(3), blas(0), blas(3), blas(0)}}},
    {4096, 14336, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(3)}}},
    {5120, 8192, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(1)}}},
    {6144, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(3), blas(0)}}},
    {7168, 4096, true, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(0)}}},
    {8192, 2048, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(5)}}},
    {8192, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(1)}}},
    {8192, 7168, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(2)}}},
    {8192, 14336, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(2), blas(2), blas(2), blas(3)}}},
    {14336, 4096, true, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(3), blas(1)}}},
    {14336, 8192, true, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(1), blas(1)}}},
    {28672, 4096, true, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(1), blas(2)}}},
    {28672, 8192, true, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(1), blas(1)}}},
    {32064, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(2)}}},
    {32064, 8192, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(0), blas(0), blas(0), blas(2)}}},
    {64128, 4096, false, {{kOwn, kOwn, kOwn, kOwn, kOwn, blas(3), blas(3), blas(3), blas(5)}}},
    {64128, 8192, false, {{kOwn, kOwn, blas(1), blas(1), blas(2), blas(3), blas(3), blas(3), blas(5)}}},
    {128256, 4096, false, {{kOwn, kOwn, kOwn, kOwn, blas(0), blas(3), blas(1), blas(3), blas(3)}}},
};
// clang-format on

}  // namespace

MatmulWay choose_way(int64_t m, int64_t n, int64_t k, bool gated) {
  if (m > kRows.back()) return {};
  const auto apart = [](int64_t a, int64_t b) {
    return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
  };
  const Measured* nearest = nullptr;
  double least = 0;
  for (const Measured& measured : kTable) {
    if (measured.gated != gated) continue;
    const double distance = measured.n == n && measured.k == k ? 0 : apart(measured.n, n) + apart(measured.k, k);
    if (nearest == nullptr || distance < least) nearest = &measured, least = distance;
    if (least == 0) break;
  }
  return nearest->ways[static_cast<size_t>(std::lower_bound(kRows.begin(), kRows.end(), m) - kRows.begin())];
}

}  // namespace lane::cuda
