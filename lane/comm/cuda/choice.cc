#include "lane/comm/cuda/choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>

#include "lane/base/error.h"
#include "lane/plan/cost.h"

namespace lane::cuda {
namespace {

constexpr int kLineBytes = 16;

struct Named {
  Algorithm algorithm;
  std::string_view name;
};
constexpr std::array kNames = {
    Named{Algorithm::kOneShot, "one_shot"},
    Named{Algorithm::kTwoShot, "two_shot"},
    Named{Algorithm::kHierOneShot, "hier:two_shot/one_shot"},
    Named{Algorithm::kHierDoubling, "hier:two_shot/recursive_doubling"},
    Named{Algorithm::kHierHalving, "hier:two_shot/halving_doubling"},
    Named{Algorithm::kProxy, "proxy"},
    Named{Algorithm::kNccl, "nccl"},
    Named{Algorithm::kTwoShotFp8, "two_shot_fp8"},
    Named{Algorithm::kTwoShotMulticast, "two_shot_multicast"},  // if equal, what has been run goes first
};

[[noreturn]] void no_such(const std::string& name) {
  std::string known;
  for (const Named& each : kNames) known += fmt::format("{}{}", known.empty() ? "" : ", ", each.name);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("there is no all-reduce \"{}\" on GPUs; there are: {}; with a grid of blocks and threads "
                          "after it if wanted, such as two_shot:64x512",
                          name, known));
}

// Fitted to 4x H200 over NVLink (docs/performance/allreduce_h200.md): a launch with one exchange, each further
// exchange, and stores to peers. Between nodes, what NVRAR's paper and MSCCL++ report for InfiniBand NDR.
constexpr double kFirst = 2.2e-6, kNext = 1.0e-6, kPeerBytesPerSecond = 330e9;
constexpr double kHop = 4e-6, kHopBytesPerSecond = 40e9;
constexpr double kProxyHop = 20e-6, kProxyBytesPerSecond = 3e9;

// `wide`: how much wider partial sums are than elements.
plan::Cost::Line model(Algorithm algorithm, const Situation& s, double wide) {
  const double local = s.ranks_per_node, nodes = s.num_nodes, ranks = local * nodes;
  const double two_local = 2 * (local - 1) / local / kPeerBytesPerSecond;
  const double kernel_s = kFirst + (local > 1 ? kNext : 0);
  const double part = wide / local;
  const double hops = std::ceil(std::log2(nodes));
  switch (algorithm) {
    case Algorithm::kOneShot:
      return {kFirst, (ranks - 1) / kPeerBytesPerSecond};
    case Algorithm::kTwoShotMulticast:  // sends less and receives as much: nobody has measured it
    case Algorithm::kTwoShot:
      return {kFirst + kNext, 2 * (ranks - 1) / ranks / kPeerBytesPerSecond};
    case Algorithm::kHierOneShot:
      return {kernel_s + kHop, two_local + part * (nodes - 1) / kHopBytesPerSecond};
    case Algorithm::kHierDoubling:
      return {kernel_s + hops * kHop, two_local + hops * part / kHopBytesPerSecond};
    case Algorithm::kHierHalving:  // halves in float32, doubles rounded
      return {kernel_s + 2 * hops * kHop, two_local + (1 + 1 / wide) * part * (nodes - 1) / nodes / kHopBytesPerSecond};
    case Algorithm::kProxy:
      return {kFirst + 2 * kProxyHop, two_local + 2 * part * (nodes - 1) / nodes / kProxyBytesPerSecond};
    case Algorithm::kNccl:
      return {nodes > 1 ? 40e-6 : 9e-6, 2 * (ranks - 1) / ranks / (nodes > 1 ? 10e9 : 350e9)};
    case Algorithm::kTwoShotFp8:
      break;  // nobody compares it
  }
  return {std::numeric_limits<double>::infinity(), 0};
}

const MeasuredRow* find_row(const Situation& situation, DType type) {
  if (!situation.measured) return nullptr;
  for (const MeasuredRow& row : *situation.measured)
    if (row.row.partial_scale == (size_of(type) == 2 ? 2 : 1)) return &row;
  return nullptr;
}

}  // namespace

std::string why_not(Algorithm algorithm, const Situation& s) {
  switch (algorithm) {
    case Algorithm::kOneShot:
    case Algorithm::kTwoShot:
    case Algorithm::kTwoShotFp8:
      return s.num_nodes > 1 ? "the ranks are on several nodes" : "";
    case Algorithm::kTwoShotMulticast:
      return s.num_nodes > 1 ? "the ranks are on several nodes" : s.no_multicast;
    case Algorithm::kHierOneShot:
    case Algorithm::kHierDoubling:
      if (s.num_nodes == 1) return "all ranks are on one node";
      return s.is_direct ? "" : "GPUs cannot store to those of other nodes here";
    case Algorithm::kHierHalving:
      if (s.num_nodes == 1) return "all ranks are on one node";
      return s.is_direct && !s.by_puts ? "" : "GPUs cannot store to those of other nodes here";
    case Algorithm::kProxy:
      if (s.num_nodes == 1) return "all ranks are on one node";
      return s.is_direct ? "GPUs store to those of other nodes themselves" : "";
    case Algorithm::kNccl:
      return s.has_nccl ? "" : "no NCCL was found";
  }
  return "";
}

