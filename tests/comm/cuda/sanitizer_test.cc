// The small set that scripts/gpu_check.sh runs under compute-sanitizer: ranks are threads, a GPU each, so that the tool
// sees all of them.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

#include "lane/comm/local_group.h"
#include "lane/net/vectors.h"

namespace lane {
namespace {

int num_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Calls `body` on a thread for each rank; the first error that one throws is the test's.
void on_all(std::vector<Communicator>& group, const std::function<void(Communicator&, Device, Stream&)>& body) {
  std::vector<std::thread> threads;
  std::vector<std::string> errors(group.size());
  for (size_t r = 0; r < group.size(); ++r)
    threads.emplace_back([&, r] {
      try {
        const Device device{DeviceKind::kCuda, static_cast<int>(r)};
        Stream stream(device);
        body(group[r], device, stream);
      } catch (const std::exception& error) {
        errors[r] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

void check_sums(Communicator& group, Device device, Stream& stream, DType type, int64_t count) {
  const Buffer in(type, {1, 1, 1, count}, device), out(type, {1, 1, 1, count}, device);
  std::vector<char> host(static_cast<size_t>(count * size_of(type)));
  net::fill(type, ReduceOp::kSum, group.rank(), count, host.data());
  copy_to_device(host.data(), in.view(), stream);
  group.all_reduce(in.view(), out.view(), ReduceOp::kSum, stream);
  group.wait(stream);
  copy_to_host(out.view(), host.data(), stream);
  EXPECT_EQ(net::count_wrong(type, ReduceOp::kSum, group.size(), host.data(), count, net::Rounding::kOnce), 0);
}

TEST(Sanitizer, AllReduceOfEveryKind) {
  const int ranks = std::min(num_gpus(), 4);
  if (ranks < 2) GTEST_SKIP() << "needs two GPUs";
  auto group = make_local_group(ranks, {.timeout = std::chrono::seconds(100)});
  on_all(group, [](Communicator& self, Device device, Stream& stream) {
    for (const char* name : {"one_shot:2x64", "two_shot:2x64"}) {
      self.open_device(device);
      self.set_device_algorithm(name);
      for (const DType type : {DType::kBF16, DType::kF32})
        for (const int64_t count : {1, 37, 2048, 9000}) check_sums(self, device, stream, type, count);
    }
  });
}

TEST(Sanitizer, TheFusedNormAndTheRest) {
  const int ranks = std::min(num_gpus(), 4);
  if (ranks < 2) GTEST_SKIP() << "needs two GPUs";
  auto group = make_local_group(ranks, {.timeout = std::chrono::seconds(100)});
  on_all(group, [](Communicator& self, Device device, Stream& stream) {
    const int64_t rows = 3, hidden = 512, n = self.size();
    const auto tensor = [&](int64_t count) {
      Buffer buffer(DType::kBF16, {1, 1, 1, count}, device);
      const std::vector<uint16_t> ones(static_cast<size_t>(count), 0x3f80);
      copy_to_device(ones.data(), buffer.view(), stream);
      return buffer;
    };
    const Buffer in = tensor(rows * hidden), residual = tensor(rows * hidden), weight = tensor(hidden),
                 normed = tensor(rows * hidden), all = tensor(n * rows * hidden);
    const auto matrix = [&](const Buffer& buffer) { return buffer.view(DType::kBF16, {1, 1, rows, hidden}); };
    self.all_reduce_add_rms_norm(matrix(in), matrix(residual), weight.view(), 1e-5f, matrix(normed), stream);
    self.all_gather(in.view(), all.view(), stream);
    self.reduce_scatter(all.view(), residual.view(), ReduceOp::kSum, stream);
    self.broadcast(weight.view(), 0, stream);
    self.wait(stream);
    std::vector<uint16_t> got(static_cast<size_t>(rows * hidden));
    copy_to_host(normed.view(), got.data(), stream);
    for (const uint16_t value : got) ASSERT_NEAR(float_from_bf16(value), 1.0f, 0.01f);  // all elements are alike
    copy_to_host(residual.view(), got.data(), stream);
    for (const uint16_t value : got) ASSERT_EQ(float_from_bf16(value), static_cast<float>(n));
  });
}

}  // namespace
}  // namespace lane
