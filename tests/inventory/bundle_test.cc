// Bundles hold what the inventory reads and no secrets, and bad ones do no harm.
#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/random.h"
#include "lane/inventory/inventory.h"
#include "lane/inventory/redact.h"
#include "tests/support/fake_root.h"

namespace lane::inventory {
namespace {

namespace fs = std::filesystem;
using test::FakeRoot;

// Bundles unpack into thousands of small files: in memory where that is possible.
class FolderInMemory {
 public:
  FolderInMemory() {
    if (::access("/dev/shm", W_OK) == 0 && ::mkdir(path_.c_str(), 0700) == 0) ::setenv("TMPDIR", path_.c_str(), 0);
  }
  ~FolderInMemory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

 private:
  std::string path_ = "/dev/shm/bundle_test_" + std::to_string(::getpid());
};
const FolderInMemory in_memory;

// A name for a file that goes away.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name)
      : path_(fs::temp_directory_path() / ("lane_bundle_test_" + std::to_string(::getpid()) + "_" + name)) {}
  ~TemporaryFile() { fs::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Bundle, SaysTheSameAsTheMachineItCameFrom) {
  for (const std::string& machine : FakeRoot::machines()) {
    SCOPED_TRACE(machine);
    const FakeRoot root(machine);
    const TemporaryFile file(machine + ".tar.zst");
    const std::vector<std::string> names = collect_bundle(file.path(), root.path());
    EXPECT_GT(names.size(), 20u);
    const Inventory before = take_inventory(root.path());
    const BundleRoot bundle(file.path());
    const Inventory after = take_inventory(bundle.path());
    EXPECT_EQ(before.topology, after.topology) << topology::to_json(after.topology);
    for (const auto& [key, fact] : before.facts) {
      ASSERT_NE(after.find(key), nullptr) << key;
      EXPECT_EQ(*after.find(key), fact) << key << ": " << fact.value << " / " << after.find(key)->value << " ("
                                        << after.find(key)->why_unknown << ")";
    }
    EXPECT_EQ(before.facts.size(), after.facts.size());
    for (const std::string& name : names)
      EXPECT_TRUE(fs::exists(fs::symlink_status(bundle.path() + "/" + name))) << name;
    if (machine != "dgx_h100" && machine != "gb200_nvl72" && machine != "slingshot_gh200") continue;
    // A bundle of the bundle is the same again.
    const TemporaryFile second(machine + "2.tar.zst");
    EXPECT_EQ(collect_bundle(second.path(), bundle.path()), names);
    EXPECT_EQ(take_inventory(BundleRoot(second.path()).path()).facts, after.facts);
  }
}

TEST(Bundle, OfThisMachine) {
  const TemporaryFile file("live.tar.zst");
  collect_bundle(file.path());
  const BundleRoot bundle(file.path());
  Inventory before = take_inventory(""), after = take_inventory(bundle.path());
  for (Inventory* inventory : {&before, &after}) {  // these change by themselves
    inventory->topology.hosts[0].machine.free_memory_bytes = 0;
    inventory->facts.erase("shm.free_bytes");
  }
  EXPECT_EQ(topology::to_json(before.topology), topology::to_json(after.topology));
  for (const auto& [key, fact] : before.facts) {
    ASSERT_NE(after.find(key), nullptr) << key;
    EXPECT_EQ(after.find(key)->value, fact.value) << key;
    EXPECT_EQ(after.find(key)->known(), fact.known()) << key;
  }
}

TEST(Bundle, WhatCouldNotBeReadStaysUnknownForTheSameReason) {
  const FakeRoot root("laptop", "proc/sys/kernel/numa_balancing -> numa_balancing\n");
  const TemporaryFile file("unreadable.tar.zst");
  collect_bundle(file.path(), root.path());
  const BundleRoot bundle(file.path());
  const Inventory inventory = take_inventory(bundle.path());
  EXPECT_EQ(inventory.find("os.numa_balancing")->why_unknown, "Too many levels of symbolic links");
  EXPECT_EQ(inventory.find("os.numa_balancing")->why_unknown,
            take_inventory(root.path()).find("os.numa_balancing")->why_unknown);
}

TEST(Bundle, HoldsNoSecrets) {
  const std::string planted =
      "text/hwloc.xml <<\n"
      "<topology version=\"2.0\">\n<object type=\"Machine\" os_index=\"0\">\n"
      "<info name=\"DMIProductSerial\" value=\"SECRETSERIAL99\"/>\n"
      "<info name=\"Address\" value=\"5e:c2:e7:01:02:03\"/>\n"
      "<info name=\"NodeGUID\" value=\"5ec2:e703:00ab:cd12\"/>\n"
      "<info name=\"Port1GID0\" value=\"fe80:0000:0000:0000:5ec2:e703:00ab:cd12\"/>\n"
      "<object type=\"PCIDev\" pci_busid=\"0000:34:00.0\" pci_link_speed=\"15.75\"/>\n"
      "</object>\n</topology>\n"
      ">>\n"
      "text/smi_q.txt +<<\n"
      "Driver Version                                         : 580.95.05\n"
      "    GPU PDI                 : 0x5ec2e7ce99ccce25\n"
      "    Process /home/alicesecret/train.py on 10.77.66.55:4400 and fe80::5ec2:e7ff:fe00:1\n"
      "    VBIOS Version           : 96.00.89.00.01\n"
      ">>\n"
      "proc/self/status <<\nName:\tsecretprogram\nCpus_allowed_list:\t0-7\n>>\n"
      "proc/1/cgroup = 0::/system.slice/docker-5ec2e7dddddddddddd.scope\n"
      "proc/cmdline = BOOT_IMAGE=/vmlinuz password=SECRETWORD iommu=pt root=UUID=5ec2e7aa-0000-4000-8000-00000000b007\n"
      "proc/self/environ = AWS_SECRET_ACCESS_KEY=SECRETWORD\n"
      "proc/4242/comm = secretprogram\n"
      "proc/4242/cmdline = secretprogram --token SECRETWORD\n";
  for (const char* machine : {"gb200_nvl72", "slingshot_gh200", "h20_sriov", "dgx_h100", "efa_b200"}) {
    SCOPED_TRACE(machine);
    FakeRoot root(machine, planted);
    // Where a device's serial number is in configuration space: capability 3 in the extended part.
    const std::string first = fs::directory_iterator(root.path() + "/sys/bus/pci/devices")->path().filename().string();
    root.add("sys/bus/pci/devices/" + first + "/config ~ 1024 6:1000 34:60 60:10000200 68:3659 100:0300011" +
             "45ec2e75ec2e75ec2 114:0f000100\n");
    const TemporaryFile file("secrets.tar.zst");
    collect_bundle(file.path(), root.path());
    const BundleRoot bundle(file.path());
    for (const auto& entry : fs::recursive_directory_iterator(bundle.path())) {
      std::string text = fs::relative(entry.path(), bundle.path()).string() + "\n";
      if (entry.is_symlink())
        text += fs::read_symlink(entry.path()).string();
      else if (entry.is_regular_file())
        text += read_file(entry.path().string());
      std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
      for (const char* secret : {"secret", "5ec2e7", "5ec2:e7", "5e:c2:e7", "\x5e\xc2\xe7", "c0a8", "a8c0", "buildd",
                                 "dvs-builder", "10.77.66", "4400-8000", "uuid=", "password", "environ", "192.168"})
        EXPECT_EQ(text.find(secret), std::string::npos) << entry.path() << " holds " << secret;
    }
    EXPECT_NE(read_file(bundle.path() + "/text/hwloc.xml").find("0000:34:00.0"), std::string::npos);
    EXPECT_NE(read_file(bundle.path() + "/text/smi_q.txt").find("96.00.89.00.01"), std::string::npos);
    EXPECT_NE(read_file(bundle.path() + "/text/smi_q.txt").find("192.0.2.1:4400"), std::string::npos);
  }
}

TEST(Redaction, MasksWhatIdentifiesAndNothingElse) {
  const std::pair<const char*, const char*> kLines[] = {
      {"Node GUID: 0x5ec2e70300abcd12", "Node GUID: 0x0000000000000001"},
      {"\tnode_guid:\t\t\t5ec2:e703:00ab:cd12", "\tnode_guid:\t\t\t0000:0000:0000:0001"},
      {"GPU 0: NVIDIA H100 (UUID: GPU-00000000-0000-0000-0000-000000000000)",
       "GPU 0: NVIDIA H100 (UUID: GPU-00000000-0000-0000-0000-000000000000)"},
      {"Serial Number : 1650123456789", "Serial Number : removed"},
      {"ClusterUUID : 00000000-0000-0000-0000-000000000000", "ClusterUUID : 00000000-0000-0000-0000-000000000000"},
      {"inet 10.1.2.3/24 brd 10.1.2.255", "inet 192.0.2.1/24 brd 192.0.2.1"},
      {"eth0:192.168.0.7<0>", "eth0:192.0.2.1<0>"},
      {"mac:aa:bb:cc:dd:ee:ff, gid:fe80:0000:0000:0000:5ec2:e703:00ab:cd12, guid:0x5ec2e70300abcd12",
       "mac:00:00:00:00:00:01, gid:fe80:0000:0000:0000:0000:0000:0000:0001, guid:0x0000000000000001"},
      {"80:00:00:48:fe:80:00:00:00:00:00:00:5e:c2:e7:03:00:ab:cd:12", "00:00:00:00:00:01"},
      {"inet6 fe80::5ec2:e7ff:fe00:1/64 2001::", "inet6 2001:db8::1/64 2001:db8::1"},
      {"MIG 5ec2e7ff-0000-4000-8000-00000000000", "MIG 5ec2e7ff-0000-4000-8000-00000000000"},
      {"05:29:15 ncclGroup::start", "05:29:15 ncclGroup::start"},
      {"link/ether aa:bb:cc:dd:ee:ff", "link/ether 00:00:00:00:00:01"},
      {"0000:18:00.0 00000000:18:00.0", "0000:18:00.0 00000000:18:00.0"},
      {"Firmware version: 28.39.1002, fw_ver 0.0.0.0", "Firmware version: 28.39.1002, fw_ver 0.0.0.0"},
      {"48-63,176-191 1234567890123456 GB/s 26.562", "48-63,176-191 1234567890123456 GB/s 26.562"},
      {"/home/bob/x /home/eve", "/home/user/x /home/user"},
      {"affinity=\"00000000,ffffffff\"", "affinity=\"00000000,ffffffff\""},
      {"", ""}};
  for (const auto& [line, expected] : kLines) EXPECT_EQ(without_identities(line), expected);
}

TEST(Redaction, TenThousandMutations) {
  const std::string sample =
      "GPU 0: X (UUID: GPU-5ec2e7ff-0000-4000-8000-000000000001)\nSerial: 1\nguid 0x5ec2e70300abcd12 at fe80::1:2 "
      "10.0.0.1:80 /home/a/b aa:bb:cc:dd:ee:ff 0000:18:00.0\nvalue=\"Serial\" value=\"";
  for (uint64_t i = 0; i < 10000; ++i) {
    std::string text = sample;
    for (uint64_t k = 0; k < 3; ++k) text[random_bits(i, k) % text.size()] = static_cast<char>(random_bits(i, k) >> 32);
    const std::string masked = without_identities(text);
    ASSERT_EQ(std::count(masked.begin(), masked.end(), '\n'), std::count(text.begin(), text.end(), '\n'));
    ASSERT_EQ(without_identities(masked), masked) << "masking twice is masking once: " << text;
  }
}

// --- bad bundles ---

struct Entry {
  std::string path;
  unsigned type = AE_IFREG;
  std::string content_or_target;
  size_t num_bytes = 0;  // of zeros
};

std::string pack(const std::vector<Entry>& entries) {
  std::string out;
  archive* a = archive_write_new();
  archive_write_set_format_pax_restricted(a);
  archive_write_add_filter_zstd(a);
  archive_write_set_bytes_in_last_block(a, 1);
  archive_write_open(
      a, &out, nullptr,
      [](archive*, void* to, const void* bytes, size_t size) -> la_ssize_t {
        static_cast<std::string*>(to)->append(static_cast<const char*>(bytes), size);
        return static_cast<la_ssize_t>(size);
      },
      nullptr);
  for (const Entry& one : entries) {
    archive_entry* entry = archive_entry_new();
    const std::string content = one.num_bytes > 0 ? std::string(one.num_bytes, '\0') : one.content_or_target;
    archive_entry_set_pathname(entry, one.path.c_str());
    archive_entry_set_perm(entry, 0644);
    if (one.type == 0)
      archive_entry_set_hardlink(entry, one.content_or_target.c_str());
    else
      archive_entry_set_filetype(entry, one.type);
    if (one.type == AE_IFLNK) archive_entry_set_symlink(entry, one.content_or_target.c_str());
    if (one.type == AE_IFREG) archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    archive_write_header(a, entry);
    if (one.type == AE_IFREG) archive_write_data(a, content.data(), content.size());
    archive_entry_free(entry);
  }
  archive_write_close(a);
  archive_write_free(a);
  return out;
}

// Of this process: other tests unpack theirs at the same time.
size_t num_temporary_folders() {
  const std::string mine = "lane-bundle-" + std::to_string(::getpid()) + "-";
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator(fs::temp_directory_path()))
    if (entry.path().filename().string().starts_with(mine)) ++count;
  return count;
}

// The words of the error that opening `content` gives; no folder may stay behind.
std::string refusal(const std::string& content) {
  const TemporaryFile file("bad.tar.zst");
  write_file(file.path(), content);
  const size_t before = num_temporary_folders();
  std::string words = "(taken)";
  try {
    const BundleRoot bundle(file.path());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
    words = error.what();
    EXPECT_EQ(words.rfind(file.path(), 0), 0u) << words;
  }
  EXPECT_EQ(num_temporary_folders(), before);
  return words;
}

TEST(BadBundle, IsRefusedAndLeavesNothingBehind) {
  const auto contains = [](const std::string& words, const char* part) {
    return words.find(part) != std::string::npos;
  };
  EXPECT_TRUE(contains(refusal(pack({{"/etc/x", AE_IFREG, "a"}})), "absolute"));
  EXPECT_TRUE(contains(refusal(pack({{"a/../../x", AE_IFREG, "a"}})), "upwards"));
  EXPECT_TRUE(contains(refusal(pack({{"a", AE_IFLNK, "/etc/passwd"}})), "absolute"));
  EXPECT_TRUE(contains(refusal(pack({{"a/b", AE_IFLNK, "../../etc/passwd"}})), "leads out"));
  EXPECT_TRUE(
      contains(refusal(pack({{"a/b/c/r", AE_IFLNK, "../../.."}, {"z", AE_IFLNK, "a/b/c/r/../etc"}})), "leads out"))
      << "each looks as if it stayed inside, together they leave";
  EXPECT_TRUE(contains(refusal(pack({{"d", AE_IFLNK, "e"}, {"d/x", AE_IFREG, "a"}})), "two entries"))
      << "a file must not be written over a link";
  EXPECT_TRUE(contains(refusal(pack({{"d/x", AE_IFREG, "a"}, {"d", AE_IFLNK, "e"}})), "two entries"));
  EXPECT_TRUE(contains(refusal(pack({{"a", AE_IFREG, "1"}, {"a", AE_IFREG, "2"}})), "two entries"));
  EXPECT_TRUE(contains(refusal(pack({{"a", AE_IFREG, "1"}, {"a/b", AE_IFREG, "2"}})), "two entries"));
  EXPECT_TRUE(contains(refusal(pack({{"a", AE_IFREG, "1"}, {"b", 0, "a"}})), "hard link"));
  EXPECT_TRUE(contains(refusal(pack({{"pipe", AE_IFIFO, ""}})), "neither"));
  EXPECT_TRUE(contains(refusal(pack({{"big", AE_IFREG, "", (size_t{256} << 20) + 1}})), "256 MiB"));
  EXPECT_TRUE(contains(refusal(pack(std::vector<Entry>(100001, {"a", AE_IFDIR}))), "100000 entries"));
  EXPECT_NE(refusal("this is not an archive"), "(taken)");
  EXPECT_NE(refusal(""), "(taken)");
  const std::string good = pack({{"proc/version", AE_IFREG, "Linux\n"}, {"l", AE_IFLNK, "proc/version"}});
  EXPECT_EQ(refusal(good), "(taken)");
  EXPECT_NE(refusal(good.substr(0, good.size() / 2)), "(taken)");
  EXPECT_THROW(BundleRoot("/nowhere/bundle.tar.zst"), Error);
}

TEST(BadBundle, MutationsAreRefusedOrTaken) {
  const FakeRoot root("laptop");
  const TemporaryFile file("mutated.tar.zst");
  collect_bundle(file.path(), root.path());
  const std::string good = read_file(file.path());
  for (uint64_t i = 0; i < 300; ++i) {
    std::string bad = good;
    bad[random_bits(1, i) % bad.size()] ^= static_cast<char>(1 + random_bits(2, i) % 255);
    write_file(file.path(), bad);
    try {
      const BundleRoot bundle(file.path());
      take_inventory(bundle.path());
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
    }
  }
}

TEST(Bundle, AFolderIsTakenAsItIs) {
  const FakeRoot root("laptop");
  { EXPECT_EQ(BundleRoot(root.path()).path(), root.path()); }
  EXPECT_TRUE(fs::exists(root.path()));
}

}  // namespace
}  // namespace lane::inventory
