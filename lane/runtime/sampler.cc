#include "lane/runtime/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "lane/base/trace.h"
#include "lane/runtime/logit_scan.h"

namespace lane {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kTile = 8192;      // logits of one task; sums are added tile by tile, whatever the threads
constexpr int64_t kCandidates = 64;  // offered at first where only the share of probability limits the set
constexpr int64_t kMostTopK = 256;   // offered at first for a larger top_k
constexpr int64_t kWiden = 8;

// The exchange: one control word, then for each row a list of candidates and, if log-probabilities are asked for,
// a second one from the raw logits. Every list has the place that its capacity needs, so that all ranks send as much.
struct ControlWord {
  uint32_t signal, num_rows;
};
struct ListHeader {
  double sum;            // of exp(z - max) over the slice, where it is needed
  float max;             // largest logit of the slice
  int32_t count;         // candidates that follow
  int32_t exhausted;     // no other token of the slice can be chosen
  int32_t broken_token;  // whose logit is not finite; -1: none
};
int64_t list_bytes(int64_t capacity) {
  return static_cast<int64_t>(sizeof(ListHeader)) + (capacity * static_cast<int64_t>(sizeof(Candidate)) + 7) / 8 * 8;
}

// A list as it lies in the exchange.
struct ListView {
  std::byte* at;
  ListHeader& header() const { return *reinterpret_cast<ListHeader*>(at); }
  Candidate* items() const { return reinterpret_cast<Candidate*>(at + sizeof(ListHeader)); }
  std::span<const Candidate> candidates() const { return {items(), static_cast<size_t>(header().count)}; }
};

// Merges two sorted lists.
void append_sorted(std::span<const Candidate> from, std::vector<Candidate>& to) {
  const auto middle = static_cast<std::ptrdiff_t>(to.size());
  to.insert(to.end(), from.begin(), from.end());
  std::inplace_merge(to.begin(), to.begin() + middle, to.end(), comes_before);
}

// log of the sum over all slices of exp(raw logit), and the most likely tokens.
struct RawMerge {
  double log_sum = 0;
  std::vector<TokenLogprob> top;
};
RawMerge merge_raw(std::span<const ListView> lists, int64_t num_top) {
  float max = -kInfinity;
  std::vector<Candidate> all;
  for (const ListView& list : lists) {
    max = std::max(max, list.header().max);
    append_sorted(list.candidates(), all);
  }
  double sum = 0;
  for (const ListView& list : lists)
    if (list.header().max > -kInfinity) sum += list.header().sum * std::exp(double{list.header().max} - max);
  RawMerge merged{.log_sum = max + std::log(sum), .top = {}};
  all.resize(std::min(all.size(), static_cast<size_t>(num_top)));
  for (const Candidate& c : all) merged.top.push_back({c.token, static_cast<float>(c.logit - merged.log_sum)});
  return merged;
}

// min_p, top_k and top_p of one row.
struct Filter {
  double scale = 1;  // z = logit * scale
  int64_t top_k = 0;
  double top_p = 1, min_p = 0;

  bool active() const { return top_k > 0 || top_p < 1 || min_p > 0; }
  // The share of top_p is of all tokens, not of those that min_p and top_k left.
  bool needs_sum() const { return top_p < 1 && top_k == 0 && min_p == 0; }
};

// How many of `all`, which are sorted, pass. Of these the first `num_certain` are surely the first of the whole
// vocabulary; nothing if that does not suffice to tell. `complete`: there are no others than `all`. `sum` of
// exp(z - z_first) is over the vocabulary.
std::optional<size_t> count_passing(const Filter& filter, std::span<const Candidate> all, size_t num_certain,
                                    bool complete, double sum) {
  const double first = all[0].logit * filter.scale;
  const double least = filter.min_p > 0 ? first + std::log(filter.min_p) : -std::numeric_limits<double>::infinity();
  const auto share = [&](size_t i) { return std::exp(all[i].logit * filter.scale - first); };
  double reached = 0;
  size_t count = 0;
  for (; filter.top_k == 0 || count < static_cast<size_t>(filter.top_k); ++count) {
    if (count == num_certain && !complete) return std::nullopt;
    if (count == num_certain || all[count].logit * filter.scale < least) break;
    reached += share(count);
    if (filter.needs_sum() && reached >= filter.top_p * sum) return count + 1;
  }
  if (filter.needs_sum() || filter.top_p >= 1) return count;
  sum = reached, reached = 0;
  for (size_t i = 0; i < count; ++i) {
    reached += share(i);
    if (reached >= filter.top_p * sum) return i + 1;
  }
  return count;
}

}  // namespace

