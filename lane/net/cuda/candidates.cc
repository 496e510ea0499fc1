#include "lane/net/cuda/candidates.h"

#include <fmt/format.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/device/cuda/native.cuh"
#include "lane/net/agreement.h"
#include "lane/net/cuda/kernels.h"

namespace lane::net::cuda {
namespace {

using lane::cuda::check;
using lane::cuda::raw;

constexpr int64_t kAlignment = 4096;
constexpr int64_t kMostDistinct = 1 << 20;  // bytes of a vector up to which each set has data of its own

int64_t largest(const DeviceBenchOptions& options) {
  int64_t bytes = 16;
  for (const int64_t size : options.sizes) bytes = std::max(bytes, size);
  for (const FusedShape& shape : options.fused)
    for (const DType dtype : options.dtypes) bytes = std::max(bytes, shape.hidden * shape.num_tokens * size_of(dtype));
  return bytes;
}

void set_bits(const TensorView& view, Stream& stream) {
  check(cudaMemsetAsync(view.data, 0xff, static_cast<size_t>(view.bytes()), raw(stream)), "poisoning a result");
}

}  // namespace

int64_t Arena::needed(int64_t max_bytes, bool with_fused) {
  const int64_t stride = (max_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return stride * kSets * (with_fused ? 4 : 2);
}

Arena::Arena(Device device, int64_t max_bytes, bool with_fused, void* memory)
    : device_(device), stride_(needed(max_bytes, false) / (2 * kSets)) {
  if (memory == nullptr) own_ = Buffer(device, needed(max_bytes, with_fused));
  memory_ = static_cast<char*>(memory != nullptr ? memory : own_.data());
}

TensorView Arena::at(Area area, int set, const Case& what) const {
  TensorView view{
      memory_ + stride_ * (static_cast<int64_t>(area) * kSets + set), what.dtype, {1, 1, 1, what.count()}, device_};
  if (what.is_fused()) view.shape = {1, 1, what.fused.num_tokens, what.fused.hidden};
  return view;
}

CaseData::CaseData(const Case& what, int rank, int num_ranks, Device device, Stream& stream)
    : what_(what), num_ranks_(num_ranks), distinct_(what.bytes <= kMostDistinct), stream_(stream) {
  const auto bytes = static_cast<size_t>(what.bytes);
  for (int set = 0; set < (distinct_ ? kSets : 1); ++set) {
    inputs_.emplace_back(bytes);
    fill(what.dtype, what.op, rank, what.count(), inputs_.back().data(), seed_of(set));
  }
  result_.resize(bytes);
  if (!what.is_fused()) return;
  result2_.resize(bytes);
  residual_.resize(bytes);
  fill(what.dtype, ReduceOp::kSum, 0, what.count(), residual_.data(), kResidualSeed);
  std::vector<char> weight(static_cast<size_t>(what.fused.hidden * size_of(what.dtype)));
  fill(what.dtype, ReduceOp::kProd, 0, what.fused.hidden, weight.data(), kWeightSeed);
  weight_ = Buffer(what.dtype, {1, 1, 1, what.fused.hidden}, device);
  copy_to_device(weight.data(), weight_.view(), stream);
  stream.synchronize();
}

TensorView CaseData::weight() const { return weight_.view(); }

void CaseData::load(const Arena& arena) {
  for (int set = 0; set < kSets; ++set)
    copy_to_device(inputs_[distinct_ ? static_cast<size_t>(set) : 0].data(), arena.at(Arena::kIn, set, what_), stream_);
  poison(arena);
}

void CaseData::restore_residuals(const Arena& arena) {
  if (!what_.is_fused()) return;
  for (int set = 0; set < kSets; ++set)
    copy_to_device(residual_.data(), arena.at(Arena::kResidual, set, what_), stream_);
  stream_.synchronize();
}

void CaseData::poison(const Arena& arena) {
  for (int set = 0; set < kSets; ++set) {
    set_bits(arena.at(Arena::kSum, set, what_), stream_);
    if (what_.is_fused()) set_bits(arena.at(Arena::kNormed, set, what_), stream_);
  }
  restore_residuals(arena);
  stream_.synchronize();
}

CaseData::Seen CaseData::look(const Arena& arena, Rounding rounding) {
  Seen seen;
  for (int set = distinct_ ? 0 : kSets - 1; set < kSets; ++set) {
    copy_to_host(arena.at(what_.is_fused() ? Arena::kNormed : Arena::kSum, set, what_), result_.data(), stream_);
    seen.bits = mix64(seen.bits ^ fingerprint(result_.data(), what_.bytes));
    if (!what_.is_fused()) {
      seen.num_wrong +=
          count_wrong(what_.dtype, what_.op, num_ranks_, result_.data(), what_.count(), rounding, seed_of(set));
      continue;
    }
    copy_to_host(arena.at(Arena::kResidual, set, what_), result2_.data(), stream_);
    seen.bits = mix64(seen.bits ^ fingerprint(result2_.data(), what_.bytes));
    seen.num_wrong += count_wrong_norm(what_.dtype, num_ranks_, result2_.data(), result_.data(), what_.fused.num_tokens,
                                       what_.fused.hidden, kEpsilon, rounding, seed_of(set));
  }
  return seen;
}

Candidates::Candidates(Communicator& group, const DeviceBenchOptions& options, Device device, Stream& stream)
    : group_(group), options_(options), stream_(stream), plain_(device, largest(options), !options.fused.empty()) {
  pretend_hosts_to_nccl(group);
  std::vector<std::string> known;
  try {
    known = group.device_algorithms(device);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported || options.peers.empty()) throw;
    lane_why_not_ = error.what();  // the peers are measured all the same
  }
  for (const std::string& name : options.algorithms) {
    std::vector<std::string> meant = {name};
    if (name == "all") meant = known, meant.insert(meant.begin(), "auto");
    for (const std::string& each : meant) {
      if (lane_why_not_.empty()) group.set_device_algorithm(each);  // says what there is if this is not
      if (std::find(algorithms_.begin(), algorithms_.end(), each) == algorithms_.end()) algorithms_.push_back(each);
    }
  }
  if (lane_why_not_.empty()) group.set_device_algorithm("auto");

  const bool with_fused = !options.fused.empty();
  for (const DevicePeer& peer : options.peers) {
    peers_.push_back(std::make_unique<PluginPeer>(group, peer, options.peer_directory, device.index, largest(options)));
    peer_arenas_.emplace_back();
    if (!peers_.back()->why_not().empty()) continue;
    if (void* memory = peers_.back()->allocate(Arena::needed(largest(options), with_fused)))
      peer_arenas_.back() = std::make_unique<Arena>(device, largest(options), with_fused, memory);
  }
}

std::vector<const Arena*> Candidates::arenas() const {
  std::vector<const Arena*> all = {&plain_};
  for (const auto& arena : peer_arenas_)
    if (arena) all.push_back(arena.get());
  return all;
}

std::vector<std::string> Candidates::peer_libraries() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < peers_.size(); ++i)
    if (peers_[i]->why_not().empty())
      names.push_back(fmt::format("{}: {}", options_.peers[i].text, peers_[i]->library()));
  return names;
}

