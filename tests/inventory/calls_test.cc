// What a host tells through calls: NVML (a library of ours in its place), libraries, and its form in a bundle.
#include "lane/inventory/calls.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::inventory {
namespace {

using topology::Path;

// Holds the library so that what is set stays set while ask_nvml() loads it once more.
class FakeNvml {
 public:
  FakeNvml() : library_(::dlopen(LANE_FAKE_NVML, RTLD_NOW)) {
    if (library_ == nullptr) throw std::runtime_error(::dlerror());
  }
  ~FakeNvml() { ::dlclose(library_); }
  struct Machine {
    int num_gpus = 4, num_links = 18, has_switch = 1, is_rack = 0, init_status = 0, query_status = 0,
        inactive_link = -1;
  };
  HostCalls ask(Machine m) {
    reinterpret_cast<void (*)(int, int, int, int, int, int, int)>(::dlsym(library_, "fake_set"))(
        m.num_gpus, m.num_links, m.has_switch, m.is_rack, m.init_status, m.query_status, m.inactive_link);
    HostCalls calls;
    ask_nvml(LANE_FAKE_NVML, calls);
    EXPECT_EQ(reinterpret_cast<int (*)()>(::dlsym(library_, "fake_num_inits"))(), 0) << "init without shutdown";
    return calls;
  }

 private:
  void* library_;
};

TEST(Nvml, GpusByAddressWithLinksToSwitches) {
  const HostCalls calls = FakeNvml().ask({});
  ASSERT_TRUE(calls.has_gpus);
  ASSERT_EQ(calls.gpus.size(), 4u);
  const topology::Gpu& gpu = calls.gpus[0];
  EXPECT_EQ(gpu.pci_id, "0000:20:00.0") << "NVML listed it last";
  EXPECT_EQ(gpu.index, 0);
  EXPECT_EQ(gpu.name, "NVIDIA H200");
  EXPECT_EQ(gpu.sm, 90);
  EXPECT_EQ(gpu.memory_bytes, int64_t{143771} << 20);
  EXPECT_EQ(gpu.num_nvlinks, 18);
  EXPECT_EQ(gpu.max_nvlinks, 18);
  EXPECT_EQ(gpu.nvlink_gb_per_s, 26.562);
  EXPECT_TRUE(gpu.has_nvswitch);
  EXPECT_TRUE(gpu.nvlink_domain.empty());
  EXPECT_EQ(gpu.pcie, (topology::PcieLink{32, 32, 8, 16}));
  EXPECT_EQ(calls.gpu_to_gpu_nvlinks[0][3], 18);
  EXPECT_EQ(calls.gpu_to_gpu[0][3], Path::kNode);
  EXPECT_EQ(calls.facts.at("nvidia.driver").value, "580.95.05");
  EXPECT_EQ(calls.facts.at("lib.nvml").value, "580.95.05") << "from the name of the library's file";
  EXPECT_EQ(calls.facts.at("nvidia.persistence").value, "on");
  EXPECT_EQ(calls.facts.at("gpu.0.ecc_uncorrected").value, "3");
  EXPECT_EQ(calls.facts.at("gpu.0.ecc").value, "on");
  EXPECT_EQ(calls.facts.at("gpu.0.performance_state").value, "P8");
  EXPECT_EQ(calls.facts.at("gpu.0.fabric_state").value, "completed");
  EXPECT_EQ(calls.facts.at("gpu.0.fabric_cluster").value, "none");
  EXPECT_EQ(calls.facts.at("gpu.0.nvlink.17").value, "active");
}

TEST(Nvml, DirectLinksAreCountedByPeer) {
  const HostCalls calls = FakeNvml().ask({.has_switch = 0});
  EXPECT_FALSE(calls.gpus[0].has_nvswitch);
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j) EXPECT_EQ(calls.gpu_to_gpu_nvlinks[i][j], i == j ? 0 : 6);
}

