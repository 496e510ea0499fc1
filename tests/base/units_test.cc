#include "lane/base/units.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane {
namespace {

TEST(Units, BytesAreParsedWithTheirSuffix) {
  EXPECT_EQ(parse_bytes("4096", "--x"), 4096);
  EXPECT_EQ(parse_bytes("2G", "--x"), int64_t{2} << 30);
  EXPECT_EQ(parse_bytes("1.5GiB", "--x"), int64_t{3} << 29);
  EXPECT_EQ(parse_bytes("10k", "--x"), 10000);
  EXPECT_EQ(parse_bytes("10K", "--x"), 10240);
  EXPECT_EQ(parse_bytes("7B", "--x"), 7);
}

TEST(Units, NonsenseIsAnErrorThatRepeatsIt) {
  for (const char* bad : {"", "G", "-1", "2X", "2GG", "1e30", "nan", "12 G"}) {
    try {
      parse_bytes(bad, "--kv-cache-memory-bytes");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(std::string("--kv-cache-memory-bytes ") + bad), std::string::npos);
    }
  }
}

TEST(Units, NumbersAreWrittenForPeople) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_rate(38.2e9), "38.2 GB/s");
  EXPECT_EQ(format_duration(12.3e-6), "12.3 µs");
  EXPECT_EQ(format_duration(4.56e-3), "4.56 ms");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-1234), "-1,234");
  EXPECT_EQ(format_count(999), "999");
}

TEST(Random, IsAFunctionOfKeyAndCounterAndLooksUniform) {
  EXPECT_EQ(random_bits(1, 2), random_bits(1, 2));
  EXPECT_NE(random_bits(1, 2), random_bits(2, 1));
  double mean = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double value = random_uniform(42, i);
    ASSERT_GT(value, 0);
    ASSERT_LT(value, 1);
    mean += value / 10000;
  }
  EXPECT_NEAR(mean, 0.5, 4 * 0.2887 / 100);  // four standard errors
}

}  // namespace
}  // namespace lane
