// The time that a GPU takes to choose tokens by rules, for logits of one rank as Llama 3 has them (128256 bfloat16).
//
//   bench_rules_cuda
//
// Logits are normal, of deviation 3. Calls follow one another in a graph; the time is a call's share of the median of
// 20 launches. `quick` is what steps take in which no row has more than a temperature.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <numbers>
#include <string>
#include <vector>

#include "bench/graph_time.h"
#include "lane/base/random.h"
#include "lane/kernels/rules.h"
#include "lane/kernels/step.h"

namespace {

using namespace lane;
using kernels::RuleRow;

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kVocab = 128256, kMostRows = 256;
constexpr int kCalls = 20;

Buffer random_logits(Stream& stream) {
  std::vector<uint16_t> values(static_cast<size_t>(kMostRows * kVocab));
  for (size_t i = 0; i < values.size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(random_uniform(1, i)));
    values[i] = bf16_from_float(static_cast<float>(3 * radius * std::cos(2 * std::numbers::pi * random_uniform(2, i))));
  }
  Buffer logits(DType::kBF16, {1, 1, kMostRows, kVocab}, kGpu);
  copy_to_device(values.data(), logits.view(), stream);
  stream.synchronize();
  return logits;
}

template <class Row>
Buffer rows_on_gpu(const Row& row, int64_t rows, Stream& stream) {
  const std::vector<Row> all(static_cast<size_t>(rows), row);
  Buffer buffer(DType::kI32, {1, 1, 1, rows * static_cast<int64_t>(sizeof(Row)) / 4}, kGpu);
  copy_to_device(all.data(), buffer.view(), stream);
  stream.synchronize();
  return buffer;
}

}  // namespace

int main() {
  Stream stream(kGpu);
  const Buffer logits = random_logits(stream), history(DType::kI32, {1, 1, 1, kVocab}, kGpu),
               answer(kGpu, static_cast<int64_t>(sizeof(kernels::RowLogprobs))),
               chosen(DType::kI32, {1, 1, 1, kMostRows}, kGpu),
               scratch(DType::kF32, {1, 1, kMostRows, kernels::kDrawScratch}, kGpu),
               offers(DType::kF32, {1, 1, 1, kMostRows * kernels::kOfferWords + 1}, kGpu);
  std::vector<int32_t> some(1000);
  for (size_t i = 0; i < some.size(); ++i) some[i] = static_cast<int32_t>(i * 97);
  const Buffer tokens = rows_on_gpu(some[0], 1000, stream);
  copy_to_device(some.data(), tokens.view(), stream);
  kernels::note_history(tokens.view(), 500, tokens.view(DType::kI32, {1, 1, 1, 0}), history.view(), stream);

  struct Kind {
    std::string name;
    RuleRow row;
  };
  RuleRow drawn{.scale = 1 / 0.8, .noise_key = 5, .position = 7};
  std::vector<Kind> kinds = {{"greedy", {}}, {"temperature", drawn}};
  const auto add = [&](const char* name, auto change) {
    kinds.push_back({name, drawn});
    change(kinds.back().row);
  };
  add("top_k 50", [](RuleRow& row) { row.top_k = 50; });
  add("top_p 0.95", [](RuleRow& row) { row.top_p = 0.95; });
  add("min_p 0.05", [](RuleRow& row) { row.log_min_p = std::log(0.05); });
  add("penalties", [&](RuleRow& row) {
    row.repetition = 1.1, row.frequency = 0.5, row.history = static_cast<uint32_t*>(history.data());
  });
  add("logprobs 20",
      [&](RuleRow& row) { row.logprobs = static_cast<kernels::RowLogprobs*>(answer.data()), row.num_top = 20; });
  add("all of them", [&](RuleRow& row) {
    row = {.scale = 1 / 0.8,
           .top_p = 0.95,
           .log_min_p = std::log(1e-4),
           .repetition = 1.1,
           .frequency = 0.5,
           .noise_key = 5,
           .position = 7,
           .top_k = 5000,
           .history = static_cast<uint32_t*>(history.data()),
           .logprobs = static_cast<kernels::RowLogprobs*>(answer.data()),
           .num_top = 20};
  });
  fmt::print("us for rows   ");
  for (const int64_t rows : {1, 16, 64, 256}) fmt::print("{:>9}", rows);
  fmt::print("\n");
  const auto line = [&](const std::string& name, auto run) {
    fmt::print("{:<14}", name);
    for (const int64_t rows : {1, 16, 64, 256}) {
      fmt::print("{:>9.1f}", 1e6 * bench::time_in_graph(kCalls, stream, run(rows)));
      std::fflush(stdout);
    }
    fmt::print("\n");
  };
  Buffer rules;
  const Buffer signal = rows_on_gpu(int32_t{0}, 1, stream);
  line("quick", [&](int64_t rows) {
    rules = rows_on_gpu(kernels::DrawRow{.scale = 1 / 0.8, .noise_key = 5, .position = 7}, rows, stream);
    return [&, rows](int) {
      const TensorView all = offers.view(DType::kF32, {1, 1, 1, rows * kernels::kOfferWords + 1});
      kernels::draw_offers(logits.view().row_range(0, rows), rules.view(), signal.view(), 0, 0, 1, scratch.view(), all,
                           stream);
      kernels::draw_choose(all, 1, chosen.view(DType::kI32, {1, 1, 1, rows}), stream);
    };
  });
  for (const Kind& kind : kinds)
    line(kind.name, [&](int64_t rows) {
      rules = rows_on_gpu(kind.row, rows, stream);
      return [&, rows](int) {
        kernels::choose_tokens(logits.view().row_range(0, rows), rules.view(),
                               chosen.view(DType::kI32, {1, 1, 1, rows}), stream);
      };
    });
}
