// `lane bench allreduce` as a person runs it, with libraries beside it that behave and that do not.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/comm/local_group.h"
#include "lane/net/all_reduce_bench.h"
#include "lane/plan/schedule.h"
#include "tests/support/rank_group.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

struct Folder {
  std::string path = "/tmp/lane-bench-test-XXXXXX";
  Folder() { EXPECT_NE(::mkdtemp(path.data()), nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }

  // A library called Gloo that is a script: $1 is its rank, $2 the number of ranks.
  void write_peer(const std::string& script) const {
    const std::string file = path + "/lane_peer_gloo";
    std::ofstream(file) << "#!/bin/sh\n" << script;
    ::chmod(file.c_str(), 0755);
  }
};

test::Outcome bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {LANE_BINARY, "bench", "allreduce", "--no-progress"});
  return test::run(arguments, {.environment = {{"LANE_TUNING", "off"}}});
}

constexpr const char* kHello = "echo '{\"ok\":true,\"name\":\"Tortoise 1\",\"rank\":'$1',\"size\":'$2'}'\n";

TEST(BenchAllReduce, MeasuresEveryAlgorithmAndSaysWhatAutoRuns) {
  const Folder folder;
  const test::Outcome run =
      bench({"--ranks", "2", "--sizes", "8,5000", "--dtype", "float32,bfloat16", "--algorithms", "all", "--batches",
             "6", "--json", folder.path + "/r.json", "--svg", folder.path + "/r.svg"});
  EXPECT_EQ(run.status, 0) << run.err;
  const Json rows = parse_json(read_file(folder.path + "/r.json"), "r.json")["runs"][0]["rows"];
  const size_t algorithms = plan::schedule_names(plan::Collective::kAllReduce, plan::Layout::one_node(2)).size();
  // auto comes on top, and the ping-pong where the ranks have a core each.
  EXPECT_TRUE(rows.size() == 4 * (algorithms + 1) || rows.size() == 4 * (algorithms + 2)) << rows.size();
  for (const Json& row : rows) {
    const double bytes = row["bytes"], seconds = row["time"]["median_s"];
    EXPECT_EQ(row["time"]["num_samples"], 6);
    EXPECT_GT(seconds, 0);
    EXPECT_DOUBLE_EQ(row["algbw_bytes_per_s"], bytes / seconds);
    if (row["kind"] != "lane") continue;
    EXPECT_DOUBLE_EQ(row["busbw_bytes_per_s"], bytes / seconds);
    EXPECT_EQ(row["num_wrong"], 0);
    EXPECT_EQ(row["same_bits"], true);
    EXPECT_GT(row["expected_s"], 0);
  }
  EXPECT_EQ(rows[0]["algorithm"], "auto");
  EXPECT_NE(rows[0]["runs"], "auto");
  EXPECT_NE(run.out.find("# Out of bounds values : 0 OK"), std::string::npos) << run.out;
  EXPECT_NE(read_file(folder.path + "/r.svg").find("</svg>"), std::string::npos);
}

TEST(BenchAllReduce, BusBandwidthCountsTheRanks) {
  const Folder folder;
  const test::Outcome run =
      bench({"--ranks", "3", "--sizes", "600", "--batches", "5", "--json", folder.path + "/r.json"});
  EXPECT_EQ(run.status, 0) << run.err;
  const Json row = parse_json(read_file(folder.path + "/r.json"), "r.json")["runs"][0]["rows"][0];
  EXPECT_DOUBLE_EQ(row["busbw_bytes_per_s"], row["algbw_bytes_per_s"].get<double>() * 4 / 3);
}

TEST(BenchAllReduce, EveryOperationInPlaceAndUnderALimitOfCalls) {
  const test::Outcome run = bench({"--sizes", "64", "--dtype", "int32,float16", "--op", "sum,max,min,prod,avg",
                                   "--in-place", "--batches", "3", "--calls", "2"});
  EXPECT_EQ(run.status, 0) << run.err << run.out;
  EXPECT_NE(run.out.find("# Out of bounds values : 0 OK"), std::string::npos) << run.out;
}

TEST(BenchAllReduce, RefusesFlagsByNameWithARemedy) {
  const struct {
    std::vector<std::string> flags;
    const char* words;
  } kBad[] = {{{"--sizes", "8:4"}, "--sizes 8:4: the last size is to be at least the first"},
              {{"--sizes", "many"}, "--sizes many: expected a number of bytes"},
              {{"--dtype", "float8"}, "--dtype float8: \"float8\" is no type that is added up; known: float32"},
              {{"--op", "median"}, "--op median: there is no operation \"median\"; known: sum"},
              {{"--algorithms", "magic"}, "--algorithms magic: no all_reduce algorithm for one node is called magic"},
              {{"--peers", "nccl"}, "--peers nccl: there is no library \"nccl\" to compare with; known: mpi"},
              {{"--device", "tpu"}, "--device"},
              {{"--graph"}, "--graph is for --device cuda; leave it out here"},
              {{"--fused", "8192x1"}, "--fused is for --device cuda; leave it out here"},
              {{"--device", "cuda", "--in-place"}, "--in-place is for --device cpu; leave it out here"},
              {{"--device", "cuda", "--peers", "NCCL"}, "--peers NCCL: a peer on GPUs is NAME or NAME:OPTIONS"},
              {{"--device", "cuda", "--fused", "8192"}, "--fused 8192: give hidden size and tokens, as in 8192x1"},
              {{"--device", "cuda", "--fused", "4100x1"}, "--fused 4100x1: the hidden size is to be a multiple of 8"},
              {{"--device", "cuda", "--fused", "64x1", "--dtype", "int32"}, "--fused with --dtype int32: a norm is of"},
              {{"--device", "cuda", "--eager", "--cold"}, "--cold, --with-gemm and --skew are measured in graphs"}};
  for (const auto& bad : kBad) {
    const test::Outcome run = bench(bad.flags);
    EXPECT_NE(run.status, 0) << bad.words;
    EXPECT_NE(run.err.find(bad.words), std::string::npos) << run.err;
    EXPECT_EQ(run.out, "") << "nothing was measured";
  }
}

