// Jobs over an emulated network: slow, lossy, cut. Every host is a network namespace of its own (tools/netlab).
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "tests/comm/spawned.h"

namespace lane {
namespace {

using std::chrono::seconds;

constexpr int kSkipStatus = 77;

// What a launcher would set in each host, a rank each; WORLD_SIZE comes from outside.
constexpr const char* kRankVariables =
    "export RANK=$NETLAB_INDEX LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 LANE_JOB=network-test LANE_SECRET=of-the-test"
    " LANE_RENDEZVOUS=$(echo $NETLAB_HOSTS | sed 's/^[^:]*:\\([^,]*\\),.*/\\1/'):4400;";

class Network : public testing::Test {
 protected:
  void SetUp() override {
    const auto result = Spawned({LANE_NETLAB, "run", "--hosts", "1", "--", "true"}).wait();
    if (result.status == kSkipStatus) GTEST_SKIP() << result.text;
    ASSERT_EQ(result.status, 0) << result.text;
  }

  static std::string next_socket() {
    static int count = 0;
    return "@lane-network-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  }

  // rank_main on each of `hosts` hosts, a rank each.
  static Spawned start(const std::string& scenario, int hosts, int victim, int timeout_ms, const std::string& delay,
                       const std::string& socket, const std::string& loss = "0%", const std::string& limit = "90s") {
    const std::string each = std::string(kRankVariables) + "exec " LANE_RANK_MAIN " " + scenario + " " +
                             std::to_string(hosts) + " " + std::to_string(victim) + " " + std::to_string(timeout_ms);
    return Spawned({LANE_NETLAB, "run", "--socket", socket, "--hosts", std::to_string(hosts), "--delay", delay,
                    "--rate", "100mbit", "--loss", loss, "--timeout", limit, "--", "sh", "-c", each},
                   {"LANE_TIMEOUT_MS=" + std::to_string(timeout_ms), "WORLD_SIZE=" + std::to_string(hosts)});
  }

  static void set(const std::string& socket, const std::string& host, const std::string& what) {
    const auto result = Spawned({LANE_NETLAB, "set", host, what}, {"NETLAB_SOCKET=" + socket}).wait();
    ASSERT_EQ(result.status, 0) << result.text;
  }

  static std::string line_of(const Spawned::Result& result, int rank) {
    const size_t at = result.text.find("rank " + std::to_string(rank) + " failed");
    if (at == std::string::npos) return "";
    return result.text.substr(at, result.text.find('\n', at) - at);
  }
};

TEST_F(Network, CarriesAJob) {
  const auto result = start("ok", 3, -1, 10'000, "0.5ms", next_socket()).wait(seconds(60));
  EXPECT_EQ(result.status, 0) << result.text;
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_NE(result.text.find("rank " + std::to_string(rank) + " of 3 done"), std::string::npos) << result.text;
}

// Slow is not dead: 400 ms there and back, every hundredth packet lost, and a timeout that is only a few times that.
TEST_F(Network, SlowAndLossyIsNotDead) {
  const auto result = start("few", 3, -1, 5'000, "200ms", next_socket(), "1%").wait(seconds(80));
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(result.text.find("failed"), std::string::npos) << result.text;
}

// The host of rank 1 is cut off while all ranks run: nobody hangs, and everybody says who is missing, where and when.
TEST_F(Network, CutLink) {
  constexpr int kTimeoutMs = 3000;
  const std::string socket = next_socket();
  Spawned job = start("endless", 3, -1, kTimeoutMs, "0.5ms", socket);
  ASSERT_TRUE(job.read_until("rank 0 runs", seconds(20))) << job.text();
  set(socket, "h1", "cut=true");
  const auto result = job.wait(seconds(40));
  ASSERT_TRUE(result.ended) << result.text;
  EXPECT_NE(result.status, 0);
  EXPECT_LT(result.seconds, kTimeoutMs * 1e-3 + 5) << result.text;
  for (int rank = 0; rank < 3; ++rank) {
    const std::string line = line_of(result, rank);
    EXPECT_NE(line.find("all_reduce #"), std::string::npos) << rank << ": " << result.text;
    EXPECT_NE(line.find("step "), std::string::npos) << line;
    EXPECT_NE(line.find(rank == 1 ? "rank " : "rank 1 (pid "), std::string::npos) << line;
  }
}

// A cut shorter than the timeout is bridged.
TEST_F(Network, ShortCutIsSurvived) {
  const std::string socket = next_socket();
  Spawned job = start("few", 3, -1, 15'000, "20ms", socket);
  ASSERT_TRUE(job.read_until("rank 0 runs", seconds(20))) << job.text();
  set(socket, "h2", "cut=true");
  std::this_thread::sleep_for(seconds(1));
  set(socket, "h2", "cut=false");
  const auto result = job.wait(seconds(60));
  EXPECT_EQ(result.status, 0) << result.text;
}

TEST_F(Network, KilledAndStopped) {
  for (const char* scenario : {"kill", "stop"}) {
    constexpr int kTimeoutMs = 3000;
    const auto result = start(scenario, 3, 1, kTimeoutMs, "0.5ms", next_socket(), "0%", "12s").wait(seconds(40));
    for (const int rank : {0, 2}) {  // a stopped rank 1 is ended by the laboratory
      const std::string line = line_of(result, rank);
      EXPECT_NE(line.find("rank 1 (pid "), std::string::npos) << scenario << " " << rank << ": " << result.text;
    }
  }
}

TEST_F(Network, OtherSizesAndCollectivesAreNamed) {
  for (const char* scenario : {"wrong_size", "wrong_collective"}) {
    const auto result = start(scenario, 3, 1, 5000, "0.5ms", next_socket()).wait(seconds(60));
    EXPECT_NE(result.status, 0);
    for (const int rank : {0, 2}) {
      const std::string line = line_of(result, rank);
      EXPECT_NE(line.find(" calls "), std::string::npos) << scenario << " " << rank << ": " << result.text;
      EXPECT_NE(line.find("rank 1"), std::string::npos) << line;
    }
  }
}

// The demo model over four hosts says what it says on one.
TEST_F(Network, GeneratesTheSameTokens) {
  const std::vector<std::string> generate = {LANE_BINARY,
                                             "generate",
                                             "--max-tokens",
                                             "24",
                                             "--no-progress",
                                             "-p",
                                             "How much is 4711 - 815?",
                                             "-p",
                                             "What is the capital of Arvenia?"};
  std::vector<std::string> here = generate;
  here.insert(here.end(), {"--tp", "4"});
  const auto wanted = Spawned(here).wait(seconds(60));
  ASSERT_EQ(wanted.status, 0) << wanted.text;

  std::vector<std::string> there = {LANE_NETLAB, "run",   "--hosts",   "4",
                                    "--delay",   "0.5ms", "--timeout", "90s",
                                    "--",        "sh",    "-c",        std::string(kRankVariables) + "exec \"$@\"",
                                    "rank"};
  there.insert(there.end(), generate.begin(), generate.end());
  const auto got = Spawned(there, {"WORLD_SIZE=4"}).wait(seconds(95));
  ASSERT_EQ(got.status, 0) << got.text;
  const auto answers = [](const std::string& text) {  // without the lines that tell times and machines
    const size_t begin = text.find("> "), end = text.find(" completion tokens");
    return text.substr(begin, end - begin);
  };
  EXPECT_NE(wanted.text.find("> How much"), std::string::npos) << wanted.text;
  EXPECT_EQ(answers(got.text), answers(wanted.text));
}

}  // namespace
}  // namespace lane
