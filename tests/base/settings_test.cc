#include "lane/base/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "lane/base/error.h"

namespace lane {
namespace {

TEST(Settings, TheEnvironmentOverridesTheFallback) {
  ::unsetenv("LANE_ALGORITHM");
  EXPECT_EQ(setting("LANE_ALGORITHM"), "auto");
  ::setenv("LANE_ALGORITHM", "ring", 1);
  EXPECT_EQ(setting("LANE_ALGORITHM"), "ring");
  ::setenv("LANE_ALGORITHM", "", 1);
  EXPECT_EQ(setting("LANE_ALGORITHM"), "auto");
  ::unsetenv("LANE_ALGORITHM");
}

TEST(Settings, AnUnknownNameIsABug) { EXPECT_THROW(setting("LANE_NO_SUCH_THING"), Error); }

TEST(Settings, TheTimeoutMustBeANumber) {
  for (const char* bad : {"soon", "0", "-5", "10s", "99999999999999999999"}) {
    ::setenv("LANE_TIMEOUT_MS", bad, 1);
    EXPECT_THROW(timeout_setting(), Error) << bad;
  }
  ::setenv("LANE_TIMEOUT_MS", "1500", 1);
  EXPECT_EQ(timeout_setting(), std::chrono::milliseconds(1500));
  ::unsetenv("LANE_TIMEOUT_MS");
}

TEST(Settings, EachHasANameAndAHelpText) {
  for (const Setting& known : kSettings) {
    EXPECT_TRUE(known.name.starts_with("LANE_"));
    EXPECT_GT(known.help.size(), 10u) << known.name;
  }
}

}  // namespace
}  // namespace lane