TEST(BenchPeer, ThatAnswersStandsBelowLane) {
  const Folder folder;
  folder.write_peer(std::string(kHello) + R"(while read command bytes dtype op calls batches; do
  [ "$command" = all_reduce ] || exit
  times=$(seq -s, $batches | sed "s/[0-9]*/$((5 + $1))/g")
  echo "{\"ok\":true,\"us\":[$times],\"wrong\":0}"
done
)");
  const test::Outcome run = bench({"--sizes", "64", "--batches", "6", "--peers", "gloo", "--peer-dir", folder.path,
                                   "--json", folder.path + "/r.json"});
  EXPECT_EQ(run.status, 0) << run.err;
  const Json rows = parse_json(read_file(folder.path + "/r.json"), "r.json")["runs"][0]["rows"];
  ASSERT_GE(rows.size(), 2u);
  EXPECT_EQ(rows[1]["algorithm"], "Tortoise 1");
  EXPECT_EQ(rows[1]["kind"], "peer");
  EXPECT_EQ(rows[1]["time"]["num_samples"], 6);
  EXPECT_DOUBLE_EQ(rows[1]["time"]["median_s"], 6e-6) << "the slowest rank's, which is the second";
  EXPECT_DOUBLE_EQ(rows[1]["time_over_auto"],
                   rows[1]["time"]["median_s"].get<double>() / rows[0]["time"]["median_s"].get<double>());
}

TEST(BenchPeer, ThatCannotRunIsASentenceAndNotTheEnd) {
  const std::string hello = kHello;
  const struct {
    std::string script;
    const char* words;
  } kBad[] = {{"echo no route to nowhere >&2; exit 1\n", "has ended: \"no route to nowhere\""},
              {"[ $1 = 1 ] && exec sleep 100\n" + hello + "cat >/dev/null\n", "did not answer within 0.5 s"},
              {hello + "[ $1 = 1 ] && read line && exit 1\nexec sleep 100\n", ""},
              {hello + "read line; exec sleep 100\n", "did not answer within"},
              {hello + "while read line; do echo '{\"ok\":false,\"error\":\"no such type\"}'; done\n", "no such type"},
              {hello + "read line; echo nonsense; exec sleep 100\n", "not valid JSON"},
              {"echo '{\"ok\":true,\"name\":\"Alone\",\"rank\":0,\"size\":1}'; cat >/dev/null\n",
               "it is not among the same ranks"}};
  for (const auto& bad : kBad) {
    const Folder folder;
    folder.write_peer(bad.script);
    const auto start = std::chrono::steady_clock::now();
    const test::Outcome run = bench({"--sizes", "64", "--batches", "5", "--peers", "gloo", "--peer-dir", folder.path,
                                     "--peer-timeout", "0.5", "--json", folder.path + "/r.json"});
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(40)) << bad.script;
    EXPECT_EQ(run.status, 0) << run.err;
    const Json rows = parse_json(read_file(folder.path + "/r.json"), "r.json")["runs"][0]["rows"];
    ASSERT_GE(rows.size(), 2u) << "Lane is measured all the same";
    EXPECT_GT(rows[0]["time"]["median_s"], 0);
    ASSERT_TRUE(rows[1].contains("error")) << bad.script;
    EXPECT_NE(rows[1]["error"].get<std::string>().find(bad.words), std::string::npos) << rows[1]["error"];
  }
  const test::Outcome run = bench({"--sizes", "64", "--batches", "5", "--peers", "gloo", "--peer-dir", "/nowhere"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_NE(run.out.find("gloo: lane_peer_gloo is not built"), std::string::npos) << run.out;
}

// Hosts that are pretended, so that algorithms for several are measured and checked, too.
TEST(BenchAllReduce, OnSeveralNodes) {
  run_ranks(
      4,
      [](Communicator& group) {
        const net::AllReduceOptions options{.sizes = {40}, .algorithms = {"all"}, .num_batches = 5, .num_calls = 1};
        std::vector<net::AllReduceRow> all;
        net::bench_all_reduce(
            group, options, [&](const std::vector<net::AllReduceRow>& rows) { all = rows; }, [](int64_t, int64_t) {});
        EXPECT_GT(all.size(), 50u);
        for (const net::AllReduceRow& row : all) {
          EXPECT_EQ(row.why_not, "");
          EXPECT_TRUE(row.same_bits) << row.algorithm;
          EXPECT_LE(row.num_wrong, 0) << row.algorithm;
        }
      },
      {.timeout = std::chrono::seconds(60)}, plan::Layout::uniform(2, 2));
}

}  // namespace
}  // namespace lane
