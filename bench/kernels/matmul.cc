#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <vector>

#include "bench/kernels/onednn.h"
#include "bench/kernels/peak.h"
#include "lane/base/json.h"
#include "lane/base/random.h"
#include "lane/base/trace.h"
#include "lane/kernels/kernels.h"

// How close matmul() comes to the machine: reading the weights once is one floor, doing the arithmetic the other.
// Weights rotate over copies that no cache holds, as the layers of a model do.
namespace lane::bench {
namespace {

using kernels::PackedMatrix;

struct Options {
  std::vector<int64_t> rows = {1, 2, 4, 8, 16, 64, 512};
  std::vector<int> threads = {1, 2};
  int64_t n = 4096, k = 4096;
  int64_t working_set = int64_t{544} << 20;
  double seconds = 1;  // per line
  std::vector<std::string> dtypes = {"bfloat16"};
  bool onednn = true, json = false;
};

bool use_cpu_time = false;  // set once, by a flag

// CPU time leaves out what other programs took from one thread on a busy machine.
int64_t clock_ns() {
  if (!use_cpu_time) return now_ns();
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * int64_t{1000000000} + t.tv_nsec;
}

// What this many threads can do at most.
struct Floors {
  double read_bytes_per_s = 0, flops = 0, bf16_flops = 0;
};

struct Line {
  std::string kernel, dtype;
  int64_t m, n, k;
  int num_threads;
  double p50_s, best_s;
  Floors floors;
};

// Bytes per second of threads that only read memory that no cache holds; the best of some passes.
double read_bandwidth(const Buffer& memory, int num_threads) {
  ThreadPool threads(num_threads);
  constexpr int64_t kPiece = 1 << 20;
  double best = 0;
  uint64_t total = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const int64_t start = clock_ns();
    threads.run(memory.bytes() / kPiece, [&](int64_t piece) {  // four streams at a time, as matmul reads a piece of W
      using Words = uint64_t __attribute__((vector_size(16)));
      constexpr int64_t kStream = kPiece / 4 / sizeof(Words);
      const auto* words = static_cast<const Words*>(memory.data()) + piece * 4 * kStream;
      Words sum[4][2] = {};
      for (int64_t i = 0; i < kStream; i += 2)
        for (int stream = 0; stream < 4; ++stream) {
          sum[stream][0] += words[stream * kStream + i];
          sum[stream][1] += words[stream * kStream + i + 1];
        }
      for (const auto& s : sum) __atomic_fetch_add(&total, s[0][0] + s[0][1] + s[1][0] + s[1][1], __ATOMIC_RELAXED);
    });
    best = std::max(best, static_cast<double>(memory.bytes()) / static_cast<double>(clock_ns() - start) * 1e9);
  }
  ensure(total == 3 * static_cast<uint64_t>(memory.bytes()) / 8, "the probe read all of its memory");
  return best;
}

// Floors are measured before and after every line, since other users of a machine take their share of it.
class Probe {
 public:
  explicit Probe(int64_t bytes) : memory_(Device{}, bytes) {
    std::fill_n(static_cast<uint64_t*>(memory_.data()), bytes / 8, 1);
  }
  void measure(int num_threads, Floors& best) const {
    const std::string_view isa = kernels::cpu_isa();
    best.read_bytes_per_s = std::max(best.read_bytes_per_s, read_bandwidth(memory_, num_threads));
    best.flops = std::max(best.flops, peak_flops(isa, false, num_threads, clock_ns));
    best.bf16_flops = std::max(best.bf16_flops, peak_flops(isa, true, num_threads, clock_ns));
  }

 private:
  Buffer memory_;
};

// run(copy) again and again, over all copies in turn, for about `seconds`.
template <class Run>
Line measure(const Probe& probe, double seconds, int num_threads, int num_copies, Run&& run) {
  std::vector<double> times;
  Line line{};
  probe.measure(num_threads, line.floors);
  run(0);
  const int64_t end = now_ns() + static_cast<int64_t>(seconds * 1e9);
  for (int i = 1; times.size() < 5 || now_ns() < end; ++i) {
    const int64_t start = clock_ns();
    run(i % num_copies);
    times.push_back(static_cast<double>(clock_ns() - start) * 1e-9);
  }
  probe.measure(num_threads, line.floors);
  std::sort(times.begin(), times.end());
  line.p50_s = times[times.size() / 2];
  line.best_s = times.front();
  return line;
}

Line measure_lane(const Options& options, const Probe& probe, DType dtype, const std::vector<PackedMatrix>& weights,
                  int64_t m, int num_threads) {
  Stream stream({}, num_threads);
  Buffer x(DType::kF32, {1, 1, m, options.k}), out(DType::kF32, {1, 1, m, options.n});
  for (int64_t i = 0; i < m * options.k; ++i)
    x.view().as<float>()[i] = static_cast<float>(random_uniform(1, static_cast<uint64_t>(i))) - 0.5f;
  Line line = measure(probe, options.seconds, num_threads, static_cast<int>(weights.size()), [&](int copy) {
    kernels::matmul(x.view(), weights[static_cast<size_t>(copy)], {}, out.view(), stream);
  });
  line.kernel = "lane " + std::string(kernels::cpu_isa());
  line.dtype = name_of(dtype);
  return line;
}

class Report {
 public:
  explicit Report(const Options& options) : options_(options) {
    if (options.json) return;
    fmt::print(
        "W is {} x {}, rotating over {} MiB. read, peak: what the threads can read and compute at most, measured "
        "beside\n"
        "each line; floor: the longer of reading W once and doing the arithmetic; share: floor / p50.\n\n",
        options.n, options.k, options.working_set >> 20);
    fmt::print("{:<26} {:<9} {:>4} {:>3} {:>10} {:>10} {:>6} {:>6} {:>8} {:>8} {:>10} {:<8} {:>5}\n", "kernel",
               "weights", "rows", "thr", "p50 us", "best us", "GB/s", "read", "GFLOP/s", "peak", "floor us", "by",
               "share");
  }

