#include "lane/runtime/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace lane {
namespace {

int64_t num_left(const Sequence& sequence) {
  return static_cast<int64_t>(sequence.tokens.size()) - sequence.num_computed;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, BlockPool* pool) : limits_(limits), pool_(pool) {
  for (const auto& [name, value] : {std::pair{"max_num_seqs", limits.max_num_seqs},
                                    {"max_num_batched_tokens", limits.max_num_batched_tokens},
                                    {"max_model_len", limits.max_model_len}})
    if (value < 1) throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is {}: at least 1", name, value));
  limits_.max_num_seqs = std::min(limits.max_num_seqs, limits.max_num_batched_tokens);
}

void Scheduler::add(Request request) {
  auto sequence = std::make_unique<Sequence>();
  const auto num_prompt = static_cast<int64_t>(request.prompt.size());
  if (num_prompt == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("request {}: the prompt has no tokens", request.id));
  if (num_prompt >= limits_.max_model_len)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("request {}: the prompt has {} tokens, but prompt and output together may have {} "
                            "(max_model_len)",
                            request.id, num_prompt, limits_.max_model_len));
  const int64_t max_tokens = std::max<int64_t>(1, request.sampling.max_tokens);
  sequence->max_length = num_prompt + std::min(max_tokens, limits_.max_model_len - num_prompt);
  const int64_t num_blocks = pool_->blocks_for(sequence->max_length - 1);  // the last token is never computed
  if (num_blocks > pool_->num_blocks())
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("request {}: {} prompt tokens and at most {} of output need {} blocks of {} tokens, but the "
                    "KV cache has {}",
                    request.id, num_prompt, sequence->max_length - num_prompt, num_blocks, pool_->block_tokens(),
                    pool_->num_blocks()));
  sequence->tokens = request.prompt;
  sequence->request = std::move(request);
  waiting_.push_back(std::move(sequence));
}

const std::vector<ScheduledWork>& Scheduler::plan_step() {
  ensure(!step_open_, "a step is booked before the next is planned");
  step_open_ = true;
  step_.clear();
  if (idle()) return step_;
  budget_ = limits_.max_num_batched_tokens;
  plan_decodes();
  plan_prompts();
  admit();
  ensure(!step_.empty(), "the oldest sequence proceeds in every step");
  return step_;
}

void Scheduler::plan_decodes() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i].get();
    ensure(static_cast<int64_t>(sequence->tokens.size()) < sequence->max_length,
           "a sequence of max_length was removed");
    // The youngest, without a block to be had, waits for its elders where it is.
    if (num_left(*sequence) == 1 && make_room(i, sequence->num_computed + 1)) schedule(sequence, 1);
  }
}

void Scheduler::plan_prompts() {
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    Sequence* sequence = running_[i].get();
    if (num_left(*sequence) == 1 || !make_room(i, sequence->num_computed + 1)) continue;
    // As many tokens as there is budget and, without taking more from others, blocks.
    const int64_t room =
        (static_cast<int64_t>(sequence->blocks.size()) + pool_->num_available()) * pool_->block_tokens();
    const int64_t count = std::min({num_left(*sequence), budget_, room - sequence->num_computed});
    ensure(make_room(i, sequence->num_computed + count), "there are as many blocks as were counted");
    schedule(sequence, count);
  }
}

void Scheduler::admit() {
  while (budget_ > 0 && !waiting_.empty() && num_running() < limits_.max_num_seqs) {
    if (pool_->num_available() < 1 + num_running()) return;  // no need to look into the cache
    Sequence* sequence = waiting_.front().get();
    const int64_t num_cached = pool_->find_prefix(sequence->tokens, sequence->blocks);
    const int64_t num_missing = pool_->blocks_for(static_cast<int64_t>(sequence->tokens.size())) -
                                static_cast<int64_t>(sequence->blocks.size());
    if (pool_->num_available() < num_missing + num_running()) {
      pool_->release(sequence->blocks);
      return;  // nobody overtakes
    }
    sequence->num_computed = num_cached;
    if (sequence->num_preemptions == 0) sequence->num_cached = num_cached;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    const int64_t count = std::min(num_left(*sequence), budget_);
    ensure(make_room(running_.size() - 1, num_cached + count), "there are as many blocks as were counted");
    schedule(sequence, count);
  }
}

