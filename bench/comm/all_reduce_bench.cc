// Time of one all_reduce between processes of this machine, back to back:
//   bench_all_reduce [ranks] [float32|bfloat16] [algorithm]
// Prints, per size, the 10th, 50th and 99th percentile over batches of calls, on rank 0. On a machine that does other
// things too the 10th is the one that says something about the code.
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "lane/base/trace.h"
#include "lane/comm/communicator.h"
#include "lane/comm/launch.h"

int main(int argc, char** argv) {
  using namespace lane;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const int num_ranks = argc > 1 ? std::stoi(argv[1]) : 2;
  const auto seat = launched_rank();
  if (!seat) return run_local_ranks(num_ranks, arguments);
  try {
    const DType dtype = argc > 2 && !std::strcmp(argv[2], "bfloat16") ? DType::kBF16 : DType::kF32;
    JoinOptions options{.rank = seat->rank, .size = seat->size, .job = seat->job};
    if (argc > 3) options.algorithm = argv[3];
    Communicator group = Communicator::join(options);
    cpu_set_t core;  // a core for each rank, as far as they go: two on one core would measure the scheduler
    CPU_ZERO(&core);
    CPU_SET(static_cast<size_t>(seat->rank % ::sysconf(_SC_NPROCESSORS_ONLN)), &core);
    ::sched_setaffinity(0, sizeof(core), &core);
    Stream stream;
    for (const int64_t bytes : {8, 1 << 10, 8 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20}) {
      const Buffer in(dtype, {1, 1, 1, bytes / size_of(dtype)}), out(dtype, {1, 1, 1, bytes / size_of(dtype)});
      const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{2} << 20) / (bytes + 4096), 4, 200));
      std::vector<double> us;
      for (int batch = 0; batch < 320; ++batch) {
        group.barrier(stream);
        const int64_t start = now_ns();
        for (int i = 0; i < calls; ++i) group.all_reduce(in.view(), out.view(), ReduceOp::kSum, stream);
        if (batch >= 20) us.push_back(static_cast<double>(now_ns() - start) * 1e-3 / calls);
      }
      std::sort(us.begin(), us.end());
      if (group.rank() == 0)
        fmt::print("{:>8} B  {:9.2f} us p10  {:9.2f} us p50  {:9.2f} us p99   {}\n", bytes, us[us.size() / 10],
                   us[us.size() / 2], us[us.size() * 99 / 100], group.explain_all_reduce(bytes));
    }
  } catch (const Error& error) {
    fmt::print(stderr, "rank {}: {}\n", seat->rank, error.what());
    return 1;
  }
}
