#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"
#include "lane/comm/executor/program.h"
#include "lane/comm/executor/reduce.h"
#include "lane/comm/group/board.h"
#include "lane/comm/transport.h"

namespace lane {

class Patience;

// In front of every message, so that ranks which call different things learn it before they touch the data. Behind it
// come the message's chunks and zeros up to a multiple of Transport::kAlignment.
struct MessageHeader {
  uint64_t number = 0;  // of the collective, counted by its group
  int64_t vector_bytes = 0;
  uint32_t message_bytes = 0;
  uint16_t algorithm = 0;
  int16_t root = -1;
  uint16_t round = 0;
  OperationKind kind = OperationKind::kNone;
  DType dtype = DType::kU8;
  ReduceOp reduce_op = ReduceOp::kSum;
  uint8_t unused[3] = {};
  bool operator==(const MessageHeader&) const = default;
};
static_assert(sizeof(MessageHeader) == 32);

// A chunk of the vector that a program works on: where it is given and where its result goes, which may be the same.
struct Chunk {
  const void* in;
  void* out;
  int64_t count;  // elements
};

// Runs programs over transports. All messages of a round progress side by side, in whatever pieces their links take and
// bring; a piece is added up straight out of the link as soon as all that goes into it is there. Long vectors are cut
// into slices, for each of which the program runs once, so that sums stay in the caches.
//
// Ends in an Error of the whole group when a wait makes no progress for `timeout`, when a rank leaves or dies, or when
// ranks call different things.
class Executor {
 public:
  // `ways`, by rank: the transport that leads there. `own_core`: nobody else needs this rank's core while it waits.
  Executor(std::vector<Transport*> ways, Board& board, std::chrono::nanoseconds timeout, bool own_core);

  void run(const Program& program, std::span<const Chunk> chunks, DType dtype, MessageHeader header);

 private:
  struct Slice;
  struct Outgoing {
    int64_t sent = 0, total = 0;  // bytes, with header and padding
    MessageHeader header;
  };
  struct Incoming {  // how far an inbox was read
    int message = 0, part = 0;
    int64_t done = 0;   // elements of the part
    int64_t front = 0;  // bytes of the link before the next element: a header that was read
    bool in_message = false, over = false;
  };

  void run_round(const Program::Round& round, const Slice& slice);
  bool push(const Program::Send& send, Outgoing& out, const Slice& slice);
  bool pull(const Program::Round& round, const Program::Inbox& inbox, Incoming& in, const Slice& slice);
  bool add(const Program::Round& round, const Program::Sum& sum, int64_t& done, const Slice& slice);
  // The payload that is there, perhaps none, of the message in hand, whose header is checked first; nothing while the
  // link has not come so far.
  std::optional<std::span<const std::byte>> look(const Program::Inbox& inbox, Incoming& in, int64_t wanted,
                                                 const Slice& slice);
  void take(const Program::Inbox& inbox, Incoming& in, int64_t count, int64_t bytes, int64_t available,
            const Slice& slice);
  int64_t sent_elements(const Program::Round& round, std::span<const std::pair<int, int>> sends, const Slice& slice);
  void wait_on(const Program::Round& round, Patience& patience);
  void look_for_trouble(const Program::Round& round, Patience& patience);
  std::pair<int, int> awaited(const Program::Round& round);  // (peer, link)
  [[noreturn]] void fail_mismatch(int peer, const MessageHeader& theirs);

  std::vector<Transport*> ways_;
  Transport* local_ = nullptr;
  Transport* remote_ = nullptr;
  Board& board_;
  std::chrono::nanoseconds timeout_;
  bool own_core_;
  MessageHeader header_;
  int divisor_ = 1;
  bool said_what_for_ = false;      // on the board
  int pending_ = 0;                 // sends, inboxes and sums of the round that are not done
  std::vector<Outgoing> outgoing_;  // by send
  std::vector<Incoming> incoming_;  // by inbox
  std::vector<int64_t> sums_done_;  // by sum: elements; -1 when over
  std::vector<int64_t> to_skip_;    // by link: padding that had not arrived when its message was done
  std::vector<iovec> pieces_;
  std::vector<Operand> operands_;
  std::vector<int64_t> available_;  // by operand
  std::vector<std::byte> scratch_;
};

}  // namespace lane
