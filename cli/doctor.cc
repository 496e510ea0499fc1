#include "lane/doctor/doctor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/commands.h"
#include "cli/doctor_picture.h"
#include "cli/shape_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/settings.h"
#include "lane/inventory/inventory.h"
#include "lane/topology/topology.h"

namespace lane::cli {
namespace {

constexpr int kCouldNotTell = 3;
constexpr int64_t kTextLimit = int64_t{64} << 20, kConfLimit = 1 << 20;
constexpr std::array<std::string_view, 4> kPrefixes = {"NCCL_", "UCX_", "NVSHMEM_", "FI_"};

struct Flags {
  std::string root, nccl_topo, collect, nccl_version;
  std::vector<std::string> conf, text;
  bool json = false, env = false, strict = false, verbose = false;
  ShapeFlags shape{.model = "llama-3-70b"};
  int tensor = 0, batch = 16;
};

// --text NAME=FILE
inventory::TextInputs read_texts(const std::vector<std::string>& given) {
  inventory::TextInputs texts;
  const std::map<std::string, std::string*> names = {
      {"topo_m", &texts.topo_m},  {"nvlink_s", &texts.nvlink_s},       {"smi_q", &texts.smi_q},
      {"ibstat", &texts.ibstat},  {"ibv_devinfo", &texts.ibv_devinfo}, {"nccl_topo", &texts.nccl_topo_xml},
      {"hwloc", &texts.hwloc_xml}};
  for (const std::string& one : given) {
    const size_t equals = one.find('=');
    const auto found = names.find(one.substr(0, equals));
    if (equals == std::string::npos || found == names.end())
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("--text {}: expected NAME=FILE, where NAME is topo_m, nvlink_s, smi_q, ibstat, ibv_devinfo, "
                      "nccl_topo or hwloc",
                      one));
    *found->second = read_file(one.substr(equals + 1), kTextLimit);
  }
  return texts;
}

// The group for which costs are reckoned: asked for, or two hosts like this one if it can talk to another, as far as
// the model can be cut that way.
doctor::Workload workload_of(const Flags& flags, const topology::Host& host) {
  doctor::Workload workload;
  std::tie(workload.model_name, workload.shape) = flags.shape.finish();
  workload.batch = flags.batch;
  if (flags.tensor > 0) {
    workload.plan.tensor = flags.tensor;
    plan::check(workload.plan, workload.shape);
    return workload;
  }
  const int num_gpus = static_cast<int>(host.gpus.size());
  const bool has_fabric = std::any_of(host.nics.begin(), host.nics.end(), [](const topology::Nic& nic) {
    return nic.kind != topology::NicKind::kEthernet && nic.kind != topology::NicKind::kUnknown;
  });
  for (const int tensor : {has_fabric ? 2 * num_gpus : num_gpus, num_gpus}) {
    const bool even = tensor > 0 && workload.shape.num_heads % tensor == 0 &&
                      (workload.shape.num_kv_heads % tensor == 0 || tensor % workload.shape.num_kv_heads == 0);
    if (!even) continue;
    workload.plan.tensor = tensor;
    break;
  }
  return workload;
}

// In the order in which NCCL lets them win: /etc/nccl.conf, then NCCL_CONF_FILE or ~/.nccl.conf, then the environment.
std::vector<doctor::EnvironmentSource> sources_of(const Flags& flags, const std::string& root) {
  std::vector<doctor::EnvironmentSource> sources;
  const auto add_file = [&](const std::string& file) {
    sources.push_back(doctor::parse_conf(read_file(file, kConfLimit), file));
  };
  if (!flags.conf.empty()) {
    for (const std::string& file : flags.conf) add_file(file);
    return sources;
  }
  if (file_exists(root + "/etc/nccl.conf")) add_file(root + "/etc/nccl.conf");
  if (!root.empty() && sources.empty())
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("--env --root {}: there is no /etc/nccl.conf in it, and bundles hold no variables; give --conf "
                    "FILE, or run it on the machine",
                    flags.root));
  if (!root.empty()) return sources;
  const std::string asked = launcher_variable("NCCL_CONF_FILE").value_or("");
  const std::string own = asked.empty() ? home_folder() + "/.nccl.conf" : asked;
  if (!asked.empty() || file_exists(own)) add_file(own);
  sources.push_back({.name = "environment", .variables = environment_with_prefixes(kPrefixes)});
  return sources;
}

Json as_json(const inventory::Inventory& inventory) {
  Json facts = Json::object();
  for (const auto& [key, fact] : inventory.facts) {
    if (key.starts_with("text.")) continue;  // whole outputs
    facts[key] = fact.known() ? Json{{"value", fact.value}, {"source", fact.source}}
                              : Json{{"why_unknown", fact.why_unknown}, {"source", fact.source}};
  }
  return facts;
}

int examine(const Flags& flags, const inventory::Inventory& inventory) {
  const topology::Host nothing;
  const topology::Host& host = inventory.topology.hosts.empty() ? nothing : inventory.topology.hosts.front();
  const doctor::Workload workload = workload_of(flags, host);
  const std::vector<doctor::Finding> findings = doctor::examine(inventory, workload);
  const int status = doctor::exit_status(findings, flags.strict);
  const std::string costs = words_for(workload, static_cast<int>(host.gpus.size()));
  if (flags.json) {
    Json all = doctor::to_json(findings);
    all["exit_status"] = status;
    all["workload"] = {{"model", workload.model_name}, {"tensor", workload.plan.tensor}, {"batch", workload.batch}};
    all["topology"] = parse_json(topology::to_json(inventory.topology), "the topology");
    all["facts"] = as_json(inventory);
    fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
    return status;
  }
  const bool colour = ::isatty(STDOUT_FILENO) && !colours_refused();
  fmt::print("{}\n{}\n\n{}", picture_of(inventory), costs, doctor::to_text(findings, colour, flags.verbose));
  return status;
}