  void add(const Line& line) {
    const double bytes =
        static_cast<double>(options_.n * options_.k) * (line.dtype == "float32" ? sizeof(float) : sizeof(uint16_t));
    const double operations = 2.0 * static_cast<double>(options_.n * options_.k * line.m);
    const double peak = line.dtype == "bfloat16" ? line.floors.bf16_flops : line.floors.flops;
    const double read_s = bytes / line.floors.read_bytes_per_s, compute_s = peak > 0 ? operations / peak : 0;
    const double floor_s = std::max(read_s, compute_s);
    const char* bound = read_s > compute_s ? "reading" : "compute";
    if (options_.json)
      fmt::print("{}\n", Json{{"kernel", line.kernel},
                              {"weights", line.dtype},
                              {"rows", line.m},
                              {"n", options_.n},
                              {"k", options_.k},
                              {"threads", line.num_threads},
                              {"p50_s", line.p50_s},
                              {"best_s", line.best_s},
                              {"read_bytes_per_s", line.floors.read_bytes_per_s},
                              {"peak_flops", peak},
                              {"floor_s", floor_s},
                              {"bound", bound},
                              {"share_of_floor", floor_s / line.p50_s}}
                             .dump());
    else
      fmt::print(
          "{:<26} {:<9} {:>4} {:>3} {:>10.1f} {:>10.1f} {:>6.1f} {:>6.1f} {:>8.1f} {:>8.1f} {:>10.1f} {:<8} "
          "{:>4.0f}%\n",
          line.kernel, line.dtype, line.m, line.num_threads, line.p50_s * 1e6, line.best_s * 1e6,
          bytes / line.p50_s * 1e-9, line.floors.read_bytes_per_s * 1e-9, operations / line.p50_s * 1e-9, peak * 1e-9,
          floor_s * 1e6, bound, 100 * floor_s / line.p50_s);
    std::fflush(stdout);
  }

 private:
  const Options& options_;
};

void bench_onednn(const Options& options, const Probe& probe, DType dtype, int num_copies, Report& report) {
  for (const int num_threads : options.threads)
    for (const int64_t m : options.rows) {
      std::string why;
      const auto product = make_onednn(dtype, m, options.n, options.k, num_copies, num_threads, why);
      if (!product) {
        fmt::print(stderr, "{} rows of {}: {}\n", m, name_of(dtype), why);
        return;
      }
      const std::vector<float> x(static_cast<size_t>(m * options.k), 0.5f);
      std::vector<float> out(static_cast<size_t>(m * options.n));
      Line line = measure(probe, options.seconds, num_threads, num_copies,
                          [&](int copy) { product->run(copy, x.data(), out.data()); });
      line.kernel = "oneDNN " + product->implementation();
      line.dtype = name_of(dtype);
      line.m = m;
      line.num_threads = num_threads;
      report.add(line);
    }
}

void bench_dtype(const Options& options, const Probe& probe, DType dtype, Report& report) {
  const int64_t bytes = options.n * options.k * size_of(dtype);
  const int num_copies = static_cast<int>((options.working_set + bytes - 1) / bytes);
  {
    std::vector<PackedMatrix> weights;
    std::vector<uint16_t> values(static_cast<size_t>(options.n * options.k), bf16_from_float(0.01f));
    for (int i = 0; i < num_copies; ++i) {
      weights.emplace_back(Device{}, dtype, options.n, options.k);
      Stream stream;
      weights.back().set_rows(0, {values.data(), DType::kBF16, {1, 1, options.n, options.k}, {}}, stream);
    }
    for (const int num_threads : options.threads)
      for (const int64_t m : options.rows) {
        Line line = measure_lane(options, probe, dtype, weights, m, num_threads);
        line.m = m;
        line.num_threads = num_threads;
        report.add(line);
      }
  }
  if (options.onednn && dtype != DType::kF16) bench_onednn(options, probe, dtype, num_copies, report);
}

}  // namespace
}  // namespace lane::bench

int main(int argc, char** argv) {
  using namespace lane;
  using namespace lane::bench;
  Options options;
  CLI::App app("How close matmul() comes to the bandwidth and the arithmetic of this machine");
  app.add_option("--rows", options.rows, "rows of x: how many tokens at once")->capture_default_str();
  app.add_option("--threads", options.threads, "threads")->capture_default_str();
  app.add_option("-n", options.n, "rows of W")->capture_default_str();
  app.add_option("-k", options.k, "columns of W")->capture_default_str();
  app.add_option("--dtype", options.dtypes, "of the weights: float32, bfloat16, float16")->capture_default_str();
  app.add_option("--working-set", options.working_set, "bytes of W to rotate over")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "how long each line is measured")->capture_default_str();
  app.add_flag("--onednn,!--no-onednn", options.onednn, "compare with oneDNN where it was found");
  app.add_flag("--cpu-time", use_cpu_time, "time by the CPU clock of the first thread, not by the wall");
  app.add_flag("--json", options.json, "one JSON object a line");
  CLI11_PARSE(app, argc, argv);

  const Probe probe(std::max(options.working_set, int64_t{256} << 20));
  Report report(options);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    if (std::find(options.dtypes.begin(), options.dtypes.end(), name_of(dtype)) != options.dtypes.end())
      bench_dtype(options, probe, dtype, report);
}
