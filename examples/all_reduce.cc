// Sums a vector over the ranks of a job.
//     mpirun -n 4 ./all_reduce        torchrun, srun and PMI do as well; started alone it is rank 0 of 1
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/comm/launch.h"

int main() {
  lane::Communicator group;  // of one, until it joins others
  try {
    if (const auto me = lane::launched_rank()) group = lane::Communicator::join(lane::join_options(*me));

    std::vector<float> values(1000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * static_cast<float>(group.rank() + 1);

    lane::Stream stream;
    const lane::TensorView view{values.data(), lane::DType::kF32, {1, 1, 1, static_cast<int64_t>(values.size())}, {}};
    group.all_reduce(view, view, lane::ReduceOp::kSum, stream);
    stream.synchronize();

    std::printf("rank %d of %d: the sum of element 10 is %g\n", group.rank(), group.size(), values[10]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", group.rank(), error.what());
    return 1;
  }
}
