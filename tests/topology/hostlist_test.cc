#include "lane/topology/hostlist.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::topology {
namespace {

using Names = std::vector<std::string>;

TEST(Hostlist, ExpandsAsSlurmDoes) {
  EXPECT_EQ(expand_hostlist("n[01-04,07],login1"), (Names{"n01", "n02", "n03", "n04", "n07", "login1"}));
  EXPECT_EQ(expand_hostlist("a[9-11]"), (Names{"a9", "a10", "a11"}));
  EXPECT_EQ(expand_hostlist("r[1-2]n[1-2]-ib"), (Names{"r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"}));
  EXPECT_EQ(expand_hostlist("gpu.example.org"), Names{"gpu.example.org"});
  EXPECT_TRUE(expand_hostlist("").empty());
}

TEST(Hostlist, CompressesAndExpandsToTheSame) {
  const Names names = {"n01", "n02", "n03", "n07", "login1", "n100", "x", "y8-ib", "y9-ib", "y10-ib"};
  EXPECT_EQ(compress_hostlist(names), "n[01-03,07],login1,n100,x,y[8-9]-ib,y10-ib");
  EXPECT_EQ(expand_hostlist(compress_hostlist(names)), names);
  EXPECT_EQ(compress_hostlist({}), "");
  for (uint64_t i = 0; i < 500; ++i) {
    Names random;
    for (uint64_t j = 0; j < random_bits(1, i) % 12; ++j) {
      const uint64_t draw = random_bits(2, i * 16 + j);
      random.push_back((draw & 1 ? "n" : "rack2-n") + std::to_string(draw >> 8 & 15) + (draw & 2 ? "" : "x"));
    }
    EXPECT_EQ(expand_hostlist(compress_hostlist(random)), random);
  }
}

TEST(Hostlist, RefusesNonsenseWithAReason) {
  for (const char* bad : {"n[", "n[1", "n[1-]", "n[a]", "n[4-2]", "n[]", "a,,b", "a,", ",a", "a b", "n]1",
                          "n[1-9999999999]", "n[0-999999999]", "n[0-9999][0-9999]", "a\n"})
    EXPECT_THROW(expand_hostlist(bad), Error) << bad;
}

TEST(Hostlist, TenThousandMutationsAreReadOrRefused) {
  const std::string good = "r[01-04,07]n[1-3]-ib,login[1,5-6],x.y";
  int num_read = 0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    std::string text = good;
    const uint64_t draw = random_bits(3, i);
    const size_t at = draw % text.size();
    if (draw >> 62 == 0) text.erase(at, 1);
    if (draw >> 62 == 1) text[at] = "[]-,09a"[(draw >> 32) % 7];
    if (draw >> 62 == 2) text.insert(at, 1, "[]-,09a"[(draw >> 32) % 7]);
    if (draw >> 62 == 3) text[at] = static_cast<char>(draw >> 32);
    try {
      num_read += expand_hostlist(text, 10'000).size() > 0;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(num_read, 1000);
}

}  // namespace
}  // namespace lane::topology
