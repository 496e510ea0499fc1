#include "lane/inventory/ib.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <span>

namespace lane::inventory {
namespace {

using topology::Nic;
using topology::NicKind;
using topology::NicPort;

constexpr const char* kVerbs = "/sys/class/infiniband";
constexpr const char* kCxi = "/sys/class/cxi";
constexpr const char* kNet = "/sys/class/net";
constexpr int kAmazon = 0x1d0f;

// What a sick link or network counts; the unit of *_data is 4 bytes.
constexpr const char* kCounters[] = {"symbol_error",
                                     "link_downed",
                                     "link_error_recovery",
                                     "port_rcv_errors",
                                     "port_rcv_data",
                                     "port_xmit_data",
                                     "local_link_integrity_errors",
                                     "excessive_buffer_overrun_errors",
                                     "VL15_dropped",
                                     "port_xmit_wait",
                                     "port_xmit_discards",
                                     "port_rcv_switch_relay_errors",
                                     "port_xmit_constraint_errors"};
constexpr const char* kHwCounters[] = {"out_of_sequence",     "packet_seq_err",
                                       "rnr_nak_retry_err",   "local_ack_timeout_err",
                                       "np_cnp_sent",         "implied_nak_seq_err",
                                       "roce_slow_restart",   "rp_cnp_handled",
                                       "roce_adp_retrans",    "np_ecn_marked_roce_packets",
                                       "roce_adp_retrans_to", "rx_icrc_encapsulated"};

// The four of 16 bits of each word of a GID; nullopt if it is none.
std::optional<std::vector<int>> words_of(std::string_view gid) {
  std::vector<int> words;
  for (const std::string_view part : split(trim(gid), ':')) {
    int word = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), word, 16);
    if (part.size() != 4 || error != std::errc{} || end != part.data() + 4 || word < 0) return std::nullopt;
    words.push_back(word);
  }
  if (words.size() != 8) return std::nullopt;
  return words;
}

bool is_ipv4(const std::vector<int>& words) {
  return words[5] == 0xffff && std::all_of(words.begin(), words.begin() + 5, [](int word) { return word == 0; });
}

void read_counters(Files& files, const std::string& folder, std::span<const char* const> names, NicPort& port) {
  for (const char* name : names) {
    const Reading reading = files.read(folder + name);
    if (const auto value = reading.ok() ? whole_number(reading.text) : std::nullopt) port.counters[name] = *value;
  }
}

void read_gids(Files& files, const std::string& folder, const std::string& key, std::map<std::string, Fact>& facts) {
  for (const std::string& index : files.list(folder + "/gids")) {
    const std::string source = folder + "/gids/" + index;
    const std::string kind = kind_of_gid(files.read(source).text);
    if (kind.empty()) continue;
    const std::string type = files.read(folder + "/gid_attrs/types/" + index).line();
    const Reading interface = files.read(folder + "/gid_attrs/ndevs/" + index);
    std::string value = (type.empty() ? "?" : type) + " " + kind;
    if (!interface.line().empty()) value += " " + interface.line();
    facts[key + ".gid." + index] = {.value = value, .source = source};
  }
}

void take_pci(Files&, const PciDevice& device, Nic& nic) {
  nic.pci_id = device.id;
  nic.numa_node = device.numa_node;
  nic.pcie = device.link;
  nic.is_virtual_function = device.is_virtual_function;
  if (nic.model.empty()) nic.model = fmt::format("{:04x}:{:04x}", device.vendor, device.device);
}

NicKind kind_of(const std::string& link_layer, int vendor) {
  if (vendor == kAmazon) return NicKind::kEfa;
  if (link_layer == "InfiniBand") return NicKind::kInfiniband;
  if (link_layer == "Ethernet") return NicKind::kRoce;
  return NicKind::kUnknown;
}

