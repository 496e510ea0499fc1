#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/plan/parallel.h"
#include "lane/runtime/request.h"

namespace lane {

inline constexpr double kGreedyBelow = 1e-5;  // temperatures; vLLM's bound

// What the sampler needs to know of one row of logits.
struct SamplingRow {
  const SamplingParams* params;
  std::span<const int32_t> tokens;  // prompt, then output so far
  int64_t num_prompt;
  std::span<const int32_t> banned = {};  // tokens that must not be chosen now: of a sequence always the same, or none
  int64_t sequence = -1;                 // its number, which no other sequence gets: devices keep what they know of it
};

struct SampledToken {
  int32_t token = 0;
  StepLogprobs logprobs;  // filled if asked for
};

// Chooses one token a row from logits whose vocabulary is spread over the ranks of `group`. All ranks come to the same
// token: each offers its best candidates, one small exchange merges them, and the choice is a function of what all
// have seen. No rank ever holds all logits of a row, unless the set to choose from is so wide that the candidates do
// not cover it; then the exchange is repeated with eight times as many.
//
// The rules and their order are vLLM's:
//   1. log-probabilities are taken from the logits as they come;
//   2. banned tokens become impossible;
//   3. repetition penalty (logit > 0 ? logit / r : logit * r), then frequency (- f * count), then presence (- p), in
//      double and rounded to float32 once;
//   4. temperature 0: the largest logit, the lowest id of equals. Otherwise z = logit / temperature, and of the tokens
//   5. min_p keeps those with z >= z_max + log(min_p);
//   6. top_k keeps the k first in the order of descending logit, then ascending id (exactly k; vLLM keeps all equals of
//      the last);
//   7. top_p keeps the shortest beginning of that order whose share of what 5 and 6 left reaches p;
//   8. the one with the largest z + Gumbel noise is chosen, the lowest id of equals.
//
// Random choices use the Gumbel-max trick (argmax of log p + Gumbel noise is a sample of p: Gumbel 1954; Maddison,
// Tarlow, Minka, A* Sampling, 2014) with noise that is a function of (seed, position, token id): the same whatever the
// batch, the number of ranks and the shard: -log(-log u) with u = random_uniform(seed ^ hash_name("sampler"),
// position << 32 | token id), where the position is that of the new token in its sequence.
class Sampler {
 public:
  // `vocab_slice` of the `vocab_size` tokens are on this rank.
  Sampler(plan::Range vocab_slice, int64_t vocab_size, Communicator* group);

  // logits [rows, vocab slice] float32; penalties are applied in place. `signal` is one word that travels with the
  // exchange: every rank gets rank 0's (an exchange takes place even for no rows, so that the word always arrives;
  // a group of one has none). Logits that are not finite, or a row without any possible token, are
  // Error{kCorruptData}, thrown on all ranks alike; -inf is legal and means impossible.
  std::vector<SampledToken> sample(TensorView logits, std::span<const SamplingRow> rows, uint32_t signal_in,
                                   uint32_t* signal_out, Stream& stream);

 private:
  struct Row;  // one row under way
  void find_block_maxima(TensorView logits, Stream& stream);
  std::vector<Row> describe(TensorView logits, std::span<const SamplingRow> asked);
  template <class Wanted, class Part, class Add>
  void for_tiles(std::vector<Row>& rows, Stream& stream, Wanted wanted, Part part, Add add);
  void raw_statistics(std::vector<Row>& rows, Stream& stream);
  void change_logits(Row& row);
  void local_choice(std::vector<Row>& rows, Stream& stream);
  void find_candidates(Row& row);
  uint32_t exchange(std::span<Row* const> rows, uint32_t signal, Stream& stream);
  bool merge(Row& row, SampledToken& out) const;

  plan::Range vocab_;
  int64_t vocab_size_;
  Communicator* group_;
  Buffer send_, receive_;                        // grown to the largest exchange seen
  int64_t record_bytes_ = 0;                     // what one rank gave to the latest exchange
  std::byte* gathered_ = nullptr;                // what all gave
  std::vector<float> block_maxima_;              // [rows, blocks of the slice]; NaN: a logit there is not finite
  std::vector<int32_t> output_count_, touched_;  // work space of the penalties
};

}  // namespace lane
