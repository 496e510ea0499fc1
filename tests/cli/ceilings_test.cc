#include "cli/ceilings.h"

#include <gtest/gtest.h>

namespace lane::cli {
namespace {

TEST(Ceilings, AddUpWhatEachRankMeasured) {
  const Ceilings ranks[] = {{.read_bytes_per_s = 4.5e12, .flops_per_s = 1e15},
                            {.read_bytes_per_s = 4.0e12, .flops_per_s = 1e15}};
  const Ceilings all = add_up(ranks);
  EXPECT_EQ(all.read_bytes_per_s, 8.5e12);
  EXPECT_EQ(all.flops_per_s, 2e15);
  EXPECT_EQ(all.read_bytes_per_s_of_ranks, (std::vector<double>{4.5e12, 4.0e12}));
}

TEST(Ceilings, AreUnknownWhereOneIs) {
  const Ceilings ranks[] = {{.read_bytes_per_s = 4.5e12, .flops_per_s = 0},
                            {.read_bytes_per_s = 0, .flops_per_s = 1e15}};
  const Ceilings all = add_up(ranks);
  EXPECT_EQ(all.read_bytes_per_s, 0);
  EXPECT_EQ(all.flops_per_s, 0);
  EXPECT_TRUE(share_of(1e12, all.read_bytes_per_s).is_null());
  EXPECT_EQ(percent_of(1e12, all.read_bytes_per_s), "unknown");
}

}  // namespace
}  // namespace lane::cli
