// `ibstat` and `ibv_devinfo`: adapters, and their ports below them.
#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "lane/inventory/matching.h"
#include "lane/inventory/text.h"

namespace lane::inventory {
namespace {

using topology::Nic;
using topology::NicPort;

constexpr int64_t kMaxPort = 255;  // a byte in the standard

// Rates of one lane by their code in the InfiniBand standard, as Linux counts them (ib_rate of drivers/infiniband).
struct LaneSpeed {
  int64_t code;
  double gbit_per_s;
  const char* name;
};
constexpr LaneSpeed kLaneSpeeds[] = {{1, 2.5, "SDR"},  {2, 5, "DDR"},     {4, 10, "QDR"},
                                     {8, 10, "FDR10"}, {16, 14, "FDR"},   {32, 25, "EDR"},
                                     {64, 50, "HDR"},  {128, 100, "NDR"}, {256, 200, "XDR"}};
constexpr std::pair<int64_t, int> kLanes[] = {{1, 1}, {2, 4}, {4, 8}, {8, 12}, {16, 2}};

// What the kernel writes in /sys for the words of these tools.
std::string kernel_state(std::string_view word) {
  if (word.starts_with("PORT_")) word.remove_prefix(5);
  std::string state = lower_case(word);
  for (char& c : state) c = c == ' ' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return state == "INITIALIZING" || state == "INITIALIZE" ? "INIT" : state;
}

std::string kernel_phys_state(std::string_view word) {
  constexpr std::pair<std::string_view, std::string_view> kWords[] = {
      {"linkup", "LinkUp"},
      {"polling", "Polling"},
      {"disabled", "Disabled"},
      {"sleep", "Sleep"},
      {"linkerrorrecovery", "LinkErrorRecovery"},
      {"portconfigurationtraining", "PortConfigurationTraining"},
      {"phytest", "Phy Test"}};
  std::string bare;
  for (const char c : lower_case(word))
    if (c != '_' && c != ' ') bare += c;
  if (bare == "portconfigurationtrainning") bare = "portconfigurationtraining";  // as older ibv_devinfo spell it
  for (const auto& [name, kernel] : kWords)
    if (bare == name) return std::string(kernel);
  return std::string(word);
}

int64_t int_or_corrupt(std::string_view value, std::string_view field, int64_t most, const std::string& where,
                       int line) {
  const auto number = int_of(value);
  if (!number || *number < 0 || *number > most)
    corrupt(where, line, fmt::format("{}: \"{}\": expected a number from 0 to {}", field, value, most));
  return *number;
}

// "4" of "PORT_ACTIVE (4)".
std::optional<int64_t> code_of(std::string_view value) {
  const size_t open = value.rfind('(');
  if (open == value.npos || !value.ends_with(")")) return std::nullopt;
  return int_of(value.substr(open + 1, value.size() - open - 2));
}
std::string_view without_code(std::string_view value) { return without_blanks(value.substr(0, value.rfind('('))); }

// A reader of lines in which an adapter comes before its ports.
struct Reading {
  Inventory& inventory;
  const std::string& where;
  std::set<std::string> seen;
  int nic = -1;   // place in the host's list
  int port = -1;  // its number; -1: between adapters and ports

  Nic& current_nic() { return host_of(inventory).nics[static_cast<size_t>(nic)]; }
  NicPort& current_port() { return port_of(current_nic(), port); }

