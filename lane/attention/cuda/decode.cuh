// Flash-decoding over a paged cache (Dao et al., Flash-Decoding for long-context inference, 2023): few queries, a long
// past, so the time is that of reading keys and values once. For a step with sequences of length L_i the floor is
//   bytes = sum_i 2 L_i num_kv_heads head_dim size_of(T),
// 4 KiB a token and layer for 8 kv heads of 128 in bfloat16, at the memory's rate (4.49 TB/s were read on an H200).
//
// Data flow. A block has one sequence, one kv head, 16 rows of its queries (heads of the group times new tokens, the
// M of the matrix instructions) and one chunk of the past (split.h). Its warps know nothing of each other until the
// end: warp w takes tiles w, w + 4, w + 8, ... of 16 keys and keeps a pipeline of its own of kStages tiles of keys and
// values in shared memory, filled by cp.async, so the loop needs no barrier of the block. Then the warps' softmaxes are
// merged through the same memory, and the block writes its result, or, where the past has several chunks, a partial
// result; the last block of a sequence and head to arrive merges those, in the order of chunks whoever is last.
//
// Shared memory: kWarps * kStages * 2 tiles of 16 rows of head_dim * 2 + 16 bytes; at head_dim 128 102 KiB, two blocks
// on a multiprocessor of 227 KiB and 2 * 4 * 2 * 8 KiB = 128 KiB under way, where bandwidth times latency
// (4.8 TB/s / 132 * 1 us) is 36 KiB. Registers of a thread: head_dim / 2 sums, head_dim / 4 queries, 8 scores.
//
// The new tokens' keys and values are read from qkv, and the block whose chunk has them writes them to the cache. So
// the past does not depend on the kernel before, which computed qkv: with programmatic dependent launch, and where the
// batch says that the rest is settled, a block fills its pipeline while that kernel ends.
//
// The result of a sequence is a function of that sequence alone, bit for bit.
#pragma once
#include "lane/attention/cuda/split.h"
#include "lane/attention/cuda/warp_tile.cuh"

namespace lane::cuda::attention {

template <class T, int kDim>
struct DecodeShape {
  static constexpr int kWarps = 4;
  static constexpr int kStages = kDim <= 64 ? 4 : kDim <= 128 ? 3 : 2;
  static constexpr int kRowBytes = shared_row_bytes(kDim);
  static constexpr int kTileBytes = kTileTokens * kRowBytes;   // keys or values
  static constexpr int kWarpBytes = kStages * 2 * kTileBytes;  // one warp's pipeline
  // One warp's rows when warps are merged; 8 floats more, and rows begin in different banks.
  static constexpr int kStateStride = kDim + 8;
  static constexpr int kStateFloats = kTileRows * (kStateStride + 2);
  static constexpr int kWeightFloats = 2 * kTileRows * most_chunks(1);
  static constexpr int kSharedBytes = kWarps * kWarpBytes;
  static_assert(kWarps * kStateFloats * 4 <= kSharedBytes && kWeightFloats * 4 <= kSharedBytes);
};

// What one block has to do.
struct DecodeWork {
  Sequence sequence;
  int seq_index, kv_head, row_tile;
  int first_row, num_rows;  // of this block; rows are those of row_at()
  int begin, end;           // positions of this block's chunk
  int chunk, num_chunks;
};

// False: there is nothing to do.
__device__ inline bool find_work(const AttentionArgs& a, DecodeWork& work) {
  const BlockIndex index = block_index();
  const int group = a.num_heads / a.num_kv_heads;
  work.seq_index = index.z;
  work.kv_head = index.y / a.row_tiles;
  work.row_tile = index.y % a.row_tiles;
  work.chunk = index.x;
  work.sequence = sequence_of(a, index.z);
  const int rows = work.sequence.num_tokens * group;
  work.first_row = work.row_tile * kTileRows;
  // Sequences with more rows are left to the prefill kernel.
  if (work.first_row >= rows || rows > a.row_tiles * kTileRows) return false;
  work.num_rows = rows - work.first_row < kTileRows ? rows - work.first_row : kTileRows;
  if (work.sequence.length == 0) {  // an empty place
    work.begin = work.end = 0, work.num_chunks = 1;
    return work.chunk == 0;
  }
  const int first_position = work.sequence.first_position();
  const int last = first_position + (work.first_row + work.num_rows - 1) / group;
  const int begin = first_tile_position(first_position + work.first_row / group, a.window), end = last + 1;
  const Split split = split_of(begin, end, a.num_kv_heads);
  work.num_chunks = split.num_chunks;
  work.begin = begin + work.chunk * split.chunk_tokens;
  work.end = work.begin + split.chunk_tokens < end ? work.begin + split.chunk_tokens : end;
  return work.chunk < split.num_chunks;
}

// One warp's tiles of a chunk, and how they come into its shared memory.
template <class T, int kDim>
class TileStream {
  using Shape = DecodeShape<T, kDim>;