struct Sampler::Row {
  const SamplingRow* asked = nullptr;
  int64_t index = 0;  // in the batch
  std::span<float> logits, maxima;
  bool greedy = false;
  Filter filter;
  Noise noise;
  int64_t capacity = 1;

  // What this rank has to offer.
  int32_t broken_token = -1;
  float max = -kInfinity;
  double sum = 0;
  bool exhausted = false;
  std::vector<Candidate> candidates;

  int64_t num_logprobs = -1;
  float raw_max = -kInfinity;
  double raw_sum = 0;
  std::vector<Candidate> raw_first;
  std::vector<std::pair<int32_t, float>> raw_values;  // of the tokens whose logits were changed, by token

  // Of the exchange.
  bool sends_raw = false;
  int64_t offset = 0;
  RawMerge raw_merge;

  int64_t bytes() const { return list_bytes(capacity) + (sends_raw ? list_bytes(num_logprobs) : 0); }
  float raw(int32_t token, float logit) const {
    const auto at = std::lower_bound(raw_values.begin(), raw_values.end(), token,
                                     [](const auto& value, int32_t id) { return value.first < id; });
    return at != raw_values.end() && at->first == token ? at->second : logit;
  }
};

Sampler::Sampler(plan::Range vocab_slice, int64_t vocab_size, Communicator* group)
    : vocab_(vocab_slice), vocab_size_(vocab_size), group_(group) {
  ensure(0 <= vocab_.begin && vocab_.begin < vocab_.end && vocab_.end <= vocab_size_, "the slice is of the vocabulary");
}

void Sampler::find_block_maxima(TensorView logits, Stream& stream) {
  const int64_t width = vocab_.size(), blocks = (width + kLogitBlock - 1) / kLogitBlock;
  block_maxima_.resize(static_cast<size_t>(logits.rows() * blocks));
  stream.threads().parallel_for(logits.rows() * blocks, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kLogitBlock;
      block_maxima_[static_cast<size_t>(i)] =
          block_maximum(logits.as<float>() + i / blocks * width + first, std::min(kLogitBlock, width - first));
    }
  });
}

std::vector<Sampler::Row> Sampler::describe(TensorView logits, std::span<const SamplingRow> asked) {
  const auto width = static_cast<size_t>(vocab_.size()), blocks = (width + kLogitBlock - 1) / kLogitBlock;
  std::vector<Row> rows(asked.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    const SamplingParams& params = *asked[i].params;
    row.asked = &asked[i];
    row.index = static_cast<int64_t>(i);
    row.logits = {logits.as<float>() + i * width, width};
    row.maxima = {block_maxima_.data() + i * blocks, blocks};
    if (std::any_of(row.maxima.begin(), row.maxima.end(), [](float x) { return std::isnan(x); })) {
      const auto broken = std::find_if(row.logits.begin(), row.logits.end(), [](float x) { return !(x < kInfinity); });
      row.broken_token = static_cast<int32_t>(vocab_.begin + (broken - row.logits.begin()));
    }
    row.num_logprobs = params.logprobs;
    row.sends_raw = params.logprobs >= 0;
    row.greedy = params.temperature < kGreedyBelow;
    if (row.greedy) continue;
    row.filter = {.scale = 1 / params.temperature,
                  .top_k = params.top_k > 0 && params.top_k < vocab_size_ ? params.top_k : 0,
                  .top_p = params.top_p,
                  .min_p = params.min_p};
    row.noise = {.key = params.seed ^ hash_name("sampler"), .position = asked[i].tokens.size()};
    if (row.filter.active()) row.capacity = row.filter.top_k > 0 ? std::min(row.filter.top_k, kMostTopK) : kCandidates;
  }
  return rows;
}

