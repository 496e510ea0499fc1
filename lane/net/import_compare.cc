#include "lane/net/import_compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "lane/base/units.h"
#include "lane/net/measurement.h"

namespace lane::net {
namespace {

constexpr size_t kMostForExact = 50;
// With fewer repeats than this on a side, single calls say more than the repeats' means do.
constexpr size_t kFewRepeats = 4;

// The number of pairs in which the newer value is larger, ties counting half, and the sum of t^3 - t over ties.
struct PairCount {
  double u = 0, ties = 0;
};
PairCount count_pairs(const std::vector<double>& newer, const std::vector<double>& older) {
  std::vector<std::pair<double, bool>> all;
  for (const double x : newer) all.emplace_back(x, true);
  for (const double x : older) all.emplace_back(x, false);
  std::sort(all.begin(), all.end());
  PairCount pairs;
  double older_below = 0;
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin;
    double of_newer = 0, of_older = 0;
    for (; end < all.size() && all[end].first == all[begin].first; ++end) ++(all[end].second ? of_newer : of_older);
    const auto t = static_cast<double>(end - begin);
    pairs.u += of_newer * (older_below + of_older / 2);
    pairs.ties += t * t * t - t;
    older_below += of_older;
    begin = end;
  }
  return pairs;
}

// The exact chance, given which values are tied: of all ways to say which of the values are the newer ones, the share
// whose ranks add up to as much. With doubled mean ranks r_i, the number of ways to choose k values of sum s follows
//   ways(k, s) = ways(k, s) + ways(k - 1, s - r_i)   for each i (Streitberg and Roehmel: Exact distributions for
// permutations and rank tests, 1986).
double exact_tail(const std::vector<double>& newer, const std::vector<double>& older) {
  std::vector<std::pair<double, bool>> all;
  for (const double x : newer) all.emplace_back(x, true);
  for (const double x : older) all.emplace_back(x, false);
  std::sort(all.begin(), all.end());
  const size_t m = newer.size(), most = all.size() * (all.size() + 1);
  std::vector<std::vector<double>> ways(m + 1, std::vector<double>(most + 1, 0));
  ways[0][0] = 1;
  size_t seen = 0, count = 0, sum_so_far = 0;
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin;
    while (end < all.size() && all[end].first == all[begin].first) ++end;
    const size_t rank = begin + 1 + end;  // twice the mean of begin + 1 ... end
    for (; begin < end; ++begin) {
      if (all[begin].second) seen += rank;
      ++count, sum_so_far += rank;
      for (size_t k = std::min(count, m); k >= 1; --k)
        for (size_t s = sum_so_far; s >= rank; --s) ways[k][s] += ways[k - 1][s - rank];
    }
  }
  double tail = 0, total = 0;
  for (size_t s = 0; s <= most; ++s) {
    total += ways[m][s];
    if (s >= seen) tail += ways[m][s];
  }
  return tail / total;
}

std::vector<double> times_of(const ImportedRow& row) {
  if (!row.samples_us.empty()) return row.samples_us;
  if (row.time_us > 0) return {row.time_us};
  if (row.algbw_gb_per_s > 0) return {1 / row.algbw_gb_per_s};
  return {};
}

// Whether these numbers of samples can at all show a slowdown among `num_sizes`: the least chance is that of one order
// among all.
bool can_decide(size_t m, size_t n, size_t num_sizes, double chance) {
  double log_orders = 0;
  for (size_t i = 1; i <= m; ++i) log_orders += std::log(static_cast<double>(n + i) / static_cast<double>(i));
  return m > 0 && n > 0 && std::exp(-log_orders) * static_cast<double>(num_sizes) <= chance;
}

struct Test {
  ComparedSize* size;
  double slower, faster;  // chances
};

// Holm: the smallest chance times the number of tests, the next times one less, never falling.
void correct(std::vector<Test>& tests, double Test::*chance) {
  std::sort(tests.begin(), tests.end(), [&](const Test& a, const Test& b) { return a.*chance < b.*chance; });
  double before = 0;
  for (size_t i = 0; i < tests.size(); ++i) {
    before = std::max(before, std::min(1.0, tests[i].*chance * static_cast<double>(tests.size() - i)));
    tests[i].*chance = before;
  }
}