 public:
  __device__ TileStream(const AttentionArgs& a, const DecodeWork& work, char* shared)
      : a_(a),
        work_(work),
        shared_(shared),
        num_tiles_(((work.end - work.begin + kTileTokens - 1) / kTileTokens - warp_index() + Shape::kWarps - 1) /
                   Shape::kWarps),
        lowest_(first_visible(work.sequence.first_position() + work.first_row / (a.num_heads / a.num_kv_heads),
                              a.window)) {}

  __device__ int num_tiles() const { return num_tiles_; }
  __device__ int position_of(int tile) const {
    return work_.begin + (tile * Shape::kWarps + warp_index()) * kTileTokens;
  }
  __device__ const char* keys_of(int tile) const { return shared_ + tile % Shape::kStages * 2 * Shape::kTileBytes; }
  __device__ const char* values_of(int tile) const { return keys_of(tile) + Shape::kTileBytes; }

  // Whether the tile has tokens of earlier steps alone.
  __device__ bool is_past(int tile) const {
    return position_of(tile) + kTileTokens <= work_.sequence.first_position() || tile >= num_tiles_;
  }

  // Tiles are asked for in order, all lanes together. One beyond the last is an empty group, so that groups can be
  // counted.
  __device__ void fetch(int tile) {
    if (tile < num_tiles_) copy(tile);
    end_group_of_copies();
  }

 private:
  __device__ void copy(int tile) {
    if (tile % 32 == 0) {  // the blocks of the next 32 tiles, one a lane: a look-up for each would wait for memory
      const int mine = tile + lane_index();
      blocks_ = mine < num_tiles_ ? block_at(position_of(mine)) : 0;
    }
    const int block = shuffle(blocks_, tile % 32), position = position_of(tile);
    const int64_t in_cache = place_in_cache(a_, block, work_.kv_head, position);
    char* keys = const_cast<char*>(keys_of(tile));
    char* values = keys + Shape::kTileBytes;
    constexpr int kPieces = kDim / 8;  // of 16 bytes, in a row
#pragma unroll 8
    for (int i = 0; i < kTileTokens * kPieces / 32; ++i) {
      const int piece = i * 32 + lane_index(), row = piece / kPieces, column = piece % kPieces * 8;
      const int at = position + row, new_token = at - work_.sequence.first_position();
      // What no query sees may never have been written, and 0 times NaN is NaN: zeros instead.
      const bool reads = at >= lowest_ && at < work_.end;
      const T* key = static_cast<const T*>(a_.keys) + in_cache + row * kDim + column;
      const T* value = static_cast<const T*>(a_.values) + in_cache + row * kDim + column;
      if (reads && new_token >= 0) {
        const int token = work_.sequence.first_token + new_token;
        key = static_cast<const T*>(a_.qkv) + key_place(a_, token, work_.kv_head) + column;
        value = static_cast<const T*>(a_.qkv) + value_place(a_, token, work_.kv_head) + column;
      }
      copy_async(keys + row * Shape::kRowBytes + column * 2, reads ? key : a_.keys, reads);
      copy_async(values + row * Shape::kRowBytes + column * 2, reads ? value : a_.values, reads);
    }
  }
  __device__ int block_at(int position) const {
    const bool reads = position + kTileTokens > lowest_ && position < work_.sequence.first_position();
    return reads ? work_.sequence.blocks[position / a_.block_tokens] : 0;
  }

