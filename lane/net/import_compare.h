#pragma once
#include <string>
#include <vector>

#include "lane/net/import.h"

namespace lane::net {

// The chance that samples like `newer` come out as large against `older` as they did, if both were drawn alike: the
// one-sided Mann-Whitney U test (Mann and Whitney: On a test of whether one of two random variables is stochastically
// larger than the other, 1947). Exact up to 50 samples in all, ties or not; beyond that by the normal approximation
// with corrections for ties and continuity. 1 if either is empty.
double chance_of_larger(const std::vector<double>& newer, const std::vector<double>& older);

// What two measurements must agree in to be compared.
struct SeriesKey {
  std::string test, type, redop, variant;
  int64_t bytes = 0;
  bool in_place = false;
  int num_ranks = 0, num_nodes = 0;
  auto operator<=>(const SeriesKey&) const = default;
};
std::string words_for(const SeriesKey& key);

// All that was measured of one thing. Of a row that holds a bandwidth and no time, its reciprocal stands for time.
struct Series {
  SeriesKey key;
  std::vector<double> times_us;  // one a run; of a single run its single calls, if the tool tells them
  bool of_single_calls = false;
  bool of_bandwidth = false;
  double median_us() const;
};
std::vector<Series> series_of(const std::vector<ImportedRun>& runs);

enum class Verdict { kSame, kFaster, kSlower, kNotJudged };

struct ComparedSize {
  SeriesKey key;
  double older_us = 0, newer_us = 0;  // medians; of bandwidths the reciprocal of GB/s
  bool of_bandwidth = false;
  double change = 0;                 // newer / older - 1
  int num_older = 0, num_newer = 0;  // samples
  double chance = 1;                 // of the test, corrected for the number of sizes; 1 where it was not made
  bool by_test = false;              // else by the noise bound
  Verdict verdict = Verdict::kNotJudged;
};

struct Comparison {
  std::vector<ComparedSize> sizes;
  std::vector<SeriesKey> only_older, only_newer;
  int count(Verdict verdict) const;
};

struct CompareOptions {
  double noise = 0;      // a slowdown up to this share is none, whatever a test says; 0: not stated
  double chance = 0.05;  // of one false alarm or more among all sizes, if nothing changed
};

// Where there are enough samples on both sides, by chance_of_larger() with Holm's correction for the number of sizes
// (Holm: A simple sequentially rejective multiple test procedure, 1979); else by `noise`, and not at all without it.
Comparison compare_results(const std::vector<ImportedRun>& older, const std::vector<ImportedRun>& newer,
                           const CompareOptions& options);

}  // namespace lane::net
