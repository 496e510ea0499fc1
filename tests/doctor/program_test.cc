// `lane doctor` as its users run it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/fake_root.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::FakeRoot;
using test::Outcome;

Outcome doctor(std::vector<std::string> arguments, test::RunOptions options = {}) {
  arguments.insert(arguments.begin(), {LANE_BINARY, "doctor"});
  return test::run(arguments, options);
}

class Doctor : public testing::Test {
 protected:
  std::string folder_ = testing::TempDir() + "lane_doctor_" + std::to_string(::getpid());
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string put(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ + "/" + name) << content;
    return folder_ + "/" + name;
  }
};

TEST_F(Doctor, LooksAtThisMachineWhateverItIs) {
  const Outcome outcome = doctor({"--json"});
  ASSERT_TRUE(outcome.status >= 0 && outcome.status <= 3) << outcome.err;
  const Json all = parse_json(outcome.out, "out");
  EXPECT_EQ(all["schema"], 1);
  EXPECT_EQ(all["exit_status"], outcome.status);
  EXPECT_FALSE(all["findings"].empty());
  EXPECT_FALSE(all["facts"].empty());
  const Outcome text = doctor({"--verbose"});
  EXPECT_EQ(text.status, outcome.status);
  EXPECT_NE(text.out.find(" fine\n"), std::string::npos) << text.out;
  EXPECT_EQ(text.out.find('\x1b'), std::string::npos) << "no colour without a terminal";
}

TEST_F(Doctor, DrawsAMachineAndItsFaults) {
  const FakeRoot root("dgx_h100", "proc/sys/kernel/numa_balancing = 1\n");
  const Outcome outcome = doctor({"--root", root.path()});
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  for (const char* words :
       {"8 x NVIDIA H100 80GB HBM3; 18 NVLinks each through NVSwitch", "8 x infiniband 400 Gb/s (MT4129)",
        "not for jobs: mlx5_1 (storage)", "mlx5_11 (PIX)", "llama-3-70b, batch 16, tensor parallel over 16 GPUs",
        "160 all-reduces of 256.00 KiB", "WARNING  numa-balancing", "kernel.numa_balancing=0",
        "docs/doctor.md#numa-balancing", "1 warning, 1 note, "})
    EXPECT_NE(outcome.out.find(words), std::string::npos) << words << "\n" << outcome.out;
  const Outcome json = doctor({"--root", root.path(), "--json", "--model", "qwen3-8b", "--tp", "8", "--batch", "4"});
  EXPECT_EQ(json.status, 1);
  const Json all = parse_json(json.out, "out");
  EXPECT_EQ(all["workload"], (Json{{"model", "qwen3-8b"}, {"tensor", 8}, {"batch", 4}}));
  EXPECT_EQ(all["topology"]["hosts"][0]["gpus"].size(), 8u);
  EXPECT_EQ(all["facts"]["os.numa_balancing"]["value"], "1");
}

TEST_F(Doctor, StrictCountsWhatCouldNotBeTold) {
  const FakeRoot root("dgx_h100", "lane-bundle.json !\ntext !\n");
  EXPECT_EQ(doctor({"--root", root.path()}).status, 3);
  EXPECT_EQ(doctor({"--root", root.path(), "--strict"}).status, 1);
}

TEST_F(Doctor, TakesTextsWhereSysfsIsSilent) {
  const FakeRoot root("dgx_h100", "lane-bundle.json !\n");
  const std::string nvlink = put("nvlink.txt", root.read("text/nvlink_s.txt"));
  FakeRoot bare("dgx_h100", "lane-bundle.json !\ntext !\n");
  const auto verdict = [](const Outcome& outcome) {
    const Json all = parse_json(outcome.out, "out");
    for (const Json& finding : all["findings"])
      if (finding["id"] == "nvlink-missing") return finding["verdict"].get<std::string>();
    return std::string();
  };
  EXPECT_EQ(verdict(doctor({"--root", bare.path(), "--json"})), "unknown");
  EXPECT_EQ(verdict(doctor({"--root", bare.path(), "--json", "--text", "nvlink_s=" + nvlink})), "ok");
  const Outcome wrong = doctor({"--text", "lspci=" + nvlink});
  EXPECT_EQ(wrong.status, 3);
  EXPECT_NE(wrong.err.find("--text lspci="), std::string::npos) << wrong.err;
}

