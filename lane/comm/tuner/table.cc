#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/comm/tuning.h"
#include "lane/topology/machine.h"

namespace lane {
namespace {

using plan::Collective;

constexpr int64_t kVersion = 1;
constexpr std::string_view kFormat = "lane tuning";
constexpr std::array kCollectives = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                     Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};

// A place in a file, for messages: "tuning.json: entries[0].rows[1]".
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  [[noreturn]] void refuse(const std::string& field, const std::string& expected) const {
    std::string shown = "missing";
    if (has(field)) shown = in_quotes(json_[field].is_string() ? json_[field].get<std::string>() : json_[field].dump());
    throw Error(ErrorCode::kCorruptData,
                fmt::format("{}{}{}: {} where {} was expected; delete the file and run `lane tune collectives` again",
                            where_, where_.ends_with(": ") ? "" : ".", field, shown, expected));
  }
  const Json& at(const std::string& field, bool (Json::*is)() const, const std::string& expected) const {
    if (!json_.is_object() || !json_.contains(field) || !(json_[field].*is)()) refuse(field, expected);
    return json_[field];
  }
  std::string text(const std::string& field) const { return at(field, &Json::is_string, "a text").get<std::string>(); }
  int64_t integer(const std::string& field, int64_t least) const {
    const Json& value = json_.is_object() && json_.contains(field) ? json_[field] : Json();
    if (!value.is_number_integer() || value.get<int64_t>() < least || value.get<double>() > 9e18)
      refuse(field, fmt::format("a whole number from {} on", least));
    return value.get<int64_t>();
  }
  double seconds(const std::string& field, bool may_be_zero) const {
    const double value = at(field, &Json::is_number, "a number").get<double>();
    if (!std::isfinite(value) || value < 0 || (value == 0 && !may_be_zero)) refuse(field, "a positive number");
    return value;
  }
  Reader object(const std::string& field) const {
    return {at(field, &Json::is_object, "an object"), where_ + (where_.ends_with(": ") ? "" : ".") + field};
  }
  bool has(const std::string& field) const { return json_.is_object() && json_.contains(field); }
  void each(const std::string& field, const std::function<void(const Reader&)>& visit) const {
    const Json& list = at(field, &Json::is_array, "a list");
    for (size_t i = 0; i < list.size(); ++i)
      visit({list[i], fmt::format("{}{}{}[{}]", where_, where_.ends_with(": ") ? "" : ".", field, i)});
  }
  const Json& json() const { return json_; }

 private:
  const Json& json_;
  std::string where_;
};

plan::Link read_link(const Reader& reader) {
  return {.latency_s = reader.seconds("latency_s", true),
          .bytes_per_s = reader.seconds("bytes_per_s", false),
          .message_s = reader.seconds("message_s", true)};
}

TuningCurve read_curve(const Reader& reader) {
  TuningCurve curve{reader.text("algorithm"), {}};
  reader.each("points", [&](const Reader& point) {
    TuningPoint read{.bytes = point.integer("bytes", 1),
                     .median_s = point.seconds("median_s", false),
                     .low_s = point.seconds("low_s", true),
                     .high_s = point.seconds("high_s", true),
                     .p99_s = point.seconds("p99_s", true)};
    if (!curve.points.empty() && read.bytes <= curve.points.back().bytes)
      point.refuse("bytes", fmt::format("more than the {} of the point before", curve.points.back().bytes));
    curve.points.push_back(read);
  });
  if (curve.points.empty()) reader.refuse("points", "at least one point");
  return curve;
}

TuningRow read_row(const Reader& reader) {
  TuningRow row;
  const std::string name = reader.text("collective");
  const auto found = std::find_if(kCollectives.begin(), kCollectives.end(),
                                  [&](Collective collective) { return plan::name_of(collective) == name; });
  if (found == kCollectives.end()) reader.refuse("collective", "the name of a collective, such as all_reduce,");
  row.collective = *found;
  row.partial_scale = static_cast<int>(reader.integer("partial_scale", 1));
  if (row.partial_scale > 2) reader.refuse("partial_scale", "1 or 2");
  reader.each("curves", [&](const Reader& curve) { row.curves.push_back(read_curve(curve)); });
  return row;
}

