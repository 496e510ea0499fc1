#include <gtest/gtest.h>

#include <vector>

#include "lane/base/random.h"
#include "lane/device/graph.h"
#include "lane/device/memory_error.h"
#include "lane/device/staging.h"
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

TEST(CudaDevice, TooMuchMemoryIsAnErrorWithTheNumbers) {
  try {
    const Buffer buffer(DType::kU8, {1, 1, 1, int64_t{1} << 50}, kGpu);
    ADD_FAILURE() << "a PiB was allocated";
  } catch (const DeviceMemoryError& error) {
    const std::string text = error.what();
    for (const char* word : {"out of memory on GPU 0 (", "allocating 1024.00 TiB", " are free", "--tp"})
      EXPECT_NE(text.find(word), std::string::npos) << text;
  }
  Stream stream(kGpu);  // and the device still works
  stream.synchronize();
}

TEST(CudaDevice, WhatIsStagedArrivesWhole) {
  constexpr int64_t kPiece = 1 << 20;
  Stream stream(kGpu);
  const Buffer buffer(kGpu, 40 * kPiece + 3);
  {
    Staging staging(kGpu, kPiece);
    for (int64_t begin = 0; begin < buffer.bytes(); begin += kPiece) {
      const int64_t bytes = std::min(kPiece, buffer.bytes() - begin);
      auto* to = static_cast<uint8_t*>(staging.next());
      for (int64_t i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(mix64(static_cast<uint64_t>(begin + i)));
      TensorView part = buffer.view(DType::kU8, {1, 1, 1, bytes});
      part.data = static_cast<char*>(part.data) + begin;
      staging.send(part);
    }
    staging.finish();
  }
  std::vector<uint8_t> received(static_cast<size_t>(buffer.bytes()));
  copy_to_host(buffer.view(), received.data(), stream);
  for (size_t i = 0; i < received.size(); ++i) ASSERT_EQ(received[i], static_cast<uint8_t>(mix64(i))) << "byte " << i;
}

TEST(CudaDevice, WorkThatThrowsWhileItIsRecordedLeavesTheStreamUsable) {
  Stream stream(kGpu);
  const Buffer from(kGpu, 4096), to(kGpu, 4096);
  const std::vector<char> sevens(4096, 7);
  copy_to_device(sevens.data(), from.view(), stream);
  stream.synchronize();
  for (int turn = 0; turn < 3; ++turn)
    EXPECT_THROW(Graph(stream,
                       [&] {
                         copy_on_device(from.view(), to.view(), stream);
                         throw DeviceMemoryError("on purpose");
                       }),
                 DeviceMemoryError);
  std::vector<char> received(4096);
  Graph graph(stream, [&] { copy_on_device(from.view(), to.view(), stream); });
  graph.launch(stream);
  copy_to_host(to.view(), received.data(), stream);
  EXPECT_EQ(received, sevens);
}

}  // namespace
}  // namespace lane
