#include "lane/base/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "lane/base/error.h"
#include "lane/topology/hostlist.h"
#include "lane/topology/topology.h"

namespace lane::topology {
namespace {

constexpr int kSchema = 1;

// ---- writing

Json json_of(const PcieLink& link) {
  return {{"gt_per_s", link.gt_per_s},
          {"max_gt_per_s", link.max_gt_per_s},
          {"width", link.width},
          {"max_width", link.max_width}};
}

Json json_of(const Gpu& gpu) {
  return {{"index", gpu.index},
          {"pci_id", gpu.pci_id},
          {"name", gpu.name},
          {"sm", gpu.sm},
          {"memory_bytes", gpu.memory_bytes},
          {"numa_node", gpu.numa_node},
          {"pcie", json_of(gpu.pcie)},
          {"num_nvlinks", gpu.num_nvlinks},
          {"max_nvlinks", gpu.max_nvlinks},
          {"nvlink_gb_per_s", gpu.nvlink_gb_per_s},
          {"has_nvswitch", gpu.has_nvswitch},
          {"nvlink_domain", gpu.nvlink_domain},
          {"is_busy", gpu.is_busy}};
}

Json json_of(const Nic& nic) {
  Json ports = Json::array();
  for (const NicPort& port : nic.ports)
    ports.push_back({{"number", port.number},
                     {"state", port.state},
                     {"phys_state", port.phys_state},
                     {"gbit_per_s", port.gbit_per_s},
                     {"speed_name", port.speed_name},
                     {"counters", port.counters}});
  return {{"name", nic.name},
          {"pci_id", nic.pci_id},
          {"kind", name_of(nic.kind)},
          {"role", name_of(nic.role)},
          {"model", nic.model},
          {"board_id", nic.board_id},
          {"firmware", nic.firmware},
          {"numa_node", nic.numa_node},
          {"pcie", json_of(nic.pcie)},
          {"is_virtual_function", nic.is_virtual_function},
          {"ports", ports},
          {"rail", nic.rail},
          {"leaf_switch", nic.leaf_switch}};
}

// As `nvidia-smi topo -m` writes a cell: "NV18", "PIX".
std::string cell(Path path, int num_nvlinks) {
  return std::string(name_of(path)) + (path == Path::kNvlink && num_nvlinks > 0 ? std::to_string(num_nvlinks) : "");
}

Json json_of(const Host& host) {
  Json result = {
      {"rack", host.rack}, {"leaf_switch", host.leaf_switch}, {"machine", Json::parse(to_json(host.machine))}};
  result["gpus"] = Json::array();
  for (const Gpu& gpu : host.gpus) result["gpus"].push_back(json_of(gpu));
  result["nics"] = Json::array();
  for (const Nic& nic : host.nics) result["nics"].push_back(json_of(nic));
  result["gpu_to_gpu"] = Json::array();
  for (size_t i = 0; i < host.gpu_to_gpu.size(); ++i) {
    Json row = Json::array();
    for (size_t j = 0; j < host.gpu_to_gpu[i].size(); ++j)
      row.push_back(cell(host.gpu_to_gpu[i][j], host.gpu_to_gpu_nvlinks.empty() ? 0 : host.gpu_to_gpu_nvlinks[i][j]));
    result["gpu_to_gpu"].push_back(row);
  }
  result["gpu_to_nic"] = Json::array();
  for (const auto& paths : host.gpu_to_nic) {
    Json row = Json::array();
    for (const Path path : paths) row.push_back(name_of(path));
    result["gpu_to_nic"].push_back(row);
  }
  return result;
}

// A machine's own name is that of its host, or is left open.
bool is_named_alike(const Host& host) { return host.machine.hostname.empty() || host.machine.hostname == host.name; }

bool differ_by_name_alone(const Host& a, Host b) {
  if (a.name == b.name) return true;
  if (!is_named_alike(a) || !is_named_alike(b) || a.machine.hostname.empty() != b.machine.hostname.empty())
    return false;
  b.name = a.name;
  b.machine.hostname = a.machine.hostname;
  return a == b;
}

// ---- reading

// An object of the file, its place for messages, and the fields that it may have.
class Reader {
 public:
  Reader(const Json& json, std::string where, std::initializer_list<std::string_view> fields)
      : json_(json), where_(where) {
    if (!json.is_object()) refuse("expected an object { ... }");
    for (const auto& [field, value] : json.items())
      if (std::find(fields.begin(), fields.end(), field) == fields.end())
        refuse(fmt::format("{} is not a field of it; there are {}", in_quotes(field), fmt::join(fields, ", ")));
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kCorruptData, where_ + ": " + what);
  }

  void get(const char* field, std::string& out) const { out = json_string(json_, field, out, where_); }
  void get(const char* field, double& out) const { out = json_number(json_, field, out, where_); }
  void get(const char* field, bool& out) const { out = json_bool(json_, field, out, where_); }
  void get(const char* field, int64_t& out) const { out = json_int(json_, field, out, where_); }
  void get(const char* field, int& out) const {
    const int64_t value = json_int(json_, field, out, where_);
    if (value != static_cast<int>(value))
      refuse(fmt::format("{} is {}, which is out of range", in_quotes(field), value));
    out = static_cast<int>(value);
  }

