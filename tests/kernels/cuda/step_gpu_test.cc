#include <chrono>
#include <limits>

#include "lane/kernels/step.h"
#include "tests/kernels/cuda/gpu_kernel_test.h"

namespace lane::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int32_t> read_list(TensorView view, Stream& stream) {
  std::vector<int32_t> values(static_cast<size_t>(view.count()));
  copy_to_host(view, values.data(), stream);
  return values;
}

void wait_for(const StepBoard& board, int64_t step) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!board.is_done(step)) ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "step " << step;
}

// One number as a tensor of float32 on the GPU.
Buffer word_on_gpu(float value, Stream& stream) {
  Buffer buffer(DType::kF32, {1, 1, 1, 1}, kGpu);
  copy_to_device(&value, buffer.view(), stream);
  stream.synchronize();
  return buffer;
}

TEST(StepBoard, ListsGoInAndTokensComeOut) {
  Stream stream(kGpu);
  const StepLimits limits{.max_tokens = 20, .max_seqs = 4, .max_blocks = 8};
  StepBoard board(limits, kGpu);
  for (int32_t step = 1; step <= 10; ++step) {
    const StepLimits used{.max_tokens = 3, .max_seqs = 2, .max_blocks = 1 + step % 8};
    const StepSlot at(used);
    int32_t* slot = board.input(step);
    slot[kNumTokens] = 3, slot[kNumSeqs] = 2, slot[kNumRows] = 2, slot[kSignal] = step;
    // Two new tokens of the first sequence; of the second, the token chosen for row 1 of the step before.
    const int32_t token_ids[] = {step, step + 1, step == 1 ? 77 : -2}, positions[] = {4, 5, 9}, starts[] = {0, 2, 3},
                  lengths[] = {6, 10}, rows[] = {1, 2};
    std::copy_n(token_ids, 3, slot + at.token_ids);
    std::copy_n(positions, 3, slot + at.positions);
    std::copy_n(starts, 3, slot + at.query_start);
    std::copy_n(lengths, 2, slot + at.kv_length);
    std::copy_n(rows, 2, slot + at.logit_rows);
    for (int64_t i = 0; i < 2 * used.max_blocks; ++i) slot[at.block_tables + i] = static_cast<int32_t>(100 * step + i);
    board.open_step(step, used, 4, 3, stream);
    EXPECT_EQ(read_list(board.token_ids(4), stream),
              (std::vector<int32_t>{step, step + 1, step == 1 ? 77 : 1000 + step - 1, 0}));
    EXPECT_EQ(read_list(board.positions(4), stream), (std::vector<int32_t>{4, 5, 9, 0}));
    EXPECT_EQ(read_list(board.query_start(3), stream), (std::vector<int32_t>{0, 2, 3, 4}));
    EXPECT_EQ(read_list(board.kv_length(3), stream), (std::vector<int32_t>{6, 10, 0}));
    EXPECT_EQ(read_list(board.logit_rows(2), stream), (std::vector<int32_t>{1, 2}));
    const std::vector<int32_t> tables = read_list(board.block_tables(2), stream);
    for (int64_t seq = 0; seq < 2; ++seq)
      for (int64_t i = 0; i < used.max_blocks; ++i)
        EXPECT_EQ(tables[static_cast<size_t>(seq * limits.max_blocks + i)], 100 * step + seq * used.max_blocks + i);
    EXPECT_FALSE(board.is_done(step));
    const int32_t chosen[] = {500 + step, 1000 + step};
    copy_to_device(chosen, board.chosen_on_device(2), stream);
    const Buffer signal = word_on_gpu(static_cast<float>(step), stream);
    board.close_step(signal.view(), stream);
    wait_for(board, step);
    EXPECT_EQ(board.chosen(step)[0], 500 + step);
    EXPECT_EQ(board.chosen(step)[1], 1000 + step);
    EXPECT_EQ(board.signal(step), static_cast<uint32_t>(step));
    EXPECT_FALSE(board.is_done(step + 1));
  }
}

// The rule of runtime/sampler.h, on the host.
int32_t expected_token(const float* logits, int64_t width, const DrawRow& draw) {
  double best = -INFINITY;
  int32_t token = -1;
  for (int64_t i = 0; i < width; ++i) {
    if (std::isnan(logits[i]) || logits[i] == kInfinity) return -1;
    double key = logits[i];
    if (draw.scale != 0) {
      const double u =
          std::min(random_uniform(draw.noise_key, draw.position << 32 | static_cast<uint32_t>(i)), 1 - 0x1p-53);
      key = logits[i] * draw.scale - std::log(-std::log(u));
    }
    if (key > best) best = key, token = static_cast<int32_t>(i);
  }
  return token;
}

