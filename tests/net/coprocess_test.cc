// Children that answer, fail, fall silent or die: each of it ends in time and says what happened.
#include "lane/net/coprocess.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "lane/base/error.h"

namespace lane::net {
namespace {

using std::chrono::milliseconds;

std::string error_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Coprocess, AnswersLineByLineWithItsVariables) {
  Coprocess echo({"/bin/sh", "-c", "while read line; do echo \"$PREFIX $line\"; done"}, {"PREFIX=heard"});
  for (const char* text : {"one", "two", "three"}) {
    echo.write_line(text);
    EXPECT_EQ(echo.read_line(milliseconds(10'000)), std::string("heard ") + text);
  }
}

TEST(Coprocess, ThatIsSilentIsGivenUp) {
  const auto start = std::chrono::steady_clock::now();
  {
    Coprocess silent({"/bin/sh", "-c", "echo --- >&2; echo still thinking >&2; echo === >&2; exec sleep 100"}, {});
    const std::string said = error_of([&] { silent.read_line(milliseconds(300)); }, ErrorCode::kTimeout);
    EXPECT_NE(said.find("did not answer within 0.3 s: \"still thinking\""), std::string::npos) << said;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << "its end has a limit, too";
}

TEST(Coprocess, ThatDiesIsMissed) {
  Coprocess dying({"/bin/sh", "-c", "read line; echo no such network >&2; exit 3"}, {});
  dying.write_line("go");
  const std::string said = error_of([&] { dying.read_line(milliseconds(10'000)); }, ErrorCode::kPeerLost);
  EXPECT_NE(said.find("has ended: \"no such network\""), std::string::npos) << said;
  // Its end of the pipe may go a little later than its answers'; no signal ends this process.
  const auto keep_asking = [&] {
    for (int i = 0; i < 2000; ++i) {
      dying.write_line("more");
      std::this_thread::sleep_for(milliseconds(5));
    }
  };
  error_of(keep_asking, ErrorCode::kPeerLost);
}

TEST(Coprocess, ThatDoesNotExistIsMissed) {
  Coprocess nothing({"/no/such/program"}, {});
  error_of([&] { nothing.read_line(milliseconds(10'000)); }, ErrorCode::kPeerLost);
}

}  // namespace
}  // namespace lane::net
