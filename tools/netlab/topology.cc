#include "tools/netlab/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane::netlab {
namespace {

constexpr const char* kLinkKeys = "delay, jitter, rate, loss, queue, reorder, cut";

struct Unit {
  std::string_view suffix;
  double scale;
};

[[noreturn]] void refuse(const std::string& what, const std::string& found, const std::string& remedy) {
  throw Error(ErrorCode::kCorruptData, fmt::format("{}: {}; {}", what, found, remedy));
}

// "<number><suffix>" with one of `units`; negative and endless numbers are refused.
double parse_quantity(const std::string& text, const std::vector<Unit>& units, const std::string& what,
                      const std::string& remedy) {
  double number = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  const std::string_view suffix(end, static_cast<size_t>(last - end));
  if (error == std::errc{} && std::isfinite(number) && number >= 0)
    for (const Unit& unit : units)
      if (suffix == unit.suffix) return number * unit.scale;
  refuse(what, in_quotes(text), remedy);
}

std::string as_text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

bool parse_bool(const Json& value, const std::string& what) {
  const std::string text = as_text(value);
  if (text != "true" && text != "false") refuse(what, in_quotes(text), "write true or false");
  return text == "true";
}

void require_object(const Json& value, const std::string& what) {
  if (!value.is_object()) refuse(what, in_quotes(value.dump()), "write an object: {...}");
}

LinkSettings parse_link(const Json& object, LinkSettings link, const std::string& where) {
  require_object(object, where);
  for (const auto& [key, value] : object.items()) set_field(link, key, value, where);
  return link;
}

// A name becomes a hostname and a word of NETLAB_HOSTS.
std::string parse_name(const Json& value, const std::string& what) {
  const std::string name = value.is_string() ? value.get<std::string>() : "";
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  };
  if (name.empty() || name.size() > 63 || name[0] == '-' || name == "localhost" || !std::ranges::all_of(name, fits))
    refuse(what, in_quotes(as_text(value)), "a name is 1 to 63 letters, digits or '-', such as \"h0\"");
  return name;
}

std::vector<std::string> parse_hosts(const Json& value, const std::string& what) {
  std::vector<std::string> names;
  if (value.is_number_integer()) {
    const auto count = value.get<int64_t>();
    if (count < 1 || count > kMaxHosts)
      refuse(what, std::to_string(count), fmt::format("a laboratory has 1 to {} hosts", kMaxHosts));
    for (int64_t i = 0; i < count; ++i) names.push_back(fmt::format("h{}", i));
  } else if (value.is_array() && !value.empty()) {
    for (const Json& name : value) names.push_back(parse_name(name, what));
  } else {
    refuse(what, in_quotes(value.dump()), "write a number of hosts or a list of names: 4, or [\"h0\", \"h1\"]");
  }
  return names;
}

void add_rack(Topology& topology, Rack rack, const std::vector<std::string>& hosts, const LinkSettings& link) {
  const int index = static_cast<int>(topology.racks.size());
  topology.racks.push_back(std::move(rack));
  for (size_t i = 0; i < hosts.size(); ++i)
    topology.hosts.push_back({hosts[i], fmt::format("10.77.{}.{}", index, i + 1), index, link});
}

void parse_racks(Topology& topology, const Json& racks, const LinkSettings& link, const std::string& where) {
  if (!racks.is_array() || racks.empty())
    refuse(where + ": \"racks\"", in_quotes(racks.dump()),
           R"(write a list such as [{"name": "r0", "hosts": ["h0", "h1"], "uplink": {"rate": "1gbit"}}])");
  for (size_t i = 0; i < racks.size(); ++i) {
    const std::string at = fmt::format("{}: \"racks\"[{}]", where, i);
    require_object(racks[i], at);
    Rack rack{.name = fmt::format("r{}", i)};
    std::vector<std::string> hosts;
    for (const auto& [key, value] : racks[i].items()) {
      if (key == "name")
        rack.name = parse_name(value, at + ".name");
      else if (key == "hosts" && value.is_array())
        hosts = parse_hosts(value, at + ".hosts");
      else if (key == "uplink")
        rack.uplink = parse_link(value, {}, at + ".uplink");
      else
        refuse(at, in_quotes(key) + " is no key or has a wrong value",
               "a rack has name, uplink, and hosts: [\"h0\", \"h1\"]");
    }
    if (hosts.empty()) refuse(at, "no hosts", "add \"hosts\": [\"h0\", \"h1\"]");
    add_rack(topology, std::move(rack), hosts, link);
  }
}

void check_names(const Topology& topology, const std::string& where) {
  std::set<std::string> names;
  if (topology.hosts.size() > kMaxHosts)
    refuse(where, fmt::format("{} hosts", topology.hosts.size()), fmt::format("at most {} are possible", kMaxHosts));
  for (const Host& host : topology.hosts)
    if (!names.insert(host.name).second)
      refuse(where, in_quotes(host.name) + " is there twice", "give every host its own name");
  for (const Rack& rack : topology.racks)
    if (!names.insert(rack.name).second)
      refuse(where, "the rack name " + in_quotes(rack.name) + " is taken", "give racks and hosts different names");
}

}  // namespace

int64_t LinkSettings::queue_limit_bytes() const {
  return queue_bytes > 0 ? queue_bytes : std::max<int64_t>(128 << 10, static_cast<int64_t>(rate_bits_per_s / 8 * 0.05));
}

