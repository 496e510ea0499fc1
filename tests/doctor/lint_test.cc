#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "tests/doctor/machines.h"

namespace lane::doctor::test {
namespace {

using Strings = std::vector<std::string>;
using Variables = std::vector<std::pair<std::string, std::string>>;
constexpr int kNow = 22809;

std::vector<Finding> lint(const Variables& variables, int version = kNow, const Inventory* inventory = nullptr) {
  return lint_environment({{.name = "environment", .variables = variables}}, version, inventory);
}

// One variable or a few, and exactly what is said of them.
struct Line {
  Variables variables;
  int version;
  Strings expected;
};
void PrintTo(const Line& line, std::ostream* out) {
  for (const auto& [name, value] : line.variables) *out << name << "=" << value << " ";
  *out << "with NCCL " << line.version;
}
class Rules : public testing::TestWithParam<Line> {};

TEST_P(Rules, SayExactlyThis) {
  const std::vector<Finding> findings = lint(GetParam().variables, GetParam().version);
  EXPECT_EQ(troubles(findings), GetParam().expected);
  for (const Finding& finding : findings) {
    if (finding.verdict == Verdict::kOk) continue;
    EXPECT_FALSE(finding.what.empty());
    EXPECT_FALSE(finding.evidence.empty()) << finding.what;
    EXPECT_FALSE(finding.fix.empty()) << finding.what;
  }
}

const Strings kNothing{};

// The rows of the dossier's table of claims about NCCL's variables, in its order.
INSTANTIATE_TEST_SUITE_P(
    Claims, Rules,
    testing::Values(
        Line{{}, kNow, kNothing}, Line{{{"NCCL_ALGO", "Ring"}}, kNow, {"warning env-algo-forced"}},
        Line{{{"NCCL_ALGO", "Tree"}}, kNow, {"warning env-algo-forced"}},  // broadcast has no ring then
        Line{{{"NCCL_ALGO", "Tree"}}, 22304, {"note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "allreduce:tree"}}, kNow, {"note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "^NVLS"}}, kNow, {"note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "allreduce:ring;broadcast:tree"}}, kNow, {"warning env-algo-forced"}},
        Line{{{"NCCL_ALGO", "broadcast:ring"}}, kNow, {"note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "Ring"}, {"NCCL_NVLS_ENABLE", "1"}},
             kNow,
             {"warning env-algo-forced", "warning env-contradiction", "note env-nvls"}},
        Line{{{"NCCL_ALGO", "auto"}}, 22809, {"fatal env-unknown-word"}},
        Line{{{"NCCL_ALGO", "auto"}}, 22304, {"warning env-unknown-word"}},
        Line{{{"NCCL_ALGO", "auto"}}, 0, {"warning env-unknown-word", "unknown environment"}},
        Line{{{"NCCL_PROTO", "auto"}}, 22400, {"fatal env-unknown-word"}},
        Line{{{"NCCL_ALGO", "alltoall:ring"}}, kNow, {"fatal env-unknown-word"}},
        Line{{{"NCCL_ALGO", "ring;tree"}}, kNow, {"fatal env-unknown-word"}},
        Line{{{"NCCL_ALGO", "NVLS"}}, 21602, {"warning env-word-of-other-version", "note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "NVLSTree,Ring,Tree"}},
             21700,
             {"warning env-word-of-other-version", "note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "Tree,PAT"}}, 22200, {"warning env-word-of-other-version", "note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "Tree,Collnet"}}, 21200, {"note env-algo-forced"}},
        Line{{{"NCCL_ALGO", "Tree,Collnet"}}, kNow, {"fatal env-word-of-other-version", "warning env-algo-forced"}},
        Line{{{"NCCL_ALGO", "allreduce:tree"}}, 22304, {"warning env-word-of-other-version", "note env-algo-forced"}},
        Line{{{"NCCL_PROTO", "Simple"}}, kNow, {"warning env-proto-forced"}},
        Line{{{"NCCL_PROTO", "LL128"}}, kNow, {"warning env-proto-forced"}},
        Line{{{"NCCL_PROTO", "LL,Simple"}}, kNow, {"note env-proto-forced"}},
        Line{{{"NCCL_PROTO", "^LL128"}}, kNow, {"note env-proto-forced"}},
        Line{{{"NCCL_BUFFSIZE", "4194304"}}, kNow, kNothing},
        Line{{{"NCCL_BUFFSIZE", "2097152"}}, kNow, {"note env-threads-and-buffers"}},
        Line{{{"NCCL_BUFFSIZE", "3000000"}}, kNow, {"warning env-threads-and-buffers"}},
        Line{{{"NCCL_BUFFSIZE", "4MB"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_NTHREADS", "256"}}, kNow, {"note env-threads-and-buffers"}},
        Line{{{"NCCL_NTHREADS", "100"}}, kNow, {"warning env-bad-value", "note env-threads-and-buffers"}},
        Line{{{"NCCL_MAX_NCHANNELS", "4"}}, kNow, {"warning env-few-channels", "note env-old-variable"}},
        Line{{{"NCCL_MAX_NCHANNELS", "32"}}, kNow, {"note env-old-variable"}},
        Line{{{"NCCL_MAX_NCHANNELS", "32"}}, 21600, kNothing},
        Line{{{"NCCL_MAX_CTAS", "4"}}, kNow, {"warning env-few-channels"}},
        Line{{{"NCCL_MAX_CTAS", "48"}}, 22409, {"warning env-bad-value"}},
        Line{{{"NCCL_MAX_CTAS", "48"}}, 22500, kNothing},
        Line{{{"NCCL_MAX_CTAS", "16"}}, 21605, {"warning env-newer-variable"}},
        Line{{{"NCCL_MIN_CTAS", "32"}, {"NCCL_MAX_CTAS", "16"}}, kNow, {"warning env-contradiction"}},
        Line{{{"NCCL_MAX_NCHANNELS", "32"}, {"NCCL_MAX_CTAS", "16"}},
             kNow,
             {"warning env-contradiction", "note env-old-variable"}},
        Line{{{"NCCL_IB_HCA", "mlx5"}}, kNow, {"note env-ib-hca"}},
        Line{{{"NCCL_IB_HCA", "=mlx5_0:1,mlx5_3:1"}}, kNow, kNothing},
        Line{{{"NCCL_IB_HCA", "^mlx5_1"}}, kNow, kNothing},
        Line{{{"NCCL_IB_GID_INDEX", "3"}}, kNow, {"warning env-gid-index"}},
        Line{{{"NCCL_IB_GID_INDEX", "3"}}, 22005, {"note env-gid-index"}},
        Line{{{"NCCL_IB_GID_INDEX", "3"}}, 0, {"unknown environment", "note env-gid-index"}},
        Line{{{"NCCL_IB_GID_INDEX", "-1"}}, kNow, kNothing},
        Line{{{"NCCL_IB_GID_INDEX", "3"}, {"NCCL_IB_ADDR_FAMILY", "AF_INET"}},
             kNow,
             {"warning env-contradiction", "warning env-gid-index"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "5"}}, kNow, {"warning env-distance"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "2"}}, kNow, {"note env-distance"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "auto"}}, kNow, {"warning env-distance"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "pxb"}}, kNow, {"warning env-distance"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "PHB"}}, kNow, kNothing},
        Line{{{"NCCL_NET_GDR_LEVEL", "SYS"}}, kNow, {"warning env-distance"}},
        Line{{{"NCCL_NET_GDR_LEVEL", "LOC"}}, kNow, {"warning env-distance"}},
        Line{{{"NCCL_P2P_LEVEL", "NVL"}}, kNow, kNothing},
        Line{{{"NCCL_CROSS_NIC", "1"}}, kNow, {"note env-cross-nic"}},
        Line{{{"NCCL_CROSS_NIC", "0"}}, kNow, {"note env-cross-nic"}}, Line{{{"NCCL_CROSS_NIC", "2"}}, kNow, kNothing},
        Line{{{"NCCL_CROSS_NIC", "3"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_TOPO_FILE", "/var/run/nvidia-topologyd/virtualTopology.xml"}}, kNow, {"note env-topo-file"}},
        Line{{{"NCCL_TOPO_FILE", "/etc/topo.xml"}}, kNow, kNothing},
        Line{{{"NCCL_IB_SL", "5"}, {"NCCL_IB_TC", "160"}}, kNow, {"note env-service-level"}},
        Line{{{"NCCL_IB_TC", "160"}}, kNow, kNothing},
        Line{{{"NCCL_IB_PCI_RELAXED_ORDERING", "1"}}, kNow, {"note env-relaxed-ordering"}},
        Line{{{"NCCL_IB_PCI_RELAXED_ORDERING", "2"}}, kNow, kNothing},
        Line{{{"NCCL_NVLS_ENABLE", "1"}}, 22902, {"note env-nvls"}},
        Line{{{"NCCL_NVLS_ENABLE", "0"}}, 22902, {"note env-nvls"}}, Line{{{"NCCL_NVLS_ENABLE", "2"}}, 22902, kNothing},
        Line{{{"NCCL_NVLS_ENABLE", "0"}}, 21604, {"warning env-newer-variable", "note env-nvls"}},
        Line{{{"NCCL_IB_QPS_PER_CONNECTION", "4"}}, kNow, kNothing},
        Line{{{"NCCL_IB_QPS_PER_CONNECTION", "1000"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_IB_TIMEOUT", "22"}}, kNow, kNothing},
        Line{{{"NCCL_IB_TIMEOUT", "32"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_IB_RETRY_CNT", "9"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_MNNVL_ENABLE", "1"}, {"NCCL_CUMEM_ENABLE", "0"}}, kNow, {"warning env-contradiction"}},
        Line{{{"NCCL_DMABUF_ENABLE", "0"}}, kNow, {"note env-path-disabled"}},
        Line{{{"NCCL_CONF_FILE", "/tmp/x"}}, 22105, {"warning env-newer-variable"}}));

INSTANTIATE_TEST_SUITE_P(
    More, Rules,
    testing::Values(
        Line{{{"NCCL_IB_CUDA_SUPPORT", "1"}}, kNow, {"warning env-old-variable"}},
        Line{{{"NCCL_LL_THRESHOLD", "0"}}, kNow, {"warning env-old-variable"}},
        Line{{{"NCCL_LAUNCH_MODE", "PARALLEL"}}, kNow, kNothing},
        Line{{{"NCCL_LAUNCH_MODE", "GROUP"}}, kNow, {"note env-old-variable"}},
        Line{{{"NCCL_P2P_DISABEL", "1"}}, kNow, {"note env-unknown-variable"}},
        Line{{{"NCCL_INSPECTOR_ENABLE", "1"}}, kNow, kNothing},
        Line{{{"NCCL_DEBUG", "INFO"}}, kNow, {"note env-debug"}}, Line{{{"NCCL_DEBUG", "warn"}}, kNow, kNothing},
        Line{{{"NCCL_DEBUG", "LOUD"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_P2P_DISABLE", "1"}}, kNow, {"warning env-path-disabled"}},
        Line{{{"NCCL_P2P_DISABLE", "0"}}, kNow, kNothing},
        Line{{{"NCCL_P2P_DISABLE", "yes"}}, kNow, {"warning env-bad-value"}},
        Line{{{"NCCL_IB_DISABLE", "1"}, {"NCCL_IB_HCA", "=mlx5_0"}},
             kNow,
             {"warning env-path-disabled", "warning env-contradiction"}},
        Line{{{"NCCL_NET", "socket"}, {"NCCL_IB_HCA", "=mlx5_0"}}, kNow, {"warning env-contradiction"}},
        Line{{{"NCCL_SOCKET_NTHREADS", "16"}, {"NCCL_NSOCKS_PERTHREAD", "8"}}, kNow, {"warning env-contradiction"}},
        Line{{{"NCCL_IB_SPLIT_DATA_ON_QPS", "1"}, {"NCCL_IB_QPS_PER_CONNECTION", "1"}},
             kNow,
             {"warning env-contradiction"}},
        Line{{{"UCX_TLS", "rc,sm,cuda"}}, kNow, kNothing}, Line{{{"UCX_TLS", "rc,sm"}}, kNow, {"note ucx-tls"}},
        Line{{{"UCX_TLS", "^tcp"}}, kNow, kNothing}, Line{{{"UCX_TLS", "^cuda_ipc"}}, kNow, {"note ucx-tls"}},
        Line{{{"UCX_TLS", "all"}}, kNow, kNothing}, Line{{{"UCX_TLS", "rc,cuda_cpy"}}, kNow, {"warning ucx-tls"}},
        Line{{{"UCX_NET_DEVICES", "mlx5_0:1"}}, kNow, kNothing},
        Line{{{"UCX_NET_DEVICES", "mlx5_0"}}, kNow, {"warning ucx-net-devices"}},
        Line{{{"UCX_NET_DEVICES", "eth0"}}, kNow, kNothing}, Line{{{"NVSHMEM_BOOTSTRAP", "mpi"}}, kNow, kNothing},
        Line{{{"NVSHMEM_BOOTSTRAP", "MPICH"}}, kNow, {"warning nvshmem-word"}},
        Line{{{"NVSHMEM_REMOTE_TRANSPORT", "ibgda"}}, kNow, {"warning nvshmem-word"}},
        Line{{{"NVSHMEM_REMOTE_TRANSPORT", "none"}}, kNow, {"note nvshmem-word"}},
        Line{{{"NVSHMEM_SYMMETRIC_SIZE", "3.1G"}}, kNow, kNothing},
        Line{{{"NVSHMEM_SYMMETRIC_SIZE", "lots"}}, kNow, {"fatal nvshmem-heap"}},
        Line{{{"NVSHMEM_HCA_LIST", "mlx5_0:1"}, {"NVSHMEM_HCA_PE_MAPPING", "mlx5_0:1:2"}},
             kNow,
             {"warning nvshmem-devices"}},
        Line{{{"FI_CXI_RDZV_PROTO", "alt_read"}}, kNow, {"note slingshot-settings"}}));

TEST(Lint, SuggestsTheNearestName) {
  const auto fix = [](const char* name, const char* value, const char* id) {
    return find(lint({{name, value}}), id)->fix;
  };
  EXPECT_NE(fix("NCCL_P2P_DISABEL", "1", "env-unknown-variable").find("NCCL_P2P_DISABLE"), std::string::npos);
  EXPECT_NE(fix("NCCL_IB_HCAS", "x", "env-unknown-variable").find("NCCL_IB_HCA?"), std::string::npos);
  EXPECT_NE(fix("NCCL_ALGO", "NVLS_Tree", "env-unknown-word").find("NVLSTree?"), std::string::npos);
  EXPECT_NE(fix("NCCL_PROTO", "LL12", "env-unknown-word").find("LL128?"), std::string::npos);
  EXPECT_NE(fix("UCX_TLS", "rc,cuda_cpy", "ucx-tls").find("cuda_copy?"), std::string::npos);
  EXPECT_EQ(fix("NCCL_ALGO", "auto", "env-unknown-word").find("did you mean"), std::string::npos);
}

TEST(Lint, HoldsNamesAgainstTheCardsThatAreThere) {
  Inventory machine = hgx_h100();
  for (const auto& [name, role] : {std::pair{"mlx5_10", NicRole::kCompute}, {"mlx5_11", NicRole::kStorage}}) {
    Nic nic = infiniband(name, "0000:55:00.0", 0);
    nic.role = role;
    host_of(machine).nics.push_back(nic);
  }
  const auto said = [&](const char* name, const char* value) {
    return troubles(lint({{name, value}}, kNow, &machine));
  };
  EXPECT_EQ(said("NCCL_IB_HCA", "=mlx5_1,mlx5_10"), kNothing);
  EXPECT_EQ(said("NCCL_IB_HCA", "mlx5_1"), Strings{"warning env-ib-hca"});  // also mlx5_10 and mlx5_11
  EXPECT_EQ(said("NCCL_IB_HCA", "mlx5_2"), kNothing);                       // a prefix of itself alone
  EXPECT_EQ(said("NCCL_IB_HCA", "mlx5"), Strings{"warning env-ib-hca"});    // the storage card too
  EXPECT_EQ(said("NCCL_IB_HCA", "^mlx5_11"), kNothing);
  EXPECT_EQ(said("NCCL_IB_HCA", "=mlx5_77"), Strings{"warning env-ib-hca"});
  const std::string fix = find(lint({{"NCCL_IB_HCA", "mlx5"}}, kNow, &machine), "env-ib-hca")->fix;
  EXPECT_NE(fix.find("NCCL_IB_HCA==mlx5_0,mlx5_1,"), std::string::npos) << fix;
  EXPECT_EQ(fix.find("mlx5_11"), std::string::npos) << fix;
  EXPECT_EQ(said("NCCL_IB_GID_INDEX", "3"), Strings{"note env-gid-index"}) << "InfiniBand has no use for it";
  EXPECT_EQ(said("NCCL_IB_TC", "160"), Strings{"note env-service-level"});
  EXPECT_EQ(said("UCX_NET_DEVICES", "mlx5_0:1,mlx5_10:1"), kNothing);
  EXPECT_EQ(said("UCX_NET_DEVICES", "mlx5_77:1"), Strings{"warning ucx-net-devices"});
  EXPECT_EQ(said("UCX_NET_DEVICES", "mlx5_11:1"), Strings{"warning ucx-net-devices"});
  EXPECT_EQ(said("UCX_TLS", "rc"), Strings{"warning ucx-tls"});
  EXPECT_EQ(said("NVSHMEM_SYMMETRIC_SIZE", "200g"), Strings{"warning nvshmem-heap"});
  EXPECT_EQ(said("NVSHMEM_HCA_LIST", "mlx5_0:1,mlx9_0:1"), Strings{"warning nvshmem-devices"});
  set(machine, "nvidia.peermem", "absent");
  EXPECT_EQ(said("NCCL_DMABUF_ENABLE", "0"), Strings{"warning env-path-disabled"});

  for (Nic& nic : host_of(machine).nics) nic.kind = NicKind::kRoce;
  EXPECT_EQ(said("NCCL_IB_SL", "5"), Strings{"note env-service-level"});
  for (int i = 0; i < 8; ++i)
    for (int gid = 0; gid < 4; ++gid)
      set(machine, "ib.mlx5_" + std::to_string(i) + ".1.gid." + std::to_string(gid),
          std::string(gid % 2 ? "RoCE v2" : "IB/RoCE v1") + " fe80:: eth" + std::to_string(i));
  EXPECT_NE(find(lint({{"NCCL_IB_GID_INDEX", "2"}}, kNow, &machine), "env-gid-index")->what.find("not RoCE v2"),
            std::string::npos);
  EXPECT_NE(find(lint({{"NCCL_IB_GID_INDEX", "7"}}, kNow, &machine), "env-gid-index")->what.find("has no GID 7"),
            std::string::npos);
  EXPECT_NE(
      find(lint({{"NCCL_IB_GID_INDEX", "3"}}, kNow, &machine), "env-gid-index")->what.find("chooses the GID itself"),
      std::string::npos);
}

TEST(Lint, SlingshotSitesAreAReference) {
  Inventory machine = hgx_h100();
  for (Nic& nic : host_of(machine).nics) nic.kind = NicKind::kSlingshot;
  const Variables all = {{"NCCL_NET", "AWS Libfabric"},         {"NCCL_SOCKET_IFNAME", "hsn"},
                         {"NCCL_NET_GDR_LEVEL", "PHB"},         {"NCCL_CROSS_NIC", "1"},
                         {"FI_CXI_DISABLE_HOST_REGISTER", "1"}, {"FI_MR_CACHE_MONITOR", "userfaultfd"},
                         {"FI_CXI_DEFAULT_CQ_SIZE", "131072"},  {"FI_CXI_RDZV_PROTO", "alt_read"}};
  EXPECT_EQ(troubles(lint(all, kNow, &machine)), Strings{"note env-cross-nic"});
  const std::vector<Finding> findings = lint({all.begin(), all.begin() + 3}, kNow, &machine);
  EXPECT_EQ(troubles(findings), Strings{"note slingshot-settings"});
  EXPECT_EQ(find(findings, "slingshot-settings")->evidence.size(), 5u);
  for (Nic& nic : host_of(machine).nics) nic.kind = NicKind::kInfiniband;
  EXPECT_NE(find(lint(all, kNow, &machine), "slingshot-settings")->what.find("does not have"), std::string::npos);
}

TEST(Conf, IsReadAsNcclReadsIt) {
  const EnvironmentSource conf = parse_conf(
      "# for all jobs\n"
      "NCCL_DEBUG=WARN\r\n"
      "\n"
      "NCCL_SOCKET_IFNAME==ens1f0\n"
      "NCCL_DEBUG=INFO\n"
      "nonsense\n",
      "/etc/nccl.conf");
  EXPECT_EQ(conf.variables,
            (Variables{{"NCCL_DEBUG", "WARN"}, {"NCCL_SOCKET_IFNAME", "=ens1f0"}, {"NCCL_DEBUG", "INFO"}}));
  EXPECT_EQ(conf.problems, Strings{"line 6 has no '=': NCCL passes over \"nonsense\""});
  const std::vector<Finding> findings = lint_environment({conf}, kNow, nullptr);
  EXPECT_EQ(troubles(findings), (Strings{"warning conf-syntax", "note env-set-twice"}));
  EXPECT_EQ(find(findings, "env-debug"), nullptr) << "of a file the first value counts";
  try {
    parse_conf(std::string("NCCL_DEBUG=WARN\nNCCL\0=1\n", 25), "a.conf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    EXPECT_NE(std::string(error.what()).find("a.conf, line 2"), std::string::npos) << error.what();
  }
}

TEST(Conf, IsNoShell) {
  for (const char* line : {"export NCCL_DEBUG=WARN", "NCCL_DEBUG =WARN", "NCCL_DEBUG= WARN", "NCCL_DEBUG=\"WARN\"",
                           "NCCL_DEBUG=WARN # for now", "NCCL_DEBUG=WARN "}) {
    const std::vector<Finding> findings = lint_environment({parse_conf(line, "/etc/nccl.conf")}, kNow, nullptr);
    ASSERT_NE(find(findings, "conf-syntax"), nullptr) << line;
    EXPECT_EQ(find(findings, "conf-syntax")->verdict, Verdict::kWarning);
  }
  EXPECT_EQ(lint_environment({parse_conf(std::string(5000, 'x') + "=1", "c")}, kNow, nullptr).front().id,
            "conf-syntax");
}

TEST(Conf, TheEnvironmentHasTheLastWord) {
  EnvironmentSource site = parse_conf("NCCL_DEBUG=INFO\nNCCL_CROSS_NIC=2\n", "/etc/nccl.conf");
  const EnvironmentSource job{.name = "environment", .variables = {{"NCCL_DEBUG", "WARN"}}};
  const std::vector<Finding> findings = lint_environment({site, job}, kNow, nullptr);
  EXPECT_EQ(troubles(findings), Strings{"note env-set-twice"});
  EXPECT_NE(findings.front().what.find("environment has the last word"), std::string::npos);
  EXPECT_EQ(troubles(lint_environment({site}, kNow, nullptr)), Strings{"note env-debug"});
}

TEST(Version, IsReadFromWords) {
  EXPECT_EQ(nccl_version_of("2.28.9"), 22809);
  EXPECT_EQ(nccl_version_of("NCCL 2.30.7+cuda13.0"), 23007);
  EXPECT_EQ(nccl_version_of("2.24"), 22400);
  for (const char* nonsense : {"", "none", "1.2.3", "2.1000.1", "99999999999999", "v"})
    EXPECT_EQ(nccl_version_of(nonsense), 0) << nonsense;
}

// Ten thousand damaged files: each is read and judged, or refused by name.
TEST(Conf, SurvivesDamage) {
  const std::string sample =
      "# site settings\nNCCL_DEBUG=WARN\nNCCL_ALGO=allreduce:tree,ring;broadcast:^nvls\nNCCL_PROTO=^LL128\n"
      "NCCL_IB_HCA=^=mlx5_0:1:0:0,mlx5_1\nNCCL_NET_GDR_LEVEL=PXB\nNCCL_BUFFSIZE=0x400000\nNCCL_MAX_CTAS=32\n"
      "NCCL_IB_GID_INDEX=3\nUCX_TLS=rc,sm,cuda\nUCX_NET_DEVICES=mlx5_0:1,mlx5_3:1\nNVSHMEM_SYMMETRIC_SIZE=1.5g\n"
      "NVSHMEM_HCA_LIST=^mlx5_0:1\nFI_CXI_RDZV_PROTO=alt_read\nNCCL_P2P_DISABEL=1\n";
  constexpr std::string_view kPieces[] = {
      "=", "\n", "^", ",", ":", ";", "#", "\"", " ", std::string_view("\0", 1), "99999999999999999999", "-", "NCCL_"};
  const Inventory machine = hgx_h100();
  int refused = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string text = sample;
    uint64_t counter = 0;
    const auto pick = [&](uint64_t below) { return random_bits(uint64_t(i), counter++) % below; };
    for (uint64_t edits = 1 + pick(6); edits > 0; --edits) {
      const size_t at = pick(text.size() + 1);
      switch (pick(5)) {
        case 0:
          text.insert(at, kPieces[pick(std::size(kPieces))]);
          break;
        case 1:
          text.erase(at, pick(12));
          break;
        case 2:
          if (at < text.size()) text[at] = static_cast<char>(pick(256));
          break;
        case 3:
          text = text.substr(0, at);
          break;
        case 4:
          text.insert(at, text.substr(pick(text.size() + 1), pick(200)));
          break;
      }
    }
    try {
      const std::vector<Finding> findings =
          lint_environment({parse_conf(text, "fuzz.conf")}, i % 3 == 0 ? 0 : kNow, i % 2 ? &machine : nullptr);
      ASSERT_FALSE(findings.empty());
      ASSERT_FALSE(to_text(findings, false, true).empty());
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 5000);
}

}  // namespace
}  // namespace lane::doctor::test