Nic read_verbs(Files& files, const std::string& name, const std::string& path, const PciDevice* device,
               std::map<std::string, Fact>& facts) {
  Nic nic{.name = name};
  nic.model = files.read(path + "/hca_type").line();
  nic.board_id = files.read(path + "/board_id").line();
  nic.firmware = files.read(path + "/fw_ver").line();
  if (device != nullptr) take_pci(files, *device, nic);
  for (const std::string& number : files.list(path + "/ports")) {
    const auto value = whole_number(number);
    if (!value || *value < 1 || *value > 255) continue;
    const std::string folder = path + "/ports/" + number;
    const Rate rate = parse_rate(files.read(folder + "/rate").text);
    NicPort port{.number = static_cast<int>(*value),
                 .state = without_number(files.read(folder + "/state").text),
                 .phys_state = without_number(files.read(folder + "/phys_state").text),
                 .gbit_per_s = rate.gbit_per_s,
                 .speed_name = rate.speed_name};
    read_counters(files, folder + "/counters/", kCounters, port);
    read_counters(files, folder + "/hw_counters/", kHwCounters, port);
    if (nic.kind == NicKind::kUnknown)
      nic.kind = kind_of(files.read(folder + "/link_layer").line(), device != nullptr ? device->vendor : 0);
    read_gids(files, folder, "ib." + name + "." + number, facts);
    nic.ports.push_back(std::move(port));
  }
  return nic;
}

// "up" of cxi's port/link and of net's operstate.
void set_link(const std::string& word, NicPort& port) {
  if (word.empty()) return;
  port.state = word == "up" ? "ACTIVE" : "DOWN";
  port.phys_state = word == "up" ? "LinkUp" : word;
}

// port/speed is a code of the link's technology and its Gbit/s: BS_200G (Slingshot 11), CK_400G (400).
Nic read_cxi(Files& files, const std::string& name, const PciDevice& device) {
  Nic nic{.name = name, .kind = NicKind::kSlingshot};
  nic.firmware = files.read(device.path + "/fw_version").line();
  take_pci(files, device, nic);
  NicPort port;
  set_link(files.read(device.path + "/port/link").line(), port);
  port.speed_name = files.read(device.path + "/port/speed").line();
  const size_t at = port.speed_name.find('_');
  if (at != std::string::npos) port.gbit_per_s = leading_number(std::string_view(port.speed_name).substr(at + 1));
  nic.ports.push_back(port);
  return nic;
}

Nic read_ethernet(Files& files, const std::string& name, const std::string& path, const PciDevice& device) {
  Nic nic{.name = name, .kind = NicKind::kEthernet};
  take_pci(files, device, nic);
  NicPort port;
  set_link(files.read(path + "/operstate").line(), port);
  port.gbit_per_s = leading_number(files.read(path + "/speed").text) / 1000;  // Mbit/s; -1 while there is no link
  nic.ports.push_back(port);
  return nic;
}

// In copies that have no links the path does not tell; then the device's own link may.
const PciDevice* device_of(Files& files, const std::string& path, const std::map<std::string, PciDevice>& devices) {
  std::string id = pci_id_of(path);
  if (id.empty()) id = pci_id_of(files.resolve(path + "/device"));
  const auto found = devices.find(id);
  return found == devices.end() ? nullptr : &found->second;
}

// Whether a class of devices can be seen at all; without it "no adapter" would be a guess.
Fact count_fact(Files& files, const std::string& folder, size_t count) {
  if (files.exists(folder)) return {.value = std::to_string(count), .source = folder};
  if (files.exists("/sys/class")) return {.value = "0", .source = folder};
  return {.source = folder, .why_unknown = "there is no /sys/class: the sandbox or the copy lacks it"};
}

}  // namespace

Rate parse_rate(std::string_view text) {
  constexpr std::string_view kUnit = " Gb/sec";
  text = trim(text);
  const size_t unit = text.find(kUnit), open = text.find('(');
  const double gbit_per_s = leading_number(text);
  if (unit == text.npos || gbit_per_s <= 0 || gbit_per_s > 1e6) return {};
  Rate rate{.gbit_per_s = gbit_per_s};
  if (open != text.npos && text.back() == ')') rate.speed_name = text.substr(open + 1, text.size() - open - 2);
  return rate;
}

