#include "lane/runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>

#include "lane/base/trace.h"

namespace lane {
namespace {

// Commands as bytes: a kind, then its fields one after the other; texts and lists begin with their length. All ranks
// of a group run the same program, so fields have the machine's own layout.
enum class Command : uint8_t { kAdd = 1, kCancel = 2, kFinish = 3, kRestartTrace = 4 };

class Writer {
 public:
  explicit Writer(std::string* out) : out_(out) {}

  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void operator()(const T& value) { out_->append(reinterpret_cast<const char*>(&value), sizeof(T)); }
  template <class List>
  requires requires(const List& list) { list.size(); }
  void operator()(const List& list) {
    (*this)(static_cast<uint64_t>(list.size()));
    for (const auto& item : list) (*this)(item);
  }

 private:
  std::string* out_;
};

class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}
  bool at_end() const { return in_.empty(); }

  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void operator()(T& value) {
    need(sizeof(T));
    if constexpr (std::is_same_v<T, bool>)
      value = in_[0] != 0;
    else
      std::memcpy(&value, in_.data(), sizeof(T));
    in_.remove_prefix(sizeof(T));
  }
  template <class List>
  requires requires(List& list) { list.resize(1); }
  void operator()(List& list) {
    uint64_t size = 0;
    (*this)(size);
    need(size);  // every item has a byte at least
    list.resize(size);
    for (auto& item : list) (*this)(item);
  }

 private:
  void need(uint64_t bytes) const {
    if (bytes > in_.size()) throw Error(ErrorCode::kCorruptData, "a command of the leader ends too early");
  }
  std::string_view in_;
};

// The fields of a request, for both directions. The list must be complete to compile.
template <class Archive, class Asked>
void fields_of(Archive& archive, Asked& request) {
  auto& [id, prompt, sampling] = request;
  auto& [max_tokens, min_tokens, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, stop,
         stop_token_ids, include_stop, ignore_eos, logprobs] = sampling;
  const auto all = [&](auto&... field) { (archive(field), ...); };
  all(id, prompt, max_tokens, min_tokens, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed, stop,
      stop_token_ids, include_stop, ignore_eos, logprobs);
}

bool contains(const std::vector<int32_t>& list, int32_t token) {
  return std::find(list.begin(), list.end(), token) != list.end();
}

// Where a stop string lies in a text.
struct StopMatch {
  size_t begin = 0, end = 0;
};

// The match that is complete first when the text is read byte by byte, so that the result does not depend on how the
// text was cut into tokens; of those that end together the longest. Only ends beyond `from` count.
std::optional<StopMatch> find_stop(const std::string& text, size_t from, const std::vector<std::string>& stops) {
  std::optional<StopMatch> first;
  for (const std::string& stop : stops) {
    const size_t begin = text.find(stop, from + 1 > stop.size() ? from + 1 - stop.size() : 0);
    if (begin == std::string::npos) continue;
    const StopMatch match{begin, begin + stop.size()};
    if (!first || match.end < first->end || (match.end == first->end && match.begin < first->begin)) first = match;
  }
  return first;
}

// Length of the text without an end that may be the beginning of a stop string.
size_t certain_length(const std::string& text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& stop : stops)
    for (size_t length = std::min(stop.size() - 1, text.size()); length > held; --length)
      if (text.compare(text.size() - length, length, stop, 0, length) == 0) held = length;
  return text.size() - held;
}

double seconds(int64_t from_ns, int64_t to_ns) { return static_cast<double>(to_ns - from_ns) * 1e-9; }

KvLayout kv_layout(const Model& model, const EngineOptions& options) {
  return {.num_layers = model.config().shape.num_layers,
          .num_kv_heads = static_cast<int>(model.slices().kv_heads.size()),
          .head_dim = model.config().shape.head_dim,
          .block_tokens = options.block_tokens,
          .dtype = options.kv_dtype};
}

