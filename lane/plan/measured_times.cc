#include "lane/plan/measured_times.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lane/base/error.h"
#include "lane/plan/measured_data.h"
#include "lane/plan/nccl_model.h"

namespace lane::plan {
namespace {

constexpr size_t kNumNames = 5;  // fields before the sizes

std::vector<std::string_view> split(std::string_view line, char separator) {
  std::vector<std::string_view> fields;
  for (;;) {
    const size_t end = line.find(separator);
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

template <class Number>
bool parse(std::string_view text, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

using Point = std::pair<int64_t, double>;

// NCCL chooses by its model, and so this is where it switches, if the times it models are wrong as they may be.
std::vector<int64_t> nccl_switches(const MeasuredCurve& curve) {
  const bool blackwell = curve.gpu == "B200" || curve.gpu == "GB200";
  NcclGroup group{.num_ranks = curve.num_ranks,
                  .sm = blackwell             ? 100
                        : curve.gpu == "A100" ? 80
                        : curve.gpu == "L40S" ? 89
                                              : 90,
                  .nvlink = true};
  group = typical_channels(group, 1, 0);
  group.nvls = group.sm >= 90 && group.num_ranks > 4;
  const auto choice = [&](int64_t bytes) {
    const NcclChoice best = nccl_choices(group, Collective::kAllReduce, bytes).front();
    return std::pair(best.algorithm, best.protocol);
  };
  std::vector<int64_t> switches;
  auto last = choice(curve.points.front().first);
  for (int64_t bytes = curve.points.front().first; bytes < curve.points.back().first; bytes += bytes / 16) {
    int64_t low = bytes, high = bytes + bytes / 16;
    if (choice(high) == last) continue;
    while (high - low > 1) (choice(low + (high - low) / 2) == last ? low : high) = low + (high - low) / 2;
    switches.push_back(high);
    last = choice(bytes + bytes / 16);
  }
  return switches;
}

double percentile90(std::vector<double> errors) {
  std::sort(errors.begin(), errors.end());
  return errors.empty() ? 0 : errors[static_cast<size_t>(std::ceil(0.9 * static_cast<double>(errors.size()))) - 1];
}

MeasuredErrors find_errors() {
  std::vector<double> repeat, in_size, in_ranks;
  const std::vector<MeasuredCurve>& curves = all_reduce_curves();
  for (const MeasuredCurve& curve : curves) {
    if (!curve.nvlink) continue;
    const std::vector<double> errors = validate_sizes(curve);
    in_size.insert(in_size.end(), errors.begin(), errors.end());
    for (const MeasuredCurve& other : curves) {
      if (&other == &curve || other.library != curve.library || other.gpu != curve.gpu) continue;
      if (other.num_ranks == curve.num_ranks && &other > &curve)
        for (const auto& [bytes, seconds] : curve.points)
          if (other.has(bytes)) repeat.push_back(std::abs(other.at(bytes) / seconds - 1));
      for (const MeasuredCurve& more : curves)
        if (curve.num_ranks < other.num_ranks && other.num_ranks < more.num_ranks && more.library == curve.library &&
            more.gpu == curve.gpu && more.version == curve.version && other.version == curve.version) {
          const std::vector<double> found = validate_ranks(curve, other, more);
          in_ranks.insert(in_ranks.end(), found.begin(), found.end());
        }
    }
  }
  return {percentile90(repeat), percentile90(in_size), percentile90(in_ranks)};
}

std::string title(const MeasuredCurve& curve) {
  return curve.library + (curve.version.empty() ? "" : " " + curve.version) + " on " + std::to_string(curve.num_ranks) +
         " " + curve.gpu;
}

}  // namespace

double MeasuredCurve::at(int64_t bytes) const {
  ensure(!points.empty(), "a curve has points");
  if (bytes <= points.front().first) return points.front().second;
  const double size = static_cast<double>(bytes);
  if (bytes >= points.back().first) return points.back().second * size / static_cast<double>(points.back().first);
  const auto after = std::upper_bound(points.begin(), points.end(), bytes,
                                      [](int64_t value, const auto& point) { return value < point.first; });
  const Point &from = *(after - 1), &to = *after;
  const auto line = [&](const Point& a, const Point& b) {
    return a.second + (b.second - a.second) * static_cast<double>(bytes - a.first) / double(b.first - a.first);
  };
  // One switch in (from, to], and none between the two points whose line is to go on.
  const auto changes = [&](const Point& a, const Point& b) {
    return std::count_if(switches.begin(), switches.end(),
                         [&](int64_t size) { return size > a.first && size <= b.first; });
  };
  if (changes(from, to) == 1) {
    const bool is_before = std::none_of(switches.begin(), switches.end(),
                                        [&](int64_t size) { return size > from.first && size <= bytes; });
    const double low_s = std::min(from.second, to.second), high_s = std::max(from.second, to.second);
    if (is_before && after - 1 != points.begin() && changes(*(after - 2), from) == 0)
      return std::clamp(line(*(after - 2), from), low_s, high_s);
    if (!is_before && after + 1 != points.end() && changes(to, *(after + 1)) == 0)
      return std::clamp(line(to, *(after + 1)), low_s, high_s);
  }
  return line(from, to);
}

bool MeasuredCurve::has(int64_t bytes) const {
  return std::any_of(points.begin(), points.end(), [&](const auto& point) { return point.first == bytes; });
}

std::vector<MeasuredCurve> parse_curves(std::string_view csv, const std::string& where) {
  std::vector<MeasuredCurve> curves;
  std::vector<int64_t> sizes;
  int number = 0;
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kCorruptData, where + ", line " + std::to_string(number) + ": " + what);
  };
  for (std::string_view line : split(csv, '\n')) {
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with('#')) continue;
    const std::vector<std::string_view> fields = split(line, ',');
    if (sizes.empty()) {
      if (fields.size() <= kNumNames || fields[0] != "library" || fields[kNumNames - 1] != "ranks")
        refuse("expected the header library,version,gpu,link,ranks,<bytes>,...");
      for (size_t i = kNumNames; i < fields.size(); ++i) {
        int64_t bytes = 0;
        if (!parse(fields[i], bytes) || bytes <= 0 || (!sizes.empty() && bytes <= sizes.back()))
          refuse("sizes are numbers of bytes, ascending");
        sizes.push_back(bytes);
      }
      continue;
    }
    if (fields.size() != sizes.size() + kNumNames)
      refuse("it has " + std::to_string(fields.size()) + " fields; the header has " +
             std::to_string(sizes.size() + kNumNames));
    MeasuredCurve curve{std::string(fields[0]), std::string(fields[1]), std::string(fields[2])};
    if (!parse(fields[4], curve.num_ranks) || curve.num_ranks < 2 || curve.num_ranks > 1 << 20)
      refuse("the number of ranks is at least 2");
    curve.nvlink = fields[3] == "nvlink";
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (fields[i + kNumNames].empty()) continue;
      double us = 0;
      if (!parse(fields[i + kNumNames], us) || !(us > 0) || us > 1e9)
        refuse("times are positive numbers of microseconds");
      curve.points.emplace_back(sizes[i], us * 1e-6);
    }
    if (curve.points.empty()) refuse("it has no times");
    curves.push_back(std::move(curve));
  }
  return curves;
}

