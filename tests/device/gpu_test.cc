#include <gtest/gtest.h>

#include <vector>

#include "lane/base/random.h"
#include "lane/device/tensor.h"

namespace lane {
namespace {

constexpr Device kGpu{.kind = DeviceKind::kCuda, .index = 0};

TEST(CudaDevice, BytesSurviveTheTripToTheGpuAndBack) {
  Stream stream(kGpu);
  EXPECT_NE(stream.native(), nullptr);
  for (const int64_t count : {1, 3, 1000, 1 << 20}) {
    std::vector<int32_t> sent, received(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) sent.push_back(static_cast<int32_t>(random_bits(7, static_cast<uint64_t>(i))));
    const Buffer buffer(DType::kI32, {1, 1, 1, count}, kGpu);
    copy_to_device(sent.data(), buffer.view(), stream);
    copy_to_host(buffer.view(), received.data(), stream);
    EXPECT_EQ(received, sent);
  }
}

TEST(CudaDevice, TooMuchMemoryIsAnErrorNotACrash) {
  EXPECT_THROW(Buffer(DType::kU8, {1, 1, 1, int64_t{1} << 50}, kGpu), Error);
  Stream stream(kGpu);  // and the device still works
  stream.synchronize();
}

}  // namespace
}  // namespace lane
