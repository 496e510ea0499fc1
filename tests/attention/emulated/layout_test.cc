// What host and device agree on: fragments of matrices, and how a past is divided.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lane/attention/cuda/fragments.h"
#include "lane/attention/cuda/split.h"
#include "lane/attention/cuda/work.h"

namespace lane::testing {
namespace {

using namespace lane::cuda::attention;

// Counts how often each place is held.
class Cover {
 public:
  void add(Place place) { ++count_[{place.row, place.column}]; }
  void expect_each_once(int rows, int columns) const {
    EXPECT_EQ(count_.size(), static_cast<size_t>(rows * columns));
    for (const auto& [place, count] : count_) {
      EXPECT_EQ(count, 1) << place.first << ", " << place.second;
      EXPECT_TRUE(place.first >= 0 && place.first < rows && place.second >= 0 && place.second < columns);
    }
  }

 private:
  std::map<std::pair<int, int>, int> count_;
};

TEST(Fragments, EveryElementIsHeldOnce) {
  Cover a, b, c;
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < 4; ++reg)
      for (int half = 0; half < 2; ++half) a.add(place_in_a(lane, reg, half));
    for (int reg = 0; reg < 2; ++reg)
      for (int half = 0; half < 2; ++half) b.add(place_in_b(lane, reg, half));
    for (int element = 0; element < 4; ++element) c.add(place_in_c(lane, element));
  }
  a.expect_each_once(16, 16);
  b.expect_each_once(16, 8);
  c.expect_each_once(16, 8);
}

// The elements of S that a lane has are those of P that it needs, two tiles of C side by side making one A.
TEST(Fragments, ScoresBecomeWeightsInPlace) {
  for (int lane = 0; lane < 32; ++lane)
    for (int reg = 0; reg < 4; ++reg)
      for (int half = 0; half < 2; ++half) {
        const Place wanted = place_in_a(lane, reg, half);
        const int tile = reg / 2, element = 2 * (reg % 2) + half;
        const Place has = place_in_c(lane, element);
        EXPECT_EQ(has.row, wanted.row);
        EXPECT_EQ(has.column + 8 * tile, wanted.column);
      }
}

// What ldmatrix makes of the rows that lanes name: register i of a lane is row lane / 4, columns 2 (lane % 4) and the
// next, of matrix i; .trans swaps row and column.
TEST(Fragments, KeysAndValuesArriveAsB) {
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix)
      for (int half = 0; half < 2; ++half) {
        const int major = lane / 4, minor = 2 * (lane % 4) + half;
        const int tile = matrix / 2, reg = matrix % 2;  // which B, and which of its registers
        const Place wanted = place_in_b(lane, reg, half);

        const Place key_row = key_named_by(8 * matrix + major);  // [key, dimension], wanted as [dimension, key]
        EXPECT_EQ(key_row.row, wanted.column + 8 * tile);
        EXPECT_EQ(key_row.column + minor, wanted.row);

        const Place value_row = value_named_by(8 * matrix + minor);  // [key, dimension], wanted like that
        EXPECT_EQ(value_row.row, wanted.row);
        EXPECT_EQ(value_row.column + major, wanted.column + 8 * tile);
      }
}

TEST(Fragments, RowsOfAPhaseLieInDifferentBanks) {
  for (const int head_dim : {64, 96, 128, 256}) {
    EXPECT_EQ(shared_row_bytes(head_dim) % 16, 0);
    std::set<int> groups;
    for (int row = 0; row < 8; ++row) groups.insert(row * shared_row_bytes(head_dim) / 16 % 8);
    EXPECT_EQ(groups.size(), 8u) << head_dim;
  }
}