const std::vector<MeasuredCurve>& all_reduce_curves() {
  static const std::vector<MeasuredCurve> curves = [] {
    std::vector<MeasuredCurve> all = parse_curves(kAiconfiguratorCsv, "aiconfigurator.csv");
    for (MeasuredCurve& one : parse_curves(kLaneCsv, "lane_h200.csv")) all.push_back(std::move(one));
    for (MeasuredCurve& one : all)
      if (one.library == "nccl" && one.nvlink) one.switches = nccl_switches(one);
    return all;
  }();
  return curves;
}

const std::vector<MeasuredCurve>& slingshot_curves() {
  static const std::vector<MeasuredCurve> curves = parse_curves(kSlingshotCsv, "slingshot.csv");
  return curves;
}

std::string gpu_kind(std::string_view name) {
  for (const std::string_view kind : {"GB200", "GH200", "B200", "H200", "H100", "A100", "L40S"})
    if (name.find(kind) != std::string_view::npos) return std::string(kind);
  return "";
}

const MeasuredCurve* find_curve(std::string_view library, std::string_view gpu, int num_ranks, int64_t bytes) {
  const MeasuredCurve* best = nullptr;
  for (const MeasuredCurve& curve : all_reduce_curves())  // Lane's come last
    if (curve.library == library && curve.gpu == gpu && curve.num_ranks == num_ranks)
      if (best == nullptr || curve.covers(bytes)) best = &curve;
  return best;
}

