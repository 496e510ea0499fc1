#include "lane/comm/executor/executor.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "lane/base/trace.h"
#include "lane/base/wait.h"
#include "lane/plan/parallel.h"

namespace lane {
namespace {

using plan::Action;

constexpr int64_t kHeaderBytes = sizeof(MessageHeader);
constexpr int64_t kGranule = 16;  // elements: slices begin at multiples, so that vector loads stay aligned

constexpr int kBusyTurn = 0, kYieldingTurn = 1000;  // for spin_turn()

// Turns a wait spins before it first gives its core away: a few hundred µs where every rank can have a core, because a
// core that is given away while anything else runs comes back a time slice later; a few µs where ranks share cores.
int spins_for(int num_ranks) { return num_ranks <= static_cast<int>(std::thread::hardware_concurrency()) ? 8192 : 64; }

// How a wait goes on that a few microseconds of spinning did not end. It gives its core away, because the peer may need
// just that one; on a free core this costs a fraction of a microsecond a turn. After a while it sleeps a sixteenth of
// the time already waited, so that an idle group costs next to nothing and no wait is stretched by much.
class Patience {
 public:
  explicit Patience(std::chrono::nanoseconds limit)
      : start_ns_(now_ns()), looked_ns_(start_ns_), deadline_ns_(start_ns_ + limit.count()) {}

  // True when it is time to look at the board and the deadline.
  bool turn() {
    if (pause_ns_ > 0) {
      const timespec pause{0, pause_ns_};
      ::nanosleep(&pause, nullptr);
    } else {
      spin_turn(kYieldingTurn);
      if (++turn_ % 16 != 0) return false;
    }
    const int64_t now = now_ns();
    // A process that was stopped itself must not blame its peers for the time it did not run.
    if (now - looked_ns_ > kOwnStop) deadline_ns_ += now - looked_ns_;
    looked_ns_ = now;
    const int64_t waited = now - start_ns_;
    if (waited > kPatientAfter) pause_ns_ = std::min<int64_t>(waited / 16, kLongestPause);
    return true;
  }
  bool is_over() const { return looked_ns_ > deadline_ns_; }
  double waited_s() const { return static_cast<double>(looked_ns_ - start_ns_) * 1e-9; }

 private:
  static constexpr int64_t kPatientAfter = 2'000'000, kLongestPause = 1'000'000, kOwnStop = 500'000'000;
  int64_t start_ns_, looked_ns_, deadline_ns_;
  int64_t pause_ns_ = 0;
  int turn_ = 0;
};

// Texts carry commands: a rank may come to one after loading a model for minutes, or after a person typed. The deadline
// of such a wait is the peer's sign of life.
bool is_patient(OperationKind kind) {
  return kind == OperationKind::kBroadcastText || kind == OperationKind::kGatherText;
}

std::string describe(const MessageHeader& header) {
  std::string text = fmt::format("{} #{}", name_of(header.kind), header.number);
  if (header.kind == OperationKind::kBarrier) return text;
  text += fmt::format(" of {} B of {}", header.vector_bytes, name_of(header.dtype));
  if (header.kind == OperationKind::kAllReduce) text += header.reduce_op == ReduceOp::kSum ? " (sum)" : " (max)";
  if (header.root >= 0) text += fmt::format(" from rank {}", header.root);
  return text;
}

}  // namespace

// A slice of every chunk, and where its parts lie.
struct Executor::Slice {
  const Vector& vector;
  int index, num_slices;
  float* partial;
  int64_t partial_stride;  // elements per chunk

