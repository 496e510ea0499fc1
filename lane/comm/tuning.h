#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/plan/cost.h"

namespace lane {

// On what something was measured. It holds nowhere else.
struct TuningHardware {
  std::string cpu_model;
  int num_cpus = 0;       // of the host
  std::string transport;  // "shared memory", "shared memory, TCP"
  bool operator==(const TuningHardware&) const = default;
};

// What a call took at one size of the vector: the median, an interval that holds the true one with 95 % confidence, and
// the 99th percentile.
struct TuningPoint {
  int64_t bytes = 0;
  double median_s = 0, low_s = 0, high_s = 0, p99_s = 0;
  bool operator==(const TuningPoint&) const = default;
};

struct TuningCurve {
  std::string algorithm;
  std::vector<TuningPoint> points;  // ascending by bytes
  bool operator==(const TuningCurve&) const = default;

  // Seconds for a vector of any size: straight between the measured sizes where both axes are logarithmic, and beyond
  // them in parallel to `model`, seconds for a size. There is at least one point; bytes is 1 or more.
  double at(int64_t bytes, const std::function<double(int64_t bytes)>& model) const;
  double at(int64_t bytes, const plan::Cost& model) const;
};

// What was measured of one collective. `partial_scale`: as for plan::cost(); it tells 16-bit types from others.
struct TuningRow {
  plan::Collective collective = plan::Collective::kAllReduce;
  int partial_scale = 1;
  std::vector<TuningCurve> curves;
  bool operator==(const TuningRow&) const = default;

  const TuningCurve* find(std::string_view algorithm) const;
};

struct TuningLinks {
  plan::Link local, remote;  // remote: of no use when all ranks were on one host
  bool operator==(const TuningLinks&) const = default;
};

// One shape of a group on one kind of hardware.
struct TuningEntry {
  TuningHardware hardware;
  std::vector<int> ranks_per_node;
  std::optional<TuningLinks> links;  // that fit what was measured
  std::vector<TuningRow> rows;
  bool operator==(const TuningEntry&) const = default;

  const TuningRow* find(plan::Collective collective, int partial_scale) const;
};

// What `lane tune` measured: a value, kept in a file.
class TuningTable {
 public:
  // Strict: what is not as to_text() writes it is Error{kCorruptData} that names `where`, the field, its value and what
  // to do.
  static TuningTable parse(std::string_view text, const std::string& where);
  std::string to_text() const;

  // Newer measurements take the place of older ones of the same algorithm at the same size; the rest stays.
  void merge(const TuningEntry& newer);

  const TuningEntry* find(const TuningHardware& hardware, const std::vector<int>& ranks_per_node) const;
  // For a shape that was not measured: from the entry of this hardware that has most ranks, on several nodes if
  // `several_nodes`.
  std::optional<TuningLinks> links(const TuningHardware& hardware, bool several_nodes) const;

  // The entries for these CPUs, whatever the transport.
  TuningTable of_cpus(const std::string& cpu_model, int num_cpus) const;

  const std::vector<TuningEntry>& entries() const { return entries_; }

 private:
  std::vector<TuningEntry> entries_;
};

// How many ranks each node has, the largest first: groups with the same numbers are taken to behave alike.
std::vector<int> shape_of(const plan::Layout& layout);

// The file of LANE_TUNING; empty when it is off.
std::string tuning_file();

TuningHardware this_hardware(const std::string& transport);

// What rank 0 knows from earlier measurements, as text for all ranks: its hardware and table. A file that cannot be
// used is worth a warning, no more: the cost model does without.
std::string tuning_to_share();

}  // namespace lane
