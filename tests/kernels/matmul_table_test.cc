#include "lane/kernels/cuda/matmul_table.cuh"

#include <gtest/gtest.h>

namespace lane::cuda {
namespace {

bool same(const MatmulWay& a, const MatmulWay& b) { return a.is_own == b.is_own && a.candidate == b.candidate; }

TEST(MatmulTable, FewRowsOfAMeasuredShapeGoToTheOwnKernel) {
  for (const int64_t m : {1, 2, 3, 8, 16}) EXPECT_TRUE(choose_way(m, 6144, 4096, false).is_own) << m;
  EXPECT_FALSE(choose_way(64, 6144, 4096, false).is_own);
}

TEST(MatmulTable, RowsBetweenTwoMeasuredOnesTakeTheLarger) {
  for (int64_t m = 17; m <= 24; ++m)
    EXPECT_TRUE(same(choose_way(m, 128256, 4096, false), choose_way(24, 128256, 4096, false))) << m;
}

TEST(MatmulTable, AnUnmeasuredShapeTakesTheNearestOfItsKind) {
  for (const int64_t m : {1, 8, 16, 24, 32, 48, 64}) {
    EXPECT_TRUE(same(choose_way(m, 6000, 4200, false), choose_way(m, 6144, 4096, false))) << m;
    EXPECT_TRUE(same(choose_way(m, 28000, 8192, true), choose_way(m, 28672, 8192, true))) << m;
  }
}

TEST(MatmulTable, ManyRowsAreCublasLtsFirstChoice) {
  for (const bool gated : {false, true})
    for (const int64_t m : {65, 8192}) EXPECT_TRUE(same(choose_way(m, 4096, 4096, gated), MatmulWay{})) << m;
}

}  // namespace
}  // namespace lane::cuda
