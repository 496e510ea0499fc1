// The script, checked and run: with programs in place of mpirun and nccl-tests that behave as those do.
#include "lane/net/nccl_script.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/net/nccl_tune.h"
#include "tests/support/subprocess.h"

namespace lane::net {
namespace {

namespace fs = std::filesystem;

NcclScriptOptions two_nodes() {
  NcclScriptOptions options{.version = "0.0", .command = "lane bench nccl", .num_ranks = 16, .ranks_per_node = 8};
  options.model_name = "llama-3-70b";
  options.hidden_size = 8192;
  return options;
}

class Script : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  std::string put(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(folder_ + "/" + name).parent_path());
    std::ofstream(folder_ + "/" + name) << text;
    ::chmod((folder_ + "/" + name).c_str(), 0755);
    return folder_ + "/" + name;
  }
  // Of a script: bash finds no mistake, and shellcheck none where it is installed.
  void expect_clean(const std::string& script) const {
    const std::string path = put("script.sh", script);
    const test::Outcome bash = test::run({"/bin/bash", "-n", path});
    EXPECT_EQ(bash.status, 0) << bash.err;
    const test::Outcome shellcheck =
        test::run({"/bin/sh", "-c", "! command -v shellcheck >/dev/null || shellcheck " + path});
    EXPECT_EQ(shellcheck.status, 0) << shellcheck.out;
  }
  std::string folder_ = testing::TempDir() + "lane_script_" + std::to_string(::getpid());
};

TEST_F(Script, AllFormsAreCleanShell) {
  for (const char* launcher : {"mpirun", "srun"})
    for (const char* plugin : {"", "/opt/lane/lib/liblane-nccl-tuner.so"}) {
      NcclScriptOptions options = two_nodes();
      options.launcher = launcher;
      options.tuner_plugin = plugin;
      options.hosts = {"n01", "n02"};
      options.collectives = {"all_reduce", "all_gather"};
      options.settings = {parse_nccl_setting("ring_ll128"), parse_nccl_setting("tree_simple_c8")};
      options.command = "lane bench nccl --model 'a\nb $(rm -rf /)'";
      expect_clean(nccl_script(options));
    }
  NcclScriptOptions options = two_nodes();
  options.hidden_size = 0;
  options.tuner_plugin = "/opt/lane/lib/liblane-nccl-tuner.so";  // and nothing to force
  options.hostfile = "/home/me/my hosts' file";
  const std::string script = nccl_script(options);
  expect_clean(script);
  EXPECT_NE(script.find(" --hostfile '/home/me/my hosts'\\'' file'"), std::string::npos);
}

TEST_F(Script, DecodeSizesAreThoseOfTheModel) {
  NcclScriptOptions options = two_nodes();
  EXPECT_NE(nccl_script(options).find("decode) echo \"-b 16384 -e 1048576 -f 2\""), std::string::npos);
  options.hidden_size = 5120;
  options.max_batch = 48;
  EXPECT_NE(nccl_script(options).find("decode) echo \"-b 10240 -e 327680 -f 2\""), std::string::npos);
}

TEST_F(Script, TheBaselineForcesNothing) {
  NcclScriptOptions options = two_nodes();
  options.settings = {parse_nccl_setting("ring_ll_c4")};
  options.repeats = 2;
  const std::string path = put("script.sh", nccl_script(options));
  const test::Outcome dry =
      test::run({"/bin/bash", path, "-n"}, {.environment = {{"NCCL_ALGO", "Ring"}, {"NCCL_IB_HCA", "=mlx5_0"}}});
  ASSERT_EQ(dry.status, 0) << dry.err;
  EXPECT_NE(dry.err.find("NCCL_ALGO=Ring is left out"), std::string::npos) << dry.err;
  std::istringstream lines(dry.out);
  int num_default = 0, num_forced = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_NE(line.find("mpirun -np 16 --map-by ppr:8:node"), std::string::npos) << line;
    EXPECT_NE(line.find("-x NCCL_IB_HCA"), std::string::npos) << "the site's own settings are handed on";
    const bool forced =
        line.find("NCCL_ALGO=Ring -x NCCL_PROTO=LL -x NCCL_MIN_CTAS=4 -x NCCL_MAX_CTAS=4") != std::string::npos;
    EXPECT_EQ(forced, line.find("NCCL_PROTO") != std::string::npos) << line;
    ++(forced ? num_forced : num_default);
  }
  EXPECT_EQ(num_default, 2 * (2 + 1)) << "two size ranges, two repeats and a proof";
  EXPECT_EQ(num_forced, num_default);
}