std::unique_ptr<StepRunner> make_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                        const EngineOptions& options) {
  if (stream->device().kind == DeviceKind::kCpu)
    return make_cpu_runner(model, group, cache, stream, options.cpu_runs_ahead);
  return make_device_runner(model, group, cache, stream,
                            {.max_seqs = std::min(options.limits.max_num_seqs, options.limits.max_num_batched_tokens),
                             .max_tokens = options.limits.max_num_batched_tokens,
                             .max_model_len = options.limits.max_model_len,
                             .use_graphs = options.use_graphs});
}

// What must be the same on all ranks, as text.
std::string describe(const EngineOptions& o, bool has_tokenizer) {
  std::string text = fmt::format(
      "max_num_seqs {}, max_num_batched_tokens {}, max_model_len {}, block size {}, {} blocks of {}, {} tokenizer, eos",
      o.limits.max_num_seqs, o.limits.max_num_batched_tokens, o.limits.max_model_len, o.block_tokens, o.num_blocks,
      name_of(o.kv_dtype), has_tokenizer ? "a" : "no");
  for (const int32_t token : o.eos_token_ids) text += fmt::format(" {}", token);
  return text;
}

}  // namespace

struct Engine::Tracked {
  int64_t number = 0;
  SamplingParams sampling;
  std::vector<int32_t> banned;  // before min_tokens
  std::optional<StreamDecoder> decoder;
  std::string text;
  size_t searched = 0;  // stop strings that end here or before are no matter any more
  bool scheduled = false;
  int64_t num_cached = 0;

  // Of the leader alone.
  size_t told = 0;  // bytes of the text that on_token has seen
  int64_t added_ns = 0, first_work_ns = 0, first_token_ns = 0, last_token_ns = 0;
  std::vector<double> gaps_s;
  std::vector<StepLogprobs> logprobs;
};

Engine::Engine(Model* model, Communicator* group, const Tokenizer* tokenizer, const EngineOptions& options,
               Stream* stream)
    : model_(model),
      group_(group),
      tokenizer_(tokenizer),
      options_(options),
      stream_(stream),
      pool_(options.num_blocks, options.block_tokens),
      cache_(kv_layout(*model, options), options.num_blocks, stream->device()),
      scheduler_(options.limits, &pool_),
      runner_(make_runner(model, group, &cache_, stream, options)) {
  if (group_->size() == 1) return;
  const std::string mine = describe(options_, tokenizer_ != nullptr), leaders = group_->broadcast_text(mine, 0);
  if (mine != leaders)
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("all ranks need the same options: rank 0 has {}; rank {} has {}", leaders, group_->rank(), mine));
}

Engine::~Engine() = default;

void Engine::check_request(const Request& request) const {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("request {}: {}", request.id, why));
  };
  check(request.sampling);
  const int64_t vocab_size = model_->config().shape.vocab_size;
  if (request.prompt.empty()) refuse("the prompt is empty; it must have at least 1 token");
  for (size_t i = 0; i < request.prompt.size(); ++i)
    if (request.prompt[i] < 0 || request.prompt[i] >= vocab_size)
      refuse(fmt::format("token {} of the prompt is {}; it must be between 0 and {}", i, request.prompt[i],
                         vocab_size - 1));
  for (const int32_t token : request.sampling.stop_token_ids)
    if (token >= vocab_size)
      refuse(fmt::format("stop_token_ids has {}; it must be between 0 and {}", token, vocab_size - 1));
  if (!request.sampling.stop.empty() && tokenizer_ == nullptr) refuse("stop strings need a tokenizer; there is none");
}

void Engine::add(Request request) {
  ensure(leads() && !over_, "requests are added on rank 0, before finish()");
  check_request(request);
  if (added_ns_.contains(request.id))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("request {}: a request of that id is under way", request.id));
  // The scheduler's own check, without its memory: nothing is allocated before a step is planned.
  Scheduler(options_.limits, &pool_).add(request);
  Writer write(&pending_);
  write(Command::kAdd);
  fields_of(write, request);
  added_ns_[request.id] = now_ns();
}

void Engine::cancel(int64_t request_id) {
  ensure(leads(), "requests are cancelled on rank 0");
  if (!added_ns_.contains(request_id)) return;
  Writer write(&pending_);
  write(Command::kCancel);
  write(request_id);
}