  plan::Range part(int chunk) const {
    const int64_t begin = vector.offsets[chunk], end = vector.offsets[chunk + 1];
    const plan::Range range = plan::even_part(end - begin, num_slices, index, kGranule);
    return {begin + range.begin, begin + range.end};
  }
  DType dtype(bool is_partial) const { return is_partial ? DType::kF32 : vector.dtype; }
  DType dtype(Place place) const { return dtype(place == Place::kPartial); }
  std::byte* at(Place place, int chunk, int64_t begin) const {
    if (place == Place::kPartial && vector.dtype != DType::kF32)
      return reinterpret_cast<std::byte*>(partial + chunk * partial_stride);
    void* base = place == Place::kInput ? const_cast<void*>(vector.in) : vector.out;
    return static_cast<std::byte*>(base) + begin * size_of(vector.dtype);
  }
};

Executor::Executor(Transport& transport, Board& board, std::chrono::nanoseconds timeout)
    : transport_(transport), board_(board), timeout_(timeout), num_spins_(spins_for(board.num_ranks())) {}

void Executor::run(const Program& program, const Vector& vector, MessageHeader header) {
  if (board_.failed()) board_.throw_failure();
  header_ = header;
  header_.algorithm = program.algorithm;
  op_ = header.reduce_op;
  board_.set_doing(header.kind, header.number);

  int64_t longest = 0;
  for (int chunk = 0; chunk < program.num_chunks; ++chunk)
    longest = std::max(longest, vector.offsets[chunk + 1] - vector.offsets[chunk]);
  const int64_t element_bytes =
      program.any_partial ? std::max<int64_t>(4, size_of(vector.dtype)) : size_of(vector.dtype);
  const int64_t granules = (transport_.max_message_bytes() - kHeaderBytes) / (kGranule * element_bytes);
  const int64_t needed = (longest + kGranule - 1) / kGranule;
  const int num_slices = static_cast<int>(std::max<int64_t>(1, (needed + granules - 1) / granules));

  Slice slice{vector, 0, num_slices, nullptr, (needed + num_slices - 1) / num_slices * kGranule};
  if (program.any_partial && vector.dtype != DType::kF32) {
    const size_t size = static_cast<size_t>(program.num_chunks * slice.partial_stride);
    if (partial_.size() < size) partial_.resize(size);
    slice.partial = partial_.data();
  }
  for (; slice.index < num_slices; ++slice.index)
    for (const Program::Instruction& step : program.instructions) {
      if (step.action == Action::kSend)
        send(step, slice);
      else if (step.action == Action::kCollect)
        collected_.push_back(&step);  // left in its link, and waited for, until it is added up
      else if (step.action == Action::kReduce)
        reduce_collected(step, slice);
      else
        receive(step, slice);
    }
  board_.set_doing(OperationKind::kNone, header.number);
}

void Executor::send(const Program::Instruction& step, const Slice& slice) {
  const plan::Range part = slice.part(step.chunk);
  const int64_t bytes = part.size() * size_of(slice.dtype(step.partial));
  std::byte* to = wait(step, [&] { return transport_.try_reserve(step.peer, kHeaderBytes + bytes); });
  header_.round = static_cast<uint16_t>(step.round);
  std::memcpy(to, &header_, kHeaderBytes);
  if (bytes > 0)
    std::memcpy(to + kHeaderBytes, slice.at(step.from, step.chunk, part.begin), static_cast<size_t>(bytes));
  transport_.commit(step.peer);
}

void Executor::receive(const Program::Instruction& step, const Slice& slice) {
  const plan::Range part = slice.part(step.chunk);
  const DType dtype = slice.dtype(step.partial);
  const auto message = next_message(step, part.size() * size_of(dtype));
  std::byte* to = slice.at(step.to, step.chunk, part.begin);
  if (step.action == Action::kRecvReduce) {
    const Operand operands[] = {{message.data(), dtype},
                                {slice.at(step.from, step.chunk, part.begin), slice.dtype(step.from)}};
    reduce(operands, to, slice.dtype(step.to), part.size(), op_);
  } else if (!message.empty()) {
    std::memcpy(to, message.data(), message.size());
  }
  transport_.release(step.peer);
}

void Executor::reduce_collected(const Program::Instruction& step, const Slice& slice) {
  const plan::Range part = slice.part(step.chunk);
  const Operand mine{slice.at(step.from, step.chunk, part.begin), slice.dtype(step.from)};
  operands_.clear();
  bool mine_is_in = false;
  for (const Program::Instruction* collected : collected_) {
    if (!mine_is_in && collected->peer > board_.rank()) operands_.push_back(mine), mine_is_in = true;
    const DType dtype = slice.dtype(collected->partial);
    operands_.push_back({next_message(*collected, part.size() * size_of(dtype)).data(), dtype});
  }
  if (!mine_is_in) operands_.push_back(mine);
  reduce(operands_, slice.at(step.to, step.chunk, part.begin), slice.dtype(step.to), part.size(), op_);
  for (const Program::Instruction* collected : collected_) transport_.release(collected->peer);
  collected_.clear();
}

std::span<const std::byte> Executor::next_message(const Program::Instruction& step, int64_t bytes) {
  std::span<const std::byte> message;
  wait(step, [&] {
    message = transport_.try_peek(step.peer);
    return message.data() != nullptr;
  });
  header_.round = static_cast<uint16_t>(step.round);
  MessageHeader theirs;
  ensure(static_cast<int64_t>(message.size()) >= kHeaderBytes, "a message begins with a header");
  std::memcpy(&theirs, message.data(), kHeaderBytes);
  message = message.subspan(kHeaderBytes);
  if (theirs != header_ || static_cast<int64_t>(message.size()) != bytes) [[unlikely]]
    fail_mismatch(step.peer, theirs, static_cast<int64_t>(message.size()));
  return message;
}

template <class Ready>
std::invoke_result_t<Ready> Executor::wait(const Program::Instruction& step, Ready ready) {
  for (int i = 0; i < num_spins_; ++i) {
    if (auto got = ready()) return got;
    spin_turn(kBusyTurn);
  }
  const int peer = step.peer;
  board_.set_waiting_for(peer);
  Patience patience(timeout_);
  for (;;) {
    if (auto got = ready()) {
      board_.set_waiting_for(-1);
      return got;
    }
    if (!patience.turn()) continue;
    if (board_.failed()) board_.throw_failure();
    if (board_.has_left(peer)) {
      if (auto got = ready()) return got;  // what it sent before it left counts
      board_.fail(ErrorCode::kPeerLost,
                  fmt::format("{} has left the job, but rank {} waits for it in {} #{}, step {}", board_.name_of(peer),
                              board_.rank(), name_of(header_.kind), header_.number, step.round + 1));
    }
    if (!patience.is_over()) continue;
    if (is_patient(header_.kind) && board_.is_running(peer, timeout_ / 2))
      patience = Patience(timeout_);
    else
      board_.fail(ErrorCode::kTimeout, fmt::format("rank {} waited {:.1f} s for {} in {} #{}, step {}", board_.rank(),
                                                   patience.waited_s(), board_.suspect(peer, timeout_ / 2),
                                                   name_of(header_.kind), header_.number, step.round + 1));
  }
}

void Executor::fail_mismatch(int peer, const MessageHeader& theirs, int64_t bytes) {
  MessageHeader same = theirs;
  same.algorithm = header_.algorithm;
  same.round = header_.round;
  const std::string who = board_.name_of(peer);
  if (same == header_ && theirs.algorithm != header_.algorithm)
    board_.fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{} runs {} with another algorithm than rank {}: LANE_ALGORITHM and the library must be the "
                    "same on all ranks",
                    who, describe(theirs), board_.rank()));
  if (same == header_)
    board_.fail(ErrorCode::kBug,
                fmt::format("{} sent {} B in step {} of {}, not what rank {} expects in step {}", who, bytes,
                            theirs.round + 1, describe(theirs), board_.rank(), header_.round + 1));
  board_.fail(ErrorCode::kInvalidArgument, fmt::format("{} calls {} while rank {} calls {}", who, describe(theirs),
                                                       board_.rank(), describe(header_)));
}

}  // namespace lane
