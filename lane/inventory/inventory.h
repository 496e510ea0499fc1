#pragma once
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lane/topology/topology.h"

namespace lane::inventory {

// Something that was looked for. Unknown is never "no" and never "well".
struct Fact {
  std::string value;   // empty and `why_unknown` set: it could not be told
  std::string source;  // the file or call that says so: "/proc/sys/kernel/numa_balancing", "nvmlDeviceGetPcieSpeed"
  std::string why_unknown;  // "permission denied; run as root"
  bool known() const { return why_unknown.empty(); }
  bool operator==(const Fact&) const = default;
};

// What one host is made of and how it is set up: what `lane doctor` judges. Facts by key; a part in <> is a name.
//
//   os.kernel                     6.8.0-45-generic          os.virtualization    none, kvm, container, gvisor, ...
//   os.cpu_vendor                 GenuineIntel              os.numa_balancing    0, 1
//   os.cpu_governor               performance, ...          os.thp               always, madvise, never
//   os.hypervisor                 none, kvm, ... (below a container too)         os.numa_nodes        number
//   limits.memlock_bytes          number or unlimited       limits.open_files    number
//   limits.stack_bytes            number or unlimited       shm.bytes, shm.free_bytes
//   iommu.mode                    off, passthrough, translated
//   acs.<pci bridge>              on, off                   (config space: needs root)
//   pci.ats.<pci device>          on, off                   pci.max_read_request.<pci device>   512 ... 4096
//   nvidia.driver                 580.159.04                nvidia.open_modules  yes, no
//   nvidia.peermem                loaded, absent            nvidia.dmabuf        yes, no
//   nvidia.persistence            on, off                   nvidia.fabric_manager  running, absent, failed, not needed
//   nvidia.imex                   running, absent, not needed
//   gpu.<i>.ecc_uncorrected       number                    gpu.<i>.xid          last ones, if the log is readable
//   gpu.<i>.ecc                   on, off                   gpu.<i>.performance_state   P0 ... P8: idle links are slow
//   gpu.<i>.fabric_state          completed, in progress, ..., gpu.<i>.fabric_cluster, gpu.<i>.fabric_clique
//   gpu.<i>.nvlink.<l>            active, inactive          gpu.<i>.pcie         "32.0 GT/s x16 of 32.0 GT/s x16"
//   ib.<nic>.<port>.gid.<n>       "RoCE v2 fe80::... eth0"  (only those that are set)
//                                 an address shows as its kind: fe80::..., ::ffff:... (IPv4) or global
//   verbs.devices, cxi.devices, pci.devices   numbers; unknown where /sys does not show such classes
//   nvml                          "8 GPUs", or why not      nvidia.unlisted_gpus  PCI addresses that NVML lacks, none
//   lib.nccl, lib.nvshmem, lib.ucx, lib.libfabric, lib.ofed     versions of what a program would load; absent
//   lib.nvml                      of the driver's library   lib.ofed may also be inbox
//   text.<name>                   whole outputs that were given as files: see TextInputs
//
// New facts get a line here.
struct Inventory {
  topology::Topology topology;  // of this one host
  std::map<std::string, Fact> facts;
  const Fact* find(const std::string& key) const {
    const auto found = facts.find(key);
    return found == facts.end() ? nullptr : &found->second;
  }
};

// Outputs of other tools, as fallback and for machines that are elsewhere; empty: not given.
struct TextInputs {
  std::string topo_m, nvlink_s, smi_q, ibstat, ibv_devinfo, nccl_topo_xml, hwloc_xml;
};

// Reads /proc and /sys below `root` ("": this machine, then also NVML and the libraries, which are loaded at run time
// if they are there; else a folder with copies, such as an unpacked bundle). Needs no root rights and changes nothing.
// Files <root>/text/{topo_m,nvlink_s,smi_q,ibstat,ibv_devinfo}.txt, nccl_topo.xml and hwloc.xml are used like
// `texts`. What sysfs says wins over text; what neither says is unknown.
Inventory take_inventory(const std::string& root, const TextInputs& texts = {});

// Copies what take_inventory() reads into a .tar.zst (written beside and renamed). Left out: serial numbers, UUIDs,
// GUIDs, MAC and IP addresses, user names, command lines, environment variables that are not settings of communication
// libraries. Returns the names of what went in.
std::vector<std::string> collect_bundle(const std::string& file, const std::string& root = "");

// A folder, or a bundle unpacked into a temporary one that goes away with this object.
class BundleRoot {
 public:
  explicit BundleRoot(const std::string& folder_or_bundle);
  ~BundleRoot();
  BundleRoot(const BundleRoot&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool is_temporary_ = false;
};

// Readers of text; pure. Each fills what it knows into `host` (devices are matched by PCI address, index or name) and
// `facts`. Nonsense is Error{kCorruptData} naming `where` and the line; unknown words are passed over.
void read_topo_m(std::string_view text, const std::string& where, Inventory& inventory);       // nvidia-smi topo -m
void read_nvlink_s(std::string_view text, const std::string& where, Inventory& inventory);     // nvidia-smi nvlink -s
void read_smi_q(std::string_view text, const std::string& where, Inventory& inventory);        // nvidia-smi -q
void read_ibstat(std::string_view text, const std::string& where, Inventory& inventory);       // ibstat
void read_ibv_devinfo(std::string_view text, const std::string& where, Inventory& inventory);  // ibv_devinfo [-v]
void read_nccl_topo(std::string_view text, const std::string& where, Inventory& inventory);    // NCCL_TOPO_DUMP_FILE
void read_hwloc(std::string_view text, const std::string& where, Inventory& inventory);        // lstopo --of xml

// The topology file that NCCL_TOPO_FILE takes, for virtual machines that hide theirs.
std::string to_nccl_topo(const topology::Host& host);

}  // namespace lane::inventory