std::string without_number(std::string_view state) {
  const size_t colon = state.find(':');
  return std::string(trim(colon == state.npos ? state : state.substr(colon + 1)));
}

std::string kind_of_gid(std::string_view gid) {
  const auto words = words_of(gid);
  if (!words || std::all_of(words->begin(), words->end(), [](int word) { return word == 0; })) return {};
  if (((*words)[0] & 0xffc0) == 0xfe80) {
    // The subnet manager has set a prefix of 0, or the interface has no identifier yet: still nothing to send to.
    return std::all_of(words->begin() + 4, words->end(), [](int word) { return word == 0; }) ? "" : "fe80::...";
  }
  return is_ipv4(*words) ? "::ffff:..." : "global";
}

std::string without_address(std::string_view gid) {
  const std::string kind = kind_of_gid(gid);
  if (kind.empty()) return "0000:0000:0000:0000:0000:0000:0000:0000";
  if (kind == "fe80::...") return "fe80:0000:0000:0000:0000:0000:0000:0001";
  if (kind == "::ffff:...") return "0000:0000:0000:0000:0000:ffff:0000:0001";
  return "2001:0db8:0000:0000:0000:0000:0000:0001";  // RFC 3849: for documents
}

std::vector<Nic> read_nics(Files& files, const std::map<std::string, PciDevice>& devices,
                           std::map<std::string, Fact>& facts) {
  std::vector<Nic> nics;
  std::set<std::string> taken;  // PCI functions
  for (const std::string& name : files.list(kVerbs)) {
    const std::string path = files.resolve(std::string(kVerbs) + "/" + name);
    if (path.empty() || !files.exists(path + "/ports")) continue;
    nics.push_back(read_verbs(files, name, path, device_of(files, path, devices), facts));
    taken.insert(nics.back().pci_id);
  }
  facts["verbs.devices"] = count_fact(files, kVerbs, nics.size());
  const size_t num_verbs = nics.size();
  for (const std::string& name : files.list(kCxi)) {
    const std::string path = files.resolve(std::string(kCxi) + "/" + name);
    const PciDevice* device = device_of(files, path, devices);
    if (device == nullptr) continue;
    nics.push_back(read_cxi(files, name, *device));
    taken.insert(device->id);
  }
  facts["cxi.devices"] = count_fact(files, kCxi, nics.size() - num_verbs);
  for (const std::string& name : files.list(kNet)) {
    const std::string path = files.resolve(std::string(kNet) + "/" + name);
    const PciDevice* device = device_of(files, path, devices);
    const bool has_cable = device != nullptr && (device->device_class >> 8) == 0x0200;
    if (has_cable && taken.insert(device->id).second) nics.push_back(read_ethernet(files, name, path, *device));
  }
  return nics;
}

std::set<std::string> default_route_devices(Files& files) {
  std::set<std::string> found;
  const Reading routes = files.read("/proc/net/route");
  for (const std::string_view row : split(routes.text, '\n')) {
    const auto words = split(row, '\t');
    if (words.size() < 8 || words[1] != "00000000" || words[7] != "00000000") continue;
    const std::string name(words[0]);
    if (name.find('/') != std::string::npos) continue;
    const std::string path = files.resolve(std::string(kNet) + "/" + name);
    std::vector<std::string> below = {path};  // of a bond, bridge or VLAN: the interfaces that carry it
    for (const std::string& entry : files.list(path))
      if (entry.starts_with("lower_")) below.push_back(files.resolve(path + "/" + entry));
    for (const std::string& interface : below)
      if (const std::string id = pci_id_of(interface); !id.empty()) found.insert(id);
  }
  return found;
}

}  // namespace lane::inventory
