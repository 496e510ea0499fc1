#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "lane/doctor/checks/check.h"
#include "lane/doctor/lint/rules.h"

// UCX, NVSHMEM and libfabric: the few variables that break things when they are wrong.
namespace lane::doctor {
namespace {

bool has_gpus(const Lint& lint) { return lint.host() != nullptr && !lint.host()->gpus.empty(); }

std::vector<Finding> ucx_transports(const Lint& lint) {
  const Variable* variable = lint.find("UCX_TLS");
  if (variable == nullptr || variable->value.empty()) return {};
  constexpr std::string_view kKnown[] = {
      "all",       "sm",       "shm",       "mm",        "posix",    "sysv",     "xpmem",     "knem",
      "cma",       "self",     "tcp",       "rc",        "rc_x",     "rc_v",     "rc_mlx5",   "rc_verbs",
      "ud",        "ud_x",     "ud_v",      "ud_mlx5",   "ud_verbs", "dc",       "dc_x",      "dc_mlx5",
      "ib",        "cuda",     "cuda_copy", "cuda_ipc",  "gdr_copy", "rocm",     "rocm_copy", "rocm_ipc",
      "rocm_gdr",  "ugni",     "ze",        "ze_copy",   "ze_ipc",   "ze_gdr",   "rdmacm",    "sockcm",
      "gaudi_gdr", "gga_mlx5", "srd",       "ugni_rdma", "ugni_udt", "ugni_smsg"};
  std::vector<Finding> found;
  std::string_view list = variable->value;
  const bool excludes = list.starts_with('^');
  if (excludes) list.remove_prefix(1);
  bool cuda = false, all = false;
  for (std::string_view word : split(list, ',')) {
    if (word.starts_with('\\')) word.remove_prefix(1);
    word = word.substr(0, word.find(':'));  // rc:aux
    cuda |= word.starts_with("cuda");
    all |= word == "all";
    if (std::find(std::begin(kKnown), std::end(kKnown), word) != std::end(kKnown) ||
        word.find('*') != std::string_view::npos)
      continue;
    const std::string nearest = nearest_name(word, kKnown);
    found.push_back(
        about(Verdict::kWarning, *variable,
              fmt::format("{}: UCX has no transport \"{}\", and starts without it", words_for(*variable), word),
              nearest.empty() ? "ucx_info -d lists the transports" : fmt::format("did you mean {}?", nearest)));
  }
  const bool lost = excludes ? cuda : !cuda && !all;
  if (lost && (has_gpus(lint) || lint.host() == nullptr))
    found.push_back(
        about(lint.host() == nullptr ? Verdict::kNote : Verdict::kWarning, *variable,
              fmt::format("{} leaves CUDA out: passing GPU memory to UCX crashes or fails", words_for(*variable)),
              excludes ? "do not exclude cuda" : fmt::format("export UCX_TLS={},cuda", variable->value)));
  return found;
}

std::vector<Finding> nvshmem_words(const Lint& lint) {
  struct Words {
    const char* name;
    std::vector<std::string_view> words;
  };
  const Words kChoices[] = {{"NVSHMEM_BOOTSTRAP", {"PMI", "MPI", "SHMEM", "UID", "plugin"}},
                            {"NVSHMEM_BOOTSTRAP_PMI", {"PMI", "PMI-2", "PMIX"}},
                            {"NVSHMEM_REMOTE_TRANSPORT", {"ibrc", "ucx", "libfabric", "ibdevx", "none"}}};
  std::vector<Finding> found;
  for (const Words& choice : kChoices) {
    const Variable* variable = lint.find(choice.name);
    if (variable == nullptr || variable->value.empty()) continue;
    if (std::none_of(choice.words.begin(), choice.words.end(),
                     [&](std::string_view w) { return same_letters(w, variable->value); })) {
      const std::string nearest = nearest_name(variable->value, choice.words);
      found.push_back(
          about(Verdict::kWarning, *variable,
                fmt::format("{}: expected one of {}; NVSHMEM does not start", words_for(*variable),
                            fmt::join(choice.words, ", ")),
                nearest.empty() ? fmt::format("unset {}", variable->name) : fmt::format("did you mean {}?", nearest)));
    } else if (variable->name == "NVSHMEM_REMOTE_TRANSPORT" && same_letters(variable->value, "none")) {
      found.push_back(about(Verdict::kNote, *variable,
                            "NVSHMEM_REMOTE_TRANSPORT=none keeps NVSHMEM inside one host (or NVLink domain)",
                            "unset NVSHMEM_REMOTE_TRANSPORT for several hosts"));
    }
  }
  return found;
}

// "20m", "3.1M", "1073741824": one letter of k, m, g, t; what follows it is passed over.
std::optional<double> heap_bytes(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !(number >= 0)) return std::nullopt;
  if (end == text.data() + text.size()) return number;
  switch (*end) {
    case 'k':
    case 'K':
      return number * 1024;
    case 'm':
    case 'M':
      return number * (1 << 20);
    case 'g':
    case 'G':
      return number * (1 << 30);
    case 't':
    case 'T':
      return number * (int64_t{1} << 40);
    default:
      return std::nullopt;
  }
}

std::vector<Finding> nvshmem_heap(const Lint& lint) {
  const Variable* variable = lint.find("NVSHMEM_SYMMETRIC_SIZE");
  if (variable == nullptr || variable->value.empty()) return {};
  const auto bytes = heap_bytes(variable->value);
  if (!bytes)
    return {about(
        Verdict::kFatal, *variable,
        fmt::format("{}: expected a number with k, m, g or t behind it; NVSHMEM does not start", words_for(*variable)),
        "unset NVSHMEM_SYMMETRIC_SIZE (1g)")};
  if (has_gpus(lint)) {
    int64_t least = INT64_MAX;
    for (const Gpu& gpu : lint.host()->gpus)
      if (gpu.memory_bytes > 0) least = std::min(least, gpu.memory_bytes);
    if (least != INT64_MAX && *bytes > static_cast<double>(least))
      return {about(Verdict::kWarning, *variable,
                    fmt::format("{} is more than a GPU here has ({:.0f} GiB)", words_for(*variable),
                                static_cast<double>(least) / (1 << 30)),
                    "make it smaller; every rank takes that much")};
  }
  return {};
}

std::vector<Finding> nvshmem_devices(const Lint& lint) {
  const Variable *list = lint.find("NVSHMEM_HCA_LIST"), *mapping = lint.find("NVSHMEM_HCA_PE_MAPPING");
  std::vector<Finding> found;
  if (list != nullptr && mapping != nullptr)
    found.push_back(about(Verdict::kWarning, *list,
                          "NVSHMEM_HCA_LIST and NVSHMEM_HCA_PE_MAPPING are both set: one of them has no effect",
                          "unset one of them"));
  for (const Variable* variable : {list, mapping}) {
    if (variable == nullptr || lint.host() == nullptr || lint.host()->nics.empty()) continue;
    std::string_view entries = variable->value;
    if (entries.starts_with('^')) entries.remove_prefix(1);
    for (const std::string_view entry : split(entries, ',')) {
      const std::string_view name = entry.substr(0, entry.find(':'));
      const bool known = std::any_of(lint.host()->nics.begin(), lint.host()->nics.end(),
                                     [&](const Nic& nic) { return nic.name.starts_with(name); });
      if (!known)
        found.push_back(about(Verdict::kWarning, *variable,
                              fmt::format("{}: this host has no {}", words_for(*variable), name),
                              fmt::format("unset {}: NVSHMEM takes the nearest card", variable->name)));
    }
  }
  return found;
}

// What CSCS (Alps) and Isambard-AI document for Slingshot-11; a reference, not a default.
std::vector<Finding> slingshot_practice(const Lint& lint) {
  struct Site {
    const char *name, *value;
  };
  constexpr Site kSites[] = {{"NCCL_NET", "AWS Libfabric"},         {"NCCL_SOCKET_IFNAME", "hsn"},
                             {"NCCL_NET_GDR_LEVEL", "PHB"},         {"NCCL_CROSS_NIC", "1"},
                             {"FI_CXI_DISABLE_HOST_REGISTER", "1"}, {"FI_MR_CACHE_MONITOR", "userfaultfd"},
                             {"FI_CXI_DEFAULT_CQ_SIZE", "131072"},  {"FI_CXI_RDZV_PROTO", "alt_read"}};
  const topology::Host* host = lint.host();
  const bool slingshot = host != nullptr && std::any_of(host->nics.begin(), host->nics.end(), [](const Nic& nic) {
                           return nic.kind == topology::NicKind::kSlingshot;
                         });
  const bool mentioned = std::any_of(lint.variables.begin(), lint.variables.end(),
                                     [](const Variable& variable) { return variable.name.starts_with("FI_CXI_"); });
  if (!slingshot && !mentioned) return {};
  if (host != nullptr && !slingshot && !host->nics.empty()) {
    const auto variable = std::find_if(lint.variables.begin(), lint.variables.end(),
                                       [](const Variable& one) { return one.name.starts_with("FI_CXI_"); });
    return {about(Verdict::kNote, *variable,
                  fmt::format("{} is for Slingshot, which this host does not have", words_for(*variable)),
                  fmt::format("unset {}", variable->name))};
  }
  std::vector<std::string> differ;
  Finding made;
  made.verdict = Verdict::kNote;
  for (const Site& site : kSites) {
    const Variable* variable = lint.find(site.name);
    if (variable != nullptr && variable->value == site.value) continue;
    differ.push_back(fmt::format("export {}=\"{}\"", site.name, site.value));
    made.evidence.push_back(
        {variable == nullptr ? site.name : variable->source, variable == nullptr ? "not set" : words_for(*variable)});
  }
  if (differ.empty()) return {};
  made.what = fmt::format("{} of {} settings differ from what Slingshot sites (CSCS, Isambard-AI) document",
                          differ.size(), std::size(kSites));
  made.fix = fmt::format("try, and measure before and after: {}", fmt::join(differ, "; "));
  made.undo = "unset them";
  return {made};
}

}  // namespace

std::span<const Rule> other_rules() {
  static constexpr Rule kRules[] = {{"ucx-tls", ucx_transports},
                                    {"nvshmem-word", nvshmem_words},
                                    {"nvshmem-heap", nvshmem_heap},
                                    {"nvshmem-devices", nvshmem_devices},
                                    {"slingshot-settings", slingshot_practice}};
  return kRules;
}

}  // namespace lane::doctor
