#include "lane/runtime/step_runner.h"

#include <deque>

namespace lane {
namespace {

class CpuRunner final : public StepRunner {
 public:
  CpuRunner(Model* model, Communicator* group, const KvCache* cache, Stream* stream, bool ahead)
      : model_(model),
        cache_(cache),
        stream_(stream),
        sampler_(model->slices().vocab, model->config().shape.vocab_size, group),
        ahead_(ahead) {}

  // What the sampler reads of the tokens so far must be known.
  bool runs_ahead(const SamplingParams& sampling) const override {
    return ahead_ && sampling.repetition_penalty == 1 && sampling.presence_penalty == 0 &&
           sampling.frequency_penalty == 0;
  }

  void launch(const StepInput& input) override {
    std::vector<int32_t> token_ids = input.token_ids;
    for (int32_t& token : token_ids)
      if (token < 0) token = last_.at(static_cast<size_t>(-1 - token));
    const TensorView logits = model_->forward(
        {.token_ids = view_of(token_ids),
         .positions = view_of(input.positions),
         .attention = host_batch({input.query_start, input.kv_length}, input.block_tables, input.max_blocks),
         .logit_rows = view_of(input.logit_rows)},
        cache_->layers(), *stream_);
    StepResult& result = done_.emplace_back();
    result.sampled = sampler_.sample(logits, input.rows, input.signal, &result.signal, *stream_);
    last_.clear();
    for (const SampledToken& sampled : result.sampled) last_.push_back(sampled.token);
  }

  StepResult collect() override {
    ensure(!done_.empty(), "a step that was launched is collected");
    StepResult result = std::move(done_.front());
    done_.pop_front();
    return result;
  }

 private:
  Model* model_;
  const KvCache* cache_;
  Stream* stream_;
  Sampler sampler_;
  bool ahead_;
  std::vector<int32_t> last_;  // chosen by the step launched last
  std::deque<StepResult> done_;
};

}  // namespace

std::unique_ptr<StepRunner> make_cpu_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                            bool ahead) {
  return std::make_unique<CpuRunner>(model, group, cache, stream, ahead);
}

}  // namespace lane