TEST_F(Script, ATableIsMeasuredBesideTheDefault) {
  NcclScriptOptions options = two_nodes();
  options.table = "/home/me/nccl_tuner.csv";
  EXPECT_THROW(nccl_script(options), Error) << "who would read it?";
  options.tuner_plugin = "/opt/lane/lib/liblane-nccl-tuner.so";
  options.repeats = 1;
  const std::string path = put("script.sh", nccl_script(options));
  expect_clean(nccl_script(options));
  const test::Outcome dry = test::run({"/bin/bash", path, "-n"});
  ASSERT_EQ(dry.status, 0) << dry.err;
  EXPECT_NE(dry.out.find("-x NCCL_TUNER_PLUGIN=/opt/lane/lib/liblane-nccl-tuner.so -x "
                         "NCCL_TUNER_CONFIG_FILE=/home/me/nccl_tuner.csv"),
            std::string::npos)
      << dry.out;
  EXPECT_NE(dry.out.find("all_reduce.table.decode.r1.json"), std::string::npos);
  EXPECT_NE(dry.out.find("all_reduce.default.decode.r1.json"), std::string::npos);
}

TEST_F(Script, WhatCannotBeIsRefused) {
  const auto message = [](const std::function<void(NcclScriptOptions&)>& spoil) {
    NcclScriptOptions options = two_nodes();
    spoil(options);
    try {
      nccl_script(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message([](auto& o) { o.num_ranks = 12; }).find("do not fill nodes evenly"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.hosts = {"a"}; }).find("need 2"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.hosts = {"a", "b; rm -rf /"}; }).find("no host's name"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.collectives = {"sendrecv"}; }).find("expected all_reduce"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.launcher = "ssh"; }).find("mpirun or srun"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.launcher = "srun", o.hostfile = "x"; }).find("for mpirun"), std::string::npos);
}

// nccl-tests' part: two nodes whose tree is fast at first and whose ring is later, and an NCCL that takes the ring from
// 64 KiB on, too early.
constexpr const char* kFakePerf = R"py(#!/usr/bin/env python3
import json, os, sys, zlib
if "--help" in sys.argv:
    print("[-J,--output_file <file> ...] [-I,--per_iter_timing <0/1> ...]")
    sys.exit(0)
def flag(name, default=None):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
algo, proto = os.environ.get("NCCL_ALGO", ""), os.environ.get("NCCL_PROTO", "")
rows, size = [], int(flag("-b"))
while size <= int(flag("-e")):
    a, p = (algo, proto) if algo else ("Tree", "LL") if size < 65536 else ("Ring", "Simple")
    us = {"Tree": 25 + size / 8000, "Ring": 60 + size / 30000}[a]
    noise = zlib.crc32((flag("-J", "") + str(size)).encode()) % 1000 / 1000 - 0.5
    us *= 1 + 0.01 * noise
    if os.environ.get("NCCL_DEBUG_SUBSYS") == "TUNING":
        print(f"gpu00:1:2 [0] NCCL INFO AllReduce: {size} Bytes -> Algo {a.upper()} proto {p.upper()} channel{{Lo..Hi}}={{0..3}}")
    rows.append((size, us))
    size *= 2