// part(row, begin, end) for each tile of the rows that are `wanted`; add(row, result) in the order of the tiles.
template <class Wanted, class Part, class Add>
void Sampler::for_tiles(std::vector<Row>& rows, Stream& stream, Wanted wanted, Part part, Add add) {
  const int64_t width = vocab_.size(), tiles = (width + kTile - 1) / kTile;
  std::vector<Row*> chosen;
  for (Row& row : rows)
    if (row.broken_token < 0 && wanted(row)) chosen.push_back(&row);
  std::vector<decltype(part(rows[0], 0, 0))> results(chosen.size() * static_cast<size_t>(tiles));
  stream.threads().parallel_for(static_cast<int64_t>(results.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      results[static_cast<size_t>(i)] =
          part(*chosen[static_cast<size_t>(i / tiles)], i % tiles * kTile, std::min(width, (i % tiles + 1) * kTile));
  });
  for (size_t i = 0; i < results.size(); ++i) add(*chosen[i / static_cast<size_t>(tiles)], results[i]);
}

// What log-probabilities need, before the logits are changed.
void Sampler::raw_statistics(std::vector<Row>& rows, Stream& stream) {
  for (Row& row : rows) {
    if (!row.sends_raw || row.broken_token >= 0) continue;
    row.raw_max = *std::max_element(row.maxima.begin(), row.maxima.end());
    if (row.num_logprobs > 0)
      select_first(row.logits, row.maxima, static_cast<int32_t>(vocab_.begin), row.num_logprobs, -kInfinity,
                   row.raw_first);
  }
  for_tiles(
      rows, stream, [](const Row& row) { return row.sends_raw && row.raw_max > -kInfinity; },
      [](const Row& row, int64_t begin, int64_t end) {
        return sum_exp(row.logits.data() + begin, end - begin, row.raw_max, 1);
      },
      [](Row& row, double sum) { row.raw_sum += sum; });
}

