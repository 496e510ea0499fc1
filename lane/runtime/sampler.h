#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/plan/parallel.h"
#include "lane/runtime/request.h"

namespace lane {

// What the sampler needs to know of one row of logits.
struct SamplingRow {
  const SamplingParams* params;
  std::span<const int32_t> tokens;  // prompt, then output so far
  int64_t num_prompt;
};

struct SampledToken {
  int32_t token = 0;
  StepLogprobs logprobs;  // filled if asked for
};

// Chooses one token a row from logits whose vocabulary is spread over the ranks of `group`. All ranks come to the same
// token: each offers its best candidates, one small exchange merges them, and the choice is a function of what all
// have seen. No rank ever holds all logits of a row, unless a top-p set is so wide that the candidates do not cover it;
// then the exchange is repeated with more of them.
//
// Random choices use the Gumbel-max trick (argmax of log p + Gumbel noise is a sample of p: Gumbel 1954; Maddison,
// Tarlow, Minka, A* Sampling, 2014) with noise that is a function of (seed, position, token id): the same whatever the
// batch, the number of ranks and the shard.
class Sampler {
 public:
  Sampler(plan::Range vocab_slice, Communicator* group);

  // logits [rows, vocab slice] float32; penalties are applied in place. `signal` is one word that travels with the
  // exchange: every rank gets rank 0's (an exchange takes place even for no rows, so that the word always arrives).
  std::vector<SampledToken> sample(TensorView logits, std::span<const SamplingRow> rows, uint32_t signal_in,
                                   uint32_t* signal_out, Stream& stream);

 private:
  plan::Range vocab_;
  Communicator* group_;
};

}  // namespace lane