const MeasuredErrors& measured_errors() {
  static const MeasuredErrors errors = find_errors();
  return errors;
}

double between_ranks(double fewer_s, int fewer, double more_s, int more, int num_ranks) {
  const double share = std::log(static_cast<double>(num_ranks) / fewer) / std::log(static_cast<double>(more) / fewer);
  return fewer_s * std::pow(more_s / fewer_s, share);
}

std::optional<Estimate> measured_all_reduce(std::string_view library, std::string_view gpu, int num_ranks,
                                            int64_t bytes) {
  const MeasuredErrors& errors = measured_errors();
  const auto within = [](double seconds, double share, Basis basis, std::string source) {
    return Estimate{seconds, seconds * (1 - share), seconds * (1 + share), basis, std::move(source)};
  };
  if (const MeasuredCurve* curve = find_curve(library, gpu, num_ranks, bytes)) {
    const double seconds = curve->at(bytes);
    if (curve->has(bytes)) return within(seconds, errors.repeat, Basis::kMeasured, title(*curve));
    if (curve->covers(bytes)) return within(seconds, errors.in_size, Basis::kInterpolated, title(*curve));
    return within(seconds, 2 * errors.in_size, Basis::kExtrapolated, title(*curve) + ", beyond its sizes");
  }
  const MeasuredCurve *fewer = nullptr, *more = nullptr;
  for (const MeasuredCurve& curve : all_reduce_curves()) {
    if (curve.library != library || curve.gpu != gpu || !curve.nvlink || !curve.covers(bytes)) continue;
    if (curve.num_ranks < num_ranks && (fewer == nullptr || curve.num_ranks > fewer->num_ranks)) fewer = &curve;
    if (curve.num_ranks > num_ranks && (more == nullptr || curve.num_ranks < more->num_ranks)) more = &curve;
  }
  if (fewer == nullptr || more == nullptr) return std::nullopt;
  return within(between_ranks(fewer->at(bytes), fewer->num_ranks, more->at(bytes), more->num_ranks, num_ranks),
                errors.in_ranks, Basis::kInterpolated, title(*fewer) + " and " + std::to_string(more->num_ranks));
}

Error90 summary(std::vector<double> errors) {
  Error90 result{.count = static_cast<int>(errors.size())};
  for (const double error : errors) result.mean += error / result.count, result.worst = std::max(result.worst, error);
  result.p90 = percentile90(std::move(errors));
  return result;
}

std::vector<double> validate_sizes(const MeasuredCurve& curve, const std::vector<int64_t>& sizes) {
  MeasuredCurve kept = curve;
  if (!sizes.empty())
    std::erase_if(kept.points,
                  [&](const auto& point) { return std::find(sizes.begin(), sizes.end(), point.first) == sizes.end(); });
  std::vector<double> errors;
  for (size_t i = 1; i + 1 < kept.points.size(); ++i) {
    MeasuredCurve without = kept;
    without.points.erase(without.points.begin() + static_cast<std::ptrdiff_t>(i));
    errors.push_back(std::abs(without.at(kept.points[i].first) / kept.points[i].second - 1));
  }
  return errors;
}

std::vector<double> validate_ranks(const MeasuredCurve& fewer, const MeasuredCurve& between,
                                   const MeasuredCurve& more) {
  std::vector<double> errors;
  for (const auto& [bytes, seconds] : between.points)
    if (fewer.has(bytes) && more.has(bytes))
      errors.push_back(std::abs(
          between_ranks(fewer.at(bytes), fewer.num_ranks, more.at(bytes), more.num_ranks, between.num_ranks) / seconds -
          1));
  return errors;
}

}  // namespace lane::plan
