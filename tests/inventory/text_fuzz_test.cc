#include <algorithm>

#include "lane/base/random.h"
#include "tests/inventory/text/sample.h"

// Samples are damaged in every way that copying, cutting and broken disks have: a reader may refuse what is left with
// an Error, or read it into a host whose parts fit together.

namespace lane::inventory {
namespace {

constexpr int kNumMutations = 10'000;

class Dice {
 public:
  explicit Dice(uint64_t key) : key_(key) {}
  size_t below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(random_bits(key_, counter_++) % limit); }

 private:
  uint64_t key_, counter_ = 0;
};

// Swaps, doubles or drops whole lines, which leaves XML more often well-formed.
void mutate_lines(std::string& text, Dice& dice) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    lines.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  for (size_t times = 1 + dice.below(4); times > 0; --times) {
    const size_t at = dice.below(lines.size());
    const size_t kind = dice.below(3);
    if (kind == 0) std::swap(lines[at], lines[dice.below(lines.size())]);
    if (kind == 1) lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(at), lines[dice.below(lines.size())]);
    if (kind == 2) lines[at].clear();
  }
  text.clear();
  for (const std::string& line : lines) text += line;
}

// Another number in the place of a digit.
void mutate_digit(std::string& text, size_t at, Dice& dice) {
  constexpr std::string_view kNumbers[] = {"0",  "1",   "7",     "9",          "a",
                                           "-1", "255", "65536", "4294967296", "00000000000000000001"};
  const size_t digit = text.find_first_of("0123456789", at);
  if (digit != std::string::npos) text.replace(digit, 1, kNumbers[dice.below(std::size(kNumbers))]);
}

void mutate_once(std::string& text, Dice& dice) {
  if (text.empty()) return;
  const size_t at = dice.below(text.size()), length = 1 + dice.below(std::min<size_t>(text.size() - at, 80));
  constexpr std::string_view kOdd[] = {
      "-1", "99999999999999999999", "\"", "<", ">", "\n", "\t", ":", "N/A", "0x", "\x1b[", ",", "1e999"};
  switch (dice.below(10)) {
    case 0:
      text[at] = static_cast<char>(dice.below(256));
      break;
    case 1:
      text[at] = static_cast<char>(text[at] ^ (1 << dice.below(8)));
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, text.substr(at, length));
      break;
    case 4:
      text.resize(at);
      break;
    case 5:
      text.insert(at, kOdd[dice.below(std::size(kOdd))]);
      break;
    case 6:
      mutate_lines(text, dice);
      break;
    case 7:
    case 8:
      mutate_digit(text, at, dice);
      break;
    default:
      text.insert(dice.below(text.size()), text.substr(at, length));
  }
}

void expect_sound(topology::Topology topology, const std::string& text) {
  for (topology::Host& host : topology.hosts)
    if (host.name.empty()) host.name = "host";  // whoever takes the inventory knows it
  ASSERT_NO_THROW(topology::check(topology, "read")) << text;
}

void fuzz(Reader reader, const std::vector<std::string>& names) {
  std::vector<std::string> samples;
  for (const std::string& name : names) samples.push_back(sample(name));
  int num_read = 0, num_refused = 0;
  for (int round = 0; round < kNumMutations; ++round) {
    Dice dice(hash_name(names[0]) + static_cast<uint64_t>(round));
    std::string text = samples[static_cast<size_t>(round) % samples.size()];
    for (size_t times = 1 + dice.below(3); times > 0; --times) mutate_once(text, dice);
    Inventory inventory;
    try {
      reader(text, "fuzz", inventory);
      ++num_read;
      if (!inventory.topology.hosts.empty()) to_nccl_topo(inventory.topology.hosts[0]);
    } catch (const Error& error) {
      ++num_refused;
      ASSERT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kInvalidArgument)
          << error.what();
      ASSERT_EQ(std::string(error.what()).substr(0, 5), "fuzz:") << error.what();
      ASSERT_TRUE(inventory.topology.hosts.empty() && inventory.facts.empty()) << "a refused text changes nothing";
    }
    ASSERT_NO_FATAL_FAILURE(expect_sound(inventory.topology, text));
  }
  EXPECT_GT(num_read, kNumMutations / 20) << "damage that a reader survives is part of the test";
  EXPECT_GT(num_refused, kNumMutations / 100);
}

TEST(TextFuzz, TopoM) {
  fuzz(read_topo_m, {"topo_m_dgx_a100.txt", "topo_m_a800.txt", "topo_m_consumer_pair.txt", "topo_m_h200_vm.txt",
                     "topo_m_h100_nv6.txt", "topo_p2p.txt"});
}
TEST(TextFuzz, NvlinkS) {
  fuzz(read_nvlink_s, {"nvlink_s_a100.txt", "nvlink_s_v100_one_down.txt", "nvlink_s_one_gpu_dark.txt"});
}
TEST(TextFuzz, SmiQ) {
  fuzz(read_smi_q, {"smi_q_degraded.txt", "smi_q_consumer.txt", "smi_q_old_driver.txt", "smi_q_gb200.txt"});
}
TEST(TextFuzz, Ibstat) { fuzz(read_ibstat, {"ibstat_dual_port.txt", "ibstat_roce.txt", "ibstat_panic.txt"}); }
TEST(TextFuzz, IbvDevinfo) {
  fuzz(read_ibv_devinfo, {"ibv_devinfo.txt", "ibv_devinfo_v.txt", "ibv_devinfo_failed.txt"});
}
TEST(TextFuzz, NcclTopo) {
  fuzz(read_nccl_topo, {"nccl_topo_dgx_a100.xml", "nccl_topo_h100_direct.xml", "nccl_topo_h200_vm.xml",
                        "nccl_topo_devices_only.xml", "nccl_topo_two_hosts.xml"});
}
TEST(TextFuzz, Hwloc) { fuzz(read_hwloc, {"hwloc_direct.xml", "hwloc_v1.xml", "hwloc_v2.xml", "hwloc_v3.xml"}); }

}  // namespace
}  // namespace lane::inventory