void judge(Comparison& comparison, const std::map<const ComparedSize*, std::pair<const Series*, const Series*>>& series,
           const CompareOptions& options) {
  std::vector<Test> tests;
  const size_t num_sizes = comparison.sizes.size();
  for (ComparedSize& size : comparison.sizes) {
    const auto& [older, newer] = series.at(&size);
    size.by_test = can_decide(older->times_us.size(), newer->times_us.size(), num_sizes, options.chance);
    if (size.by_test)
      tests.push_back({&size, chance_of_larger(newer->times_us, older->times_us),
                       chance_of_larger(older->times_us, newer->times_us)});
    else if (options.noise > 0)
      size.verdict = size.change > options.noise    ? Verdict::kSlower
                     : size.change < -options.noise ? Verdict::kFaster
                                                    : Verdict::kSame;
  }
  correct(tests, &Test::slower);
  correct(tests, &Test::faster);
  for (const Test& test : tests) {
    ComparedSize& size = *test.size;
    size.chance = size.change > 0 ? test.slower : test.faster;
    size.verdict = Verdict::kSame;
    if (size.change > options.noise && test.slower <= options.chance) size.verdict = Verdict::kSlower;
    if (size.change < -options.noise && test.faster <= options.chance) size.verdict = Verdict::kFaster;
  }
}

}  // namespace

double chance_of_larger(const std::vector<double>& newer, const std::vector<double>& older) {
  const size_t m = newer.size(), n = older.size();
  if (m == 0 || n == 0) return 1;
  if (m + n <= kMostForExact) return exact_tail(newer, older);
  const auto [u, ties] = count_pairs(newer, older);
  const double pairs = static_cast<double>(m) * static_cast<double>(n), all = static_cast<double>(m + n);
  const double variance = pairs / 12 * (all + 1 - ties / (all * (all - 1)));
  if (variance <= 0) return 1;  // all alike
  return 0.5 * std::erfc((u - pairs / 2 - 0.5) / std::sqrt(variance) / std::sqrt(2.0));
}

double Series::median_us() const {
  std::vector<double> sorted = times_us;
  std::sort(sorted.begin(), sorted.end());
  return percentile_of_sorted(sorted, 0.5);
}

std::string words_for(const SeriesKey& key) {
  std::string text = fmt::format("{} {}", key.test, format_bytes(static_cast<double>(key.bytes)));
  for (const std::string* word : {&key.type, &key.redop, &key.variant})
    if (!word->empty() && *word != "none") text += " " + *word;
  if (key.in_place) text += " in place";
  if (key.num_ranks > 0) text += fmt::format(", {} ranks", key.num_ranks);
  if (key.num_nodes > 0) text += fmt::format(" on {} node{}", key.num_nodes, key.num_nodes == 1 ? "" : "s");
  return text;
}

std::vector<Series> series_of(const std::vector<ImportedRun>& runs) {
  std::map<SeriesKey, std::vector<const ImportedRow*>> rows;
  for (const ImportedRun& run : runs)
    for (const ImportedRow& row : run.rows)
      rows[{row.test, row.type, row.redop, row.variant, row.bytes, row.in_place, run.num_ranks, run.num_nodes}]
          .push_back(&row);
  std::vector<Series> all;
  for (const auto& [key, measured] : rows) {
    Series series{.key = key};
    series.of_single_calls = measured.size() < kFewRepeats;
    for (const ImportedRow* row : measured) {
      const std::vector<double> times = times_of(*row);
      series.of_bandwidth = row->time_us <= 0 && row->samples_us.empty();
      if (series.of_single_calls)
        series.times_us.insert(series.times_us.end(), times.begin(), times.end());
      else if (row->time_us > 0 || !times.empty())
        series.times_us.push_back(row->time_us > 0 ? row->time_us : times[0]);
    }
    if (!series.times_us.empty()) all.push_back(std::move(series));
  }
  return all;
}

int Comparison::count(Verdict verdict) const {
  return static_cast<int>(
      std::count_if(sizes.begin(), sizes.end(), [&](const ComparedSize& size) { return size.verdict == verdict; }));
}

Comparison compare_results(const std::vector<ImportedRun>& older, const std::vector<ImportedRun>& newer,
                           const CompareOptions& options) {
  const std::vector<Series> before = series_of(older), after = series_of(newer);
  std::map<SeriesKey, const Series*> known;
  for (const Series& series : before) known[series.key] = &series;
  Comparison comparison;
  std::vector<std::pair<const Series*, const Series*>> pairs;
  for (const Series& series : after) {
    const auto at = known.find(series.key);
    if (at == known.end()) {
      comparison.only_newer.push_back(series.key);
      continue;
    }
    const double was = at->second->median_us(), is = series.median_us();
    comparison.sizes.push_back({.key = series.key,
                                .older_us = was,
                                .newer_us = is,
                                .of_bandwidth = series.of_bandwidth,
                                .change = is / was - 1,
                                .num_older = static_cast<int>(at->second->times_us.size()),
                                .num_newer = static_cast<int>(series.times_us.size())});
    pairs.emplace_back(at->second, &series);
    known.erase(at);
  }
  for (const auto& [key, series] : known) comparison.only_older.push_back(key);
  std::map<const ComparedSize*, std::pair<const Series*, const Series*>> of_size;
  for (size_t i = 0; i < pairs.size(); ++i) of_size[&comparison.sizes[i]] = pairs[i];
  judge(comparison, of_size, options);
  return comparison;
}

}  // namespace lane::net
