#include <fmt/format.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/inventory/facts.h"

namespace lane::inventory {
namespace {

// The value behind "key : value" at the start of a line.
std::string value_of(const std::string& text, std::string_view key) {
  for (std::string_view line : split(text, '\n')) {
    const size_t colon = line.find(':');
    if (colon != line.npos && trim(line.substr(0, colon)) == key) return std::string(trim(line.substr(colon + 1)));
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

Fact cpu_vendor(const Reading& cpuinfo) {
  Fact fact{.value = value_of(cpuinfo.text, "vendor_id"), .source = "/proc/cpuinfo"};
  if (fact.value.empty() && value_of(cpuinfo.text, "CPU implementer") == "0x41") fact.value = "ARM";
  if (fact.value.empty()) fact.why_unknown = cpuinfo.ok() ? "there is no vendor_id" : cpuinfo.why;
  return fact;
}

// What runs the kernel: "none" for a kernel on bare hardware.
Fact hypervisor(Files& files, const Reading& cpuinfo) {
  constexpr std::pair<const char*, const char*> kVendors[] = {
      {"QEMU", "kvm"},      {"KVM", "kvm"},     {"Google", "kvm"},         {"Amazon EC2", "kvm"},
      {"OpenStack", "kvm"}, {"Nutanix", "kvm"}, {"Alibaba Cloud", "kvm"},  {"DigitalOcean", "kvm"},
      {"VMware", "vmware"}, {"Xen", "xen"},     {"innotek", "virtualbox"}, {"Microsoft Corporation", "hyperv"}};
  if (const Reading type = files.read("/sys/hypervisor/type"); type.ok())
    return {.value = type.line(), .source = "/sys/hypervisor/type"};
  const std::string flags = value_of(cpuinfo.text, "flags");
  const std::string vendor = files.read("/sys/class/dmi/id/sys_vendor").line();
  const std::string product = files.read("/sys/class/dmi/id/product_name").line();
  if (!flags.empty() && !contains(" " + flags + " ", " hypervisor "))
    return {.value = "none", .source = "/proc/cpuinfo, flags"};
  for (const auto& [words, kind] : kVendors) {
    const bool named = contains(vendor, words) || contains(product, words);
    // These make computers too: of theirs the CPU's flag says whether one is virtual, and on Arm the product's name.
    if (named && (!flags.empty() || contains(product, "Virtual") || contains(product, "KVM")))
      return {.value = kind, .source = "/sys/class/dmi/id"};
  }
  if (!flags.empty()) return {.value = "unknown kind", .source = "/proc/cpuinfo, flags"};
  if (!cpuinfo.ok()) return {.source = "/proc/cpuinfo", .why_unknown = cpuinfo.why};
  return {.value = "none", .source = "/sys/class/dmi/id"};  // Arm has no flag
}

Fact virtualization(Files& files, const Fact& hypervisor) {
  // gVisor is a kernel of its own; it shows one fixed version to programs.
  const Reading version = files.read("/proc/version");
  if (contains(version.text, "gvisor") || contains(version.text, "Sun Jan 10 15:06:54 PST 2016"))
    return {.value = "gvisor", .source = "/proc/version"};
  for (const char* mark : {"/.dockerenv", "/run/.containerenv"})
    if (files.exists(mark)) return {.value = "container", .source = mark};
  const std::string groups = files.read("/proc/1/cgroup").text;
  for (const char* word : {"docker", "kubepods", "containerd", "libpod", "lxc", "garden", "crio"})
    if (contains(groups, word)) return {.value = "container", .source = "/proc/1/cgroup"};
  return hypervisor;
}

// "always [madvise] never"
Fact huge_pages(Files& files) {
  Fact fact = files.fact("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t open = fact.value.find('['), close = fact.value.find(']');
  if (!fact.known()) return fact;
  if (open == std::string::npos || close == std::string::npos || close < open)
    return {.source = fact.source, .why_unknown = "no choice is marked"};
  fact.value = fact.value.substr(open + 1, close - open - 1);
  return fact;
}

Fact governor(Files& files) {
  Fact fact = files.fact("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (fact.why_unknown == "no such file")
    fact.why_unknown = "the kernel does not rule the clocks: firmware or a hypervisor does";
  return fact;
}

// DMA and DMA-FQ are the types of a group whose devices go through page tables.
Fact iommu_mode(Files& files) {
  const std::string groups = "/sys/kernel/iommu_groups";
  bool any = false;
  for (const std::string& group : files.list(groups)) {
    const Reading type = files.read(groups + "/" + group + "/type");
    if (!type.ok()) continue;
    any = true;
    if (type.line().starts_with("DMA")) return {.value = "translated", .source = groups + "/" + group + "/type"};
  }
  if (any) return {.value = "passthrough", .source = groups};
  const std::string command_line = files.read("/proc/cmdline").line();
  for (const std::string_view word : split(command_line, ' '))
    if (word == "iommu=pt" || word == "iommu.passthrough=1") return {.value = "passthrough", .source = "/proc/cmdline"};
  if (!files.exists("/sys/class/iommu") && !files.exists("/sys/class"))
    return {.source = "/sys/class/iommu", .why_unknown = "there is no /sys/class: the sandbox or the copy lacks it"};
  const std::vector<std::string> units = files.list("/sys/class/iommu");
  if (units.empty()) return {.value = "off", .source = "/sys/class/iommu"};
  files.exists("/sys/class/iommu/" + units[0]);
  return {.source = groups, .why_unknown = "there is an IOMMU, but no group of devices tells its type"};
}

// "Max locked memory         unlimited            unlimited            bytes"
void read_limits(Files& files, std::map<std::string, Fact>& facts) {
  constexpr std::pair<const char*, const char*> kLimits[] = {{"limits.memlock_bytes", "Max locked memory"},
                                                             {"limits.open_files", "Max open files"},
                                                             {"limits.stack_bytes", "Max stack size"}};
  const std::string source = "/proc/self/limits";
  const Reading limits = files.read(source);
  for (const auto& [key, words] : kLimits) {
    Fact fact{.source = source, .why_unknown = limits.ok() ? "the file has no such line" : limits.why};
    for (const std::string_view line : split(limits.text, '\n')) {
      if (!line.starts_with(words)) continue;
      const std::string_view rest = trim(line.substr(std::string_view(words).size()));
      fact.value = rest.substr(0, rest.find(' '));
      if (!fact.value.empty()) fact.why_unknown.clear();
    }
    add_fact(facts, key, fact);
  }
}

}  // namespace

void add_fact(std::map<std::string, Fact>& facts, const std::string& key, Fact fact) {
  const auto [at, is_new] = facts.try_emplace(key, fact);
  if (!is_new && !at->second.known() && fact.known()) at->second = std::move(fact);
}

bool is_virtual_machine(const std::map<std::string, Fact>& facts) {
  const auto found = facts.find("os.hypervisor");
  return found != facts.end() && found->second.known() && found->second.value != "none";
}

void read_os(Files& files, std::map<std::string, Fact>& facts) {
  const Reading cpuinfo = files.read("/proc/cpuinfo");
  facts["os.kernel"] = files.fact("/proc/sys/kernel/osrelease");
  facts["os.cpu_vendor"] = cpu_vendor(cpuinfo);
  facts["os.hypervisor"] = hypervisor(files, cpuinfo);
  facts["os.virtualization"] = virtualization(files, facts["os.hypervisor"]);
  facts["os.numa_balancing"] = files.fact("/proc/sys/kernel/numa_balancing");
  facts["os.thp"] = huge_pages(files);
  facts["os.cpu_governor"] = governor(files);
  facts["iommu.mode"] = iommu_mode(files);
  read_limits(files, facts);
  add_fact(facts, "shm.bytes", {.source = "statvfs(/dev/shm)", .why_unknown = "a copy of files does not tell"});
  add_fact(facts, "shm.free_bytes", {.source = "statvfs(/dev/shm)", .why_unknown = "a copy of files does not tell"});
}

topology::Machine read_machine(Files& files, std::map<std::string, Fact>& facts) {
  // discover() reads these by itself; asking for them here makes them part of a bundle.
  const std::string nodes = "/sys/devices/system/node/";
  for (const char* path :
       {"/proc/meminfo", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/devices/system/node/online", "/proc/sys/kernel/hostname", "/proc/self/status"})
    files.read(path);
  for (const std::string& name : files.list(nodes)) {
    if (!name.starts_with("node")) continue;
    files.read(nodes + name + "/cpulist");
    files.read(nodes + name + "/meminfo");
  }
  topology::Machine machine;
  Fact fact{.source = nodes};
  try {
    machine = topology::discover(files.root());
    fact.value = std::to_string(machine.numa_nodes.size());
  } catch (const Error& error) {
    fact.why_unknown = error.what();
  }
  facts["os.numa_nodes"] = fact;
  if (machine.cpu_model.empty()) machine.cpu_model = facts["os.cpu_vendor"].value;
  if (files.root().empty()) return machine;
  machine.hostname = files.read("/proc/sys/kernel/hostname").line();
  machine.usable_cpus.clear();
  for (const auto& node : machine.numa_nodes)
    machine.usable_cpus.insert(machine.usable_cpus.end(), node.cpus.begin(), node.cpus.end());
  try {
    const std::string allowed = value_of(files.read("/proc/self/status").text, "Cpus_allowed_list");
    if (!allowed.empty()) machine.usable_cpus = topology::parse_cpu_list(allowed);
  } catch (const Error&) {  // the nodes' CPUs stand
  }
  std::sort(machine.usable_cpus.begin(), machine.usable_cpus.end());
  return machine;
}

}  // namespace lane::inventory