  template <class Enum, class Find>
  void get_name(const char* field, Enum& out, Find&& find) const {
    std::string name(name_of(out));
    get(field, name);
    const auto found = find(name);
    if (!found) refuse(fmt::format("{} is {}, which is none of the words for it", in_quotes(field), in_quotes(name)));
    out = *found;
  }

  // `each(item, where)` for the items of a list; a missing list is an empty one.
  template <class Each>
  void for_each(const char* field, Each&& each) const {
    const auto found = json_.find(field);
    if (found == json_.end() || found->is_null()) return;
    if (!found->is_array()) refuse(fmt::format("{}: expected a list [ ... ]", in_quotes(field)));
    for (size_t i = 0; i < found->size(); ++i) each((*found)[i], fmt::format("{}: {}[{}]", where_, field, i));
  }

  const Json* find(const char* field) const {
    const auto found = json_.find(field);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

void read_pcie(const Reader& parent, PcieLink& link) {
  const Json* json = parent.find("pcie");
  if (json == nullptr) return;
  const Reader reader(*json, parent.where() + ": pcie", {"gt_per_s", "max_gt_per_s", "width", "max_width"});
  reader.get("gt_per_s", link.gt_per_s);
  reader.get("max_gt_per_s", link.max_gt_per_s);
  reader.get("width", link.width);
  reader.get("max_width", link.max_width);
}

Gpu read_gpu(const Json& json, const std::string& where) {
  const Reader reader(json, where,
                      {"index", "pci_id", "name", "sm", "memory_bytes", "numa_node", "pcie", "num_nvlinks",
                       "max_nvlinks", "nvlink_gb_per_s", "has_nvswitch", "nvlink_domain", "is_busy"});
  Gpu gpu;
  reader.get("index", gpu.index);
  reader.get("pci_id", gpu.pci_id);
  reader.get("name", gpu.name);
  reader.get("sm", gpu.sm);
  reader.get("memory_bytes", gpu.memory_bytes);
  reader.get("numa_node", gpu.numa_node);
  read_pcie(reader, gpu.pcie);
  reader.get("num_nvlinks", gpu.num_nvlinks);
  reader.get("max_nvlinks", gpu.max_nvlinks);
  reader.get("nvlink_gb_per_s", gpu.nvlink_gb_per_s);
  reader.get("has_nvswitch", gpu.has_nvswitch);
  reader.get("nvlink_domain", gpu.nvlink_domain);
  reader.get("is_busy", gpu.is_busy);
  return gpu;
}

NicPort read_port(const Json& json, const std::string& where) {
  const Reader reader(json, where, {"number", "state", "phys_state", "gbit_per_s", "speed_name", "counters"});
  NicPort port;
  reader.get("number", port.number);
  reader.get("state", port.state);
  reader.get("phys_state", port.phys_state);
  reader.get("gbit_per_s", port.gbit_per_s);
  reader.get("speed_name", port.speed_name);
  if (const Json* counters = reader.find("counters")) {
    if (!counters->is_object()) reader.refuse("\"counters\": expected an object { ... }");
    for (const auto& [name, value] : counters->items())
      port.counters[name] = json_int(*counters, name.c_str(), 0, where + ": counters");
  }
  return port;
}

Nic read_nic(const Json& json, const std::string& where) {
  const Reader reader(json, where,
                      {"name", "pci_id", "kind", "role", "model", "board_id", "firmware", "numa_node", "pcie",
                       "is_virtual_function", "ports", "rail", "leaf_switch"});
  Nic nic;
  reader.get("name", nic.name);
  reader.get("pci_id", nic.pci_id);
  reader.get_name("kind", nic.kind, nic_kind_of);
  reader.get_name("role", nic.role, nic_role_of);
  reader.get("model", nic.model);
  reader.get("board_id", nic.board_id);
  reader.get("firmware", nic.firmware);
  reader.get("numa_node", nic.numa_node);
  read_pcie(reader, nic.pcie);
  reader.get("is_virtual_function", nic.is_virtual_function);
  reader.for_each("ports", [&](const Json& port, const std::string& at) { nic.ports.push_back(read_port(port, at)); });
  reader.get("rail", nic.rail);
  reader.get("leaf_switch", nic.leaf_switch);
  return nic;
}

// "NV18" -> NVLink of 18 links; "PIX" -> PIX and none.
std::pair<Path, int> read_cell(const Json& json, const std::string& where) {
  const std::string text = json.is_string() ? json.get<std::string>() : "";
  const size_t digits = text.starts_with("NV") ? 2 : text.size();
  const auto path = path_of(text.substr(0, digits));
  const std::string count = text.substr(digits);
  if (!path || count.size() > 4 ||
      !std::all_of(count.begin(), count.end(), [](char c) { return c >= '0' && c <= '9'; }))
    throw Error(ErrorCode::kCorruptData,
                where + ": " + in_quotes(text) + " is none of X, NV#, PIX, PXB, PHB, NODE, SYS, ?");
  return {*path, count.empty() ? 0 : std::stoi(count)};
}

void read_matrix(const Reader& reader, const char* field, std::vector<std::vector<Path>>& paths,
                 std::vector<std::vector<int>>* nvlinks) {
  reader.for_each(field, [&](const Json& row, const std::string& where) {
    if (!row.is_array()) throw Error(ErrorCode::kCorruptData, where + ": expected a list [ ... ]");
    paths.emplace_back();
    if (nvlinks != nullptr) nvlinks->emplace_back();
    for (size_t i = 0; i < row.size(); ++i) {
      const auto [path, count] = read_cell(row[i], fmt::format("{}[{}]", where, i));
      paths.back().push_back(path);
      if (nvlinks != nullptr) nvlinks->back().push_back(count);
    }
  });
}

// One host, or as many as "names" stands for.
void read_hosts(const Json& json, const std::string& where, std::vector<Host>& hosts) {
  const Reader reader(json, where,
                      {"name", "names", "machine", "rack", "leaf_switch", "gpus", "nics", "gpu_to_gpu", "gpu_to_nic"});
  Host host;
  reader.get("name", host.name);
  reader.get("rack", host.rack);
  reader.get("leaf_switch", host.leaf_switch);
  if (const Json* machine = reader.find("machine"))
    host.machine = machine_from_json(machine->dump(), where + ": machine");
  reader.for_each("gpus", [&](const Json& gpu, const std::string& at) { host.gpus.push_back(read_gpu(gpu, at)); });
  reader.for_each("nics", [&](const Json& nic, const std::string& at) { host.nics.push_back(read_nic(nic, at)); });
  read_matrix(reader, "gpu_to_gpu", host.gpu_to_gpu, &host.gpu_to_gpu_nvlinks);
  read_matrix(reader, "gpu_to_nic", host.gpu_to_nic, nullptr);
  std::string names;
  reader.get("names", names);
  if (names.empty()) {
    hosts.push_back(std::move(host));
    return;
  }
  if (!host.name.empty()) reader.refuse("it has both \"name\" and \"names\"; give one of them");
  std::vector<std::string> list;
  try {
    list = expand_hostlist(names);
  } catch (const Error& error) {
    reader.refuse(std::string("\"names\": ") + error.what());
  }
  for (const std::string& name : list) {
    host.name = name;
    if (!host.machine.hostname.empty()) host.machine.hostname = name;
    hosts.push_back(host);
  }
}

}  // namespace

std::string to_json(const Topology& topology) {
  Json hosts = Json::array();
  for (size_t i = 0; i < topology.hosts.size();) {
    std::vector<std::string> names;
    const Host& first = topology.hosts[i];
    size_t next = i;
    for (; next < topology.hosts.size() && differ_by_name_alone(first, topology.hosts[next]); ++next)
      names.push_back(topology.hosts[next].name);
    Json host = json_of(first);
    if (names.size() == 1) {
      host["name"] = first.name;
    } else {
      host["names"] = compress_hostlist(names);
    }
    hosts.push_back(std::move(host));
    i = next;
  }
  Json switches = Json::array();
  for (const Switch& one : topology.switches)
    switches.push_back({{"name", one.name},
                        {"level", one.level},
                        {"parents", one.parents},
                        {"uplink_gbit_per_s", one.uplink_gbit_per_s}});
  return Json{{"schema", kSchema},
              {"name", topology.name},
              {"hosts", hosts},
              {"switches", switches},
              {"nic_latency_us", topology.nic_latency_us},
              {"switch_latency_us", topology.switch_latency_us}}
      .dump(1);
}

Topology topology_from_json(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  const Reader reader(json, where, {"schema", "name", "hosts", "switches", "nic_latency_us", "switch_latency_us"});
  int schema = 0;
  reader.get("schema", schema);
  if (schema != kSchema)
    reader.refuse(fmt::format("\"schema\" is {}; this version reads topologies of schema {}", schema, kSchema));
  Topology topology;
  reader.get("name", topology.name);
  reader.get("nic_latency_us", topology.nic_latency_us);
  reader.get("switch_latency_us", topology.switch_latency_us);
  reader.for_each("hosts", [&](const Json& host, const std::string& at) { read_hosts(host, at, topology.hosts); });
  reader.for_each("switches", [&](const Json& item, const std::string& at) {
    const Reader one(item, at, {"name", "level", "parents", "uplink_gbit_per_s"});
    Switch& added = topology.switches.emplace_back();
    one.get("name", added.name);
    one.get("level", added.level);
    one.get("uplink_gbit_per_s", added.uplink_gbit_per_s);
    one.for_each("parents", [&](const Json& parent, const std::string& place) {
      if (!parent.is_string()) throw Error(ErrorCode::kCorruptData, place + ": expected a switch's name");
      added.parents.push_back(parent.get<std::string>());
    });
  });
  check(topology, where);
  return topology;
}

}  // namespace lane::topology
