#include <fmt/format.h>

#include "lane/base/units.h"
#include "lane/doctor/checks/check.h"

// Limits and settings of the operating system.
namespace lane::doctor {
namespace {

bool has_rdma(const Case& c) {
  for (const Nic& nic : c.host.nics)
    if (is_compute(nic)) return true;
  return false;
}

// A number in the units of memory, or "unlimited".
std::string words_for_bytes(const Case& c, const std::string& key) {
  const auto bytes = c.number(key);
  return bytes ? format_bytes(*bytes) : c.value(key);
}

std::vector<Finding> not_told(const Case& c, const std::string& key, const std::string& what,
                              const std::string& needs) {
  return {unknown(what + " is not told", {c.evidence(key)}, needs)};
}

std::vector<Finding> memlock(const Case& c) {
  if (!has_rdma(c)) return {};  // only network cards register memory
  const std::string key = "limits.memlock_bytes";
  const std::string value = c.value(key);
  const std::vector<Evidence> seen{c.evidence(key)};
  if (value.empty()) return not_told(c, key, "the limit on locked memory", "ulimit -l");
  const auto bytes = c.number(key);
  const int64_t memory = c.host.machine.memory_bytes;
  if (value == "unlimited") return {fine("locked memory is not limited", seen)};
  if (!bytes) return not_told(c, key, "the limit on locked memory", "ulimit -l");
  if (memory > 0 && *bytes >= static_cast<double>(memory)) return {fine("all memory may be locked", seen)};
  return {
      warning(fmt::format("locked memory is limited to {}: registering buffers with the NIC fails (ibv_reg_mr, "
                          "ibv_create_qp)",
                          words_for_bytes(c, key)),
              seen, {0, "no time; NCCL does not start, or falls back to TCP"},
              "* soft memlock unlimited and * hard memlock unlimited in /etc/security/limits.d/; LimitMEMLOCK=infinity "
              "for slurmd; --ulimit memlock=-1 for docker",
              "remove those lines and log in again")};
}

std::vector<Finding> shared_memory(const Case& c) {
  // What NCCL's troubleshooting page tells containers to have; docker's default is 64 MiB.
  constexpr double kEnough = 1 << 30;
  constexpr int kUsesCumem = 22400;  // from 2.24 on host memory comes from CUDA where driver and NUMA allow
  if (c.host.gpus.size() < 2) return {};
  const auto bytes = c.number("shm.bytes"), free = c.number("shm.free_bytes");
  std::vector<Evidence> seen{c.evidence("shm.bytes")};
  if (!bytes) return not_told(c, "shm.bytes", "the size of /dev/shm", "df -h /dev/shm");
  if (free) seen.push_back(c.evidence("shm.free_bytes"));
  const bool is_full = free && *free < kEnough / 16;
  if (*bytes >= kEnough && !is_full) return {fine("/dev/shm has " + format_bytes(*bytes), seen)};
  const std::string what = *bytes >= kEnough
                               ? fmt::format("/dev/shm has {} left of {}", format_bytes(*free), format_bytes(*bytes))
                               : fmt::format("/dev/shm has {} in all", format_bytes(*bytes));
  const std::string fix =
      *bytes >= kEnough ? "remove what dead jobs left there: ls -l /dev/shm"
                        : "docker run --shm-size=1g; in Kubernetes an emptyDir with medium: Memory at /dev/shm; else "
                          "sudo mount -o remount,size=8G /dev/shm";
  const std::string undo = *bytes >= kEnough ? "what was removed is gone" : "mount it with its former size";
  if (c.nccl_version() >= kUsesCumem)
    return {
        note(what + "; NCCL from 2.24 on needs it only where CUDA's own host memory does not work", seen, fix, undo)};
  return {warning(what + ": NCCL before 2.24 does not start (failed to extend /dev/shm/nccl-...)", seen,
                  {0, "no time; the job does not start"}, fix, undo)};
}

std::vector<Finding> open_files(const Case& c) {
  constexpr double kSmall = 1024, kLarge = 32768;  // NCCL's page: a job of 144 ranks may need over 32K
  if (c.host.gpus.empty()) return {};
  const std::string key = "limits.open_files";
  const std::vector<Evidence> seen{c.evidence(key)};
  if (c.value(key) == "unlimited") return {fine("open files are not limited", seen)};
  const auto limit = c.number(key);
  if (!limit) return not_told(c, key, "the limit on open files", "ulimit -n");
  const std::string fix = "* - nofile 131072 in /etc/security/limits.d/; LimitNOFILE=131072 for slurmd";
  if (*limit < kSmall)
    return {warning(fmt::format("only {:.0f} files may be open", *limit), seen,
                    {0, "no time; larger jobs do not start"}, fix, "remove that line")};
  if (*limit < kLarge && c.costs.num_hosts() > 1)
    return {note(fmt::format("{:.0f} files may be open, which is little for jobs of hundreds of GPUs", *limit), seen,
                 fix, "remove that line")};
  return {fine(fmt::format("{:.0f} files may be open", *limit), seen)};
}

std::vector<Finding> stack(const Case& c) {
  constexpr int kAsksItself = 22800;  // from 2.28 on NCCL gives its threads a safe size
  constexpr double kSafe = 2 << 20;   // its graph search may need more than 2 MiB
  if (c.host.gpus.empty()) return {};
  const std::string key = "limits.stack_bytes", value = c.value(key);
  const std::vector<Evidence> seen{c.evidence(key)};
  if (value.empty()) return not_told(c, key, "the limit on stacks", "ulimit -s");
  const std::string fix = "ulimit -s 8192 in the job's script";
  if (value == "unlimited") {
    if (c.nccl_version() >= kAsksItself) return {fine("stacks are unlimited, which this NCCL copes with", seen)};
    return {warning("an unlimited stack makes glibc give threads 2 MiB, which NCCL before 2.28 may overrun", seen,
                    {0, "no time; the job crashes at its start"}, fix, "ulimit -s unlimited")};
  }
  const auto bytes = c.number(key);
  if (!bytes) return not_told(c, key, "the limit on stacks", "ulimit -s");
  if (*bytes <= kSafe)
    return {warning(fmt::format("stacks are limited to {}: NCCL's graph search may need more", format_bytes(*bytes)),
                    seen, {0, "no time; the job crashes at its start"}, fix, "ulimit -s with the former value")};
  return {fine("stacks may have " + format_bytes(*bytes), seen)};
}

std::vector<Finding> numa_balancing(const Case& c) {
  if (c.host.gpus.empty() || c.host.machine.numa_nodes.size() == 1) return {};
  const std::string key = "os.numa_balancing";
  const Fact* fact = c.fact(key);
  if (fact == nullptr) return {};
  if (!fact->known())
    return not_told(c, key, "whether the kernel moves pages between NUMA nodes", "cat /proc/sys/kernel/numa_balancing");
  const std::vector<Evidence> seen{c.evidence(key)};
  if (fact->value == "0") return {fine("the kernel leaves pages where they are", seen)};
  return {warning("automatic NUMA balancing unmaps pages to see who uses them: threads that drive GPUs and NICs stall",
                  seen, c.costs.unknown("it depends on what else runs; look at numa_hint_faults in /proc/vmstat"),
                  "sudo sysctl -w kernel.numa_balancing=0, and a line in /etc/sysctl.d/",
                  "sudo sysctl -w kernel.numa_balancing=1")};
}

std::vector<Finding> governor(const Case& c) {
  if (c.host.gpus.empty()) return {};
  const std::string key = "os.cpu_governor", value = c.value(key);
  if (value.empty()) return {};  // virtual machines and many servers have none: the firmware rules
  const std::vector<Evidence> seen{c.evidence(key)};
  if (value == "performance") return {fine("CPU clocks are ruled by \"performance\"", seen)};
  return {note(
      fmt::format("CPU clocks are ruled by \"{}\": launching kernels and posting messages may wait for a clock to "
                  "rise",
                  value),
      seen, "sudo cpupower frequency-set -g performance", fmt::format("sudo cpupower frequency-set -g {}", value))};
}

std::vector<Finding> huge_pages(const Case& c) {
  if (c.host.gpus.empty()) return {};
  const std::string key = "os.thp", value = c.value(key);
  if (value.empty()) return {};
  const std::vector<Evidence> seen{c.evidence(key)};
  if (value != "never") return {fine("transparent huge pages: " + value, seen)};
  return {note("transparent huge pages are off: large buffers in host memory need more translations", seen,
               "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
               "echo never | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")};
}

}  // namespace

std::span<const Check> host_checks() {
  static constexpr Check kChecks[] = {
      {"memlock", memlock},      {"shm-small", shared_memory},       {"open-files", open_files},
      {"stack-size", stack},     {"numa-balancing", numa_balancing}, {"cpu-governor", governor},
      {"huge-pages", huge_pages}};
  return kChecks;
}

}  // namespace lane::doctor