void Engine::restart_trace() {
  ensure(leads(), "rank 0 leads");
  Writer write(&pending_);
  write(Command::kRestartTrace);
}

bool Engine::idle() const { return nothing_under_way() && pending_.empty() && finished_.empty(); }

std::vector<Completion> Engine::step() {
  ensure(leads() && !over_, "steps are led by rank 0, before finish()");
  if (!nothing_under_way() || !pending_.empty()) {
    exchange_commands();
    if (!nothing_under_way()) run_step();
  }
  // Last, when every rank is done with the step: a callback that throws leaves the engine in order.
  const auto told = std::exchange(told_, {});
  for (const auto& [id, text] : told) on_token(id, text);
  return std::exchange(finished_, {});
}

void Engine::finish() {
  ensure(leads(), "rank 0 ends the run");
  if (over_) return;
  on_token = nullptr;
  for (const auto& [id, added] : added_ns_) cancel(id);
  Writer write(&pending_);
  write(Command::kFinish);
  while (true) {
    exchange_commands();
    if (over_) return;
    run_step();  // the one whose word announces the commands
  }
}

void Engine::follow() {
  ensure(!leads(), "rank 0 leads");
  while (true) {
    exchange_commands();
    if (over_) return;
    if (!nothing_under_way()) run_step();
  }
}

// Broadcasts what is pending, if this is a moment for it: the same question has the same answer on all ranks. Alone,
// every moment is one.
void Engine::exchange_commands() {
  trace_log.at_rest = trace_log.at_rest || nothing_under_way();
  if (group_->size() > 1 && !announced_ && !nothing_under_way()) return;
  announced_ = false;
  std::string commands = std::exchange(pending_, {});
  if (group_->size() > 1) commands = group_->broadcast_text(commands, 0);
  apply_commands(commands);
}

void Engine::apply_commands(std::string_view text) {
  Reader read(text);
  while (!read.at_end()) {
    Command command{};
    read(command);
    switch (command) {
      case Command::kAdd: {
        Request request;
        fields_of(read, request);
        check_request(request);
        Tracked tracked;
        tracked.number = num_added_++;
        tracked.sampling = request.sampling;
        if (request.sampling.min_tokens > 0) {
          tracked.banned = request.sampling.stop_token_ids;
          if (!request.sampling.ignore_eos)
            tracked.banned.insert(tracked.banned.end(), options_.eos_token_ids.begin(), options_.eos_token_ids.end());
        }
        // The text decides only where stop strings are; otherwise the leader alone needs it.
        if (tokenizer_ != nullptr && (leads() || !request.sampling.stop.empty())) tracked.decoder.emplace(*tokenizer_);
        if (leads()) tracked.added_ns = added_ns_.at(request.id);
        tracked_.emplace(request.id, std::move(tracked));
        scheduler_.add(std::move(request));
        break;
      }
      case Command::kCancel: {
        int64_t id = 0;
        read(id);
        if (tracked_.contains(id)) end_request(id, FinishReason::kCancelled, now_ns());
        break;
      }
      case Command::kFinish:
        over_ = true;
        break;
      case Command::kRestartTrace:
        trace_log.restart();
        if (on_restart_trace) on_restart_trace();
        break;
      default:
        throw Error(ErrorCode::kCorruptData,
                    fmt::format("the leader sent command {}, which does not exist", static_cast<int>(command)));
    }
  }
}

// Gives the device work, two steps of it if it can be, and waits for the older one.
void Engine::run_step() {
  TraceSpan span("step", TraceKind::kStep);
  if (under_way_.empty()) launch();
  if (can_run_ahead()) launch();
  collect();
}

// The answer is the same on all ranks.
bool Engine::can_run_ahead() const {
  return under_way_.size() == 1 && !scheduler_.idle() && scheduler_.can_plan_ahead() &&
         std::all_of(tracked_.begin(), tracked_.end(),
                     [&](const auto& entry) { return runner_->runs_ahead(entry.second.sampling); });
}