int lint(const Flags& flags, const inventory::Inventory& inventory, const std::string& root) {
  const inventory::Fact* library = inventory.find("lib.nccl");
  std::string said = library != nullptr && library->known() ? library->value : "";
  if (!flags.nccl_version.empty()) said = flags.nccl_version;
  const int version = doctor::nccl_version_of(said);
  if (!flags.nccl_version.empty() && version == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--nccl-version {}: expected something like 2.28.9", said));
  const std::vector<doctor::Finding> findings = doctor::lint_environment(sources_of(flags, root), version, &inventory);
  const int status = doctor::exit_status(findings, flags.strict);
  if (flags.json) {
    Json all = doctor::to_json(findings);
    all["exit_status"] = status;
    all["nccl_version"] = version;
    fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
    return status;
  }
  const bool colour = ::isatty(STDOUT_FILENO) && !colours_refused();
  fmt::print("{}", doctor::to_text(findings, colour, flags.verbose));
  return status;
}

int run(const Flags& flags) {
  const inventory::TextInputs texts = read_texts(flags.text);
  if (!flags.root.empty() && !std::filesystem::exists(flags.root))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--root {}: there is no such folder or bundle", flags.root));
  std::unique_ptr<inventory::BundleRoot> bundle;
  if (!flags.root.empty()) bundle = std::make_unique<inventory::BundleRoot>(flags.root);
  const std::string root = bundle ? bundle->path() : "";
  if (!flags.collect.empty()) {
    const std::vector<std::string> names = inventory::collect_bundle(flags.collect, root);
    for (const std::string& name : names) fmt::print("{}\n", name);
    fmt::print(stderr,
               "{}: {} files, without serial numbers, addresses and secrets; look at it with: lane doctor --root {}\n",
               flags.collect, names.size(), flags.collect);
    return kExitOk;
  }
  const inventory::Inventory inventory = inventory::take_inventory(root, texts);
  if (!flags.nccl_topo.empty()) {
    if (inventory.topology.hosts.empty() || inventory.topology.hosts.front().gpus.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  "--nccl-topo: no GPUs were found here; run it on the host that has them");
    write_file(flags.nccl_topo, inventory::to_nccl_topo(inventory.topology.hosts.front()));
    fmt::print(stderr, "{}: use it with: export NCCL_TOPO_FILE={}\n", flags.nccl_topo, flags.nccl_topo);
    return kExitOk;
  }
  if (flags.env || !flags.conf.empty()) return lint(flags, inventory, root);
  return examine(flags, inventory);
}

}  // namespace

void add_doctor(CLI::App& app, Program& program) {
  CLI::App* command =
      app.add_subcommand("doctor", "What is wrong with this machine's GPUs, links and network settings");
  auto flags = std::make_shared<Flags>();
  command->add_option("--root", flags->root,
                      "Look at a support bundle, or a folder with copies of /sys and /proc, instead");
  command->add_flag("--env", flags->env,
                    "Look at variables and nccl.conf files of NCCL, UCX, NVSHMEM and libfabric instead");
  command->add_option("--conf", flags->conf, "With --env: look at these nccl.conf files alone")
      ->check(CLI::ExistingFile);
  command->add_option("--nccl-version", flags->nccl_version,
                      "With --env: of NCCL, such as 2.28.9; else of what is installed");
  command->add_option(
      "--text", flags->text,
      "NAME=FILE: outputs of other tools where sysfs says too little; NAME is topo_m (nvidia-smi topo -m), "
      "nvlink_s (nvidia-smi nvlink -s), smi_q (nvidia-smi -q), ibstat, ibv_devinfo, nccl_topo "
      "(NCCL_TOPO_DUMP_FILE) or hwloc (lstopo --of xml)");
  flags->shape.add_to(*command);
  command
      ->add_option("--tp", flags->tensor, "GPUs of a tensor-parallel group, for costs; two hosts like this if left out")
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--batch", flags->batch, "Sequences that decode together, for costs")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--nccl-topo", flags->nccl_topo, "Write NCCL's topology file (for NCCL_TOPO_FILE) and stop");
  command->add_option("--collect", flags->collect, "Write a support bundle (FILE.tar.zst) and stop");
  command->add_flag("--strict", flags->strict, "What could not be told counts as a warning");
  command->add_flag("--verbose,-v", flags->verbose, "Show what is well too");
  command->add_flag("--json", flags->json, "One JSON document, with the topology that other commands read");
  command->footer(
      "Exit status: 0 well, 1 warnings, 2 fatal (or wrong flags), 3 something could not be told (or an error).\n"
      "Nothing is changed: each finding says what to do and how to undo it; docs/doctor.md explains all of them.\n"
      "Examples:\n"
      "  lane doctor --model llama-3-70b --tp 16\n"
      "  lane doctor --env --conf /etc/nccl.conf --nccl-version 2.28.9\n"
      "  lane doctor --collect node7.tar.zst     and elsewhere     lane doctor --root node7.tar.zst");
  command->callback([&program, flags] {
    program.error_status = kCouldNotTell;
    program.run = [flags] { return run(*flags); };
  });
}

}  // namespace lane::cli
