// Products of a model's shapes on a GPU: Lane's own kernel for few rows in several cuts, and each algorithm that
// cuBLASLt's heuristics offer.
//
//   bench_matmul_cuda [--few] [file for JSON]
//
// As many different matrices as fill 512 MiB follow one another in a graph, so that the 50 MiB of L2 cannot hold them,
// as in a model; the time is a product's share of the median of 20 launches. Bytes are those of W; the floor is the
// memory's read rate. --few: the shapes of one model and few numbers of rows.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "bench/graph_time.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/random.h"
#include "lane/kernels/cuda/blas.cuh"
#include "lane/kernels/cuda/skinny.cuh"

namespace {

using namespace lane;
using kernels::impl::DeviceMatrix;

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr int64_t kPoolBytes = int64_t{3} << 30;

struct Shape {
  const char* name;
  int64_t n, k;
  bool gated;
};

// A rank's products of the 8B and the 70B shape of Llama 3.
std::vector<Shape> shapes(bool few) {
  std::vector<Shape> all = {{"8B qkv", 6144, 4096, false},
                            {"8B out", 4096, 4096, false},
                            {"8B gate_up", 28672, 4096, true},
                            {"8B down", 4096, 14336, false},
                            {"8B head", 128256, 4096, false}};
  if (few) return all;
  for (const int64_t ranks : {2, 4})
    for (const auto& [name, hidden, heads, inner] : {std::tuple{"8B", 4096, 32, 14336}, {"70B", 8192, 64, 28672}}) {
      static std::vector<std::string> names;
      names.reserve(64);
      const auto add = [&](const char* what, int64_t n, int64_t k, bool gated) {
        names.push_back(fmt::format("{}/{} {}", name, ranks, what));
        all.push_back({names.back().c_str(), n, k, gated});
      };
      add("qkv", (heads + 16) * 128 / ranks, hidden, false);
      add("out", hidden, heads * 128 / ranks, false);
      add("gate_up", 2 * inner / ranks, hidden, true);
      add("down", hidden, inner / ranks, false);
      add("head", 128256 / ranks, hidden, false);
    }
  return all;
}

struct Timing {
  std::string how;
  double seconds;
};

std::vector<Timing> measure(const Shape& shape, int64_t m, char* pool, Stream& stream) {
  const int64_t bytes = shape.n * shape.k * 2;
  const int count = static_cast<int>(std::clamp<int64_t>((int64_t{512} << 20) / bytes + 1, 2, kPoolBytes / bytes));
  static Buffer x(DType::kBF16, {1, 1, 64 * 32768, 1}, kGpu), out(DType::kBF16, {1, 1, 64 * 131072, 1}, kGpu),
      scratch(DType::kBF16, {1, 1, 64 * 131072, 1}, kGpu);
  const TensorView inputs = x.view(DType::kBF16, {1, 1, m, shape.k});
  const TensorView result = out.view(DType::kBF16, {1, 1, m, shape.gated ? shape.n / 2 : shape.n});
  const TensorView whole = scratch.view(DType::kBF16, {1, 1, m, shape.n});
  const auto matrix = [&](int i) { return DeviceMatrix{pool + i * bytes, DType::kBF16, shape.n, shape.k}; };
  std::vector<Timing> timings;
  if (m <= cuda::kSkinnyRows)
    timings.push_back({"own", bench::time_in_graph(count, stream, [&](int i) {
                         cuda::skinny_matmul(inputs, matrix(i), {}, result, shape.gated, stream);
                       })});
  for (int candidate = 0; candidate < 6; ++candidate)
    timings.push_back({fmt::format("blas {}", candidate), bench::time_in_graph(count, stream, [&](int i) {
                         cuda::blas_matmul(inputs, matrix(i), {}, whole, stream, candidate);
                       })});
  if (shape.gated)
    timings.push_back({"silu_mul", bench::time_in_graph(count, stream, [&](int) {
                         kernels::impl::cuda_silu_mul(whole, result, stream);
                       })});
  return timings;
}

}  // namespace

int main(int argc, char** argv) {
  bool few = false;
  std::string path;
  for (int i = 1; i < argc; ++i) std::strcmp(argv[i], "--few") == 0 ? void(few = true) : void(path = argv[i]);
  try {
    Stream stream(kGpu);
    Buffer pool(kGpu, kPoolBytes);
    std::vector<uint16_t> halves(size_t{1} << 24);
    for (size_t i = 0; i < halves.size(); ++i)
      halves[i] = bf16_from_float(static_cast<float>(random_uniform(1, i) * 2 - 1));
    const auto piece = static_cast<int64_t>(halves.size() * 2);
    for (int64_t at = 0; at < kPoolBytes; at += piece)
      bench::check(cudaMemcpy(static_cast<char*>(pool.data()) + at, halves.data(), static_cast<size_t>(piece),
                              cudaMemcpyHostToDevice));
    Json all = Json::array();
    const std::vector<int64_t> rows =
        few ? std::vector<int64_t>{1, 8, 16, 32, 64} : std::vector<int64_t>{1, 2, 4, 8, 16, 24, 32, 48, 64};
    for (const Shape& shape : shapes(few))
      for (const int64_t m : rows) {
        const std::vector<Timing> timings = measure(shape, m, static_cast<char*>(pool.data()), stream);
        const double bytes = static_cast<double>(shape.n * shape.k * 2);
        std::string line = fmt::format("{:14} {:6}x{:<5} m {:2}", shape.name, shape.n, shape.k, m);
        for (const Timing& timing : timings) {
          line +=
              fmt::format(" | {} {:.1f}us {:.2f}", timing.how, timing.seconds * 1e6, bytes / timing.seconds * 1e-12);
          all.push_back({{"shape", shape.name},
                         {"n", shape.n},
                         {"k", shape.k},
                         {"gated", shape.gated},
                         {"m", m},
                         {"how", timing.how},
                         {"seconds", timing.seconds},
                         {"bytes_per_s", bytes / timing.seconds}});
        }
        fmt::print("{}\n", line);
        std::fflush(stdout);
      }
    if (!path.empty()) write_file(path, all.dump(1) + "\n");
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "bench_matmul_cuda: {}\n", error.what());
    return 1;
  }
}