// The logits cut over ranks as a vocabulary is; each rank's offers, added up as the all-reduce adds them.
std::vector<int32_t> draw(const std::vector<float>& logits, int64_t rows, int64_t width, DType type, int num_ranks,
                          const std::vector<DrawRow>& draws, Stream& stream) {
  std::vector<int32_t> words(static_cast<size_t>(rows * 6));
  std::memcpy(words.data(), draws.data(), words.size() * 4);
  const Buffer draw_words = list_on_gpu(words, stream), signal = list_on_gpu({7}, stream);
  const int64_t count = num_ranks * rows * kOfferWords + 1;
  std::vector<float> sum(static_cast<size_t>(count), 0.0f);
  const Buffer scratch(DType::kF32, {1, 1, rows, kDrawScratch}, kGpu);
  for (int rank = 0; rank < num_ranks; ++rank) {
    const int64_t first = width * rank / num_ranks, end = width * (rank + 1) / num_ranks;
    std::vector<float> part;
    for (int64_t row = 0; row < rows; ++row)
      part.insert(part.end(), logits.begin() + row * width + first, logits.begin() + row * width + end);
    const GpuMatrix slice(part, rows, end - first, type, stream), offers(1, count, DType::kF32, stream);
    draw_offers(slice.view(), draw_words.view(), signal.view(), first, rank, num_ranks, scratch.view(), offers.view(),
                stream);
    const std::vector<float> mine = offers.read(stream);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += mine[i];
  }
  EXPECT_EQ(sum.back(), 7) << "rank 0's signal";
  const GpuMatrix all(sum, 1, count, DType::kF32, stream);
  const Buffer chosen = list_on_gpu(std::vector<int32_t>(static_cast<size_t>(rows), -5), stream);
  draw_choose(all.view(), num_ranks, chosen.view(), stream);
  return read_list(chosen.view(), stream);
}

TEST(Draw, ChoosesWhatTheRuleChoosesOnAnyNumberOfRanks) {
  Stream stream(kGpu);
  for (const DType type : kWeightTypes)
    for (const int64_t width : {5, 1000, 128'256}) {
      const int64_t rows = 6;
      Converted logits(random_floats(rows * width, 21), rows, width, type);
      std::vector<DrawRow> draws;
      for (uint64_t row = 0; row < rows; ++row)
        draws.push_back({.scale = row % 2 == 0 ? 0 : 1 / (0.3 + 0.2 * static_cast<double>(row)),
                         .noise_key = row ^ hash_name("sampler"),
                         .position = 10 + row});
      std::vector<int32_t> wanted;
      for (int64_t row = 0; row < rows; ++row)
        wanted.push_back(expected_token(logits.floats.data() + row * width, width, draws[static_cast<size_t>(row)]));
      for (const int num_ranks : {1, 2, 4})
        EXPECT_EQ(draw(logits.floats, rows, width, type, num_ranks, draws, stream), wanted)
            << name_of(type) << ", " << width << " tokens, " << num_ranks << " ranks";
    }
}

TEST(Draw, EqualsGoToTheLowestTokenAndNonsenseIsTold) {
  Stream stream(kGpu);
  const int64_t width = 300;
  std::vector<float> logits(static_cast<size_t>(5 * width), -1.0f);
  const auto row = [&](int64_t i) { return logits.begin() + i * width; };
  row(0)[40] = row(0)[41] = row(0)[299] = 2;
  std::fill_n(row(1), width, -kInfinity);
  row(1)[250] = -3;
  std::fill_n(row(2), width, -kInfinity);
  row(3)[299] = std::numeric_limits<float>::quiet_NaN();
  row(4)[7] = kInfinity;
  for (const int num_ranks : {1, 2, 4})
    EXPECT_EQ(draw(logits, 5, width, DType::kF32, num_ranks, std::vector<DrawRow>(5), stream),
              (std::vector<int32_t>{40, 250, -1, -1, -1}))
        << num_ranks;
}

// A chunk of a prompt that is not its last chooses nothing, and still carries the signal.
TEST(Draw, WithoutRowsTheSignalTravelsAlone) {
  Stream stream(kGpu);
  for (const int rank : {0, 1}) {
    const Buffer draws = list_on_gpu({}, stream), signal = list_on_gpu({3}, stream), none = list_on_gpu({}, stream);
    const GpuMatrix offers(1, 1, DType::kF32, stream);
    const Buffer scratch(DType::kF32, {1, 1, 1, kDrawScratch}, kGpu);
    draw_offers({}, draws.view(), signal.view(), 0, rank, 2, scratch.view(), offers.view(), stream);
    draw_choose(offers.view(), 2, none.view(), stream);
    EXPECT_EQ(offers.read(stream)[0], rank == 0 ? 3 : 0);
  }
}

}  // namespace
}  // namespace lane::kernels
