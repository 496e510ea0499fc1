#pragma once
#include <cstdint>
#include <string_view>

#include "lane/base/dtype.h"

// Between flash.cc, which decides what is computed, and the files that know vector instructions.
namespace lane::flash {

inline constexpr int kTileKeys = 64;   // a tile of keys begins at a multiple of this position, whoever asks
inline constexpr int kBlockDims = 64;  // of the keys are held transposed at a time
inline constexpr int kPad = 16;        // rows of values and outputs are padded to whole vectors of any instruction set

// Some queries of one kv head against one tile of keys. A row is one query head of one token. Scores are in units of
// log 2, that is a weight is 2^score: the factor log2(e) is part of the queries, or of the soft cap.
struct Tile {
  int num_rows = 0, head_dim = 0;
  int stride = 0;                 // head_dim rounded up to kPad
  float soft_cap = 0;             // score = soft_cap * tanh(query · key); 0: query · key
  DType dtype = DType::kBF16;     // of keys and values in the cache
  const void* const* key_rows;    // [kTileKeys] in the cache, or zeros where no row may look
  const void* const* value_rows;  // [kTileKeys]
  const void *const *next_key_rows, *const *next_value_rows;  // of the tile that comes after, to be prefetched
  const int32_t *first, *last;    // [num_rows] row sees the keys [first, last) of this tile; may be none
  const float* queries;           // [num_rows, head_dim], scaled
  float *keys, *values, *scores;  // workspace [kBlockDims, kTileKeys], [kTileKeys, stride], [num_rows, kTileKeys]
  float *highest, *sum, *out;     // running softmax: [num_rows], [num_rows], [num_rows, stride]
};

struct Loops {
  std::string_view isa;
  // Adds the tile to the running softmax of its rows. What it does to a row depends on the row alone, not on num_rows.
  void (*attend)(const Tile& tile);
  // Rounds to nearest even.
  void (*narrow)(const float* from, int64_t count, DType dtype, void* to);
};

extern const Loops kPortableLoops;

// Those for a name that kernels::cpu_isa() gives; the best this build has for it.
const Loops& loops_for(std::string_view isa);

}  // namespace lane::flash