// Bans and penalties.
void Sampler::change_logits(Row& row) {
  const auto set = [&](int64_t local, float value) {
    float& logit = row.logits[static_cast<size_t>(local)];
    if (row.sends_raw) row.raw_values.emplace_back(static_cast<int32_t>(vocab_.begin + local), logit);
    logit = value;
    const int64_t block = local / kLogitBlock, first = block * kLogitBlock;
    row.maxima[static_cast<size_t>(block)] =
        block_maximum(row.logits.data() + first, std::min(kLogitBlock, vocab_.size() - first));
  };
  for (const int32_t token : row.asked->banned)
    if (token >= vocab_.begin && token < vocab_.end) set(token - vocab_.begin, -kInfinity);

  const SamplingParams& params = *row.asked->params;
  const bool repetition = params.repetition_penalty != 1;
  if (repetition || params.frequency_penalty != 0 || params.presence_penalty != 0) {
    output_count_.resize(static_cast<size_t>(vocab_.size()));  // 0: not seen, else 1 + times in the output
    for (size_t i = repetition ? 0 : static_cast<size_t>(row.asked->num_prompt); i < row.asked->tokens.size(); ++i) {
      const int64_t local = row.asked->tokens[i] - vocab_.begin;
      if (local < 0 || local >= vocab_.size()) continue;
      int32_t& count = output_count_[static_cast<size_t>(local)];
      if (count == 0) count = 1, touched_.push_back(static_cast<int32_t>(local));
      if (static_cast<int64_t>(i) >= row.asked->num_prompt) ++count;
    }
    for (const int32_t local : touched_) {
      const int32_t count = std::exchange(output_count_[static_cast<size_t>(local)], 0) - 1;
      double logit = row.logits[static_cast<size_t>(local)];
      if (logit == -kInfinity) continue;
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      if (count > 0) logit -= params.frequency_penalty * count + params.presence_penalty;
      constexpr double kMost = std::numeric_limits<float>::max();
      set(local, static_cast<float>(std::clamp(logit, -kMost, kMost)));
    }
    touched_.clear();
  }
  // The first entry of a token is what the model gave.
  std::stable_sort(row.raw_values.begin(), row.raw_values.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

// The candidates of this rank: the largest logit; the best draw; or the first of the order.
void Sampler::local_choice(std::vector<Row>& rows, Stream& stream) {
  for (Row& row : rows) {
    if (row.broken_token >= 0) continue;
    const auto block = std::max_element(row.maxima.begin(), row.maxima.end());
    row.max = *block;
    row.exhausted = row.max == -kInfinity;
    if (row.exhausted) continue;
    const auto first = static_cast<size_t>(block - row.maxima.begin()) * kLogitBlock;
    size_t at = first;
    while (row.logits[at] != row.max) ++at;
    row.candidates = {{static_cast<int32_t>(vocab_.begin + static_cast<int64_t>(at)), row.max, row.max}};
  }
  const auto draw_of = [](const Row& row) {
    const Candidate& c = row.candidates[0];
    return Draw{c.logit * row.filter.scale + row.noise(c.token), c.token, c.logit};
  };
  for_tiles(
      rows, stream, [](const Row& row) { return !row.greedy && !row.filter.active() && !row.exhausted; },
      [&](const Row& row, int64_t begin, int64_t end) {
        return best_draw(row.logits.data() + begin, end - begin, static_cast<int32_t>(vocab_.begin + begin),
                         row.filter.scale, row.noise, draw_of(row));
      },
      [&](Row& row, const Draw& draw) {
        if (beats(draw, draw_of(row))) row.candidates = {{draw.token, draw.logit, draw.logit}};
      });
  for_tiles(
      rows, stream, [](const Row& row) { return !row.greedy && row.filter.needs_sum() && !row.exhausted; },
      [](const Row& row, int64_t begin, int64_t end) {
        return sum_exp(row.logits.data() + begin, end - begin, row.max, row.filter.scale);
      },
      [](Row& row, double sum) { row.sum += sum; });
  stream.threads().parallel_for(static_cast<int64_t>(rows.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) find_candidates(rows[static_cast<size_t>(i)]);
  });
}

void Sampler::find_candidates(Row& row) {
  if (row.broken_token >= 0 || row.max == -kInfinity) return;
  if (row.filter.active()) {
    float least = -kInfinity;
    if (row.filter.min_p > 0) {  // relative to this slice, and a little less: merging applies it exactly
      const double bound = row.max + std::log(row.filter.min_p) / row.filter.scale;
      least = static_cast<float>(bound - 1e-6 * std::abs(bound) - 1e-30);
    }
    row.exhausted =
        select_first(row.logits, row.maxima, static_cast<int32_t>(vocab_.begin), row.capacity, least, row.candidates);
  }
  for (Candidate& c : row.candidates) c.raw = row.raw(c.token, c.logit);
}

// Makes the records of all ranks known to all, and returns rank 0's signal.
uint32_t Sampler::exchange(std::span<Row* const> rows, uint32_t signal, Stream& stream) {
  record_bytes_ = sizeof(ControlWord);
  for (Row* row : rows) {
    row->offset = record_bytes_;
    record_bytes_ += row->bytes();
  }
  if (send_.bytes() < record_bytes_) send_ = Buffer(Device{}, record_bytes_ * 2);
  auto* out = static_cast<std::byte*>(send_.data());
  *reinterpret_cast<ControlWord*>(out) = {signal, static_cast<uint32_t>(rows.size())};
  const auto put = [&](int64_t offset, const ListHeader& header, const std::vector<Candidate>& candidates) {
    const ListView list{out + offset};
    list.header() = header;
    std::copy(candidates.begin(), candidates.end(), list.items());
  };
  for (const Row* row : rows) {
    put(row->offset,
        {row->sum, row->max, static_cast<int32_t>(row->candidates.size()), row->exhausted, row->broken_token},
        row->candidates);
    if (row->sends_raw)
      put(row->offset + list_bytes(row->capacity),
          {row->raw_sum, row->raw_max, static_cast<int32_t>(row->raw_first.size()), false, -1}, row->raw_first);
  }
  gathered_ = out;
  if (group_->size() == 1) return signal;

  const int64_t size = group_->size();
  if (receive_.bytes() < record_bytes_ * size) receive_ = Buffer(Device{}, send_.bytes() * size);
  group_->all_gather(send_.view(DType::kU8, {1, 1, 1, record_bytes_}),
                     receive_.view(DType::kU8, {1, 1, size, record_bytes_}), stream);
  stream.synchronize();
  gathered_ = static_cast<std::byte*>(receive_.data());
  for (int64_t rank = 0; rank < size; ++rank)
    ensure(reinterpret_cast<const ControlWord*>(gathered_ + rank * record_bytes_)->num_rows == rows.size(),
           "all ranks sample the same rows");
  return reinterpret_cast<const ControlWord*>(gathered_)->signal;
}

// Comes to the token of one row from what all ranks offered, or false if that does not suffice.
bool Sampler::merge(Row& row, SampledToken& out) const {
  std::vector<ListView> lists, raw_lists;
  for (int64_t rank = 0; rank < group_->size(); ++rank) {
    std::byte* at = gathered_ + rank * record_bytes_ + row.offset;
    lists.push_back({at});
    if (row.sends_raw) raw_lists.push_back({at + list_bytes(row.capacity)});
    if (lists.back().header().broken_token >= 0)
      throw Error(
          ErrorCode::kCorruptData,
          fmt::format("the logit of token {} (rank {}, position {} of its sequence) is not a finite number: the "
                      "weights are damaged, or the computation overflowed",
                      lists.back().header().broken_token, rank, row.asked->tokens.size()));
  }
  if (row.sends_raw) row.raw_merge = merge_raw(raw_lists, row.num_logprobs);

  std::vector<Candidate> all;
  std::optional<Candidate> barrier;  // beyond it some rank may have tokens that it did not offer
  float max = -kInfinity;
  for (const ListView& list : lists) {
    append_sorted(list.candidates(), all);
    max = std::max(max, list.header().max);
    if (!list.header().exhausted && (!barrier || comes_before(list.candidates().back(), *barrier)))
      barrier = list.candidates().back();
  }
  if (all.empty())
    throw Error(ErrorCode::kCorruptData,
                fmt::format("no token is possible at position {} of a sequence: every logit is -inf or banned",
                            row.asked->tokens.size()));
  if (row.filter.active()) {
    const size_t num_certain =
        barrier ? static_cast<size_t>(std::upper_bound(all.begin(), all.end(), *barrier, comes_before) - all.begin())
                : all.size();
    double sum = 0;
    if (row.filter.needs_sum())
      for (const ListView& list : lists)
        if (list.header().max > -kInfinity)
          sum += list.header().sum * std::exp((static_cast<double>(list.header().max) - max) * row.filter.scale);
    const auto passing = count_passing(row.filter, all, num_certain, !barrier, sum);
    if (!passing) return false;
    all.resize(*passing);
  }
  const Candidate* chosen = &all[0];
  Draw best;
  for (const Candidate& c : all) {
    if (!row.greedy && c.logit * row.filter.scale + row.noise.at_most(c.token) < best.value - 1e-9) continue;
    const Draw draw{row.greedy ? c.logit : c.logit * row.filter.scale + row.noise(c.token), c.token, c.logit};
    if (beats(draw, best)) best = draw, chosen = &c;
  }
  out.token = chosen->token;
  if (row.num_logprobs >= 0)
    out.logprobs = {.chosen = {chosen->token, static_cast<float>(chosen->raw - row.raw_merge.log_sum)},
                    .top = std::move(row.raw_merge.top)};
  return true;
}

std::vector<SampledToken> Sampler::sample(TensorView logits, std::span<const SamplingRow> asked, uint32_t signal_in,
                                          uint32_t* signal_out, Stream& stream) {
  std::vector<SampledToken> sampled(asked.size());
  std::vector<Row> rows;
  std::vector<Row*> open;
  if (!asked.empty()) {
    TraceSpan span("sample", TraceKind::kOther, logits.bytes());
    ensure(logits.dtype == DType::kF32 && logits.device.kind == DeviceKind::kCpu, "logits are float32 on the CPU");
    ensure(logits.rows() == static_cast<int64_t>(asked.size()) && logits.cols() == vocab_.size(),
           "logits are [rows, vocab slice]");
    stream.synchronize();
    find_block_maxima(logits, stream);
    rows = describe(logits, asked);
    raw_statistics(rows, stream);
    for (Row& row : rows)
      if (row.broken_token < 0) change_logits(row);
    local_choice(rows, stream);
    for (Row& row : rows) open.push_back(&row);
  }
  *signal_out = exchange(open, signal_in, stream);
  for (int64_t grain = 16; !open.empty(); grain = 1) {  // rows that came to no token are many candidates wide
    std::vector<uint8_t> chosen(open.size());
    {
      TraceSpan span("merge candidates", TraceKind::kOther);
      stream.threads().parallel_for(static_cast<int64_t>(open.size()), grain, [&](int64_t begin, int64_t end) {
        for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
          Row& row = *open[i];
          chosen[i] = merge(row, sampled[static_cast<size_t>(row.index)]);
          if (chosen[i]) continue;
          row.capacity = std::min(row.capacity * kWiden, vocab_size_);
          row.sends_raw = false;
          find_candidates(row);
        }
      });
    }
    std::vector<Row*> wider;
    for (size_t i = 0; i < open.size(); ++i)
      if (!chosen[i]) wider.push_back(open[i]);
    open = std::move(wider);
    if (!open.empty()) exchange(open, 0, stream);
  }
  return sampled;
}

}  // namespace lane