void Engine::launch() {
  const int64_t start = leads() ? now_ns() : 0;
  const std::vector<ScheduledWork>& work = scheduler_.plan_step();
  ensure(!work.empty(), "a scheduler that is not idle has work");
  count(work);
  for (const ScheduledWork& item : work) {
    Tracked& tracked = tracked_.at(item.sequence->request.id);
    if (tracked.scheduled) continue;
    tracked.scheduled = true;
    tracked.first_work_ns = start;
    tracked.num_cached = item.sequence->num_cached;
    stats_.num_cached_tokens += tracked.num_cached;
  }
  build_input(work);
  runner_->launch(input_);
  stats_.num_steps_ahead += !under_way_.empty();
  scheduler_.book_step();
  under_way_.push_back(work);
}

void Engine::collect() {
  StepResult result = runner_->collect();
  announced_ = announced_ || result.signal != 0;
  UnderWay& work = under_way_.front();
  std::vector<int32_t> tokens(work.size());
  for (size_t i = 0, row = 0; i < work.size(); ++i)
    if (work[i].samples) tokens[i] = result.sampled[row++].token;
  scheduler_.fill_step(tokens);
  const int64_t now = leads() ? now_ns() : 0;
  for (size_t i = 0, row = 0; i < work.size(); ++i) {
    if (!work[i].samples) continue;
    SampledToken& sampled = result.sampled[row++];
    if (work[i].sequence) accept(*work[i].sequence, work[i].begin + work[i].count + 1, std::move(sampled), now);
  }
  under_way_.pop_front();
}

void Engine::count(const std::vector<ScheduledWork>& work) {
  trace_log.phase = TracePhase::kDecode;
  for (const ScheduledWork& item : work) {
    const bool decodes = item.count == 1 && item.begin >= item.sequence->num_prompt();
    (decodes ? stats_.num_decode_tokens : stats_.num_prefill_tokens) += item.count;
    if (!decodes) trace_log.phase = TracePhase::kPrefill;
  }
  trace_log.launch();
  ++stats_.num_steps;
  stats_.num_preemptions = scheduler_.num_preemptions();
  stats_.most_running = std::max(stats_.most_running, scheduler_.num_running());
}

void Engine::build_input(const std::vector<ScheduledWork>& work) {
  StepInput& b = input_;
  for (auto* list : {&b.token_ids, &b.positions, &b.kv_length, &b.block_tables, &b.logit_rows}) list->clear();
  b.query_start.assign(1, 0);
  b.rows.clear();
  b.max_blocks = 0;
  b.signal = pending_.empty() ? 0 : 1;
  for (const ScheduledWork& item : work)
    b.max_blocks = std::max(b.max_blocks, static_cast<int64_t>(item.sequence->blocks.size()));
  for (const ScheduledWork& item : work) {
    const Sequence& sequence = *item.sequence;
    const int64_t end = item.begin + item.count;
    for (int64_t i = item.begin; i < end; ++i) {
      const int32_t token = sequence.tokens[static_cast<size_t>(i)];
      b.token_ids.push_back(token == kUnknownToken ? token_of_last_step(sequence) : token);
      b.positions.push_back(static_cast<int32_t>(i));
    }
    b.query_start.push_back(static_cast<int32_t>(b.token_ids.size()));
    b.kv_length.push_back(static_cast<int32_t>(end));
    b.block_tables.insert(b.block_tables.end(), sequence.blocks.begin(), sequence.blocks.end());
    b.block_tables.resize(b.kv_length.size() * static_cast<size_t>(b.max_blocks));
    if (!item.samples) continue;
    b.logit_rows.push_back(b.query_start.back() - 1);
    const Tracked& tracked = tracked_.at(sequence.request.id);
    const bool may_stop = sequence.num_output() >= tracked.sampling.min_tokens;
    b.rows.push_back({.params = &tracked.sampling,
                      .tokens = sequence.tokens,
                      .num_prompt = sequence.num_prompt(),
                      .banned = may_stop ? std::span<const int32_t>() : tracked.banned,
                      .sequence = tracked.number});
  }
}

