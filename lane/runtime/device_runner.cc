#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <tuple>
#include <utility>

#include "lane/base/log.h"
#include "lane/base/random.h"
#include "lane/base/settings.h"
#include "lane/base/units.h"
#include "lane/device/device_info.h"
#include "lane/device/graph.h"
#include "lane/device/memory_error.h"
#include "lane/kernels/step.h"
#include "lane/runtime/device_sampler.h"
#include "lane/runtime/step_runner.h"

namespace lane {
namespace {

using kernels::DrawRow;
using kernels::StepBoard;

// What the quick choice takes into account is the logits and a temperature.
bool is_plain(const SamplingParams& p) {
  return p.top_k <= 0 && p.top_p >= 1 && p.min_p <= 0 && p.repetition_penalty == 1 && p.presence_penalty == 0 &&
         p.frequency_penalty == 0 && p.logprobs < 0;
}
bool is_greedy(const SamplingParams& p) {
  return p.temperature < kGreedyBelow && p.repetition_penalty == 1 && p.presence_penalty == 0 &&
         p.frequency_penalty == 0 && p.logprobs < 0;
}
bool is_plain_row(const SamplingRow& row) {
  return row.banned.empty() && (is_plain(*row.params) || is_greedy(*row.params));
}

// Places of a graph for so many sequences: few graphs, and little in vain.
int64_t bucket_for(int64_t seqs, int64_t most) {
  for (const int64_t size : {1, 2, 4, 8})
    if (seqs <= size) return std::min(size, most);
  const int64_t step = seqs <= 64 ? 4 : seqs <= 256 ? 16 : 64;
  return std::min((seqs + step - 1) / step * step, most);
}

// What a step looks like from outside: of these numbers its kernels are a function.
struct StepShape {
  int64_t tokens = 0, seqs = 0, rows = 0, max_query = 0, max_kv = 0;
  bool has_rules = false;  // beyond a temperature, for a row at least
};

class DeviceRunner final : public StepRunner {
 public:
  DeviceRunner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
               const DeviceRunnerOptions& options)
      : model_(model),
        group_(group),
        cache_(cache),
        stream_(stream),
        options_(options),
        timeout_(timeout_setting()),
        board_(
            {.max_tokens = options.max_tokens,
             .max_seqs = options.max_seqs,
             .max_blocks = (options.max_model_len + cache->layout().block_tokens - 1) / cache->layout().block_tokens},
            stream->device()),
        attention_shape_(model->attention_shape()),
        offers_(DType::kF32, {1, 1, 1, group->size() * options.max_seqs * kernels::kOfferWords + 1}, stream->device()),
        scratch_(DType::kF32, {1, 1, options.max_seqs, kernels::kDrawScratch}, stream->device()) {
    group_->open_device(stream->device());
    model_->reserve(options.max_tokens, options.max_seqs);
    attention_shape_.block_tokens = cache->layout().block_tokens;
    eager_state_ = make_state({.max_seqs = options.max_seqs,
                               .max_tokens = options.max_tokens,
                               .max_query = options.max_tokens,
                               .max_kv = options.max_model_len});
  }

  ~DeviceRunner() override {
    try {
      stream_->synchronize();  // graphs and buffers go only when nothing uses them
    } catch (const Error&) {   // whoever waited for a step was told; a lost GPU uses nothing
    }
  }

  bool runs_ahead(const SamplingParams&) const override { return true; }

  void launch(const StepInput& input) override {
    const int64_t step = ++num_launched_;
    const StepShape shape = shape_of(input);
    used_ = {.max_tokens = shape.tokens, .max_seqs = shape.seqs, .max_blocks = input.max_blocks};
    write_slot(input, shape, board_.input(step));
    if (shape.has_rules) open_rules(input.rows, bucket_for(shape.seqs, options_.max_seqs));
    const HostBatch lists{input.query_start, input.kv_length};
    const bool decodes = shape.max_query == 1 && shape.rows == shape.seqs;
    decodes&& options_.use_graphs ? launch_graph(shape, lists) : run_eagerly(shape, lists);
  }

  GraphStats graphs() const override { return graph_stats_; }

