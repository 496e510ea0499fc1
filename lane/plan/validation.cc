#include "lane/plan/validation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "lane/base/units.h"
#include "lane/plan/collective_time.h"
#include "lane/plan/measured_times.h"
#include "lane/topology/presets.h"

namespace lane::plan {
namespace {

using topology::GpuRef;

constexpr int64_t operator""_K(unsigned long long number) { return static_cast<int64_t>(number) << 10; }
constexpr int64_t operator""_M(unsigned long long number) { return static_cast<int64_t>(number) << 20; }

// The sizes of the published summary of the tables: gaps of up to three octaves.
const std::vector<int64_t> kSparse = {512, 4_K, 16_K, 64_K, 128_K, 256_K, 512_K,
                                      1_M, 2_M, 4_M,  16_M, 64_M,  256_M, 512_M};

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string size_text(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

// mean and 90th percentile against their goals.
Check of_errors(std::string what, const std::vector<double>& errors, double mean_goal = 0, double p90_goal = 0) {
  const Error90 found = summary(errors);
  Check check{std::move(what), fmt::format("mean {}, p90 {}, worst {} of {}", percent(found.mean), percent(found.p90),
                                           percent(found.worst), found.count)};
  check.numbers = {{"mean", found.mean}, {"p90", found.p90}, {"worst", found.worst}, {"count", found.count}};
  if (mean_goal > 0) {
    check.goal = fmt::format("mean {:.0f} %, p90 {:.0f} %", 100 * mean_goal, 100 * p90_goal);
    check.reached = found.mean <= mean_goal && found.p90 <= p90_goal;
  }
  return check;
}

const MeasuredCurve* curve_of(std::string_view library, std::string_view gpu, int num_ranks) {
  for (const MeasuredCurve& curve : all_reduce_curves())  // AIConfigurator's come first
    if (curve.library == library && curve.gpu == gpu && curve.num_ranks == num_ranks) return &curve;
  return nullptr;
}

NcclGroup plain_group(int num_ranks, int num_nodes, bool amd_cpu) {
  return typical_channels({.num_ranks = num_ranks, .num_nodes = num_nodes, .sm = 90, .amd_cpu = amd_cpu}, 8, 48);
}

GroupShape first_gpus(const Reach& reach, int num_ranks) {
  std::vector<GpuRef> ranks;
  for (int host = 0; static_cast<int>(ranks.size()) < num_ranks; ++host)
    for (int gpu = 0; gpu < static_cast<int>(reach.topology().hosts[host].gpus.size()); ++gpu)
      if (static_cast<int>(ranks.size()) < num_ranks) ranks.push_back({host, gpu});
  return shape_of(reach, ranks);
}

// From which size on `b` is no slower than `a` by more than two runs differ; an index into `sizes`, their number if it
// never is. Beyond the sizes of their own kernels libraries call NCCL: there curves lie on each other.
template <class First, class Then>
size_t crossing(const std::vector<int64_t>& sizes, First&& a, Then&& b) {
  const double noise = 1 + measured_errors().repeat;
  for (size_t i = 0; i < sizes.size(); ++i)
    if (b(sizes[i]) < noise * a(sizes[i]) && (i + 1 == sizes.size() || b(sizes[i + 1]) < noise * a(sizes[i + 1])))
      return i;
  return sizes.size();
}

// A curve at a size of its own, as the others see it.
double left_out(const MeasuredCurve& curve, int64_t bytes) {
  MeasuredCurve without = curve;
  std::erase_if(without.points, [&](const auto& point) { return point.first == bytes; });
  return without.at(bytes);
}

Check crossing_check(std::string what, const std::vector<int64_t>& sizes, size_t predicted, size_t measured) {
  const auto text = [&](size_t i) { return i == sizes.size() ? std::string("never") : size_text(sizes[i]); };
  Check check{std::move(what), fmt::format("predicted {}, measured {}", text(predicted), text(measured)),
              "one size step"};
  const double steps = std::abs(static_cast<double>(predicted) - static_cast<double>(measured));
  check.reached = steps <= 1 && (predicted == sizes.size()) == (measured == sizes.size());
  check.numbers = {{"steps", steps}};
  return check;
}

// NVRAR as its code does it: six kernels (reduce-scatter, sequence numbers, packing, exchange, unpacking, all-gather),
// recursive doubling between nodes with 4 bytes of flag to 4 of data.
CollectiveCost nvrar(const GroupShape& shape, int64_t bytes) {
  CollectiveCost cost = *alpha_beta("hier:two_shot/recursive_doubling", shape, bytes);
  const ByTier twice = *alpha_beta_by_tier("hier:two_shot/recursive_doubling", shape, 2 * bytes);
  const Spread between = alpha_beta_between_nodes();
  double flags_s = 0;
  for (size_t tier = static_cast<size_t>(Tier::kLeaf); tier < kNumTiers; ++tier)
    flags_s += twice[tier] - cost.by_tier[tier];
  const double kernels_s = 5 * kKernelStart;
  cost.total.seconds += flags_s + kernels_s;
  cost.total.low_s += flags_s * between.low + kernels_s;
  cost.total.high_s += flags_s * between.high + kernels_s;
  return cost;
}

void check_nvrar(CheckSection& section) {
  for (const auto& [preset, name] : {std::pair{"perlmutter-a100-slingshot", "Slingshot-11, 4 x A100 a node"},
                                     std::pair{"h100-dgx-ndr", "InfiniBand NDR, 8 x H100 a node"}}) {
    const topology::Topology cluster = topology::preset(preset, 16);
    const Reach reach(cluster);
    CollectiveTimes nccl(Collectives::kNccl);
    double low = 1e9, high = 0, most = 0, least = 1e9;
    for (const int ranks : {16, 32, 64})
      for (int64_t bytes = 128_K; bytes <= 2_M; bytes *= 2) {
        const GroupShape shape = first_gpus(reach, ranks);
        const Estimate& theirs = nccl.all_reduce(shape, bytes).total;
        const Estimate ours = nvrar(shape, bytes).total;
        const double ratio = theirs.seconds / ours.seconds;
        most = std::max(most, ratio), least = std::min(least, ratio);
        low = std::min(low, theirs.low_s / ours.high_s), high = std::max(high, theirs.high_s / ours.low_s);
      }
    Check check{fmt::format("NVRAR over NCCL, {}, 16 to 64 GPUs, 128 KiB to 2 MiB", name),
                fmt::format("expected {:.1f}x to {:.1f}x, interval {:.1f}x to {:.1f}x", least, most, low, high),
                "1.9x to 3.6x within the interval", low <= 1.9 && high >= 3.6};
    check.numbers = {{"least", least}, {"most", most}, {"low", low}, {"high", high}};
    section.checks.push_back(std::move(check));
  }
}

// TensorRT-LLM's MultiShot: a reduce-scatter and an all-gather by multicast, two steps instead of a ring's 2 (n-1).
void check_multishot(CheckSection& section) {
  const topology::Topology cluster = topology::preset("h200-dgx-ndr", 1);
  const Reach reach(cluster);
  GroupShape shape = first_gpus(reach, 8);
  shape.local.message_s = 0;  // a multicast is one message
  double most = 0, low = 1e9, high = 0;
  const Spread spread = alpha_beta_spread();
  for (int64_t bytes = 16_K; bytes <= 16_M; bytes *= 2) {
    const double ring_s =
        nccl_time_us(nccl_group(shape), Collective::kAllReduce, NcclAlgorithm::kRing, NcclProtocol::kLl128, bytes) *
        1e-6;
    const double ll_s =
        nccl_time_us(nccl_group(shape), Collective::kAllReduce, NcclAlgorithm::kRing, NcclProtocol::kLl, bytes) * 1e-6;
    const double ratio = std::min(ring_s, ll_s) / alpha_beta("two_shot", shape, bytes)->total.seconds;
    most = std::max(most, ratio);
    low = std::min(low, ratio / spread.high), high = std::max(high, ratio / spread.low);
  }
  Check check{"MultiShot over NCCL's rings, 8 x H200, 16 KiB to 16 MiB",
              fmt::format("up to {:.1f}x, interval {:.1f}x to {:.1f}x", most, low, high),
              "up to 3x within the interval", low <= 3 && high >= 3};
  check.numbers = {{"most", most}, {"low", low}, {"high", high}};
  section.checks.push_back(std::move(check));
}

// Whose all-reduce to take at a size that no table has: what the pick really takes, over the best.
void check_picks(CheckSection& section) {
  std::vector<double> lost;
  for (const char* gpu : {"H100", "H200", "A100", "B200", "GB200"})
    for (const int n : {2, 4, 8})
      for (int64_t bytes = 4_K; bytes <= 64_M; bytes *= 2) {
        double picked_s = 0, predicted_s = 1e9, best_s = 1e9;
        for (const char* library : {"nccl", "trtllm", "vllm"}) {
          const MeasuredCurve* curve = curve_of(library, gpu, n);
          if (curve == nullptr) continue;
          best_s = std::min(best_s, curve->at(bytes));
          if (const double s = left_out(*curve, bytes); s < predicted_s) predicted_s = s, picked_s = curve->at(bytes);
        }
        if (picked_s > 0) lost.push_back(picked_s / best_s - 1);
      }
  const auto near = std::count_if(lost.begin(), lost.end(), [](double share) { return share <= 0.05; });
  const double share = static_cast<double>(near) / static_cast<double>(lost.size());
  Check check{"the fastest library, each size left out in turn, 2 to 8 GPUs of 5 kinds, 4 KiB to 64 MiB",
              fmt::format("within 5 % of the best in {} of {} cases", percent(share), lost.size()), "90 % of cases",
              share >= 0.9};
  check.numbers = {{"share", share}};
  section.checks.push_back(std::move(check));
}

void check_crossings(CheckSection& section) {
  std::vector<int64_t> sizes;
  for (int64_t bytes = 4_K; bytes <= 256_M; bytes *= 2) sizes.push_back(bytes);
  for (const auto& [first, then] :
       {std::pair{"trtllm", "vllm"}, std::pair{"trtllm", "nccl"}, std::pair{"vllm", "nccl"}})
    for (const int n : {4, 8}) {
      const MeasuredCurve &a = *curve_of(first, "H100", n), &b = *curve_of(then, "H100", n);
      const auto measured = crossing(
          sizes, [&](int64_t s) { return a.at(s); }, [&](int64_t s) { return b.at(s); });
      const auto predicted = crossing(
          sizes, [&](int64_t s) { return left_out(a, s); }, [&](int64_t s) { return left_out(b, s); });
      section.checks.push_back(crossing_check(
          fmt::format("{} to {}, {} x H100, each size left out in turn", first, then, n), sizes, predicted, measured));
    }
  // By the links alone, against Lane's own table.
  const topology::Topology cluster = topology::preset("h200-dgx-ndr", 1);
  const Reach reach(cluster);
  const GroupShape shape = first_gpus(reach, 4);
  std::vector<int64_t> ours;
  for (int64_t bytes = 8_K; bytes <= 4_M; bytes *= 2) ours.push_back(bytes);
  const auto model = [&](const char* name) {
    return [&shape, name](int64_t s) { return alpha_beta(name, shape, s)->total.seconds; };
  };
  const auto table = [&](const char* name) { return [name](int64_t s) { return curve_of(name, "H200", 4)->at(s); }; };
  section.checks.push_back(crossing_check("Lane's one-shot to two-shot, 4 x H200, alpha-beta", ours,
                                          crossing(ours, model("one_shot"), model("two_shot")),
                                          crossing(ours, table("lane_one_shot"), table("lane_two_shot"))));
  const NcclGroup nccl = nccl_group(shape);
  const auto theirs = [&](int64_t s) {
    return nccl_choices(nccl, Collective::kAllReduce, s).front().microseconds * 1e-6;
  };
  section.checks.push_back(crossing_check(
      "Lane's two-shot to NCCL, 4 x H200, alpha-beta and NCCL's model", ours, crossing(ours, model("two_shot"), theirs),
      crossing(ours, table("lane_two_shot"), [&](int64_t s) { return find_curve("nccl", "H200", 4, s)->at(s); })));
}

}  // namespace

CheckSection validate_nccl_model() {
  CheckSection section{"nccl",
                       "NCCL's own model",
                       "Values that NCCL logged (nccl issue 1453: 24 H100 on 3 nodes, Intel, one-way trees), and "
                       "latencies that follow from its constants.",
                       {}};
  NcclGroup group = plain_group(24, 3, false);
  group.one_nic = true;
  for (const auto& [bytes, logged] :
       {std::pair{128, 25.214764}, std::pair{4096, 25.874907}, std::pair{8192, 26.549810}}) {
    const double us = nccl_time_us(group, Collective::kAllReduce, NcclAlgorithm::kTree, NcclProtocol::kLl, bytes);
    Check check{fmt::format("tree/ll, {} bytes, logged {:.6f} us", bytes, logged), fmt::format("{:.6f} us", us),
                "0.0001 us", std::abs(us - logged) <= 1e-4};
    check.numbers = {{"us", us}, {"logged_us", logged}};
    section.checks.push_back(std::move(check));
  }
  using enum NcclAlgorithm;
  using enum NcclProtocol;
  struct Case {
    int ranks, nodes;
    bool amd;
    NcclAlgorithm algorithm;
    NcclProtocol protocol;
    double us, rounding;
  };
  for (const Case& one : {Case{8, 1, false, kRing, kLl, 15.0, 0.05},
                          {8, 1, false, kRing, kSimple, 56.0, 0.05},
                          {16, 2, false, kTree, kLl, 25.2, 0.05},
                          {16, 2, false, kRing, kLl, 40, 0.5},
                          {16, 2, false, kRing, kSimple, 131.6, 0.05},
                          {16, 2, false, kTree, kSimple, 92.4, 0.05},
                          {16, 2, true, kRing, kLl, 68, 0.5},
                          {16, 2, true, kRing, kSimple, 204.4, 0.05},
                          {64, 8, false, kTree, kLl, 45.2, 0.05},
                          {64, 8, false, kRing, kLl, 156, 0.5},
                          {64, 8, false, kRing, kSimple, 585, 0.5},
                          {1024, 128, false, kTree, kLl, 85, 0.5},
                          {1024, 128, false, kRing, kLl, 2484, 0.5},
                          {1024, 128, false, kRing, kSimple, 9657, 0.5}}) {
    const double us = nccl_latency_us(plain_group(one.ranks, one.nodes, one.amd), Collective::kAllReduce, one.algorithm,
                                      one.protocol);
    Check check{
        fmt::format("latency of {}/{}, {} GPUs on {} node{}{}: {:g} us", name_of(one.algorithm), name_of(one.protocol),
                    one.ranks, one.nodes, one.nodes == 1 ? "" : "s", one.amd ? ", AMD" : "", one.us),
        fmt::format("{:.1f} us", us), "its rounding", std::abs(us - one.us) <= one.rounding + 1e-9};
    check.numbers = {{"us", us}};
    section.checks.push_back(std::move(check));
  }
  return section;
}

CheckSection validate_interpolation() {
  CheckSection section{"interpolation",
                       "Tables of measured all-reduces",
                       "Each size left out in turn and predicted from its neighbours; 4 ranks predicted from 2 and 8.",
                       {}};
  std::vector<double> sparse, dense, custom;
  for (const MeasuredCurve& curve : all_reduce_curves()) {
    // Not those of Lane's own runs, which have fewer sizes.
    if (!curve.nvlink || &curve != curve_of(curve.library, curve.gpu, curve.num_ranks)) continue;
    if (curve.points.size() < 21) continue;
    const auto add = [&](std::vector<double>& to, const std::vector<double>& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    if (curve.library == "nccl") {
      add(dense, validate_sizes(curve));
      add(sparse, validate_sizes(curve, kSparse));
    } else {
      add(custom, validate_sizes(curve));
    }
  }
  section.checks.push_back(of_errors("sizes: NCCL with NVLink, all octaves 512 B to 512 MiB", dense, 0.06, 0.2));
  section.checks.push_back(of_errors("sizes: the same, only 14 sizes, gaps of 1 to 3 octaves", sparse, 0.06, 0.2));
  section.checks.push_back(of_errors("sizes: TensorRT-LLM and vLLM, all octaves", custom, 0.06, 0.2));
  for (const char* gpu : {"H100", "H200", "A100", "B200", "GB200", "L40S"})
    for (const int n : {2, 4, 8})
      if (const MeasuredCurve* curve = curve_of("nccl", gpu, n)) {
        const bool nvlink = curve->nvlink;
        section.checks.push_back(of_errors(fmt::format("sizes: NCCL, {} x {}{}", n, gpu, nvlink ? "" : " (PCIe)"),
                                           validate_sizes(*curve), nvlink ? 0.06 : 0, 0.2));
      }
  for (const char* gpu : {"H100", "H200", "A100", "B200", "L40S"}) {
    const bool nvlink = std::string_view(gpu) != "L40S";
    section.checks.push_back(
        of_errors(fmt::format("ranks: NCCL, 4 x {} from 2 and 8{}", gpu, nvlink ? "" : " (PCIe; refused)"),
                  validate_ranks(*curve_of("nccl", gpu, 2), *curve_of("nccl", gpu, 4), *curve_of("nccl", gpu, 8)),
                  nvlink ? 0.1 : 0, 0.25));
  }
  std::vector<double> repeat;
  for (const MeasuredCurve& curve : all_reduce_curves())
    if (const MeasuredCurve* other = curve_of(curve.library, curve.gpu, curve.num_ranks); other != &curve)
      for (const auto& [bytes, seconds] : curve.points)
        if (other->has(bytes)) repeat.push_back(std::abs(other->at(bytes) / seconds - 1));
  section.checks.push_back(of_errors("the same again: NCCL on 2 and 4 H200, two machines, 2.28.9 and 2.29.2", repeat));
  return section;
}

CheckSection validate_models() {
  CheckSection section{"models",
                       "Models without a table",
                       "What a kind of node would get that has no table: from constants and links alone.",
                       {}};
  const auto model_s = [](const GroupShape& shape, int64_t bytes) {
    return nccl_choices(nccl_group(shape), Collective::kAllReduce, bytes).front().microseconds * 1e-6;
  };
  std::vector<double> small_all, large_all;
  for (const auto& [gpu, sm] : {std::pair{"H100", 90}, {"H200", 90}, {"A100", 80}, {"B200", 100}, {"GB200", 100}}) {
    std::vector<double> small, large;
    for (const int n : {2, 4, 8}) {
      const MeasuredCurve* curve = curve_of("nccl", gpu, n);
      if (curve == nullptr) continue;
      const GroupShape shape{.num_ranks = n, .ranks_per_island = n, .gpu = gpu, .sm = sm};
      for (const auto& [bytes, seconds] : curve->points) {
        const double error = std::abs(model_s(shape, bytes) / seconds - 1);
        if (bytes >= 16_K && bytes <= 1_M) small.push_back(error), small_all.push_back(error);
        if (bytes >= 64_M) large.push_back(error), large_all.push_back(error);
      }
    }
    section.checks.push_back(of_errors(fmt::format("NCCL's model, {}, 16 KiB to 1 MiB", gpu), small));
    section.checks.push_back(of_errors(fmt::format("NCCL's model, {}, 64 MiB and more", gpu), large));
  }
  const auto goal = [&](Check check, double limit) {
    check.goal = fmt::format("p90 {:.0f} %", 100 * limit);
    check.reached = check.numbers.at("p90") <= limit;
    section.checks.push_back(std::move(check));
  };
  goal(of_errors("NCCL's model, all of these, 16 KiB to 1 MiB", small_all), 0.4);
  goal(of_errors("NCCL's model, all of these, 64 MiB and more", large_all), 0.15);
  const topology::Topology cluster = topology::preset("h200-dgx-ndr", 1);
  const Reach reach(cluster);
  std::vector<double> lane;
  for (const MeasuredCurve& curve : all_reduce_curves())
    if (curve.library.starts_with("lane_"))
      for (const auto& [bytes, seconds] : curve.points)
        lane.push_back(std::abs(
            alpha_beta(curve.library.substr(5), first_gpus(reach, curve.num_ranks), bytes)->total.seconds / seconds -
            1));
  goal(of_errors("alpha-beta of Lane's one-shot and two-shot, 2 and 4 H200", lane), 0.4);
  const auto spread = [&](const char* what, const Spread& found, const char* text) {
    Check check{what, fmt::format("{:.2f} to {:.2f} {}", found.low, found.high, text)};
    check.numbers = {{"low", found.low}, {"high", found.high}};
    section.checks.push_back(std::move(check));
  };
  spread("measured / NCCL's model in a node, 5th to 95th percentile", nccl_model_spread(), "times");
  spread("measured / model scaled at 4 GPUs, 8 GPUs of a node", nccl_calibrated_spread(), "times");
  spread("measured / NCCL's model on several nodes, published runs", nccl_between_nodes(), "times");
  spread("measured / alpha-beta of Lane's kernels", alpha_beta_spread(), "times");
  spread("measured / alpha-beta of a message over Slingshot-11", alpha_beta_between_nodes(), "times");
  return section;
}

CheckSection validate_algorithms() {
  CheckSection section{
      "algorithms", "Which algorithm wins, and by how much", "Published ratios, and where curves cross.", {}};
  check_nvrar(section);
  check_multishot(section);
  check_crossings(section);
  check_picks(section);
  return section;
}

std::vector<CheckSection> validate_plan() {
  return {validate_nccl_model(), validate_interpolation(), validate_models(),
          validate_algorithms(), validate_scaling(),       validate_steps()};
}

}  // namespace lane::plan
