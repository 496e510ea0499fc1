#include "lane/comm/cuda/self_test.h"

#include <fmt/format.h>

#include <cstring>

#include "lane/base/log.h"
#include "lane/device/tensor.h"

namespace lane::cuda {
namespace {

// Whole numbers whose sums bfloat16 holds exactly, so that rounding on the way, as NCCL's, changes nothing: up to 8
// among few ranks, and 0 or 1 among many (up to 256).
uint16_t number_of(int rank, int64_t i, int size) {
  const int64_t most = size <= 28 ? 9 : 2;
  return bf16_from_float(static_cast<float>((i * 7 + rank * 3) % most));
}

}  // namespace

void self_test(DeviceGroup& group, const Exchange& exchange, int rank, int size, Device device) {
  Stream stream(device);
  for (const std::string& algorithm : group.algorithms())
    for (const int64_t count : {1, 4099, 131'072}) {
      std::vector<uint16_t> given(static_cast<size_t>(count)), wanted(given), got(given);
      for (int64_t i = 0; i < count; ++i) {
        float sum = 0;
        for (int r = 0; r < size; ++r) sum += float_from_bf16(number_of(r, i, size));
        given[static_cast<size_t>(i)] = number_of(rank, i, size);
        wanted[static_cast<size_t>(i)] = bf16_from_float(sum);
      }
      const Buffer in(DType::kBF16, {1, 1, 1, count}, device), out(DType::kBF16, {1, 1, 1, count}, device);
      copy_to_device(given.data(), in.view(), stream);
      group.set_algorithm(algorithm);
      group.all_reduce(in.view(), out.view(), ReduceOp::kSum, stream);
      copy_to_host(out.view(), got.data(), stream);
      group.check_failure();
      std::string wrong;
      const std::vector<std::string> verdicts = exchange(got == wanted ? "" : "wrong");
      for (int r = 0; r < size; ++r)
        if (!verdicts[static_cast<size_t>(r)].empty()) wrong += fmt::format("{}{}", wrong.empty() ? "" : ", ", r);
      if (!wrong.empty())
        throw Error(
            ErrorCode::kDevice,
            fmt::format("self-test: {} of {} bfloat16 numbers came out wrong on rank {}; the GPUs, their links or "
                        "their driver are not to be trusted (LANE_GPU_SELF_TEST=off leaves the test out)",
                        algorithm, count, wrong));
    }
  group.set_algorithm("auto");
  if (rank == 0) log(LogLevel::kInfo, "all-reduces on GPUs passed the self-test");
}

}  // namespace lane::cuda