  StepResult collect() override {
    const int64_t step = ++num_collected_;
    wait_for(step);
    const std::vector<int64_t>::size_type rows = rows_of_[step % StepBoard::kSlots];
    StepResult result{.signal = board_.signal(step)};
    const int32_t* tokens = board_.chosen(step);
    for (size_t row = 0; row < rows; ++row) {
      if (tokens[row] < 0)
        throw Error(ErrorCode::kCorruptData,
                    "the model's logits are not finite, or no token is possible; look for a damaged checkpoint, or use "
                    "--dtype bfloat16 in place of float16");
      result.sampled.push_back({.token = tokens[row], .logprobs = {}});
      if (rules_) result.sampled.back().logprobs = rules_->logprobs(step, static_cast<int64_t>(row), tokens[row]);
    }
    return result;
  }

 private:
  // A recorded step and what its kernels refer to; without either, where there was no memory for it.
  struct Recorded {
    std::unique_ptr<AttentionState> state;
    Graph graph;
  };

  // Places, the longest past, and whether with rules.
  using GraphKey = std::tuple<int64_t, int64_t, bool>;
  static GraphKey key_of(const StepShape& shape) { return {shape.seqs, shape.max_kv, shape.has_rules}; }

  StepShape shape_of(const StepInput& input) const {
    StepShape shape{.tokens = static_cast<int64_t>(input.token_ids.size()),
                    .seqs = static_cast<int64_t>(input.kv_length.size()),
                    .rows = static_cast<int64_t>(input.logit_rows.size()),
                    .has_rules = !std::all_of(input.rows.begin(), input.rows.end(), is_plain_row)};
    for (int64_t i = 0; i < shape.seqs; ++i) {
      const auto at = static_cast<size_t>(i);
      shape.max_query = std::max<int64_t>(shape.max_query, input.query_start[at + 1] - input.query_start[at]);
      shape.max_kv = std::max<int64_t>(shape.max_kv, input.kv_length[at]);
    }
    return shape;
  }

  void write_slot(const StepInput& input, const StepShape& shape, int32_t* slot) {
    const kernels::StepSlot at(used_);
    slot[kernels::kNumTokens] = static_cast<int32_t>(shape.tokens);
    slot[kernels::kNumSeqs] = static_cast<int32_t>(shape.seqs);
    slot[kernels::kNumRows] = static_cast<int32_t>(shape.rows);
    slot[kernels::kSignal] = static_cast<int32_t>(input.signal);
    const auto put = [&](const std::vector<int32_t>& list, int64_t first) {
      std::copy(list.begin(), list.end(), slot + first);
    };
    put(input.token_ids, at.token_ids);
    put(input.positions, at.positions);
    put(input.query_start, at.query_start);
    put(input.kv_length, at.kv_length);
    put(input.logit_rows, at.logit_rows);
    put(input.block_tables, at.block_tables);
    auto* draws = reinterpret_cast<DrawRow*>(slot + at.draws);
    for (const SamplingRow& row : input.rows) {
      const SamplingParams& p = *row.params;
      *draws++ = {.scale = p.temperature < kGreedyBelow ? 0 : 1 / p.temperature,
                  .noise_key = p.seed ^ hash_name("sampler"),
                  .position = row.tokens.size()};
    }
    rows_of_[num_launched_ % StepBoard::kSlots] = static_cast<size_t>(shape.rows);
  }

  std::unique_ptr<AttentionState> make_state(const AttentionLimits& limits) const {
    return model_->attention().make_state(attention_shape_, limits, cache_->layout().dtype, stream_->device());
  }

  AttentionBatch attention_of(const StepShape& shape) const {
    return {.query_start = board_.query_start(shape.seqs),
            .kv_length = board_.kv_length(shape.seqs),
            .block_tables = board_.block_tables(shape.seqs),
            .num_seqs = shape.seqs,
            .num_tokens = shape.tokens,
            .max_query = shape.max_query,
            .max_kv = shape.max_kv,
            .max_blocks = board_.limits().max_blocks,
            .is_settled = true};  // embedding, norm, product and rotation lie between
  }