TEST_F(Doctor, CollectsABundleAndReadsIt) {
  const FakeRoot root("hgx_h100_reversed");
  const std::string file = folder_ + "/node.tar.zst";
  const Outcome collected = doctor({"--root", root.path(), "--collect", file});
  ASSERT_EQ(collected.status, 0) << collected.err;
  EXPECT_NE(collected.out.find("numa_balancing"), std::string::npos);
  const Outcome there = doctor({"--root", root.path()}), here = doctor({"--root", file});
  EXPECT_EQ(here.status, there.status);
  EXPECT_EQ(here.out, there.out);
  EXPECT_NE(here.out.find("NCCL_IB_HCA==mlx5_3"), std::string::npos) << here.out;
}

TEST_F(Doctor, WritesNcclsTopologyFile) {
  const FakeRoot root("dgx_h100");
  const std::string file = folder_ + "/topo.xml";
  const Outcome outcome = doctor({"--root", root.path(), "--nccl-topo", file});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::string xml = read_file(file);
  EXPECT_NE(xml.find("<system version=\"1\">"), std::string::npos);
  EXPECT_NE(xml.find("0000:dc:00.0"), std::string::npos);
  const FakeRoot laptop("laptop");
  EXPECT_EQ(doctor({"--root", laptop.path(), "--nccl-topo", file}).status, 3);
}

TEST_F(Doctor, LintsTheEnvironmentAndFiles) {
  const std::string conf = put("nccl.conf", "export NCCL_DEBUG=WARN\nNCCL_ALGO=auto\n");
  Outcome outcome = doctor({"--env", "--conf", conf, "--nccl-version", "2.28.9"});
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  EXPECT_NE(outcome.out.find("FATAL    env-unknown-word"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("WARNING  conf-syntax"), std::string::npos);
  outcome = doctor({"--conf", conf, "--nccl-version", "2.22.3", "--json"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(parse_json(outcome.out, "out")["nccl_version"], 22203);

  const std::map<std::string, std::string> job = {
      {"NCCL_CONF_FILE", put("own.conf", "NCCL_CROSS_NIC=1\nNCCL_PROTO=LL\n")},
      {"NCCL_PROTO", "Simple"},
      {"NCCL_ALGO", "Ring"},
      {"UCX_TLS", "rc"}};
  outcome = doctor({"--env", "--nccl-version", "2.28.9"}, {.environment = job});
  EXPECT_EQ(outcome.status, 1) << outcome.out;
  for (const char* words : {"env-algo-forced", "env-proto-forced",
                            "NCCL_PROTO is set more than once; environment has the last word", "env-cross-nic"})
    EXPECT_NE(outcome.out.find(words), std::string::npos) << words << "\n" << outcome.out;
}

TEST_F(Doctor, SaysWhatIsWrongWithItsFlags) {
  const std::pair<std::vector<std::string>, std::string> kCases[] = {
      {{"--root", "/nowhere"}, "--root /nowhere"},
      {{"--model", "gpt-99"}, "--model gpt-99"},
      {{"--model", "llama-3-70b", "--tp", "7"}, "legal tensor-parallel sizes"},
      {{"--env", "--nccl-version", "new"}, "--nccl-version new"}};
  for (const auto& [arguments, words] : kCases) {
    const Outcome outcome = doctor(arguments);
    EXPECT_EQ(outcome.status, 3) << words;
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(doctor({"--batch", "0"}).status, 2);
  const Outcome help = doctor({"--help"});
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.out.find("Exit status: 0 well"), std::string::npos);
  const FakeRoot root("laptop");
  EXPECT_EQ(doctor({"--root", root.path(), "--env"}).status, 3) << "a bundle holds no variables";
}

TEST_F(Doctor, ReadsTheShapeOfAModelsFolder) {
  const std::string folder = std::string(LANE_SOURCE_DIR) + "/tests/fixtures/models/llama3";
  const FakeRoot root("laptop");
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--model", folder}, {"--config", folder + "/config.json"}}) {
    std::vector<std::string> arguments = {"--root", root.path(), "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    EXPECT_EQ(parse_json(doctor(arguments).out, "out")["workload"]["model"], "llama3");
  }
}

}  // namespace
}  // namespace lane