// `apart`: all-reduce, then a kernel that adds and normalizes; otherwise both in one.
Candidate Candidates::lane_candidate(const Case& what, const CaseData& data, const std::string& algorithm, bool apart) {
  Candidate result{.name = apart ? algorithm + " + norm" : algorithm, .why_not = lane_why_not_, .arena = &plain_};
  if (!result.why_not.empty()) return result;
  group_.set_device_algorithm(algorithm);
  result.runs = group_.device_algorithm(what.bytes, what.dtype);
  result.prepare = [this, algorithm] { group_.set_device_algorithm(algorithm); };
  result.settle = [this] { group_.wait(stream_); };
  result.call = [this, what, apart, weight = data.weight()](int set) {
    const TensorView in = plain_.at(Arena::kIn, set, what), sum = plain_.at(Arena::kSum, set, what);
    if (!what.is_fused()) return group_.all_reduce(in, sum, what.op, stream_);
    const TensorView residual = plain_.at(Arena::kResidual, set, what), normed = plain_.at(Arena::kNormed, set, what);
    if (!apart) return group_.all_reduce_add_rms_norm(in, residual, weight, kEpsilon, normed, stream_);
    group_.all_reduce(in, sum, what.op, stream_);
    enqueue_add_rms_norm(sum, residual, weight, kEpsilon, normed, stream_);
  };
  return result;
}

Candidate Candidates::peer_candidate(const Case& what, const CaseData& data, size_t index, bool apart) {
  PluginPeer& peer = *peers_[index];
  const Arena* arena = peer_arenas_[index] ? peer_arenas_[index].get() : &plain_;
  const std::string& name = options_.peers[index].text;
  Candidate result{.name = apart ? name + " + norm" : name,
                   .runs = peer.library(),
                   .is_peer = true,
                   .why_not = peer.why_not(),
                   .arena = arena,
                   .rounding = Rounding::kEveryStep};
  if (result.why_not.empty() && what.op != ReduceOp::kSum) result.why_not = "its plugin adds only";
  if (result.why_not.empty()) result.why_not = peer.why_not(what.count(), what.dtype);
  if (result.why_not.empty() && what.is_fused() && !apart && !peer.has_fused())
    result.why_not = "it has no all-reduce with addition and norm";
  result.captured = [&peer] { peer.captured(); };
  result.call = [this, &peer, arena, what, apart, weight = data.weight()](int set) {
    const TensorView in = arena->at(Arena::kIn, set, what), sum = arena->at(Arena::kSum, set, what);
    if (!what.is_fused()) return peer.all_reduce(in, sum, stream_);
    const TensorView residual = arena->at(Arena::kResidual, set, what), normed = arena->at(Arena::kNormed, set, what);
    if (!apart) return peer.all_reduce_add_rms_norm(in, residual, weight, kEpsilon, normed, stream_);
    peer.all_reduce(in, sum, stream_);
    enqueue_add_rms_norm(sum, residual, weight, kEpsilon, normed, stream_);
  };
  return result;
}

std::vector<Candidate> Candidates::of(const Case& what, const CaseData& data) {
  std::vector<Candidate> all;
  for (const std::string& algorithm : algorithms_) all.push_back(lane_candidate(what, data, algorithm, false));
  if (what.is_fused()) all.push_back(lane_candidate(what, data, "auto", true));
  for (size_t i = 0; i < peers_.size(); ++i) {
    if (what.is_fused() && (peers_[i]->has_fused() || !peers_[i]->why_not().empty()))
      all.push_back(peer_candidate(what, data, i, false));
    if (!what.is_fused() || peers_[i]->why_not().empty()) all.push_back(peer_candidate(what, data, i, what.is_fused()));
  }
  all.push_back(
      {.name = "empty kernel", .is_floor = true, .arena = &plain_, .call = [this](int) { enqueue_nothing(stream_); }});
  for (Candidate& each : all) each.why_not = first_said(group_, each.why_not);
  return all;
}

}  // namespace lane::net::cuda