TuningEntry read_entry(const Reader& reader) {
  TuningEntry entry;
  const Reader hardware = reader.object("hardware");
  entry.hardware = {.cpu_model = hardware.text("cpu_model"),
                    .num_cpus = static_cast<int>(std::min<int64_t>(hardware.integer("num_cpus", 1), 1 << 20)),
                    .transport = hardware.text("transport")};
  for (const Json& count : reader.at("ranks_per_node", &Json::is_array, "a list")) {
    if (!count.is_number_integer() || count.get<int64_t>() < 1 || count.get<int64_t>() > 1 << 20)
      reader.refuse("ranks_per_node", "a list of numbers of ranks");
    entry.ranks_per_node.push_back(count.get<int>());
  }
  if (entry.ranks_per_node.empty()) reader.refuse("ranks_per_node", "a list of numbers of ranks");
  if (reader.has("links")) {
    const Reader links = reader.object("links");
    entry.links = TuningLinks{read_link(links.object("local")), read_link(links.object("remote"))};
  }
  reader.each("rows", [&](const Reader& row) { entry.rows.push_back(read_row(row)); });
  return entry;
}

Json write_link(const plan::Link& link) {
  return {{"latency_s", link.latency_s}, {"bytes_per_s", link.bytes_per_s}, {"message_s", link.message_s}};
}

Json write_entry(const TuningEntry& entry) {
  Json json{{"hardware",
             {{"cpu_model", entry.hardware.cpu_model},
              {"num_cpus", entry.hardware.num_cpus},
              {"transport", entry.hardware.transport}}},
            {"ranks_per_node", entry.ranks_per_node},
            {"rows", Json::array()}};
  if (entry.links)
    json["links"] = {{"local", write_link(entry.links->local)}, {"remote", write_link(entry.links->remote)}};
  for (const TuningRow& row : entry.rows) {
    Json curves = Json::array();
    for (const TuningCurve& curve : row.curves) {
      Json points = Json::array();
      for (const TuningPoint& point : curve.points)
        points.push_back({{"bytes", point.bytes},
                          {"median_s", point.median_s},
                          {"low_s", point.low_s},
                          {"high_s", point.high_s},
                          {"p99_s", point.p99_s}});
      curves.push_back({{"algorithm", curve.algorithm}, {"points", std::move(points)}});
    }
    json["rows"].push_back({{"collective", plan::name_of(row.collective)},
                            {"partial_scale", row.partial_scale},
                            {"curves", std::move(curves)}});
  }
  return json;
}

// The entry that `is_it` finds in `list`, made if there is none.
template <class T, class Is>
T& find_or_add(std::vector<T>& list, const T& fresh, const Is& is_it) {
  const auto found = std::find_if(list.begin(), list.end(), is_it);
  if (found != list.end()) return *found;
  return list.emplace_back(fresh);
}

void merge_curve(TuningCurve& into, const TuningCurve& newer) {
  for (const TuningPoint& point : newer.points) {
    const auto at = std::lower_bound(into.points.begin(), into.points.end(), point.bytes,
                                     [](const TuningPoint& p, int64_t bytes) { return p.bytes < bytes; });
    if (at != into.points.end() && at->bytes == point.bytes)
      *at = point;
    else
      into.points.insert(at, point);
  }
}

}  // namespace

double TuningCurve::at(int64_t bytes, const plan::Cost& model) const {
  return at(bytes, [&](int64_t size) { return model.at(size); });
}

double TuningCurve::at(int64_t bytes, const std::function<double(int64_t bytes)>& model) const {
  ensure(!points.empty(), "a curve has points");
  const auto beyond = [&](const TuningPoint& edge) {
    const double there = model(edge.bytes);
    return there > 0 ? edge.median_s * model(bytes) / there : edge.median_s;
  };
  if (bytes <= points.front().bytes) return beyond(points.front());
  if (bytes >= points.back().bytes) return beyond(points.back());
  const auto above = std::lower_bound(points.begin(), points.end(), bytes,
                                      [](const TuningPoint& point, int64_t size) { return point.bytes < size; });
  const TuningPoint &a = *(above - 1), &b = *above;
  const auto log_of = [](int64_t size) { return std::log(static_cast<double>(size)); };
  const double share = (log_of(bytes) - log_of(a.bytes)) / (log_of(b.bytes) - log_of(a.bytes));
  return a.median_s * std::pow(b.median_s / a.median_s, share);
}

const TuningCurve* TuningRow::find(std::string_view algorithm) const {
  for (const TuningCurve& curve : curves)
    if (curve.algorithm == algorithm) return &curve;
  return nullptr;
}

const TuningRow* TuningEntry::find(Collective collective, int partial_scale) const {
  for (const TuningRow& row : rows)
    if (row.collective == collective && row.partial_scale == partial_scale) return &row;
  return nullptr;
}