TEST(Nvml, ALinkThatIsDown) {
  const HostCalls calls = FakeNvml().ask({.inactive_link = 5});
  EXPECT_EQ(calls.gpus[1].num_nvlinks, 17);
  EXPECT_EQ(calls.gpus[1].max_nvlinks, 18);
  EXPECT_EQ(calls.facts.at("gpu.1.nvlink.5").value, "inactive");
  EXPECT_EQ(calls.gpu_to_gpu_nvlinks[0][1], 17);
  EXPECT_EQ(calls.gpu_to_gpu_nvlinks[0][2], 18);
}

TEST(Nvml, NoLinksAtAll) {
  const HostCalls calls = FakeNvml().ask({.num_gpus = 2, .num_links = 0});
  EXPECT_EQ(calls.gpus[0].num_nvlinks, 0);
  EXPECT_EQ(calls.gpus[0].max_nvlinks, 0);
  EXPECT_EQ(calls.gpus[0].nvlink_gb_per_s, 0);
}

TEST(Nvml, ARackHasADomainWithoutItsUuid) {
  const HostCalls calls = FakeNvml().ask({.is_rack = 1});
  const std::string domain = calls.gpus[0].nvlink_domain;
  EXPECT_EQ(domain, nvlink_domain("0c1d2e3f-5061-7283-0c1d-2e3f50617283", "7"));
  EXPECT_TRUE(domain.ends_with(".7")) << domain;
  EXPECT_EQ(domain.find("2e3f"), std::string::npos) << domain;
  EXPECT_EQ(calls.facts.at("gpu.0.fabric_cluster").value + ".7", domain);
}

TEST(Nvml, CallsThatFailLeaveUnknowns) {
  const HostCalls calls = FakeNvml().ask({.query_status = 999});
  ASSERT_EQ(calls.gpus.size(), 4u);
  EXPECT_EQ(calls.gpus[0].num_nvlinks, -1);
  EXPECT_EQ(calls.gpus[0].max_nvlinks, -1);
  EXPECT_EQ(calls.gpus[0].memory_bytes, 0);
  EXPECT_EQ(calls.gpus[0].pcie, topology::PcieLink{});
  EXPECT_EQ(calls.gpu_to_gpu[0][1], Path::kUnknown);
  for (const char* key : {"gpu.0.ecc_uncorrected", "gpu.0.fabric_state", "gpu.0.fabric_cluster", "nvidia.persistence"})
    EXPECT_FALSE(calls.facts.at(key).known()) << key;
}

TEST(Nvml, ALibraryThatDoesNotFitTheDriver) {
  const HostCalls calls = FakeNvml().ask({.init_status = 18});
  EXPECT_FALSE(calls.has_gpus);
  EXPECT_EQ(calls.facts.at("nvml").why_unknown, "nvmlInit: Driver/library version mismatch");
  EXPECT_EQ(calls.facts.at("lib.nvml").value, "580.95.05");
  HostCalls none;
  ask_nvml("libthere_is_no_such_library.so.1", none);
  EXPECT_FALSE(none.has_gpus);
  EXPECT_FALSE(none.facts.at("nvml").known());
  EXPECT_FALSE(none.facts.at("nvidia.driver").known());
}

TEST(Libraries, AreAbsentOrHaveAVersion) {
  std::map<std::string, Fact> facts;
  ask_libraries(facts);
  for (const char* key : {"lib.nccl", "lib.nvshmem", "lib.ucx", "lib.libfabric"}) {
    ASSERT_TRUE(facts.count(key)) << key;
    const std::string value = facts[key].known() ? facts[key].value : "absent";
    EXPECT_TRUE(value == "absent" || (value[0] >= '0' && value[0] <= '9')) << key << " " << value;
  }
}