  // Brings the lists to the GPU and divides the attention's work.
  void open(const StepShape& shape, const HostBatch& lists, AttentionState* state) {
    board_.open_step(num_launched_, used_, shape.tokens, shape.seqs, *stream_);
    const AttentionBatch batch = attention_of(shape);
    const AttentionBackend& attention = model_->attention();
    if (!attention.treats_heads(attention_shape_, batch))  // as Model does; then there is nothing to plan
      attention.plan(attention_shape_, batch, lists, state, *stream_);
  }

  TensorView forward(const StepShape& shape, AttentionState* state) {
    return model_->forward({.token_ids = board_.token_ids(shape.tokens),
                            .positions = board_.positions(shape.tokens),
                            .attention = attention_of(shape),
                            .logit_rows = board_.logit_rows(shape.rows),
                            .attention_state = state},
                           cache_->layers(), *stream_);
  }

  TensorView offers_for(int64_t rows) const {
    return offers_.view(DType::kF32, {1, 1, 1, group_->size() * rows * kernels::kOfferWords + 1});
  }
  static TensorView last_word(TensorView offers) {
    offers.data = static_cast<float*>(offers.data) + offers.count() - 1;
    offers.shape = {1, 1, 1, 1};
    return offers;
  }

  // A step that is open; the same calls whether they run or are recorded.
  void enqueue(const StepShape& shape, AttentionState* state) {
    const int64_t drawn = shape.has_rules ? 0 : shape.rows;  // without rows the signal goes alone
    const TensorView logits = forward(shape, state), offers = offers_for(drawn);
    kernels::draw_offers(logits, board_.draws(drawn), board_.signal_word(), model_->slices().vocab.begin,
                         group_->rank(), group_->size(), scratch_.view(), offers, *stream_);
    group_->all_reduce(offers, offers, ReduceOp::kSum, *stream_);
    kernels::draw_choose(offers, group_->size(), board_.chosen_on_device(drawn), *stream_);
    if (shape.has_rules) rules_->choose(logits, board_.chosen_on_device(shape.rows), *stream_);
    board_.close_step(last_word(offers), *stream_);
  }

  void run_eagerly(const StepShape& shape, const HostBatch& lists) {
    open(shape, lists, eager_state_.get());
    enqueue(shape, eager_state_.get());
  }

  void launch_graph(const StepShape& step, const HostBatch& lists) {
    const int64_t places = bucket_for(step.seqs, options_.max_seqs);
    // Attention has kernels for short pasts and for others: a graph for either.
    const int64_t treated = model_->attention().most_treated_kv(attention_shape_, places);
    const bool is_short = step.max_kv <= treated && treated < options_.max_model_len;
    const StepShape shape{.tokens = places,
                          .seqs = places,
                          .rows = places,
                          .max_query = 1,
                          .max_kv = is_short ? treated : options_.max_model_len,
                          .has_rules = step.has_rules};
    // Empty places are sequences of length 0 with one token.
    query_start_.assign(lists.query_start.begin(), lists.query_start.end());
    kv_length_.assign(lists.kv_length.begin(), lists.kv_length.end());
    while (static_cast<int64_t>(kv_length_.size()) < places) {
      query_start_.push_back(query_start_.back() + 1);
      kv_length_.push_back(0);
    }
    const HostBatch padded{query_start_, kv_length_};
    const auto found = graphs_.find(key_of(shape));
    if (found == graphs_.end()) {
      run_and_record(shape, padded);
    } else if (found->second.graph) {
      open(shape, padded, found->second.state.get());
      found->second.graph.launch(*stream_);
    } else {
      run_eagerly(shape, padded);
    }
  }