if flag("-J"):
    side = lambda s, us: {"time": us, "alg_bw": s / us / 1e3, "bus_bw": s / us / 1e3 * 1.875, "nwrong": 0.0}
    json.dump({"version": 3, "args": sys.argv, "env": [f"{k}={v}" for k, v in os.environ.items()], "nccl_version": 23007,
               "config": {"nthreads": 1, "ngpus": 1, "devices": [{"rank": r, "group": 0, "hostname": f"gpu{r // 8:02d}"} for r in range(16)]},
               "results": [{"size": s, "count": s // 2, "type": "bfloat16", "redop": "sum", "out_of_place": side(s, us), "in_place": side(s, us)} for s, us in rows],
               "out_of_bounds": {"count": 0, "okay": "true"}, "errors": [], "end_time": "now"}, open(flag("-J"), "x"))
)py";

constexpr const char* kFakeMpirun = R"sh(#!/usr/bin/env bash
while [[ "$1" != */all_reduce_perf ]]; do
  if [[ "$1" == -x && "$2" == *=* ]]; then export "${2?}"; fi
  shift
done
exec "$@"
)sh";

TEST_F(Script, FromTheScriptToTheTable) {
  put("bin/mpirun", kFakeMpirun);
  put("tests/all_reduce_perf", kFakePerf);
  NcclScriptOptions options = two_nodes();
  options.settings = {parse_nccl_setting("tree_ll"), parse_nccl_setting("ring_simple")};
  options.repeats = 3;
  options.hidden_size = 0;
  options.max_bytes = 16 << 20;
  const std::string path = put("script.sh", nccl_script(options)), out = folder_ + "/results";
  const std::map<std::string, std::string> environment = {
      {"PATH", folder_ + "/bin:" + std::string(::getenv("PATH"))}, {"NCCL_TESTS", folder_ + "/tests"}, {"OUT", out}};
  const test::Outcome outcome =
      test::run({"/bin/bash", path}, {.environment = environment, .limit = std::chrono::seconds(100)});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(fs::exists(out + "/all_reduce.tree_ll.sweep.r3.json")) << outcome.err;
  const test::Outcome again = test::run({"/bin/bash", path}, {.environment = environment});
  EXPECT_EQ(again.status, 2);
  EXPECT_NE(again.err.find("exists"), std::string::npos);

  const test::Outcome tune =
      test::run({LANE_BINARY, "tune", "nccl", "--from", out, "--mode", "inference", "--output", folder_ + "/tuning"});
  ASSERT_EQ(tune.status, 0) << tune.err;
  const std::string csv = read_file(folder_ + "/tuning/nccl_tuner.csv");
  // Tree beats ring up to 25 + b / 8000 = 60 + b / 30000, b = 382 kB; 64, 128 and 256 KiB were given to the ring.
  EXPECT_NE(csv.find("\nallreduce,46341,370727,tree,ll,-1,2,16,-1,-1\n"), std::string::npos) << csv << tune.out;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5) << "comments and one line\n" << csv;
  EXPECT_NE(tune.out.find("here tree is the faster one somewhere below 512.00 KiB"), std::string::npos) << tune.out;
  EXPECT_EQ(tune.out.find("not logged"), std::string::npos) << "NCCL says what it ran" << tune.out;
  EXPECT_EQ(tune.out.find("note:"), std::string::npos) << tune.out;
  const test::Outcome undone = test::run(
      {"/bin/bash", "-euc",
       "source " + folder_ +
           "/tuning/nccl_env.sh; test -n \"$NCCL_TUNER_CONFIG_FILE\"; test -r \"$NCCL_TUNER_PLUGIN\"; source " +
           folder_ + "/tuning/nccl_undo.sh; test -z \"${NCCL_TUNER_PLUGIN+x}${NCCL_TUNER_CONFIG_FILE+x}\""});
  EXPECT_EQ(undone.status, 0) << undone.err;
}

}  // namespace
}  // namespace lane::net
