#include "lane/device/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace lane {
namespace {

TEST(Buffer, ComesZeroedAndAligned) {
  const Buffer buffer(DType::kF32, {1, 1, 3, 1000});
  EXPECT_EQ(buffer.bytes(), 12000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  for (int64_t i = 0; i < 3000; ++i) ASSERT_EQ(buffer.view().as<float>()[i], 0.0f);
}

TEST(Buffer, EmptyAndMovedBuffersAreHarmless) {
  Buffer empty(DType::kF32, {1, 1, 0, 5});
  EXPECT_EQ(empty.data(), nullptr);
  Buffer source(DType::kU8, {1, 1, 1, 10});
  void* memory = source.data();
  const Buffer target = std::move(source);
  EXPECT_EQ(target.data(), memory);
  EXPECT_EQ(Buffer().data(), nullptr);
}

TEST(Buffer, ImpossibleSizesAreErrorsNotAllocations) {
  EXPECT_THROW(Buffer(DType::kF32, {1, 1, -1, 5}), Error);
  EXPECT_THROW(Buffer(DType::kF32, {int64_t{1} << 40, int64_t{1} << 40, 1, 1}), Error);
}

TEST(TensorView, RowsAndShapesStayInside) {
  Buffer buffer(DType::kF32, {1, 2, 3, 4});
  for (int64_t i = 0; i < 24; ++i) buffer.view().as<float>()[i] = static_cast<float>(i);
  const TensorView rows = buffer.view().row_range(2, 3);
  EXPECT_EQ(rows.rows(), 3);
  EXPECT_EQ(rows.as<float>()[0], 8.0f);
  EXPECT_EQ(buffer.view().reshaped({1, 1, 1, 24}).cols(), 24);
  EXPECT_THROW(buffer.view().row_range(4, 3), Error);
  EXPECT_THROW(buffer.view().reshaped({1, 1, 1, 23}), Error);
  EXPECT_THROW(buffer.view(DType::kF32, {1, 1, 1, 25}), Error);
  EXPECT_THROW(buffer.view().as<uint16_t>(), Error);
}

TEST(Copy, HostToTensorAndBack) {
  Stream stream;
  Buffer buffer(DType::kI32, {1, 1, 1, 5});
  const std::vector<int32_t> sent{1, -2, 3, -4, 5};
  copy_to_device(sent.data(), buffer.view(), stream);
  std::vector<int32_t> received(5);
  copy_to_host(buffer.view(), received.data(), stream);
  EXPECT_EQ(received, sent);
}

TEST(Stream, TheCpuHasThreadsAndNoHandle) {
  Stream stream({}, 3);
  EXPECT_EQ(stream.threads().size(), 3);
  EXPECT_EQ(stream.native(), nullptr);
  EXPECT_EQ(stream.device().kind, DeviceKind::kCpu);
}

}  // namespace
}  // namespace lane