  // A step that is run once as it is, since libraries set themselves up at a first call, which cannot be recorded; and
  // recorded after that, for the next step of this size. Memory may lack for the state and for the graph.
  void run_and_record(const StepShape& shape, const HostBatch& lists) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t free = device_info(stream_->device()).free_memory_bytes;
    const std::string name = "graph for " + std::to_string(shape.seqs) + " sequences of up to " +
                             std::to_string(shape.max_kv) + " tokens" + (shape.has_rules ? ", all rules: " : ": ");
    Recorded& made = graphs_[key_of(shape)];
    const auto do_without = [&](const DeviceMemoryError& error) {
      made = {};
      const bool is_first = !std::exchange(lacked_memory_, true);
      log(is_first ? LogLevel::kWarn : LogLevel::kInfo, name + "none, its steps take longer: " + error.what());
    };
    try {
      made.state = make_state({.max_seqs = shape.seqs,
                               .max_tokens = shape.tokens,
                               .max_query = 1,
                               .max_kv = shape.max_kv,
                               .is_captured = true});
    } catch (const DeviceMemoryError& error) {
      do_without(error);
      return run_eagerly(shape, lists);
    }
    open(shape, lists, made.state.get());
    enqueue(shape, made.state.get());
    group_->wait(*stream_);
    try {
      made.graph = Graph(*stream_, [&] {
        enqueue(shape, made.state.get());
        if (options_.while_recording) options_.while_recording(shape.seqs);
      });
    } catch (const DeviceMemoryError& error) {
      return do_without(error);
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const int64_t taken = std::max<int64_t>(free - device_info(stream_->device()).free_memory_bytes, 0);
    graph_stats_ = {graph_stats_.count + 1, graph_stats_.bytes + taken, graph_stats_.seconds + took.count()};
    log(LogLevel::kInfo, name + format_duration(took.count()) + ", " + format_bytes(static_cast<double>(taken)));
  }

  void open_rules(std::span<const SamplingRow> rows, int64_t places) {
    if (!rules_)
      rules_ = std::make_unique<DeviceSampler>(group_,
                                               DeviceSampler::Options{.slice = model_->slices().vocab,
                                                                      .vocab_size = model_->config().shape.vocab_size,
                                                                      .max_rows = options_.max_seqs,
                                                                      .logits = attention_shape_.dtype},
                                               stream_->device());
    rules_->open_step(num_launched_, rows, places, *stream_);
  }

  // No call into the driver while all goes well: the GPU writes a word when a step is done. Now and then the stream is
  // asked whether it failed, and the group whether a rank left.
  void wait_for(int64_t step) {
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + 2 * timeout_;  // kernels of a group end by the first
    auto next_look = Clock::now() + std::chrono::milliseconds(20);
    for (int turn = 0; !board_.is_done(step); ++turn) {
      if (turn > 4096) std::this_thread::yield();
      if (turn % 256 != 255 || Clock::now() < next_look) continue;
      next_look = Clock::now() + std::chrono::milliseconds(20);
      if (stream_->is_done() && !board_.is_done(step)) {
        group_->wait(*stream_);  // throws what a collective ran into
        throw Error(ErrorCode::kDevice, "the GPU is done with its work, but a step did not end");
      }
      if (Clock::now() > deadline)
        throw Error(ErrorCode::kTimeout, "a step on the GPU takes longer than twice LANE_TIMEOUT_MS");
    }
    group_->check_failure();  // a collective that gave up let the step go on with whatever was there
  }

  Model* model_;
  Communicator* group_;
  const KvCache* cache_;
  Stream* stream_;
  DeviceRunnerOptions options_;
  std::chrono::milliseconds timeout_;
  StepBoard board_;
  kernels::StepLimits used_;  // of it, by the step that is launched
  AttentionShape attention_shape_;
  Buffer offers_, scratch_;
  std::unique_ptr<AttentionState> eager_state_;
  std::unique_ptr<DeviceSampler> rules_;  // made for the first step that needs it
  std::map<GraphKey, Recorded> graphs_;
  std::vector<int32_t> query_start_, kv_length_;  // padded
  GraphStats graph_stats_;
  size_t rows_of_[StepBoard::kSlots] = {};
  int64_t num_launched_ = 0, num_collected_ = 0;
  bool lacked_memory_ = false;
};

}  // namespace

std::unique_ptr<StepRunner> make_device_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                               const DeviceRunnerOptions& options) {
  return std::make_unique<DeviceRunner>(model, group, cache, stream, options);
}

}  // namespace lane