Choice choice_from_name(const std::string& name) {
  for (const Named& each : kNames) {
    if (!name.starts_with(each.name)) continue;
    Choice choice{each.algorithm};
    const std::string grid = name.substr(each.name.size());
    if (grid.empty()) return choice;
    if (grid[0] != ':') continue;
    const char* end = grid.data() + grid.size();
    const auto blocks = std::from_chars(grid.data() + 1, end, choice.blocks);
    if (blocks.ec != std::errc() || blocks.ptr == end || *blocks.ptr != 'x') no_such(name);
    const auto threads = std::from_chars(blocks.ptr + 1, end, choice.threads);
    if (threads.ec != std::errc() || threads.ptr != end || choice.blocks < 1 || choice.blocks > 255 ||
        choice.threads < 32 || choice.threads > 512 || choice.threads % 32 != 0)
      no_such(name);
    return choice;
  }
  no_such(name);
}

std::string name_of(const Choice& choice) {
  for (const Named& each : kNames)
    if (each.algorithm == choice.algorithm)
      return choice.blocks == 0 ? std::string(each.name)
                                : fmt::format("{}:{}x{}", each.name, choice.blocks, choice.threads);
  return "?";
}

std::vector<Candidate> candidates(const Situation& situation, int64_t bytes, DType type) {
  std::vector<Candidate> measured, all;
  const MeasuredRow* row = find_row(situation, type);
  for (const Named& each : kNames) {
    if (each.algorithm == Algorithm::kTwoShotFp8) continue;
    const plan::Cost::Line line = model(each.algorithm, situation, 4.0 / static_cast<double>(size_of(type)));
    const auto of_model = [line](int64_t size) { return line.fixed_s + line.s_per_byte * static_cast<double>(size); };
    Candidate candidate{{each.algorithm}, of_model(bytes), "cost model", why_not(each.algorithm, situation)};
    const TuningCurve* curve = row != nullptr ? row->row.find(each.name) : nullptr;
    if (curve == nullptr || curve->points.empty() || !candidate.why_not.empty()) {
      all.push_back(std::move(candidate));
      continue;
    }
    candidate.expected_s = curve->at(std::max<int64_t>(bytes, 1), of_model);
    candidate.source = row->source;
    measured.push_back(std::move(candidate));
  }
  const auto sort = [](std::vector<Candidate>& list) {
    std::stable_sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) {
      return std::pair(!a.why_not.empty(), a.expected_s) < std::pair(!b.why_not.empty(), b.expected_s);
    });
  };
  sort(measured);
  sort(all);
  all.insert(all.begin(), std::make_move_iterator(measured.begin()), std::make_move_iterator(measured.end()));
  return all;
}

Choice with_grid(Choice choice, const Situation& situation, int64_t bytes, int most_blocks) {
  if (choice.blocks > 0) return choice;
  const int64_t lines = (bytes + kLineBytes - 1) / kLineBytes;
  const int size = situation.ranks_per_node;
  const bool by_parts = choice.algorithm != Algorithm::kOneShot;
  // Lines that a thread loops over: of the vector, or of a part of it.
  const int64_t work = std::max<int64_t>(1, by_parts ? (lines + size - 1) / size : lines);
  if (choice.algorithm == Algorithm::kProxy) {
    // A block for each piece that the host's threads overlap.
    choice.threads = 512;
    choice.blocks = static_cast<int>(std::clamp<int64_t>(work / 512, 1, work < 32768 ? 4 : 8));
    return choice;
  }
  if (situation.by_puts) {
    // A block's put is one message, of 16 KiB of partial sums or more.
    choice.threads = 512;
    choice.blocks = static_cast<int>(std::clamp<int64_t>(work / 512, 1, std::min(most_blocks, 32)));
    return choice;
  }
  // As many blocks as there are, each of a few warps: their stores leave by different ways at once. Measured on H200.
  // Where the wire is full, half of them with twice the threads are a little faster; not between two ranks.
  if (by_parts && size > 2 && work >= 32768) most_blocks = std::min(most_blocks, 64);
  choice.threads = 64;
  while (choice.threads < 512 && work > static_cast<int64_t>(choice.threads) * most_blocks) choice.threads *= 2;
  choice.blocks = static_cast<int>(std::clamp<int64_t>((work + choice.threads - 1) / choice.threads, 1, most_blocks));
  return choice;
}

}  // namespace lane::cuda
