#include "lane/runtime/device_sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lane/base/random.h"
#include "lane/base/units.h"
#include "lane/device/memory_error.h"

namespace lane {
namespace {

using kernels::RowLogprobs;
using kernels::RuleRow;

constexpr int kSlots = kernels::StepBoard::kSlots;
constexpr int64_t kWholeRows = 64;  // that are made whole at a time
static_assert(kernels::kMostTop == kMostLogprobs);

bool has_penalty(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}
bool needs_history(const SamplingRow& row) { return has_penalty(*row.params) || !row.banned.empty(); }

template <class Make>
auto allocate(const char* what, int64_t bytes, Make make) {
  try {
    return make();
  } catch (const DeviceMemoryError& error) {
    throw DeviceMemoryError(
        fmt::format("{} more are needed for {}: {}", format_bytes(static_cast<double>(bytes)), what, error.what()));
  }
}

Buffer make_whole(int ranks, const DeviceSampler::Options& options, Device device) {
  if (ranks == 1) return {};
  const int64_t rows = std::min(options.max_rows, kWholeRows);
  return allocate("top_k, top_p, min_p, penalties or logprobs", rows * options.vocab_size * size_of(options.logits),
                  [&] {
                    return Buffer(options.logits, {1, 1, rows, options.vocab_size}, device);
                  });
}

}  // namespace

RuleRow rules_of(const SamplingRow& row, int64_t vocab_size) {
  const SamplingParams& p = *row.params;
  RuleRow rules{.repetition = p.repetition_penalty,
                .presence = p.presence_penalty,
                .frequency = p.frequency_penalty,
                .noise_key = p.seed ^ hash_name("sampler"),
                .position = row.tokens.size(),
                .num_top = std::max(p.logprobs, 0),
                .bans_hold = !row.banned.empty()};
  if (p.temperature < kGreedyBelow) return rules;
  rules.scale = 1 / p.temperature;
  rules.top_k = p.top_k > 0 && p.top_k < vocab_size ? p.top_k : 0;
  rules.top_p = p.top_p;
  if (p.min_p > 0) rules.log_min_p = std::log(p.min_p);
  return rules;
}

DeviceSampler::DeviceSampler(Communicator* group, const Options& options, Device device)
    : group_(group),
      options_(options),
      device_(device),
      input_(device, kSlots * options.max_rows * static_cast<int64_t>(sizeof(RuleRow))),
      logprobs_(device, kSlots * options.max_rows * static_cast<int64_t>(sizeof(RowLogprobs))),
      rules_(device, options.max_rows * static_cast<int64_t>(sizeof(RuleRow))),
      whole_(make_whole(group->size(), options, device)),
      seats_(options.max_rows) {}

void DeviceSampler::open_step(int64_t step, std::span<const SamplingRow> rows, int64_t places, Stream& stream) {
  ensure(static_cast<int64_t>(rows.size()) <= places && places <= options_.max_rows, "a step keeps to its limits");
  RuleRow* const rules = static_cast<RuleRow*>(input_.host()) + step % kSlots * options_.max_rows;
  Wanted& wanted = wanted_[static_cast<size_t>(step % kSlots)];
  wanted = {.step = step, .logprobs = std::vector<bool>(rows.size())};
  std::fill_n(rules, places, RuleRow());
  for (size_t i = 0; i < rows.size(); ++i) {
    rules[i] = rules_of(rows[i], options_.vocab_size);
    wanted.logprobs[i] = rows[i].params->logprobs >= 0;
    if (wanted.logprobs[i]) rules[i].logprobs = logprobs_of(logprobs_.on_device().data, step, static_cast<int64_t>(i));
  }
  seat(rows, rules, stream);
  copy_to_device(rules, rules_.view(DType::kU8, {1, 1, 1, places * static_cast<int64_t>(sizeof(RuleRow))}), stream);
}

void DeviceSampler::seat(std::span<const SamplingRow> rows, RuleRow* rules, Stream& stream) {
  std::vector<Histories::Row> asked;
  std::vector<size_t> at;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!needs_history(rows[i])) continue;
    ensure(rows[i].sequence >= 0, "a row with penalties or bans says whose it is");
    asked.push_back({rows[i].sequence, static_cast<int64_t>(rows[i].tokens.size())});
    at.push_back(i);
  }
  const std::vector<Histories::Place> places = seats_.seat(asked);
  for (size_t i = 0; i < at.size(); ++i) {
    rules[at[i]].history = history(places[i].slot);
    if (!places[i].is_up_to_date) note(rows[at[i]], places[i].slot, stream);
  }
}

