#include "lane/device/device_info.h"

#include <gtest/gtest.h>

namespace lane {
namespace {

DeviceInfo gpu(const char* name, int sm) { return {.name = name, .sm = sm}; }

TEST(DeviceInfo, SaysWhichGpusABuildRunsOn) {
  struct Case {
    const char* architectures;
    int sm;
    bool runs;
  };
  for (const Case& c : {Case{"80-real 90-real 100", 80, true},
                        {"80-real 90-real 100", 86, true},
                        {"80-real 90-real 100", 90, true},
                        {"80-real 90-real 100", 100, true},
                        {"80-real 90-real 100", 120, true},
                        {"80-real", 90, false},
                        {"86-real", 80, false},
                        {"90-real", 80, false},
                        {"80", 90, true},
                        {"90-virtual", 89, false},
                        {"90-virtual", 100, true},
                        {"90a", 90, true},
                        {"90a-real", 90, true},
                        {"90a", 100, false},
                        {"100f", 103, true},
                        {"100f-real", 120, false},
                        {"native", 90, true},
                        {"90-real 80-real", 89, true},
                        {"", 90, false}})
    EXPECT_EQ(why_not_usable(gpu("NVIDIA Any", c.sm), c.architectures).empty(), c.runs)
        << "\"" << c.architectures << "\" on " << c.sm;
}

TEST(DeviceInfo, NamesTheGpuAndWhatItNeeds) {
  EXPECT_EQ(why_not_usable(gpu("Tesla T4", 75), "75 80-real"),
            "Tesla T4 is of compute capability 7.5; 8.0 (A100) or newer is needed");
  EXPECT_EQ(why_not_usable(gpu("NVIDIA B200", 100), "80-real 90-real"),
            "NVIDIA B200 is of compute capability 10.0, and this build has kernels for 80-real 90-real only; configure "
            "with -DCMAKE_CUDA_ARCHITECTURES=100");
}

}  // namespace
}  // namespace lane
