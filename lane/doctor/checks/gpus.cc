#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "lane/doctor/checks/check.h"

// GPUs by themselves, and the software they need.
namespace lane::doctor {
namespace {

std::vector<Finding> driver(const Case& c) {
  if (c.host.gpus.empty()) return {};
  const Fact* version = c.fact("nvidia.driver");
  const Evidence seen = c.evidence("nvidia.driver");
  // Where nothing hides it, a driver without this file is none.
  const bool is_missing =
      version != nullptr && version->why_unknown == "no such file" && c.value("os.virtualization") == "none";
  if (!is_missing && (version == nullptr || !version->known()))
    return {unknown("whether the NVIDIA driver is loaded is not told", {seen}, "cat /proc/driver/nvidia/version")};
  if (is_missing || version->value.empty() || version->value == "absent" || version->value == "none")
    return {fatal(fmt::format("{} NVIDIA GPU{} on PCIe, but the driver is not loaded", c.host.gpus.size(),
                              c.host.gpus.size() == 1 ? " is" : "s are"),
                  {seen}, "sudo modprobe nvidia; dmesg | grep -i nvrm says why it does not load",
                  "sudo modprobe -r nvidia")};
  // Blackwell and later have open kernel modules only.
  const bool needs_open =
      std::any_of(c.host.gpus.begin(), c.host.gpus.end(), [](const Gpu& gpu) { return gpu.sm >= 100; });
  if (needs_open && c.value("nvidia.open_modules") == "no")
    return {fatal("GPUs from Blackwell on need the open kernel modules; the proprietary ones are loaded",
                  {seen, c.evidence("nvidia.open_modules")}, "install the driver's open flavour (nvidia-open)",
                  "install the proprietary flavour again")};
  const std::string unlisted = c.value("nvidia.unlisted_gpus");
  if (!unlisted.empty() && unlisted != "none")
    return {
        fatal("GPUs are on PCIe that the driver does not list: " + unlisted, {seen, c.evidence("nvidia.unlisted_gpus")},
              "dmesg | grep -iE 'nvrm|xid' says why; drain the host and reset or replace them", "nothing was changed")};
  return {fine("the NVIDIA driver is " + version->value, {seen})};
}

// The library must be of the kernel module's very version.
std::vector<Finding> versions(const Case& c) {
  const std::string module = c.value("nvidia.driver"), library = c.value("lib.nvml");
  if (c.host.gpus.empty()) return {};
  const std::vector<Evidence> evidence{c.evidence("nvidia.driver"), c.evidence("lib.nvml")};
  const Fact *nvml = c.fact("nvml"), *answer = c.fact("nvidia.persistence");
  if (nvml != nullptr && nvml->why_unknown.find("mismatch") != std::string::npos)
    return {fatal(
        "the driver's library is of another version than the kernel's driver: CUDA and nvidia-smi refuse to start",
        {evidence[0], evidence[1], c.evidence("nvml")},
        "drain the host and reboot it, or unload and load the nvidia modules", "install the former driver again")};
  if (module.empty() || module == "absent") return {};
  if (library.empty() && answer != nullptr && answer->known() && answer->source.starts_with("nvml"))
    return {fine("the driver's library works with it", {c.evidence("nvidia.persistence")})};
  if (library.empty())
    return {unknown("the version of the driver's library is not told", evidence, "run it where libnvidia-ml.so.1 is")};
  if (module == library) return {fine("driver and library are both " + module, evidence)};
  return {fatal(fmt::format("the kernel has driver {}, but the library is {}: CUDA and nvidia-smi refuse to start",
                            module, library),
                evidence, "drain the host and reboot it, or unload and load the nvidia modules",
                "install the former driver again")};
}

std::vector<Finding> persistence(const Case& c) {
  const Fact* mode = c.fact("nvidia.persistence");
  if (c.host.gpus.empty() || mode == nullptr) return {};
  const Evidence seen = c.evidence("nvidia.persistence");
  if (!mode->known()) return {unknown("persistence mode is not told", {seen}, "nvidia-smi -q | grep Persistence")};
  if (mode->value == "on") return {fine("the driver keeps GPUs ready (persistence mode)", {seen})};
  return {
      note("persistence mode is off: the first program after a pause waits seconds for the GPUs, and their settings "
           "are lost",
           {seen}, "sudo systemctl enable --now nvidia-persistenced, or sudo nvidia-smi -pm 1",
           "sudo systemctl disable --now nvidia-persistenced, or sudo nvidia-smi -pm 0")};
}

std::vector<Finding> memory_errors(const Case& c) {
  std::vector<Evidence> untold, clean;
  std::vector<Finding> found;
  for (const Gpu& gpu : c.host.gpus) {
    const std::string key = fmt::format("gpu.{}.ecc_uncorrected", gpu.index);
    const auto count = c.number(key);
    // GPUs without ECC have nothing to tell.
    if (c.fact(key) != nullptr && c.fact(key)->why_unknown == "Not Supported") continue;
    Evidence seen = c.evidence(key);
    seen.value = fmt::format("GPU {}: {}", gpu.index, seen.value);
    if (!count) untold.push_back(seen);
    if (count && *count == 0) clean.push_back(seen);
    if (count && *count > 0)
      found.push_back(
          warning(fmt::format("{} has {:.0f} uncorrected memory errors: programs on it die", name_of_gpu(gpu), *count),
                  {seen}, {0, "no time; jobs that meet one end"},
                  fmt::format("drain the host; nvidia-smi -q -d ECC,ROW_REMAPPER -i {0}; nvidia-smi -r -i {0} "
                              "puts pending remaps in force; a remap failure means replacement",
                              gpu.index),
                  "nothing was changed"));
  }
  if (!untold.empty())  // all for the same reason
    found.push_back(unknown(fmt::format("memory errors of {} GPUs are not told", untold.size()), {untold.front()},
                            "NVML, or --text smi_q=FILE; GPUs without ECC have none to tell"));
  if (found.empty() && !clean.empty()) found.push_back(fine("no uncorrected memory errors", clean));
  return found;
}

// What the driver logs, by NVIDIA's list of Xid errors.
struct Xid {
  int number;
  Verdict verdict;
  const char* what;
};
constexpr Xid kXids[] = {{48, Verdict::kWarning, "uncorrectable memory error"},
                         {63, Verdict::kNote, "a memory row was remapped"},
                         {64, Verdict::kWarning, "a memory row could not be remapped"},
                         {74, Verdict::kWarning, "NVLink error"},
                         {79, Verdict::kFatal, "the GPU has fallen off the bus"},
                         {94, Verdict::kWarning, "contained memory error"},
                         {95, Verdict::kFatal, "uncontained memory error"},
                         {119, Verdict::kWarning, "the GPU's system processor does not answer"},
                         {120, Verdict::kWarning, "the GPU's system processor failed"},
                         {140, Verdict::kWarning, "unrecovered memory error"}};

std::vector<int> numbers_in(const std::string& text) {
  std::vector<int> numbers;
  const char *at = text.data(), *end = at + text.size();
  while (at < end) {
    int number = 0;
    const auto [rest, error] = std::from_chars(at, end, number);
    if (error == std::errc{}) numbers.push_back(number);
    at = error == std::errc{} ? rest : at + 1;
  }
  return numbers;
}

std::vector<Finding> driver_errors(const Case& c) {
  std::vector<Finding> found;
  std::vector<Evidence> untold, clean;
  for (const Gpu& gpu : c.host.gpus) {
    const std::string key = fmt::format("gpu.{}.xid", gpu.index);
    if (c.fact(key) == nullptr) continue;
    const Evidence seen = c.evidence(key);
    if (!c.fact(key)->known()) {
      untold.push_back(seen);
      continue;
    }
    Finding worst = note("", {{seen.source, fmt::format("GPU {}: {}", gpu.index, seen.value)}});
    bool any = false;
    for (const int number : numbers_in(c.value(key))) {
      const Xid* known =
          std::find_if(std::begin(kXids), std::end(kXids), [&](const Xid& x) { return x.number == number; });
      const Verdict verdict = known == std::end(kXids) ? Verdict::kNote : known->verdict;
      if (any && verdict <= worst.verdict) continue;
      any = true;
      worst.verdict = verdict;
      worst.what = fmt::format("{}: the driver logged Xid {} ({})", name_of_gpu(gpu), number,
                               known == std::end(kXids) ? "mostly of a program's own making" : known->what);
    }
    if (!any) {
      clean.push_back(seen);
      continue;
    }
    worst.cost_why = "no time; jobs that meet one end";
    worst.undo = "nothing was changed";
    if (worst.verdict != Verdict::kNote)
      worst.fix = fmt::format(
          "drain the host; dmesg | grep -i xid; nvidia-smi -r -i {}; if it comes back, replace the GPU", gpu.index);
    found.push_back(worst);
  }
  if (!untold.empty())
    found.push_back(unknown("the driver's error log is not told", {untold.front()}, "root: sudo dmesg | grep -i xid"));
  if (found.empty() && !clean.empty()) found.push_back(fine("no Xid errors in the log", clean));
  return found;
}

}  // namespace

std::span<const Check> gpu_checks() {
  static constexpr Check kChecks[] = {{"nvidia-driver", driver},
                                      {"driver-library-mismatch", versions},
                                      {"persistence-mode", persistence},
                                      {"gpu-memory-errors", memory_errors},
                                      {"xid", driver_errors}};
  return kChecks;
}

}  // namespace lane::doctor
