#include "lane/plan/parallel.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/plan/step.h"

namespace lane::plan {
namespace {

const ModelShape kLlama8B{.vocab_size = 128256,
                          .hidden_size = 4096,
                          .intermediate_size = 14336,
                          .num_layers = 32,
                          .num_heads = 32,
                          .num_kv_heads = 8,
                          .head_dim = 128};

TEST(EvenPart, PartsAreContiguousCompleteAndEven) {
  for (const int64_t total : {0, 1, 15, 16, 17, 100, 4096, 50257})
    for (const int parts : {1, 2, 3, 7, 8, 64})
      for (const int64_t multiple : {1, 2, 16}) {
        SCOPED_TRACE(std::to_string(total) + " in " + std::to_string(parts) + " by " + std::to_string(multiple));
        int64_t end = 0, smallest = total, largest = 0;
        for (int index = 0; index < parts; ++index) {
          const Range part = even_part(total, parts, index, multiple);
          EXPECT_EQ(part.begin, end);
          EXPECT_TRUE(part.begin % multiple == 0 || part.begin == total);
          end = part.end;
          smallest = std::min(smallest, part.size()), largest = std::max(largest, part.size());
        }
        EXPECT_EQ(end, total);
        // The last unit may be a short one, which can make its owner smaller still.
        EXPECT_LT(largest - smallest, 2 * multiple);
        if (total % multiple == 0) {
          EXPECT_LE(largest - smallest, multiple);
        }
      }
}

TEST(EvenPart, HugeTotalsDoNotOverflow) {
  const int64_t total = int64_t{1} << 62;
  EXPECT_EQ(even_part(total, 4, 3).end, total);
  EXPECT_EQ(even_part(total, 4, 3).size(), total / 4);
}

TEST(ParallelPlan, AcceptsWhatTheHeadsAllow) {
  for (const int tensor : {1, 2, 4, 8, 16, 32}) EXPECT_NO_THROW(check({.tensor = tensor}, kLlama8B)) << tensor;
}

TEST(ParallelPlan, RefusalNamesTheLegalSizes) {
  ModelShape six_heads = kLlama8B;
  six_heads.num_heads = 6, six_heads.num_kv_heads = 2;
  ModelShape narrow = kLlama8B;
  narrow.vocab_size = 4;
  struct Case {
    ModelShape shape;
    int tensor;
    std::string legal;
  };
  for (const Case& c : {Case{kLlama8B, 3, "sizes: 1, 2, 4, 8, 16, 32"}, Case{kLlama8B, 64, "sizes: 1, 2, 4, 8, 16, 32"},
                        Case{kLlama8B, 0, "sizes: 1, 2, 4, 8, 16, 32"}, Case{kLlama8B, -1, "over -1 ranks"},
                        Case{six_heads, 3, "6 query heads and 2 KV heads cannot be cut over 3 ranks"},
                        Case{six_heads, 4, "sizes: 1, 2, 6"}, Case{narrow, 8, "sizes: 1, 2, 4"}}) {
    try {
      check({.tensor = c.tensor}, c.shape);
      ADD_FAILURE() << c.tensor << " ranks were accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(c.legal), std::string::npos) << error.what();
    }
  }
}

TEST(ParallelPlan, SlicesCoverTheModelOnce) {
  for (const int tensor : {1, 2, 4, 8, 16, 32}) {
    RankSlices before;
    for (int rank = 0; rank < tensor; ++rank) {
      const RankSlices slices = slices_of({.tensor = tensor}, kLlama8B, rank);
      EXPECT_EQ(slices.heads.begin, before.heads.end);
      EXPECT_EQ(slices.intermediate.begin, before.intermediate.end);
      EXPECT_EQ(slices.vocab.begin, before.vocab.end);
      EXPECT_EQ(slices.intermediate.begin % 16, 0);
      EXPECT_EQ(slices.vocab.begin % 16, 0);
      EXPECT_GT(slices.vocab.size(), 0);
      // Every query head finds its KV head here, and none is here in vain.
      EXPECT_EQ(slices.kv_heads.begin, slices.heads.begin / 4);
      EXPECT_EQ(slices.kv_heads.end, (slices.heads.end - 1) / 4 + 1);
      EXPECT_EQ(slices.kv_heads.size(), tensor >= 8 ? 1 : 8 / tensor);
      before = slices;
    }
    EXPECT_EQ(before.heads.end, 32);
    EXPECT_EQ(before.kv_heads.end, 8);
    EXPECT_EQ(before.intermediate.end, 14336);
    EXPECT_EQ(before.vocab.end, 128256);
  }
}

TEST(ParallelPlan, SmallDimensionsAreCutFinely) {
  ModelShape tiny = kLlama8B;
  tiny.num_heads = 4, tiny.num_kv_heads = 2, tiny.vocab_size = 50, tiny.intermediate_size = 30;
  // 30 is two groups of 16: too few for four ranks. 50 is four groups, the last one short.
  const std::vector<Range> intermediate = {{0, 8}, {8, 16}, {16, 23}, {23, 30}};
  const std::vector<Range> vocab = {{0, 16}, {16, 32}, {32, 48}, {48, 50}};
  for (int rank = 0; rank < 4; ++rank) {
    const RankSlices slices = slices_of({.tensor = 4}, tiny, rank);
    EXPECT_EQ(slices.intermediate, intermediate[rank]);
    EXPECT_EQ(slices.vocab, vocab[rank]);
    EXPECT_EQ(slices.kv_heads.begin, rank / 2);
  }
}

// Llama 3.1 8B: 218,103,808 elements a layer, of config.json's sizes; 128,256 x 4,096 in the head.
TEST(ForwardFlops, AreThoseOfMatricesAndCausalAttention) {
  const ModelShape shape{.vocab_size = 128256,
                         .hidden_size = 4096,
                         .intermediate_size = 14336,
                         .num_layers = 32,
                         .num_heads = 32,
                         .num_kv_heads = 8,
                         .head_dim = 128};
  const double layers = 32 * 218103808.0, head = 128256 * 4096.0, pair = 4 * 32 * 4096.0;
  EXPECT_DOUBLE_EQ(forward_flops(shape, 0, 1, 1), 2 * (layers + head) + pair);
  EXPECT_DOUBLE_EQ(forward_flops(shape, 0, 3, 0), 3 * 2 * layers + (1 + 2 + 3) * pair);
  EXPECT_DOUBLE_EQ(forward_flops(shape, 10, 11, 1), 2 * (layers + head) + 11 * pair);
  EXPECT_DOUBLE_EQ(forward_flops(shape, 0, 700, 0) + forward_flops(shape, 700, 2048, 1),
                   forward_flops(shape, 0, 2048, 1));
}

}  // namespace
}  // namespace lane::plan