uint32_t* DeviceSampler::history(int64_t slot) {
  if (slot == static_cast<int64_t>(histories_.size()))
    histories_.push_back(allocate("a sequence with penalties or min_tokens", options_.vocab_size * 4, [&] {
      return Buffer(DType::kI32, {1, 1, 1, options_.vocab_size}, device_);
    }));
  return static_cast<uint32_t*>(histories_.at(static_cast<size_t>(slot)).data());
}

// Tokens and bans by one copy from ordinary memory, which CUDA has read when the call returns (CUDA Runtime API, API
// synchronization behavior: it is staged).
void DeviceSampler::note(const SamplingRow& row, int64_t slot, Stream& stream) {
  ensure(std::all_of(row.tokens.begin(), row.tokens.end(), [](int32_t token) { return token >= 0; }),
         "a history is made of tokens that are known");
  std::vector<int32_t> list(row.tokens.begin(), row.tokens.end());
  list.insert(list.end(), row.banned.begin(), row.banned.end());
  const auto words = static_cast<int64_t>(list.size());
  if (list_.bytes() < words * 4) {
    stream.synchronize();  // a copy or a kernel may still use the old one
    list_ = Buffer(device_, words * 2 * 4);
  }
  const TensorView all = list_.view(DType::kI32, {1, 1, 1, words});
  copy_to_device(list.data(), all, stream);
  TensorView tokens = all, banned = all;
  tokens.shape[3] = static_cast<int64_t>(row.tokens.size());
  banned.shape[3] = static_cast<int64_t>(row.banned.size());
  banned.data = static_cast<int32_t*>(all.data) + row.tokens.size();
  kernels::note_history(tokens, row.num_prompt, banned, histories_[static_cast<size_t>(slot)].view(), stream);
}

void DeviceSampler::choose(TensorView logits, TensorView chosen, Stream& stream) {
  const int64_t rows = logits.rows(), most = group_->size() == 1 ? rows : whole_.view().rows();
  for (int64_t first = 0, count; first < rows; first += count) {
    count = std::min(most, rows - first);
    TensorView whole = logits.row_range(first, count);
    if (group_->size() > 1) {
      whole = whole_.view().row_range(0, count);
      kernels::spread_logits(logits.row_range(first, count), options_.slice.begin, whole, stream);
      group_->all_reduce(whole, whole, ReduceOp::kSum, stream);
    }
    constexpr auto kRowBytes = static_cast<int64_t>(sizeof(RuleRow));
    const TensorView rules = rules_.view().reshaped({1, 1, options_.max_rows, kRowBytes}).row_range(first, count);
    TensorView tokens = chosen;
    tokens.data = static_cast<int32_t*>(chosen.data) + first;
    tokens.shape = {1, 1, 1, count};
    kernels::choose_tokens(whole, rules, tokens, stream);
  }
}

RowLogprobs* DeviceSampler::logprobs_of(void* memory, int64_t step, int64_t row) const {
  return static_cast<RowLogprobs*>(memory) + step % kSlots * options_.max_rows + row;
}

StepLogprobs DeviceSampler::logprobs(int64_t step, int64_t row, int32_t token) const {
  const Wanted& wanted = wanted_[static_cast<size_t>(step % kSlots)];
  if (wanted.step != step || !wanted.logprobs.at(static_cast<size_t>(row))) return {};
  const RowLogprobs& from = *logprobs_of(logprobs_.host(), step, row);
  StepLogprobs result{.chosen = {token, from.chosen}, .top = {}};
  for (int i = 0; i < from.count; ++i) result.top.push_back({from.top[i].token, from.top[i].logprob});
  return result;
}

}  // namespace lane