TEST(Libraries, VersionsInNames) {
  EXPECT_EQ(version_in_name("libnccl.so.2.28.9", "libnccl.so"), "2.28.9");
  EXPECT_EQ(version_in_name("libnvshmem_host.so.3.4.5", "libnvshmem_host.so"), "3.4.5");
  for (const char* name : {"libnccl.so.2", "libnccl.so", "libnccl.so.2.", "libnccl.so..2", "libnccl-net.so.2.1",
                           "libnccl.so.2.28.9.bak", "libnccl.so.2..9", ""})
    EXPECT_EQ(version_in_name(name, "libnccl.so"), "") << name;
}

TEST(Pseudonyms, TellDomainsApartAndNothingElse) {
  const std::string a = pseudonym("5ec2e7cc-1111-4222-8333-444455556666"),
                    b = pseudonym("5ec2e7cc-1111-4222-8333-444455556667");
  EXPECT_NE(a, b);
  EXPECT_EQ(a.size(), 36u);
  EXPECT_EQ(pseudonym(a), a);
  EXPECT_EQ(pseudonym("5EC2E7CC-1111-4222-8333-444455556666"), a);
  EXPECT_EQ(pseudonym("00000000-0000-0000-0000-000000000000"), "00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(pseudonym("none"), "none");
  EXPECT_EQ(nvlink_domain("00000000-0000-0000-0000-000000000000", "0"), "");
  EXPECT_EQ(nvlink_domain("", "N/A"), "");
}

TEST(Calls, SurviveJson) {
  HostCalls calls = FakeNvml().ask({.is_rack = 1});
  calls.why_unreadable["/sys/x/config"] = "permission denied; run as root";
  const HostCalls again = calls_from_json(to_json(calls).dump(), "x.json");
  EXPECT_EQ(again.facts, calls.facts);
  EXPECT_EQ(again.gpus, calls.gpus);
  EXPECT_EQ(again.gpu_to_gpu, calls.gpu_to_gpu);
  EXPECT_EQ(again.gpu_to_gpu_nvlinks, calls.gpu_to_gpu_nvlinks);
  EXPECT_EQ(again.why_unreadable, calls.why_unreadable);
  EXPECT_TRUE(again.has_gpus);
}

TEST(Calls, NonsenseIsRefusedByName) {
  for (const char* bad : {"", "[]", "{}", "{\"schema\": 2}", "{\"schema\": 1, \"facts\": []}",
                          "{\"schema\": 1, \"facts\": {\"a\": 1}}", "{\"schema\": 1, \"gpus\": 3}",
                          "{\"schema\": 1, \"gpus\": [{\"sm\": \"90\"}]}", "{\"schema\": 1, \"gpus\": [{\"sm\": -5}]}",
                          "{\"schema\": 1, \"gpus\": [{}], \"gpu_to_gpu_nvlinks\": [[1, 2]]}",
                          "{\"schema\": 1, \"gpus\": [{}], \"gpu_to_gpu\": [[\"XX\"]]}",
                          "{\"schema\": 1, \"why_unreadable\": {\"a\": \"\"}}"}) {
    try {
      calls_from_json(bad, "lane-bundle.json");
      ADD_FAILURE() << "taken: " << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
      EXPECT_EQ(std::string(error.what()).rfind("lane-bundle.json", 0), 0u) << error.what();
    }
  }
}

TEST(Calls, TenThousandMutations) {
  const std::string sample = to_json(FakeNvml().ask({.num_gpus = 2, .has_switch = 0})).dump();
  for (uint64_t i = 0; i < 10000; ++i) {
    std::string text = sample;
    for (uint64_t k = 0; k <= random_bits(7, i) % 3; ++k) {
      const uint64_t bits = random_bits(i + 1, k);
      const size_t at = bits % text.size();
      if (bits >> 40 & 1)
        text[at] = static_cast<char>("0129-{}[]\",:.eX\0\xff"[bits >> 48 & 15]);
      else
        text.erase(at, bits >> 48 & 7);
    }
    try {
      calls_from_json(text, "x");
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << text;
    }
  }
}

}  // namespace
}  // namespace lane::inventory
