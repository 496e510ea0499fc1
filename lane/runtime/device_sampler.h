#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/device/shared_memory.h"
#include "lane/kernels/rules.h"
#include "lane/kernels/step.h"
#include "lane/plan/parallel.h"
#include "lane/runtime/histories.h"
#include "lane/runtime/sampler.h"

namespace lane {

// A row's rules as a GPU takes them, without its history and where its log-probabilities go.
kernels::RuleRow rules_of(const SamplingRow& row, int64_t vocab_size);

// The Sampler's rules, all of them, on a GPU that the host runs ahead of: the rows of a step go in, what is chosen
// stays on the GPU for the next step, log-probabilities come out when the step is done. Every rank chooses for itself,
// from logits that an all-reduce makes whole on all of them. Steps are a StepBoard's.
class DeviceSampler {
 public:
  struct Options {
    plan::Range slice;  // of the vocabulary, that is on this rank
    int64_t vocab_size = 0, max_rows = 0;
    DType logits = DType::kF32;
  };
  // Throws DeviceMemoryError that says what the memory is for. What a sequence's history takes comes later, when it is
  // needed first.
  DeviceSampler(Communicator* group, const Options& options, Device device);

  // Before the step is launched; for places.size() rows, the last of them empty. Tokens may be unknown in rows of
  // sequences whose token the step before chose.
  void open_step(int64_t step, std::span<const SamplingRow> rows, int64_t places, Stream& stream);
  // Can be recorded.
  void choose(TensorView logits, TensorView chosen, Stream& stream);
  // What a row of a step that is done wanted to know, with the token that it got.
  StepLogprobs logprobs(int64_t step, int64_t row, int32_t token) const;

 private:
  struct Wanted {
    int64_t step = 0;
    std::vector<bool> logprobs;  // by row
  };
  void seat(std::span<const SamplingRow> rows, kernels::RuleRow* rules, Stream& stream);
  uint32_t* history(int64_t slot);
  void note(const SamplingRow& row, int64_t slot, Stream& stream);
  kernels::RowLogprobs* logprobs_of(void* memory, int64_t step, int64_t row) const;

  Communicator* group_;
  Options options_;
  Device device_;
  SharedMemory input_, logprobs_;  // [slot of a step, row]
  Buffer rules_, whole_;
  Histories seats_;
  std::vector<Buffer> histories_;  // [vocabulary] each
  Buffer list_;                    // tokens of a history that is made
  std::array<Wanted, kernels::StepBoard::kSlots> wanted_;
};

}  // namespace lane