  const AttentionArgs& a_;
  const DecodeWork& work_;
  char* shared_;
  int num_tiles_;
  int lowest_;  // position that some query of this block sees
  int blocks_ = 0;
};

// Writes the new tokens of this block's chunk to the cache. Where a sequence has several row tiles, each writes those
// whose first row it has.
template <class T, int kDim>
__device__ inline void write_new_tokens(const AttentionArgs& a, const DecodeWork& work) {
  const int group = a.num_heads / a.num_kv_heads, first_new = work.sequence.first_position();
  const int first_mine = first_new + (work.first_row + group - 1) / group;
  const int begin = work.begin > first_mine ? work.begin : first_mine;
  for (int i = thread_index(); i < (work.end - begin) * kDim; i += DecodeShape<T, kDim>::kWarps * 32) {
    const int position = begin + i / kDim, column = i % kDim;
    const int token = work.sequence.first_token + position - first_new;
    const int block = work.sequence.blocks[position / a.block_tokens];
    const int64_t to = place_in_cache(a, block, work.kv_head, position) + column;
    const T* qkv = static_cast<const T*>(a.qkv);
    static_cast<T*>(a.keys)[to] = qkv[key_place(a, token, work.kv_head) + column];
    static_cast<T*>(a.values)[to] = qkv[value_place(a, token, work.kv_head) + column];
  }
}

// Rows of a warp, a chunk or a result, as they lie in memory: highest scores, sums, then outputs.
template <int kDim>
struct RowState {
  float* memory;
  int rows, stride;
  __device__ float& highest(int row) const { return memory[row]; }
  __device__ float& sum(int row) const { return memory[rows + row]; }
  __device__ float& out(int row, int column) const { return memory[2 * rows + row * stride + column]; }
};

template <class T, int kDim>
__device__ inline void store_result(const AttentionArgs& a, const DecodeWork& work, int row, int column, float value) {
  const Row where = row_at(a, work.sequence, work.kv_head, work.first_row + row);
  static_cast<T*>(a.out)[out_place(a, where.token, where.head) + column] = narrow<T>(value);
}

// The partial result of a chunk.
template <int kDim>
__device__ inline RowState<kDim> partial_of(const AttentionArgs& a, const DecodeWork& work, int chunk) {
  const int64_t owner = (int64_t{work.seq_index} * a.num_kv_heads + work.kv_head) * a.row_tiles + work.row_tile;
  const int64_t floats = int64_t{a.partial_rows} * (kDim + 2);
  return {a.partials + (owner * a.grid_chunks + chunk) * floats, a.partial_rows, kDim};
}

// Merges the warps' rows: to the result if there is but one chunk, or to the chunk's partial result.
template <class T, int kDim>
__device__ inline void merge_warps(const AttentionArgs& a, const DecodeWork& work, WarpState<kDim>& state,
                                   char* shared) {
  using Shape = DecodeShape<T, kDim>;
  const auto rows_of = [&](int warp) {
    return RowState<kDim>{reinterpret_cast<float*>(shared) + warp * Shape::kStateFloats, kTileRows,
                          Shape::kStateStride};
  };
  state.finish();
  const RowState<kDim> mine = rows_of(warp_index());
  const int lane = lane_index();
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const Place place = place_in_c(lane, e);
    if (place.row >= work.num_rows) continue;
    if (lane % 4 == 0 && e % 2 == 0) {
      mine.highest(place.row) = state.highest[e / 2];
      mine.sum(place.row) = state.sum[e / 2];
    }
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) mine.out(place.row, 8 * i + place.column) = state.out[i][e];
  }
  sync_block();
  const RowState<kDim> partial = partial_of<kDim>(a, work, work.chunk);
  for (int i = thread_index(); i < work.num_rows * kDim; i += Shape::kWarps * 32) {
    const int row = i / kDim, column = i % kDim;
    float highest = kNothing, sum = 0, out = 0;
    for (int warp = 0; warp < Shape::kWarps; ++warp) highest = greater(highest, rows_of(warp).highest(row));
    const float base = highest == kNothing ? 0 : highest;
    for (int warp = 0; warp < Shape::kWarps; ++warp) {
      const float weight = power_of_2(rows_of(warp).highest(row) - base);
      sum += weight * rows_of(warp).sum(row);
      out += weight * rows_of(warp).out(row, column);
    }
    if (work.num_chunks == 1) {
      store_result<T, kDim>(a, work, row, column, out / sum);
    } else {
      partial.out(row, column) = out;
      if (column == 0) partial.highest(row) = highest, partial.sum(row) = sum;
    }
  }
}

