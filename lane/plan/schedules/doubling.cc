// Exchanges with partners 1, 2, 4 ... away. They need a power of two; of other numbers of ranks, the extra ones hand
// what they have to a partner first and get the result from it last. (Rabenseifner: Optimization of collective
// reduction operations, 2004; Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in
// MPICH, 2005.)
#include <bit>

#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
namespace {

// The ranks that take part, a power of two of them: of the first pairs only the even one. Its extra is the next rank.
struct Fold {
  explicit Fold(int n)
      : size(static_cast<int>(std::bit_floor(static_cast<unsigned>(n)))), num_extra(n - size), core(size) {
    for (int i = 0; i < size; ++i) core[i] = i < num_extra ? 2 * i : i + num_extra;
  }
  int size, num_extra;
  std::vector<int> core;
};

// The core gives the extra ranks all chunks.
Transfers to_extras(const Fold& fold, int n, int num_chunks) {
  Transfers result{.num_ranks = n, .num_chunks = num_chunks};
  for (int i = 0; i < fold.num_extra; ++i)
    for (int chunk = 0; chunk < num_chunks; ++chunk)
      result.add({.round = 0, .from = 2 * i, .to = 2 * i + 1, .chunk = chunk});
  return result;
}

Transfers on_core(const Fold& fold, int n, const Transfers& transfers) {
  std::vector<std::vector<int>> chunks(transfers.num_chunks);
  for (int chunk = 0; chunk < transfers.num_chunks; ++chunk) chunks[chunk] = {chunk};
  Transfers result{.num_ranks = n, .num_chunks = transfers.num_chunks};
  embed(result, transfers, fold.core, chunks, 0);
  return result;
}

}  // namespace

// Everybody exchanges everything: the fewest rounds. Both partners add the same two sums, hence get the same bits.
Transfers recursive_doubling_all_reduce(int n) {
  const Fold fold(n);
  Transfers exchange{.num_ranks = fold.size};
  int round = 0;
  for (int distance = 1; distance < fold.size; distance *= 2, ++round)
    for (int rank = 0; rank < fold.size; ++rank)
      exchange.add({.round = round, .from = rank, .to = rank ^ distance, .chunk = 0, .add = true});
  const Transfers after = to_extras(fold, n, 1);
  return then(then(mirrored(after), on_core(fold, n, exchange)), after);
}

// Doubles what each rank has: of 2^k neighbouring ranks each has the chunks of all. Its mirror halves.
Halves halving_doubling_halves(int n) {
  const Fold fold(n);
  Transfers gather{.num_ranks = fold.size, .num_chunks = fold.size};
  int round = 0;
  for (int held = 1; held < fold.size; held *= 2, ++round)
    for (int rank = 0; rank < fold.size; ++rank)
      for (int i = 0; i < held; ++i)
        gather.add({.round = round, .from = rank, .to = rank ^ held, .chunk = rank / held * held + i});
  Halves halves = halves_of(then(on_core(fold, n, gather), to_extras(fold, n, fold.size)));
  halves.owners = fold.core;
  return halves;
}

}  // namespace lane::plan