TEST(Split, ChunksCoverAPastOnceAndFitTheGrid) {
  for (const int kv_heads : {1, 2, 4, 8, 32})
    for (const int window : {0, 1, 100, 4096})
      for (int length = 1; length < 70000; length = length < 5000 ? length + 1 : length * 11 / 10) {
        const int begin = first_tile_position(length - 1, window);
        ASSERT_EQ(begin % kTileTokens, 0);
        ASSERT_LE(begin, window > 0 ? std::max(0, length - window) : 0);
        const Split split = split_of(begin, length, kv_heads);
        ASSERT_EQ(split.chunk_tokens % kTileTokens, 0);
        ASSERT_GE(split.num_chunks, 1);
        ASSERT_LT(begin + (split.num_chunks - 1) * split.chunk_tokens, length);
        ASSERT_GE(begin + split.num_chunks * split.chunk_tokens, length);
        ASSERT_LE(split.num_chunks, most_chunks(kv_heads));
        for (const int more : {0, 1, 1000})
          ASSERT_LE(split.num_chunks, grid_chunks(length + more, 1, window, kv_heads));
      }
}

TEST(Split, DirectChunksCoverAPastOnceAndFitTheGrid) {
  for (const int window : {0, 1, 100, 4096})
    for (int length = 1; length < 70000; length = length < 9000 ? length + 1 : length * 11 / 10) {
      const int begin = first_tile_position(length - 1, window);
      const Split split = direct_split(begin, length);
      ASSERT_EQ(split.chunk_tokens % kStepTokens, 0);
      ASSERT_LT(begin + (split.num_chunks - 1) * split.chunk_tokens, length);
      ASSERT_GE(begin + split.num_chunks * split.chunk_tokens, length);
      ASSERT_LE(split.num_chunks, kMostDirectChunks);
      for (const int more : {0, 1, 1000}) ASSERT_LE(split.num_chunks, direct_chunks(length + more, window));
    }
}

AttentionShape shape_of_heads(int num_heads, int num_kv_heads) {
  return {.num_heads = num_heads, .num_kv_heads = num_kv_heads, .head_dim = 128};
}

TEST(Work, KernelsOfABatch) {
  const auto steps = [](int group, int64_t seqs, int64_t tokens, int64_t max_query) {
    AttentionBatch batch;
    batch.num_seqs = seqs, batch.num_tokens = tokens, batch.max_query = max_query;
    const Steps s = steps_of(shape_of_heads(group, 1), batch);
    return std::pair(s.decodes, s.prefills);
  };
  EXPECT_EQ(steps(4, 0, 0, 0), std::pair(false, false));
  EXPECT_EQ(steps(4, 16, 16, 1), std::pair(true, false));
  EXPECT_EQ(steps(4, 16, 64, 4), std::pair(true, false));  // 16 rows
  EXPECT_EQ(steps(4, 16, 80, 5), std::pair(false, true));  // 20 each
  EXPECT_EQ(steps(4, 16, 200, 100), std::pair(true, true));
  EXPECT_EQ(steps(20, 3, 3, 1), std::pair(true, false));  // two tiles of rows
}

TEST(Work, SpaceGrowsWithTheBatch) {
  const AttentionShape shape = shape_of_heads(32, 8);
  const DecodeSpace space = decode_space(shape, 64, 1, 32768, 0);
  EXPECT_EQ(space.grid_chunks, 16);
  EXPECT_EQ(space.partial_rows, 4);
  EXPECT_EQ(space.num_counters, 64 * 8);
  EXPECT_EQ(space.partial_floats, int64_t{64} * 8 * 16 * 4 * 130);
  EXPECT_EQ(decode_space(shape, 64, 100, 100, 0).partial_rows, 16);
  EXPECT_EQ(decode_space(shape, 64, 1, 100000, 200).grid_chunks, 2);
  const DecodeSpace direct = direct_space(shape, 64, 8000, 0);
  EXPECT_EQ(direct.grid_chunks, 32);
  EXPECT_EQ(direct.partial_rows, 4);
  EXPECT_EQ(direct.num_counters, 64 * 8);
  EXPECT_EQ(direct.partial_floats, int64_t{64} * 8 * 32 * 4 * 132);
  EXPECT_FALSE(takes_direct(shape_of_heads(9, 1)));
}

}  // namespace
}  // namespace lane::testing
