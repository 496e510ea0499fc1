#pragma once
#include "lane/device/shared_memory.h"
#include "lane/device/tensor.h"

// What a step on a GPU needs beside the model: its lists come by one copy from page-locked memory, a token is
// chosen for each row where the logits are, and the tokens go back into memory that the host sees, without the host
// waiting or being waited for. GPUs only.
namespace lane::kernels {

// How one row chooses; the sampler's rule (runtime/sampler.h) without penalties and filters.
struct DrawRow {
  double scale = 0;  // of the logits: 1 / temperature; 0: the largest logit wins
  uint64_t noise_key = 0, position = 0;
};

// How large a step may be, or is; a StepBoard is laid out for the former.
struct StepLimits {
  int64_t max_tokens = 0, max_seqs = 0, max_blocks = 0;
};

// Where a step's lists stand in 32-bit words, one after the other, each with room for as much as the limits say: those
// of the step where the host packs them, those of the board where they lie on the GPU.
struct StepSlot {
  explicit StepSlot(const StepLimits& limits);
  int64_t token_ids, positions, query_start, kv_length, logit_rows, draws, block_tables;  // where they begin
  int64_t words;                                                                          // of a slot
};
enum StepHead { kNumTokens, kNumSeqs, kNumRows, kSignal, kStepHeadWords = 8 };  // of a slot's beginning

// What the host and a GPU exchange over steps, and the lists of the step under way on the GPU. Steps are numbered 1, 2,
// ...; step i uses slot i % kSlots of both sides, so at most kSlots - 1 are under way.
class StepBoard {
 public:
  static constexpr int kSlots = 3;

  StepBoard(const StepLimits& limits, Device device);

  const StepLimits& limits() const { return limits_; }
  int32_t* input(int64_t step) const;         // where the host writes
  bool is_done(int64_t step) const;           // the results below can be read
  const int32_t* chosen(int64_t step) const;  // tokens by row; -1: its logits were not finite
  uint32_t signal(int64_t step) const;        // rank 0's

  // Views of the lists on the GPU, of the sizes asked for.
  TensorView token_ids(int64_t tokens) const { return list(layout_.token_ids, tokens); }
  TensorView positions(int64_t tokens) const { return list(layout_.positions, tokens); }
  TensorView query_start(int64_t seqs) const { return list(layout_.query_start, seqs + 1); }
  TensorView kv_length(int64_t seqs) const { return list(layout_.kv_length, seqs); }
  TensorView logit_rows(int64_t rows) const { return list(layout_.logit_rows, rows); }
  TensorView block_tables(int64_t seqs) const { return list(layout_.block_tables, seqs * limits_.max_blocks); }
  TensorView draws(int64_t rows) const { return list(layout_.draws, rows * 6); }
  TensorView signal_word() const { return list(kSignal, 1); }
  TensorView chosen_on_device(int64_t rows) const;

  // Brings the lists that the host wrote to input(step), packed as StepSlot(used) has them, to the GPU, for `tokens`
  // and `seqs` places: those that the step does not fill are empty (token 0 at position 0 of a sequence of length 0). A
  // token -1 - r is the one chosen last for row r.
  void open_step(int64_t step, const StepLimits& used, int64_t tokens, int64_t seqs, Stream& stream);
  // Publishes what was chosen, and `signal` (one float32), as the step's result.
  void close_step(TensorView signal, Stream& stream);

 private:
  TensorView list(int64_t first_word, int64_t count) const;

  StepLimits limits_;
  StepSlot layout_;
  int64_t result_words_;
  SharedMemory input_, result_;
  Buffer packed_, lists_, chosen_, number_;
};

// Words of float32 that a rank adds to the exchange for each row, and one more for rank 0's signal.
inline constexpr int64_t kOfferWords = 4;

// offers [ranks * rows * kOfferWords + 1] float32: this rank's best token for each row, zero where the others' go, and
// rank 0's signal at the end; the sum over all ranks is what all have to offer. logits [rows, slice] of tokens first_id
// and on, of an activation type, or nothing where there are no rows. `scratch` float32 [rows, kDrawScratch].
inline constexpr int64_t kDrawScratch = 256;
void draw_offers(TensorView logits, TensorView draws, TensorView signal_word, int64_t first_id, int rank, int num_ranks,
                 TensorView scratch, TensorView offers, Stream& stream);

// chosen[row] = the best of all ranks' offers, the lowest token of equals.
void draw_choose(TensorView offers, int num_ranks, TensorView chosen, Stream& stream);

}  // namespace lane::kernels