bool Scheduler::make_room(size_t index, int64_t num_tokens) {
  std::vector<int32_t>& blocks = running_[index]->blocks;
  const int64_t count = pool_->blocks_for(num_tokens) - static_cast<int64_t>(blocks.size());
  if (count <= 0) return true;
  while (!pool_->allocate(count, blocks)) {
    if (index + 1 == running_.size()) return false;
    preempt_youngest();
  }
  return true;
}

void Scheduler::preempt_youngest() {
  std::unique_ptr<Sequence> sequence = std::move(running_.back());
  ensure(booked_.empty(), "nothing is set back while tokens are unknown");
  running_.pop_back();
  std::erase_if(step_, [&](const ScheduledWork& work) {
    if (work.sequence != sequence.get()) return false;
    budget_ += work.count;
    return true;
  });
  pool_->release(sequence->blocks);
  sequence->num_computed = 0;
  ++sequence->num_preemptions;
  ++num_preemptions_;
  waiting_.push_front(std::move(sequence));
}

void Scheduler::schedule(Sequence* sequence, int64_t count) {
  step_.push_back({sequence, sequence->num_computed, count, count == num_left(*sequence)});
  budget_ -= count;
}

void Scheduler::book_step() {
  ensure(step_open_, "a step was planned");
  step_open_ = false;
  for (const ScheduledWork& work : step_) {
    work.sequence->num_computed += work.count;
    if (work.samples) work.sequence->tokens.push_back(kUnknownToken);
  }
  booked_.push_back(step_);
}

void Scheduler::fill_step(const std::vector<int32_t>& sampled) {
  ensure(!booked_.empty() && sampled.size() == booked_.front().size(), "one token for each work of a booked step");
  for (size_t i = 0; i < sampled.size(); ++i) {
    const ScheduledWork& work = booked_.front()[i];
    if (work.sequence == nullptr) continue;
    Sequence& sequence = *work.sequence;
    const int64_t end = work.begin + work.count;
    if (work.samples) sequence.tokens[static_cast<size_t>(end)] = sampled[i];
    pool_->publish(std::span(sequence.tokens).first(static_cast<size_t>(end)), sequence.blocks,
                   work.begin / pool_->block_tokens());
  }
  booked_.pop_front();
}

bool Scheduler::can_plan_ahead() const {
  if (pool_->num_available() < num_running()) return false;
  return std::all_of(running_.begin(), running_.end(), [](const auto& sequence) {
    return num_left(*sequence) == 1 && static_cast<int64_t>(sequence->tokens.size()) < sequence->max_length;
  });
}

std::unique_ptr<Sequence> Scheduler::remove(int64_t request_id) {
  ensure(!step_open_, "nothing is removed while a step is under way");
  const auto take_from = [&](auto& sequences) -> std::unique_ptr<Sequence> {
    for (auto it = sequences.begin(); it != sequences.end(); ++it)
      if ((*it)->request.id == request_id) {
        std::unique_ptr<Sequence> sequence = std::move(*it);
        sequences.erase(it);
        return sequence;
      }
    return nullptr;
  };
  std::unique_ptr<Sequence> sequence = take_from(running_);
  if (!sequence) sequence = take_from(waiting_);
  if (!sequence) return nullptr;
  for (std::vector<ScheduledWork>& step : booked_)
    for (ScheduledWork& work : step)
      if (work.sequence == sequence.get()) work.sequence = nullptr;
  while (!sequence->tokens.empty() && sequence->tokens.back() == kUnknownToken) sequence->tokens.pop_back();
  pool_->release(sequence->blocks);
  return sequence;
}

}  // namespace lane