// Run by the last block of a sequence and head: merges the chunks' partial results in their order.
template <class T, int kDim>
__device__ inline void merge_chunks(const AttentionArgs& a, const DecodeWork& work, char* shared) {
  using Shape = DecodeShape<T, kDim>;
  const int chunks = work.num_chunks, num_threads = Shape::kWarps * 32;
  float* weights = reinterpret_cast<float*>(shared);   // [rows, chunks]: highest scores, then weights
  float* sums = weights + kTileRows * most_chunks(1);  // [rows, chunks]
  for (int i = thread_index(); i < work.num_rows * chunks; i += num_threads) {
    const RowState<kDim> partial = partial_of<kDim>(a, work, i % chunks);
    weights[i] = load_fresh(&partial.highest(i / chunks));
    sums[i] = load_fresh(&partial.sum(i / chunks));
  }
  sync_block();
  if (thread_index() < work.num_rows) {  // every row sees something: itself
    float* row = weights + thread_index() * chunks;
    float highest = kNothing, sum = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) highest = greater(highest, row[chunk]);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      row[chunk] = power_of_2(row[chunk] - highest);
      sum += row[chunk] * sums[thread_index() * chunks + chunk];
    }
    for (int chunk = 0; chunk < chunks; ++chunk) row[chunk] /= sum;
  }
  sync_block();
  for (int i = thread_index(); i < work.num_rows * kDim; i += num_threads) {
    const int row = i / kDim, column = i % kDim;
    float out = 0;
#pragma unroll 4
    for (int chunk = 0; chunk < chunks; ++chunk)
      out += weights[row * chunks + chunk] * load_fresh(&partial_of<kDim>(a, work, chunk).out(row, column));
    store_result<T, kDim>(a, work, row, column, out);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(DecodeShape<T, kDim>::kWarps * 32)
    decode_kernel(const __grid_constant__ AttentionArgs a) {
  using Shape = DecodeShape<T, kDim>;
  if (!a.is_settled) wait_for_previous_kernel();
  DecodeWork work;
  if (!find_work(a, work)) return;
  if (work.sequence.length == 0) {
    wait_for_previous_kernel();  // which may read what this writes
    for (int i = thread_index(); i < work.num_rows * kDim; i += Shape::kWarps * 32)
      store_result<T, kDim>(a, work, i / kDim, i % kDim, 0);
    return;
  }

  char* const shared = shared_memory();
  TileStream<T, kDim> tiles(a, work, shared + warp_index() * Shape::kWarpBytes);
  int num_fetched = 0;
  if (a.is_settled)
    while (num_fetched < Shape::kStages - 1 && tiles.is_past(num_fetched)) tiles.fetch(num_fetched++);
  wait_for_previous_kernel();
  while (num_fetched < Shape::kStages - 1) tiles.fetch(num_fetched++);
  uint32_t queries[kDim / 16][4];
  load_queries<T, kDim>(a, work.sequence, work.kv_head, work.first_row, work.first_row + work.num_rows, queries);
  write_new_tokens<T, kDim>(a, work);

  const int group = a.num_heads / a.num_kv_heads;
  int positions[2];  // of this lane's rows
  for (int half = 0; half < 2; ++half) {
    const int row = lane_index() / 4 + 8 * half;
    positions[half] = row < work.num_rows ? work.sequence.first_position() + (work.first_row + row) / group : -1;
  }
  const ScoreScale scale(a);
  WarpState<kDim> state;
  for (int tile = 0; tile < tiles.num_tiles(); ++tile) {
    wait_for_copies<Shape::kStages - 2>();
    sync_warp();  // the tile is there for all lanes, and all are done with the one whose place is filled next
    tiles.fetch(tile + Shape::kStages - 1);
    float scores[2][4];
    multiply_keys<T, kDim, 1>(queries, tiles.keys_of(tile), scores);
    scale_and_mask<1>(scale, tiles.position_of(tile), positions, a.window, scores);
    soften<kDim, 1>(scores, state);
    multiply_values<T, kDim, 1>(scores, tiles.values_of(tile), state);
  }
  let_next_kernel_start();
  wait_for_copies<0>();
  sync_block();  // the pipelines are empty: their memory is free
  merge_warps<T, kDim>(a, work, state, shared);
  if (work.num_chunks == 1) return;

  publish();
  sync_block();
  const int owner = (work.seq_index * a.num_kv_heads + work.kv_head) * a.row_tiles + work.row_tile;
  int* const is_last = reinterpret_cast<int*>(shared);
  if (thread_index() == 0) *is_last = arrive(a.counters + owner, static_cast<uint32_t>(work.num_chunks));
  sync_block();
  const bool merges = *is_last != 0;
  sync_block();
  if (merges) merge_chunks<T, kDim>(a, work, shared);
}

}  // namespace lane::cuda::attention