int64_t parse_duration_ns(const std::string& text, const std::string& what) {
  const double ns =
      parse_quantity(text, {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}}, what,
                     "write a duration with its unit: 0.5ms, 200us, 1s, 10min");
  if (ns > 1e15) refuse(what, in_quotes(text), "at most ten days are possible");
  return std::llround(ns);
}

double parse_bit_rate(const std::string& text, const std::string& what) {
  if (text == "unlimited") return 0;
  const std::string remedy = "write a rate with its unit: 100mbit, 1gbit, or unlimited";
  const double rate = parse_quantity(text, {{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}}, what, remedy);
  if (rate < 1000) refuse(what, in_quotes(text), "at least 1kbit is needed; to stop a link, set cut=true");
  return rate;
}

double parse_share(const std::string& text, const std::string& what) {
  const std::string remedy = "write a share from 0 to 1, or from 0% to 100%";
  const double share = parse_quantity(text, {{"%", 0.01}, {"", 1}}, what, remedy);
  if (share > 1) refuse(what, in_quotes(text), remedy);
  return share;
}

void set_field(LinkSettings& link, const std::string& key, const Json& value, const std::string& where) {
  const std::string what = fmt::format("{}: \"{}\"", where, key);
  if (key == "delay")
    link.delay_ns = parse_duration_ns(as_text(value), what);
  else if (key == "jitter")
    link.jitter_ns = parse_duration_ns(as_text(value), what);
  else if (key == "rate")
    link.rate_bits_per_s = parse_bit_rate(as_text(value), what);
  else if (key == "loss")
    link.loss = parse_share(as_text(value), what);
  else if (key == "queue")
    link.queue_bytes = parse_bytes(as_text(value), what);
  else if (key == "reorder")
    link.reorder = parse_bool(value, what);
  else if (key == "cut")
    link.cut = parse_bool(value, what);
  else
    refuse(where, in_quotes(key) + " is no key of a link", std::string("a link has ") + kLinkKeys);
}

Topology parse_topology(std::string_view json, const std::string& where) {
  const Json file = parse_json(json, where);
  require_object(file, where);
  if (file.contains("hosts") == file.contains("racks"))
    refuse(where, file.contains("hosts") ? "both \"hosts\" and \"racks\"" : "neither \"hosts\" nor \"racks\"",
           R"(write either {"hosts": 4, ...} or {"racks": [...], ...})");
  Topology topology;
  LinkSettings link;
  for (const auto& [key, value] : file.items()) {
    if (key == "hosts" || key == "racks" || key == "links") continue;  // these need the defaults first
    if (key == "link") {
      link = parse_link(value, link, where + ": \"link\"");
    } else if (key == "mtu") {
      topology.mtu = static_cast<int>(std::clamp<int64_t>(json_int(file, "mtu", 0, where), 0, 1 << 20));
      if (topology.mtu < 576 || topology.mtu > 65000)
        refuse(where + ": \"mtu\"", value.dump(), "write a number of bytes from 576 to 65000");
    } else if (key == "seed") {
      topology.seed = static_cast<uint64_t>(json_int(file, "seed", 1, where));
    } else if (file.contains("racks")) {
      refuse(where, in_quotes(key) + " is no key beside \"racks\"", "there are racks, link, links, mtu, seed");
    } else if (!key.empty() && std::string_view(kLinkKeys).find(key) != std::string_view::npos) {
      set_field(link, key, value, where);
    } else {
      refuse(where, in_quotes(key) + " is no key",
             std::string("there are hosts, racks, link, links, mtu, seed and ") + kLinkKeys);
    }
  }
  if (file.contains("racks"))
    parse_racks(topology, file["racks"], link, where);
  else
    add_rack(topology, {}, parse_hosts(file["hosts"], where + ": \"hosts\""), link);
  check_names(topology, where);
  if (file.contains("links")) {
    require_object(file["links"], where + ": \"links\"");
    for (const auto& [name, value] : file["links"].items()) {
      const auto host = std::ranges::find(topology.hosts, name, &Host::name);
      if (host == topology.hosts.end())
        refuse(where + ": \"links\"", in_quotes(name) + " is no host", "name a host; an uplink is set in its rack");
      host->link = parse_link(value, host->link, fmt::format("{}: \"links\".{}", where, name));
    }
  }
  return topology;
}

PathSettings path(const Topology& topology, int from, int to) {
  const Host& source = topology.hosts.at(static_cast<size_t>(from));
  const Host& target = topology.hosts.at(static_cast<size_t>(to));
  PathSettings result;
  double delay_ns = 0, kept = 1;
  const auto pass = [&](const LinkSettings& link) {
    delay_ns += static_cast<double>(link.delay_ns) / 2;
    kept *= link.cut ? 0 : std::sqrt(1 - link.loss);
    if (link.rate_bits_per_s > 0 && (result.rate_bits_per_s == 0 || link.rate_bits_per_s < result.rate_bits_per_s))
      result.rate_bits_per_s = link.rate_bits_per_s;
  };
  pass(source.link);
  if (source.rack != target.rack) {
    pass(topology.racks.at(static_cast<size_t>(source.rack)).uplink);
    pass(topology.racks.at(static_cast<size_t>(target.rack)).uplink);
  }
  pass(target.link);
  result.delay_ns = std::llround(delay_ns);
  result.loss = std::max(0.0, 1 - kept);
  return result;
}

}  // namespace lane::netlab
