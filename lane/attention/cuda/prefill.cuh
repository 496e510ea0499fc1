// Attention of many new tokens over a paged cache, after the second version of FlashAttention (Dao, 2023).
//
// A block has one sequence, one kv head and 64 rows of its queries (heads of the group times new tokens), 16 a warp.
// All its warps walk over the same tiles of keys and values, of which one is computed on while the next is copied to
// shared memory. Tiles lie at multiples of their size from position 0, and a tile that a row sees nothing of leaves the
// row's bits alone, so a row's result is the same however its prompt was cut. Keys and values are read from the cache:
// they have been written there before.
#pragma once
#include "lane/attention/cuda/split.h"
#include "lane/attention/cuda/warp_tile.cuh"

namespace lane::cuda::attention {

template <class T, int kDim>
struct PrefillShape {
  static constexpr int kWarps = 4;
  static constexpr int kRows = kWarps * kTileRows;
  static constexpr int kTiles = kDim <= 128 ? 4 : 2;  // of 16 keys: at 256 sums and queries take 192 registers as it is
  static constexpr int kKeys = kTiles * kTileTokens;
  static constexpr int kRowBytes = shared_row_bytes(kDim);
  static constexpr int kSideBytes = kKeys * kRowBytes;  // keys or values of a tile
  static constexpr int kSharedBytes = 2 * 2 * kSideBytes;
  static constexpr int kBlocks = kDim <= 128 ? 3 : 1;  // on a multiprocessor, by shared memory and registers
};

// Copies the tile at `position`; rows outside [lowest, end) become zeros.
template <class T, int kDim>
__device__ inline void fetch_tile(const AttentionArgs& a, const Sequence& sequence, int kv_head, int position,
                                  int lowest, int end, char* keys) {
  using Shape = PrefillShape<T, kDim>;
  constexpr int kPieces = kDim / 8, kThreads = Shape::kWarps * 32;  // pieces of 16 bytes, in a row
#pragma unroll 2
  for (int part = 0; part < Shape::kTiles; ++part) {  // 16 tokens lie in one block
    const int first = position + part * kTileTokens;
    const bool is_seen = first + kTileTokens > lowest && first < end;
    const int block = is_seen ? sequence.blocks[first / a.block_tokens] : 0;
    const int64_t in_cache = place_in_cache(a, block, kv_head, first);
    char* const to = keys + part * kTileTokens * Shape::kRowBytes;
#pragma unroll
    for (int piece = thread_index(); piece < kTileTokens * kPieces; piece += kThreads) {
      const int row = piece / kPieces, column = piece % kPieces * 8;
      const bool reads = first + row >= lowest && first + row < end;
      const int64_t place = reads ? in_cache + row * kDim + column : 0;
      copy_async(to + row * Shape::kRowBytes + column * 2, static_cast<const T*>(a.keys) + place, reads);
      copy_async(to + Shape::kSideBytes + row * Shape::kRowBytes + column * 2, static_cast<const T*>(a.values) + place,
                 reads);
    }
  }
  end_group_of_copies();
}

// This lane's two rows, to `out`.
template <class T, int kDim>
__device__ inline void store_rows(const AttentionArgs& a, const Sequence& sequence, int kv_head, int first_row,
                                  int num_rows, WarpState<kDim>& state) {
  state.finish();
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane_index() / 4 + 8 * half;
    if (row >= num_rows) continue;
    const Row where = row_at(a, sequence, kv_head, row);
    T* to = static_cast<T*>(a.out) + out_place(a, where.token, where.head);
    // A row of an empty place has seen nothing: zeros.
    const float factor = state.sum[half] > 0 ? 1 / state.sum[half] : state.sum[half];
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i)
      *reinterpret_cast<uint32_t*>(to + 8 * i + place_in_c(lane_index(), 0).column) =
          pack<T>(state.out[i][2 * half] * factor, state.out[i][2 * half + 1] * factor);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(PrefillShape<T, kDim>::kWarps * 32, PrefillShape<T, kDim>::kBlocks)
    prefill_kernel(const __grid_constant__ AttentionArgs a) {
  using Shape = PrefillShape<T, kDim>;
  wait_for_previous_kernel();
  const BlockIndex index = block_index();
  const int group = a.num_heads / a.num_kv_heads, kv_head = index.y;
  const Sequence sequence = sequence_of(a, index.z);
  const int num_rows = sequence.num_tokens * group;
  // Sequences with few rows are left to the decode kernel.
  if (num_rows <= a.row_tiles * kTileRows) return;
  // The last rows see most: their blocks go first.
  const int num_blocks = (num_rows + Shape::kRows - 1) / Shape::kRows;
  if (index.x >= num_blocks) return;
  const int block_row = (num_blocks - 1 - index.x) * Shape::kRows, first_row = block_row + warp_index() * kTileRows;

  const bool is_empty = sequence.length == 0;
  const int first_new = sequence.first_position();
  const int last_row = block_row + Shape::kRows < num_rows ? block_row + Shape::kRows - 1 : num_rows - 1;
  const int lowest = first_visible(first_new + block_row / group, a.window);
  const int begin = lowest / Shape::kKeys * Shape::kKeys, end = is_empty ? begin : first_new + last_row / group + 1;

  char* const shared = shared_memory();
  const auto side = [&](int tile) { return shared + tile % 2 * 2 * Shape::kSideBytes; };
  if (begin < end) fetch_tile<T, kDim>(a, sequence, kv_head, begin, lowest, end, side(0));
  uint32_t queries[kDim / 16][4];
  load_queries<T, kDim>(a, sequence, kv_head, first_row < num_rows ? first_row : 0, num_rows, queries);
  int positions[2];  // of this lane's rows
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane_index() / 4 + 8 * half;
    positions[half] = row < num_rows ? first_new + row / group : -1;
  }
  // What some row of the warp sees, [warp_lowest, warp_end), and all of them, [warp_last_lowest, warp_first].
  const int warp_first = first_new + first_row / group, warp_lowest = first_visible(warp_first, a.window);
  const int warp_last_row = first_row + kTileRows <= num_rows ? first_row + kTileRows - 1 : num_rows - 1;
  const int warp_last = first_new + warp_last_row / group, warp_last_lowest = first_visible(warp_last, a.window);
  const int warp_end = first_row < num_rows ? warp_last + 1 : begin;

  const ScoreScale scale(a);
  WarpState<kDim> state;
  for (int tile = 0; begin + tile * Shape::kKeys < end; ++tile) {
    const int position = begin + tile * Shape::kKeys;
    wait_for_copies<0>();
    sync_block();  // the tile is there for all, and all are done with the one before
    if (position + Shape::kKeys < end)
      fetch_tile<T, kDim>(a, sequence, kv_head, position + Shape::kKeys, lowest, end, side(tile + 1));
    if (position >= warp_end || position + Shape::kKeys <= warp_lowest) continue;
    float scores[2 * Shape::kTiles][4];
    multiply_keys<T, kDim, Shape::kTiles>(queries, side(tile), scores);
    if (position + Shape::kKeys <= warp_first + 1 && position >= warp_last_lowest)
      scale_all<Shape::kTiles>(scale, scores);
    else
      scale_and_mask<Shape::kTiles>(scale, position, positions, a.window, scores);
    soften<kDim, Shape::kTiles>(scores, state);
    multiply_values<T, kDim, Shape::kTiles>(scores, side(tile) + Shape::kSideBytes, state);
  }
  let_next_kernel_start();
  store_rows<T, kDim>(a, sequence, kv_head, first_row, num_rows, state);
}

}  // namespace lane::cuda::attention