TuningTable TuningTable::parse(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  const Reader reader(json, where + ": ");
  if (reader.text("format") != kFormat) reader.refuse("format", fmt::format("\"{}\"", kFormat));
  if (reader.integer("version", 0) != kVersion) reader.refuse("version", fmt::format("{}", kVersion));
  TuningTable table;
  reader.each("entries", [&](const Reader& entry) { table.entries_.push_back(read_entry(entry)); });
  return table;
}

std::string TuningTable::to_text() const {
  Json json{{"format", kFormat}, {"version", kVersion}, {"entries", Json::array()}};
  for (const TuningEntry& entry : entries_) json["entries"].push_back(write_entry(entry));
  return json.dump(1) + "\n";
}

void TuningTable::merge(const TuningEntry& newer) {
  TuningEntry& entry = find_or_add(
      entries_, TuningEntry{newer.hardware, newer.ranks_per_node, {}, {}},
      [&](const TuningEntry& e) { return e.hardware == newer.hardware && e.ranks_per_node == newer.ranks_per_node; });
  if (newer.links) entry.links = newer.links;
  for (const TuningRow& new_row : newer.rows) {
    TuningRow& row =
        find_or_add(entry.rows, TuningRow{new_row.collective, new_row.partial_scale, {}}, [&](const TuningRow& r) {
          return r.collective == new_row.collective && r.partial_scale == new_row.partial_scale;
        });
    for (const TuningCurve& curve : new_row.curves)
      merge_curve(find_or_add(row.curves, TuningCurve{curve.algorithm, {}},
                              [&](const TuningCurve& c) { return c.algorithm == curve.algorithm; }),
                  curve);
  }
}

const TuningEntry* TuningTable::find(const TuningHardware& hardware, const std::vector<int>& ranks_per_node) const {
  for (const TuningEntry& entry : entries_)
    if (entry.hardware == hardware && entry.ranks_per_node == ranks_per_node) return &entry;
  return nullptr;
}

std::optional<TuningLinks> TuningTable::links(const TuningHardware& hardware, bool several_nodes) const {
  const auto num_ranks = [](const TuningEntry& entry) {
    int sum = 0;
    for (const int count : entry.ranks_per_node) sum += count;
    return sum;
  };
  const TuningEntry* best = nullptr;
  for (const TuningEntry& entry : entries_)
    if (entry.hardware == hardware && entry.links && (entry.ranks_per_node.size() > 1) == several_nodes &&
        (best == nullptr || num_ranks(entry) > num_ranks(*best)))
      best = &entry;
  return best != nullptr ? best->links : std::nullopt;
}

TuningTable TuningTable::of_cpus(const std::string& cpu_model, int num_cpus) const {
  TuningTable part;
  for (const TuningEntry& entry : entries_)
    if (entry.hardware.cpu_model == cpu_model && entry.hardware.num_cpus == num_cpus) part.entries_.push_back(entry);
  return part;
}

std::vector<int> shape_of(const plan::Layout& layout) {
  std::vector<int> shape;
  for (const auto& ranks : layout.ranks_by_node()) shape.push_back(static_cast<int>(ranks.size()));
  std::sort(shape.rbegin(), shape.rend());
  return shape;
}

std::string tuning_file() {
  const std::string chosen = setting("LANE_TUNING");
  if (chosen == "off") return "";
  if (!chosen.empty()) return chosen;
  if (const auto cache = launcher_variable("XDG_CACHE_HOME")) return *cache + "/lane/tuning.json";
  if (const auto home = launcher_variable("HOME")) return *home + "/.cache/lane/tuning.json";
  return "";
}

TuningHardware this_hardware(const std::string& transport) {
  // All of the host's CPUs: a rank that is bound to one of them is on the same hardware as one that is not.
  return {topology::discover().cpu_model, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)), transport};
}

std::string tuning_to_share() {
  const TuningHardware hardware = this_hardware("");
  Json text{{"cpu_model", hardware.cpu_model}, {"num_cpus", hardware.num_cpus}};
  const std::string file = tuning_file();
  if (!file.empty() && file_exists(file)) try {
      constexpr int64_t kMostBytes = 64 << 20;
      const TuningTable table = TuningTable::parse(read_file(file, kMostBytes), file);
      text["table"] = table.of_cpus(hardware.cpu_model, hardware.num_cpus).to_text();
    } catch (const Error& error) {
      log(LogLevel::kWarn, fmt::format("measured collectives are not used: {}", error.what()));
    }
  return text.dump();
}

}  // namespace lane
