#pragma once
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"
#include "lane/comm/executor/program.h"
#include "lane/comm/executor/reduce.h"
#include "lane/comm/group/board.h"
#include "lane/comm/transport.h"

namespace lane {

// In front of every message, so that ranks which call different things learn it before they touch the data.
struct MessageHeader {
  uint64_t number = 0;  // of the collective: 1 for a group's first
  int64_t vector_bytes = 0;
  OperationKind kind = OperationKind::kNone;
  DType dtype = DType::kU8;
  ReduceOp reduce_op = ReduceOp::kSum;
  uint8_t algorithm = 0;
  int16_t root = -1;
  uint16_t round = 0;
  bool operator==(const MessageHeader&) const = default;
};
static_assert(sizeof(MessageHeader) == 24);

// The vector a program works on. Chunk c is elements [offsets[c], offsets[c + 1]) of `in` and of `out`, which may be
// the same memory.
struct Vector {
  const void* in;
  void* out;
  DType dtype;
  std::span<const int64_t> offsets;
};

// Runs programs over a transport. A chunk too large for a message is cut into slices, and the program runs once per
// slice: while one rank adds up a slice, the next is already in the links. Ends in an Error of the whole group when a
// wait makes no progress for `timeout`, when a rank leaves or dies, or when ranks call different things.
class Executor {
 public:
  Executor(Transport& transport, Board& board, std::chrono::nanoseconds timeout);

  void run(const Program& program, const Vector& vector, MessageHeader header);

 private:
  struct Slice;
  void send(const Program::Instruction& step, const Slice& slice);
  void receive(const Program::Instruction& step, const Slice& slice);
  void reduce_collected(const Program::Instruction& step, const Slice& slice);
  std::span<const std::byte> next_message(const Program::Instruction& step, int64_t bytes);
  template <class Ready>
  std::invoke_result_t<Ready> wait(const Program::Instruction& step, Ready ready);  // until it gives something
  [[noreturn]] void fail_mismatch(int peer, const MessageHeader& theirs, int64_t bytes);

  Transport& transport_;
  Board& board_;
  std::chrono::nanoseconds timeout_;
  int num_spins_;
  MessageHeader header_;
  ReduceOp op_ = ReduceOp::kSum;
  std::vector<const Program::Instruction*> collected_;
  std::vector<Operand> operands_;
  std::vector<float> partial_;  // one slice of every chunk
};

}  // namespace lane
