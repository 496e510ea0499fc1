#include "lane/comm/executor/reduce.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "lane/base/random.h"

namespace lane {
namespace {

// Operand by operand in float32, rounded once: bit for bit what a plain loop gives, for all lengths of tail, all mixes
// of types, and in place.
TEST(Reduce, IsThePlainLoop) {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (const int64_t count : {0, 1, 7, 16, 511, 512, 513, 2000})
    for (const int num_operands : {1, 2, 5})
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax})
        for (int mix = 0; mix < 6; ++mix) {
          std::vector<std::vector<float>> storage(static_cast<size_t>(num_operands),
                                                  std::vector<float>(static_cast<size_t>(count)));
          std::vector<Operand> operands;
          std::vector<float> wanted(static_cast<size_t>(count));
          for (int k = 0; k < num_operands; ++k) {
            const DType type =
                types[mix < 3
                          ? mix
                          : static_cast<int>(random_bits(static_cast<uint64_t>(mix), static_cast<uint64_t>(k)) % 3)];
            float* data = storage[static_cast<size_t>(k)].data();
            for (int64_t i = 0; i < count; ++i) {
              float x =
                  static_cast<float>(random_uniform(static_cast<uint64_t>(k), static_cast<uint64_t>(i)) * 100 - 50);
              if (type == DType::kBF16) {
                const uint16_t bits = bf16_from_float(x);
                reinterpret_cast<uint16_t*>(data)[i] = bits;
                x = float_from_bf16(bits);
              } else if (type == DType::kF16) {
                const uint16_t bits = f16_from_float(x);
                reinterpret_cast<uint16_t*>(data)[i] = bits;
                x = float_from_f16(bits);
              } else {
                data[i] = x;
              }
              float& sum = wanted[static_cast<size_t>(i)];
              sum = k == 0 ? x : op == ReduceOp::kSum ? sum + x : std::max(sum, x);
            }
            operands.push_back({data, type});
          }
          void* out = const_cast<void*>(operands.back().data);  // in place
          const DType out_type = operands.back().dtype;
          reduce(operands, out, out_type, count, op);
          for (int64_t i = 0; i < count; ++i) {
            const float x = wanted[static_cast<size_t>(i)];
            if (out_type == DType::kF32)
              ASSERT_EQ(std::bit_cast<uint32_t>(static_cast<float*>(out)[i]), std::bit_cast<uint32_t>(x));
            else
              ASSERT_EQ(static_cast<uint16_t*>(out)[i],
                        out_type == DType::kBF16 ? bf16_from_float(x) : f16_from_float(x));
          }
        }
}

TEST(Reduce, SpecialValues) {
  const float a[] = {INFINITY, -INFINITY, NAN, -0.0f, 1}, b[] = {1, INFINITY, 1, -0.0f, NAN};
  float out[5];
  reduce(std::vector<Operand>{{a, DType::kF32}, {b, DType::kF32}}, out, DType::kF32, 5, ReduceOp::kSum);
  EXPECT_EQ(out[0], INFINITY);
  EXPECT_TRUE(std::isnan(out[1]) && std::isnan(out[2]) && std::isnan(out[4]));
  EXPECT_TRUE(out[3] == 0 && std::signbit(out[3])) << "-0 + -0 is -0: nothing was added to a zero";
  reduce(std::vector<Operand>{{a, DType::kF32}, {b, DType::kF32}}, out, DType::kF32, 5, ReduceOp::kMax);
  EXPECT_EQ(out[1], INFINITY);
  EXPECT_TRUE(std::isnan(out[2]) && std::isnan(out[4]));
}

}  // namespace
}  // namespace lane
