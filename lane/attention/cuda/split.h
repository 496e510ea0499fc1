// How the positions that a query sees are divided among blocks of the decode kernel. Host and device compute the same.
#pragma once
#include <cstdint>

namespace lane::cuda::attention {

// Positions are counted in tiles of this many, at multiples of it, wherever a query's window begins.
inline constexpr int kTileTokens = 16;
// Rows (queries of a kv head: its heads times the new tokens) of one matrix instruction.
inline constexpr int kTileRows = 16;
// Chunks of a past of up to 16 kLeastChunkTokens are that long, later ones at least kChunkTokens: a block needs some
// 2 us until its first keys arrive, in which a multiprocessor reads 64 KiB, 128 tokens of head_dim 128.
inline constexpr int kLeastChunkTokens = 128, kChunkTokens = 256;

// Chunks that a long past falls into. A GPU has some 132 multiprocessors: each should get one when a single sequence
// is decoded, and few kv heads (of a rank of many) need more chunks for that. Powers of two, from 16 to 64.
constexpr int most_chunks(int num_kv_heads) { return num_kv_heads >= 8 ? 16 : num_kv_heads >= 4 ? 32 : 64; }

// First of the tiles that a query at `position` sees something of.
constexpr int first_tile_position(int position, int window) {
  const int lowest = window > 0 && position >= window ? position - window + 1 : 0;
  return lowest / kTileTokens * kTileTokens;
}

// Chunk i covers [begin + i * chunk_tokens, begin + (i + 1) * chunk_tokens) up to `end`. A function of what one
// sequence sees and of the model's shape, never of the rest of the batch: that is what keeps a sequence's bits its own.
struct Split {
  int chunk_tokens, num_chunks;
};
constexpr Split split_of(int begin, int end, int num_kv_heads) {
  const int span = end - begin, most = most_chunks(num_kv_heads);
  int chunk = span <= 16 * kLeastChunkTokens ? kLeastChunkTokens : kChunkTokens;
  while (chunk * most < span) chunk *= 2;
  return {chunk, (span + chunk - 1) / chunk};
}

// No sequence of up to max_kv tokens and max_query new ones has more chunks: the width of a grid that serves all.
constexpr int grid_chunks(int64_t max_kv, int64_t max_query, int window, int num_kv_heads) {
  int64_t span = max_kv;
  if (window > 0 && window + max_query + kTileTokens < span) span = window + max_query + kTileTokens;
  const int64_t short_chunks = (span + kLeastChunkTokens - 1) / kLeastChunkTokens;
  const int64_t long_chunks = (span + kChunkTokens - 1) / kChunkTokens, most = most_chunks(num_kv_heads);
  const int64_t of_short = short_chunks < 16 ? short_chunks : 16, of_long = long_chunks < most ? long_chunks : most;
  return static_cast<int>(of_short > of_long ? of_short : of_long > 1 ? of_long : 1);
}

// The same for direct.cuh, whose blocks take kStepTokens at a time, a tile for each of 8 warps. A chunk has two steps at
// least: another step costs a block less than adding up the results of two blocks. So a past of up to 8,192 tokens takes
// little longer than its first 256, many sequences spread evenly, and a warp has a lane for each chunk to add.
inline constexpr int kStepTokens = 8 * kTileTokens, kDirectChunkTokens = 2 * kStepTokens, kMostDirectChunks = 32;
// Rows there, heads of a group, and the floats ahead of a row's partial output: highest score, sum, and two to align
// it.
inline constexpr int kDirectRows = 8, kPartialHead = 4;

constexpr Split direct_split(int begin, int end) {
  const int span = end - begin, most = kMostDirectChunks * kDirectChunkTokens;
  const int chunk = (span + most - 1) / most * kDirectChunkTokens;
  return {chunk, (span + chunk - 1) / chunk};
}
constexpr int direct_chunks(int64_t max_kv, int window) {
  int64_t span = max_kv;
  if (window > 0 && window + kTileTokens < span) span = window + kTileTokens;
  const int64_t chunks = (span + kDirectChunkTokens - 1) / kDirectChunkTokens;
  return static_cast<int>(chunks < 1 ? 1 : chunks < kMostDirectChunks ? chunks : kMostDirectChunks);
}

}  // namespace lane::cuda::attention