// As StepInput names it.
int32_t Engine::token_of_last_step(const Sequence& sequence) const {
  int32_t row = 0;
  for (const ScheduledWork& item : under_way_.back()) {
    if (item.sequence == &sequence && item.samples) return -1 - row;
    row += item.samples;
  }
  ensure(false, "an unknown token is one that the last step chooses");
  return 0;
}

// Takes over the token that was chosen, the last of the sequence's first `length`, and sees whether the request ends
// with it.
void Engine::accept(const Sequence& sequence, int64_t length, SampledToken sampled, int64_t now) {
  const int64_t id = sequence.request.id, num_output = length - sequence.num_prompt();
  ensure(num_output > 0 && sequence.tokens[static_cast<size_t>(length - 1)] == sampled.token,
         "the scheduler has booked the token");
  Tracked& tracked = tracked_.at(id);
  const SamplingParams& params = tracked.sampling;
  if (leads()) {
    if (num_output == 1)
      tracked.first_token_ns = now;
    else
      tracked.gaps_s.push_back(seconds(tracked.last_token_ns, now));
    tracked.last_token_ns = now;
    if (params.logprobs >= 0) tracked.logprobs.push_back(std::move(sampled.logprobs));
  }

  const bool stop_token = (!params.ignore_eos && contains(options_.eos_token_ids, sampled.token)) ||
                          contains(params.stop_token_ids, sampled.token);
  bool stop_string = false;
  if (tracked.decoder && (!stop_token || params.include_stop_str_in_output)) {
    tracked.text += tracked.decoder->push(sampled.token);
    if (!stop_token && num_output >= params.min_tokens) {
      if (const auto match = find_stop(tracked.text, tracked.searched, params.stop)) {
        tracked.text.resize(params.include_stop_str_in_output ? match->end : match->begin);
        tracked.decoder.reset();
        stop_string = true;
      }
    }
    tracked.searched = tracked.text.size();
  }
  if (stop_token || stop_string)
    end_request(id, FinishReason::kStop, now);
  else if (num_output >= params.max_tokens || length >= options_.limits.max_model_len)
    end_request(id, FinishReason::kLength, now);
  else
    tell(id, tracked, false);
}

void Engine::tell(int64_t request_id, Tracked& tracked, bool at_end) {
  if (!leads() || !on_token) return;
  const size_t certain = at_end ? tracked.text.size() : certain_length(tracked.text, tracked.sampling.stop);
  told_.emplace_back(request_id, tracked.text.substr(tracked.told, certain - tracked.told));
  tracked.told = certain;
}

void Engine::end_request(int64_t request_id, FinishReason reason, int64_t now) {
  auto node = tracked_.extract(request_id);
  Tracked& tracked = node.mapped();
  const std::unique_ptr<Sequence> sequence = scheduler_.remove(request_id);
  ensure(sequence != nullptr, "a request that is tracked is scheduled");
  for (UnderWay& step : under_way_)
    for (ScheduledWork& item : step)
      if (item.sequence == sequence.get()) item.sequence = nullptr;
  if (!leads()) return;
  if (tracked.decoder) tracked.text += tracked.decoder->finish();
  tell(request_id, tracked, true);
  added_ns_.erase(request_id);
  Completion& done = finished_.emplace_back();
  done.id = request_id;
  done.tokens.assign(sequence->tokens.begin() + sequence->num_prompt(), sequence->tokens.end());
  done.text = std::move(tracked.text);
  done.reason = reason;
  done.prompt_tokens = sequence->num_prompt();
  done.cached_prompt_tokens = tracked.num_cached;
  done.logprobs = std::move(tracked.logprobs);
  done.finished_s = seconds(tracked.added_ns, now);
  done.queued_s = tracked.scheduled ? seconds(tracked.added_ns, tracked.first_work_ns) : done.finished_s;
  done.first_token_s = tracked.first_token_ns != 0 ? seconds(tracked.added_ns, tracked.first_token_ns) : 0;
  done.token_gaps_s = std::move(tracked.gaps_s);
}

}  // namespace lane