  void begin_nic(std::string_view name, int line) {
    if (name.empty()) corrupt(where, line, "an adapter without a name");
    if (!seen.insert(std::string(name)).second) corrupt(where, line, fmt::format("{} is there twice", name));
    nic = nic_of(host_of(inventory), std::string(name), {});
    port = -1;
  }
  void begin_port(std::string_view number, int line) {
    if (nic < 0) corrupt(where, line, "a port before the first adapter");
    port = static_cast<int>(int_or_corrupt(number, "port", kMaxPort, where, line));
    current_port();
  }
  void fill_kind(std::string_view link_layer) {
    Nic& current = current_nic();
    fill(current.kind, topology::NicKind::kUnknown, nic_kind_of(current.name, link_layer));
  }
};

void read_ibstat_field(const KeyValue& field, int line, Reading& reading) {
  if (reading.nic < 0 || field.value.empty()) return;
  const std::string value(field.value);
  Nic& nic = reading.current_nic();
  if (field.key == "CA type") fill(nic.model, {}, value);
  if (field.key == "Firmware version") fill(nic.firmware, {}, value);
  if (reading.port < 0) return;
  NicPort& port = reading.current_port();
  if (field.key == "State") fill(port.state, {}, kernel_state(value));
  if (field.key == "Physical state") fill(port.phys_state, {}, kernel_phys_state(value));
  if (field.key == "Link layer") reading.fill_kind(value);
  if (field.key == "Rate")  // without a unit; FDR10 and the like are rounded
    fill(port.gbit_per_s, 0.0,
         static_cast<double>(int_or_corrupt(words_of(value)[0], "Rate", 100'000, reading.where, line)));
}

// "ibpanic: [1323906] main: stat of IB device 'mlx5_8' failed: ..." ends the list of older versions.
std::string_view without_process(std::string_view message) {
  const size_t bracket = message.find("] ");
  return bracket == message.npos ? message : message.substr(bracket + 2);
}

// An adapter's width and speed of one lane, each of which comes in a line of its own.
struct Lanes {
  int num = 0;
  const LaneSpeed* speed = nullptr;
};

void fill_rate(const Lanes& lanes, NicPort& port) {
  if (lanes.num == 0 || !lanes.speed) return;
  fill(port.gbit_per_s, 0.0, lanes.num * lanes.speed->gbit_per_s);
  fill(port.speed_name, {}, fmt::format("{}X {}", lanes.num, lanes.speed->name));
}

// What a GID is good for, without the address in it; empty: not set.
std::string gid_kind_of(std::string_view text) {
  in6_addr gid{};
  if (::inet_pton(AF_INET6, std::string(text).c_str(), &gid) != 1) return {};
  const uint8_t* bytes = gid.s6_addr;
  if (std::all_of(bytes + 8, bytes + 16, [](uint8_t byte) { return byte == 0; })) return {};  // no interface, no route
  if (IN6_IS_ADDR_LINKLOCAL(&gid)) return "fe80::...";
  return IN6_IS_ADDR_V4MAPPED(&gid) ? "::ffff:..." : "global";
}

// "GID[  3]: ::ffff:10.0.0.1, RoCE v2"; older versions print no type. In the kernel's words, as from /sys.
void fill_gid(const KeyValue& field, int line, Reading& reading) {
  const size_t close = field.key.find(']');
  const auto index = int_or_corrupt(without_blanks(field.key.substr(4, close == field.key.npos ? close : close - 4)),
                                    "GID", 65535, reading.where, line);
  const size_t comma = field.value.find(',');
  const std::string kind = gid_kind_of(without_blanks(field.value.substr(0, comma)));
  std::string type(comma == field.value.npos ? "" : without_blanks(field.value.substr(comma + 1)));
  const Nic& nic = reading.current_nic();
  if (type.empty()) type = nic.kind == topology::NicKind::kInfiniband ? "IB/RoCE v1" : "?";
  if (type == "RoCE v1") type = "IB/RoCE v1";
  if (!kind.empty())
    fill_fact(reading.inventory, fmt::format("ib.{}.{}.gid.{}", nic.name, reading.port, index),
              {.value = type + " " + kind, .source = reading.where});
}

void read_devinfo_port_field(const KeyValue& field, int line, Reading& reading, Lanes& lanes) {
  NicPort& port = reading.current_port();
  const std::string_view key = field.key, value = field.value;
  if (key == "state") fill(port.state, {}, kernel_state(without_code(value)));
  if (key == "phys_state") fill(port.phys_state, {}, kernel_phys_state(without_code(value)));
  if (key == "link_layer") reading.fill_kind(value);
  if (key.starts_with("GID[")) fill_gid(field, line, reading);
  const auto code = code_of(value);
  if (!code) return;
  for (const auto& [width_code, num] : kLanes)
    if (key == "active_width" && *code == width_code) lanes.num = num;
  for (const LaneSpeed& speed : kLaneSpeeds)  // older versions call speeds that they do not know invalid
    if (key == "active_speed" && *code == speed.code) lanes.speed = &speed;
  fill_rate(lanes, port);
}

}  // namespace

void read_ibstat(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "ibstat", "ibstat", where, text)) return;
  Reading reading{inventory, where};
  std::string stopped;
  for (const Line& line : lines_of(text)) {
    const std::string_view trimmed = without_blanks(line.text);
    const KeyValue field = key_value_of(trimmed);
    if (trimmed.starts_with("CA '")) {
      const size_t end = trimmed.find('\'', 4);
      if (end == trimmed.npos) corrupt(where, line.number, "CA: expected a name in quotes");
      reading.begin_nic(trimmed.substr(4, end - 4), line.number);
    } else if (field.key.starts_with("Port ") && field.key != "Port GUID" && field.value.empty()) {
      reading.begin_port(without_blanks(field.key.substr(5)), line.number);
    } else if (field.key == "ibpanic" || field.key == "ibwarn") {
      stopped = without_process(field.value);
    } else if (field.has_colon) {
      read_ibstat_field(field, line.number, reading);
    }
  }
  if (reading.seen.empty() && stopped.empty())
    corrupt(where, 1, "expected the output of `ibstat` without flags: no line \"CA '...'\"");
  if (!stopped.empty()) inventory.facts["text.ibstat"] = {.value = "incomplete: " + stopped, .source = where};
}

void read_ibv_devinfo(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "ibv_devinfo", "ibv_devinfo", where, text)) return;
  Reading reading{inventory, where};
  Lanes lanes;
  std::string failed;
  bool is_mellanox = false;
  for (const Line& line : lines_of(text)) {
    // GIDs hold colons, also in "GID[  0]:": the key ends at the first one all the same.
    const KeyValue field = key_value_of(line.text);
    if (field.key.starts_with("Failed to ") || field.key == "No IB devices found") failed = field.key;
    if (!field.has_colon) continue;
    if (field.key == "hca_id") {
      reading.begin_nic(field.value, line.number);
      is_mellanox = false;
    } else if (field.key == "port") {
      reading.begin_port(field.value, line.number);
      lanes = {};
    } else if (reading.nic >= 0 && reading.port >= 0) {
      read_devinfo_port_field(field, line.number, reading, lanes);
    } else if (reading.nic >= 0 && !field.value.empty()) {
      Nic& nic = reading.current_nic();
      if (field.key == "fw_ver") fill(nic.firmware, {}, std::string(field.value));
      if (field.key == "board_id") fill(nic.board_id, {}, std::string(field.value));
      if (field.key == "transport" && field.value.starts_with("iWARP"))
        fill(nic.kind, topology::NicKind::kUnknown, topology::NicKind::kEthernet);
      if (field.key == "vendor_id") is_mellanox = field.value == "0x02c9";
      // The kernel's hca_type of these adapters is their part number behind "MT".
      if (field.key == "vendor_part_id" && is_mellanox) fill(nic.model, {}, "MT" + std::string(field.value));
    }
  }
  if (reading.seen.empty() && failed.empty())
    corrupt(where, 1, "expected the output of `ibv_devinfo`: no line \"hca_id: ...\"");
  if (!failed.empty() && failed.starts_with("Failed"))
    inventory.facts["text.ibv_devinfo"] = {.value = "incomplete: " + failed, .source = where};
}

}  // namespace lane::inventory
