#include "lane/comm/executor/executor.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "lane/base/trace.h"
#include "lane/base/wait.h"
#include "lane/comm/executor/patience.h"
#include "lane/plan/parallel.h"

namespace lane {
namespace {

using plan::Action;

constexpr int64_t kHeaderBytes = sizeof(MessageHeader);
constexpr int64_t kElementAlignment = 4;
constexpr int64_t kGranule = 16;  // elements: pieces and slices begin at multiples, so that vector loads stay aligned

// The longest chunk of a slice. Where messages cost little, what a core can keep close; over a network, as much as
// makes the latency of the rounds a small part.
constexpr int64_t kLocalSliceBytes = 64 << 10, kRemoteSliceBytes = 4 << 20;

// What a peer sent before it left or died may still be on its way over a network, and so may the reason.
constexpr std::chrono::nanoseconds kRemoteGrace = std::chrono::milliseconds(500);
// A network wakes a sleeping rank, shared memory and the board do not.
constexpr std::chrono::nanoseconds kNetworkPause = std::chrono::milliseconds(5);
constexpr std::chrono::nanoseconds kMixedPause = std::chrono::microseconds(50);

constexpr std::byte kZeros[Transport::kAlignment] = {};

int64_t padded(int64_t payload) {
  return (kHeaderBytes + payload + Transport::kAlignment - 1) / Transport::kAlignment * Transport::kAlignment;
}

iovec piece(const void* data, int64_t bytes) { return {const_cast<void*>(data), static_cast<size_t>(bytes)}; }

std::string_view name_of(ReduceOp op) {
  constexpr std::string_view kNames[] = {"sum", "max", "min", "prod", "avg"};
  return static_cast<size_t>(op) < std::size(kNames) ? kNames[static_cast<size_t>(op)] : "?";
}

std::string describe(const MessageHeader& header) {
  std::string text = fmt::format("{} #{}", name_of(header.kind), header.number);
  if (header.kind == OperationKind::kBarrier) return text;
  text += fmt::format(" of {} B of {}", header.vector_bytes, name_of(header.dtype));
  if (header.kind == OperationKind::kAllReduce || header.kind == OperationKind::kReduceScatter)
    text += fmt::format(" ({})", name_of(header.reduce_op));
  if (header.root >= 0) text += fmt::format(" from rank {}", header.root);
  return text;
}

}  // namespace

// A slice of every chunk, and where its parts lie.
struct Executor::Slice {
  const Program& program;
  std::span<const Chunk> chunks;
  DType dtype;
  int index, num_slices;
  std::byte* scratch;
  int64_t scratch_stride;  // bytes per chunk

  plan::Range part(int chunk) const {
    if (num_slices == 1) return {0, chunks[chunk].count};
    return plan::even_part(chunks[chunk].count, num_slices, index, kGranule);
  }
  int64_t size(int chunk) const { return part(chunk).size(); }

  DType sent_type(bool partial) const { return partial ? partial_type(dtype) : dtype; }
  DType type_at(Place place) const { return place == Place::kScratch && program.sums ? partial_type(dtype) : dtype; }
  // Element `offset` of the slice of a chunk.
  std::byte* at(Place place, int chunk, int64_t offset) const {
    if (place == Place::kScratch && !(program.partial_in_output && partial_type(dtype) == dtype))
      return scratch + program.scratch_of[chunk] * scratch_stride + offset * size_of(type_at(place));
    const void* base = place == Place::kInput ? chunks[chunk].in : chunks[chunk].out;
    return const_cast<std::byte*>(static_cast<const std::byte*>(base)) + (part(chunk).begin + offset) * size_of(dtype);
  }
  // In a message, each part begins at a multiple of the largest element.
  int64_t bytes(const Program::Part& part) const { return size(part.chunk) * size_of(sent_type(part.partial)); }
  int64_t padding(const Program::Part& part) const { return -bytes(part) & (kElementAlignment - 1); }
  int64_t payload(const Program::Message& message) const {
    int64_t sum = 0;
    for (const Program::Part& part : message.parts) sum += bytes(part) + padding(part);
    return sum;
  }
};

Executor::Executor(std::vector<Transport*> ways, Board& board, std::chrono::nanoseconds timeout, bool own_core)
    : ways_(std::move(ways)),
      local_(ways_[board.rank()]),
      board_(board),
      timeout_(timeout),
      own_core_(own_core),
      to_skip_(2 * ways_.size(), 0) {
  for (Transport* way : ways_)
    if (way != local_) remote_ = way;
}

void Executor::run(const Program& program, std::span<const Chunk> chunks, DType dtype, MessageHeader header) {
  if (board_.failed()) board_.throw_failure();
  header_ = header;
  header_.algorithm = program.algorithm;
  header_.dtype = dtype;
  divisor_ = header.reduce_op == ReduceOp::kAvg ? board_.num_ranks() : 1;
  board_.set_doing(header.kind, header.number);

  int64_t longest = 0;
  for (const Chunk& chunk : chunks) longest = std::max(longest, chunk.count);
  const int64_t element_bytes = size_of(partial_type(dtype));
  const int64_t most = (remote_ ? kRemoteSliceBytes : kLocalSliceBytes) / (kGranule * element_bytes) * kGranule;
  const int num_slices = static_cast<int>(std::max<int64_t>(1, (longest + most - 1) / most));
  const int64_t stride = std::min(longest + kGranule, most + kGranule) * element_bytes;
  const bool uses_scratch = program.num_scratch > 0 && !(program.partial_in_output && partial_type(dtype) == dtype);
  if (uses_scratch && static_cast<int64_t>(scratch_.size()) < program.num_scratch * stride)
    scratch_.resize(static_cast<size_t>(program.num_scratch * stride));

  Slice slice{program, chunks, dtype, 0, num_slices, scratch_.data(), stride};
  for (; slice.index < num_slices; ++slice.index)
    for (const Program::Round& round : program.rounds) run_round(round, slice);
  board_.set_doing(OperationKind::kNone, header.number);
}

void Executor::run_round(const Program::Round& round, const Slice& slice) {
  header_.round = static_cast<uint16_t>(round.number);
  outgoing_.resize(round.sends.size());
  for (size_t i = 0; i < round.sends.size(); ++i) {
    const int64_t payload = slice.payload(round.sends[i].message);
    outgoing_[i] = {0, padded(payload), header_};
    outgoing_[i].header.message_bytes = static_cast<uint32_t>(payload);
  }
  incoming_.assign(round.inboxes.size(), {});
  sums_done_.assign(round.sums.size(), 0);
  pending_ = static_cast<int>(round.sends.size() + round.inboxes.size() + round.sums.size());

  Patience patience(timeout_, own_core_, remote_ != nullptr);
  for (;;) {
    bool moved = false;
    for (size_t i = 0; i < round.sends.size(); ++i)
      if (outgoing_[i].sent < outgoing_[i].total) moved |= push(round.sends[i], outgoing_[i], slice);
    for (size_t i = 0; i < round.inboxes.size(); ++i)
      if (!incoming_[i].over) moved |= pull(round, round.inboxes[i], incoming_[i], slice);
    for (size_t i = 0; i < round.sums.size(); ++i)
      if (sums_done_[i] >= 0) moved |= add(round, round.sums[i], sums_done_[i], slice);
    if (pending_ == 0) break;
    if (moved)
      patience.start_again();
    else if (patience.turn())
      wait_on(round, patience);
  }
  if (said_what_for_) board_.set_waiting_for(-1);
  said_what_for_ = false;
}

bool Executor::push(const Program::Send& send, Outgoing& out, const Slice& slice) {
  pieces_.clear();
  int64_t at = 0;  // in the message; what lies before out.sent has gone
  const auto add_piece = [&](const void* data, int64_t bytes) {
    const int64_t gone = std::clamp<int64_t>(out.sent - at, 0, bytes);
    if (gone < bytes) pieces_.push_back(piece(static_cast<const std::byte*>(data) + gone, bytes - gone));
    at += bytes;
  };
  add_piece(&out.header, kHeaderBytes);
  for (const Program::Part& part : send.message.parts) {
    add_piece(slice.at(part.from, part.chunk, 0), slice.bytes(part));
    add_piece(kZeros, slice.padding(part));
  }
  add_piece(kZeros, out.total - at);
  const int64_t sent = ways_[send.peer]->try_send(send.link, pieces_);
  out.sent += sent;
  if (out.sent == out.total) --pending_;
  return sent > 0;
}

bool Executor::pull(const Program::Round& round, const Program::Inbox& inbox, Incoming& in, const Slice& slice) {
  bool moved = false;
  while (!in.over) {
    const Program::Part& part = inbox.messages[in.message].parts[in.part];
    if (part.action == Action::kCollect) break;  // a sum takes it
    const DType type = slice.sent_type(part.partial);
    const int64_t left = slice.size(part.chunk) - in.done;
    const auto here = look(inbox, in, left * size_of(type), slice);
    if (!here) break;
    int64_t count = std::min(static_cast<int64_t>(here->size()) / size_of(type), left);
    if (!part.sent_as.empty()) count = std::min(count, sent_elements(round, part.sent_as, slice) - in.done);
    if (count < left && count > kGranule) count = count / kGranule * kGranule;
    if (count == 0 && left > 0) break;
    std::byte* to = slice.at(part.to, part.chunk, in.done);
    if (part.action == Action::kRecvReduce) {
      Operand operands[] = {{slice.at(part.from, part.chunk, in.done), slice.type_at(part.from)}, {here->data(), type}};
      if (part.message_first) std::swap(operands[0], operands[1]);
      reduce(operands, to, slice.type_at(part.to), count, header_.reduce_op, part.completes ? divisor_ : 1);
    } else if (count > 0) {
      std::memcpy(to, here->data(), static_cast<size_t>(count * size_of(type)));
    }
    take(inbox, in, count, count * size_of(type), static_cast<int64_t>(here->size()), slice);
    moved = true;
  }
  return moved;
}

bool Executor::add(const Program::Round& round, const Program::Sum& sum, int64_t& done, const Slice& slice) {
  const int64_t left = slice.size(sum.chunk) - done;
  int64_t count = left;
  operands_.clear();
  available_.clear();
  for (const int operand : sum.operands) {
    if (operand == Program::Sum::kMine) {
      operands_.push_back({slice.at(sum.from, sum.chunk, done), slice.type_at(sum.from)});
      available_.push_back(0);
      continue;
    }
    const Program::Inbox& inbox = round.inboxes[operand];
    Incoming& in = incoming_[operand];
    if (in.over) return false;
    const Program::Part& part = inbox.messages[in.message].parts[in.part];
    if (part.action != Action::kCollect || part.chunk != sum.chunk) return false;
    const DType type = slice.sent_type(part.partial);
    const auto here = look(inbox, in, left * size_of(type), slice);
    if (!here) return false;
    count = std::min(count, static_cast<int64_t>(here->size()) / size_of(type));
    operands_.push_back({here->data(), type});
    available_.push_back(static_cast<int64_t>(here->size()));
  }
  if (!sum.sent_as.empty()) count = std::min(count, sent_elements(round, sum.sent_as, slice) - done);
  if (count < left && count > kGranule) count = count / kGranule * kGranule;
  if (count == 0 && left > 0) return false;
  reduce(operands_, slice.at(sum.to, sum.chunk, done), slice.type_at(sum.to), count, header_.reduce_op,
         sum.completes ? divisor_ : 1);
  for (size_t i = 0; i < sum.operands.size(); ++i)
    if (const int operand = sum.operands[i]; operand != Program::Sum::kMine)
      take(round.inboxes[operand], incoming_[operand], count, count * size_of(operands_[i].dtype), available_[i],
           slice);
  done += count;
  if (count == left) done = -1, --pending_;
  return true;
}

std::optional<std::span<const std::byte>> Executor::look(const Program::Inbox& inbox, Incoming& in, int64_t wanted,
                                                         const Slice& slice) {
  Transport& way = *ways_[inbox.peer];
  if (!in.in_message) {
    int64_t& skip = to_skip_[inbox.link];
    auto here = way.try_peek(inbox.link, skip + kHeaderBytes + wanted);
    if (skip > 0) [[unlikely]] {
      const int64_t taken = std::min(skip, static_cast<int64_t>(here.size()));
      if (taken > 0) way.release(inbox.link, taken);
      skip -= taken;
      if (skip > 0) return std::nullopt;
      here = way.try_peek(inbox.link, kHeaderBytes + wanted);
    }
    if (static_cast<int64_t>(here.size()) < kHeaderBytes) return std::nullopt;
    MessageHeader theirs;
    std::memcpy(&theirs, here.data(), kHeaderBytes);
    header_.message_bytes = static_cast<uint32_t>(slice.payload(inbox.messages[in.message]));
    if (theirs != header_) [[unlikely]]
      fail_mismatch(inbox.peer, theirs);
    in.in_message = true;
    in.front = kHeaderBytes;
    return here.subspan(kHeaderBytes);
  }
  const auto here = way.try_peek(inbox.link, in.front + wanted);
  if (static_cast<int64_t>(here.size()) < in.front) return std::nullopt;
  if (static_cast<int64_t>(here.size()) > in.front || in.front == 0) return here.subspan(static_cast<size_t>(in.front));
  way.release(inbox.link, std::exchange(in.front, 0));  // the payload may begin at the other end of a buffer
  return way.try_peek(inbox.link, wanted);
}

void Executor::take(const Program::Inbox& inbox, Incoming& in, int64_t count, int64_t bytes, int64_t available,
                    const Slice& slice) {
  const Program::Message& message = inbox.messages[in.message];
  int64_t released = in.front + bytes;
  in.front = 0;
  in.done += count;
  if (in.done == slice.size(message.parts[in.part].chunk)) {
    in.done = 0;
    int64_t padding = slice.padding(message.parts[in.part]);
    const bool is_last = ++in.part == static_cast<int>(message.parts.size());
    if (is_last) {
      const int64_t payload = slice.payload(message);
      padding += padded(payload) - kHeaderBytes - payload;
    }
    if (bytes + padding <= available)
      released += padding;
    else
      (is_last ? to_skip_[inbox.link] : in.front) = padding;
    if (is_last) {
      in.part = 0;
      in.in_message = false;
      if (++in.message == static_cast<int>(inbox.messages.size())) in.over = true, --pending_;
    }
  }
  if (released > 0) ways_[inbox.peer]->release(inbox.link, released);
}

// How far all of these sends have read the chunk, from its start.
int64_t Executor::sent_elements(const Program::Round& round, std::span<const std::pair<int, int>> sends,
                                const Slice& slice) {
  int64_t least = INT64_MAX;
  for (const auto& [send, index] : sends) {
    const Outgoing& out = outgoing_[send];
    if (out.sent == out.total) continue;
    const auto& parts = round.sends[send].message.parts;
    int64_t gone = out.sent - kHeaderBytes;
    for (int i = 0; i < index; ++i) gone -= slice.bytes(parts[i]) + slice.padding(parts[i]);
    least = std::min(least, std::max<int64_t>(0, gone) / size_of(slice.sent_type(parts[index].partial)));
  }
  return least;
}

// A link on which something is missing.
std::pair<int, int> Executor::awaited(const Program::Round& round) {
  int found = -1;
  for (size_t i = 0; i < round.inboxes.size(); ++i) {
    const Program::Inbox& inbox = round.inboxes[i];
    if (incoming_[i].over) continue;
    if (found < 0) found = static_cast<int>(i);  // perhaps all that is missing has come in this very moment
    const auto behind = to_skip_[inbox.link] + incoming_[i].front;
    if (static_cast<int64_t>(ways_[inbox.peer]->try_peek(inbox.link, behind + 1).size()) <= behind)
      return {inbox.peer, inbox.link};
  }
  for (size_t i = 0; i < round.sends.size(); ++i) {
    if (outgoing_[i].sent == outgoing_[i].total) continue;
    int peer = round.sends[i].peer;
    if (peer == board_.rank())  // which reader of a multicast is the slowest is not known: one of them is named
      do peer = (peer + 1) % board_.num_ranks();
      while (ways_[peer] != local_);
    return {peer, peer};
  }
  ensure(found >= 0, "a round that is not done waits for somebody");
  return {round.inboxes[found].peer, round.inboxes[found].link};
}

// One turn of a wait: looks for reasons to end it if it lasts, then gives the core away.
void Executor::wait_on(const Program::Round& round, Patience& patience) {
  if (patience.is_long()) look_for_trouble(round, patience);
  bool local = false, remote = false;
  for (size_t i = 0; i < round.inboxes.size(); ++i)
    if (!incoming_[i].over) (ways_[round.inboxes[i].peer] == local_ ? local : remote) = true;
  for (size_t i = 0; i < round.sends.size(); ++i)
    if (outgoing_[i].sent < outgoing_[i].total) (ways_[round.sends[i].peer] == local_ ? local : remote) = true;
  if (remote)
    remote_->idle(local ? kMixedPause : kNetworkPause);
  else if (patience.pause().count() > 0)
    local_->idle(patience.pause());
  else
    ::sched_yield();
}

void Executor::look_for_trouble(const Program::Round& round, Patience& patience) {
  const auto [peer, link] = awaited(round);
  const std::chrono::nanoseconds grace = ways_[peer] == local_ ? std::chrono::nanoseconds(0) : kRemoteGrace;
  board_.set_waiting_for(peer);
  said_what_for_ = true;
  if (board_.failed()) board_.throw_failure();
  const std::string where = fmt::format("{} #{}, step {}", name_of(header_.kind), header_.number, round.number + 1);
  const bool left = board_.has_left(peer);
  const std::string why = ways_[peer]->broken(link);
  if ((left && patience.seen_for(Patience::kLeft) > grace) ||
      (!why.empty() && patience.seen_for(Patience::kBroken) > grace)) {
    if (left)
      board_.fail(ErrorCode::kPeerLost, fmt::format("{} has left the job, but rank {} waits for it in {}",
                                                    board_.name_of(peer), board_.rank(), where));
    board_.fail(ErrorCode::kPeerLost, fmt::format("the connection from rank {} to {} broke in {}: {}", board_.rank(),
                                                  board_.name_of(peer), where, why));
  }
  // A rank that runs another algorithm may write to all of us where we expect a message of our own, or the other way.
  if (ways_[peer]->has_multicast()) {
    const int n = board_.num_ranks(), other = link < n ? n + peer : link - n;
    const bool is_used = std::any_of(round.inboxes.begin(), round.inboxes.end(),
                                     [&](const Program::Inbox& inbox) { return inbox.link == other; });
    const auto here = ways_[peer]->try_peek(other, kHeaderBytes);
    MessageHeader theirs;
    if (!is_used && to_skip_[other] == 0 && static_cast<int64_t>(here.size()) >= kHeaderBytes) {
      std::memcpy(&theirs, here.data(), kHeaderBytes);
      if (theirs.number == header_.number && theirs.algorithm != header_.algorithm) fail_mismatch(peer, theirs);
    }
  }
  if (!patience.is_over()) return;
  // Texts carry commands: a rank may come to one after loading a model for minutes, or after a person typed. The
  // deadline of such a wait is the peer's sign of life.
  const bool is_text = header_.kind == OperationKind::kBroadcastText || header_.kind == OperationKind::kGatherText;
  if (!is_text || !board_.is_running(peer, timeout_ / 2))
    board_.fail(ErrorCode::kTimeout, fmt::format("rank {} waited {:.1f} s for {} in {}", board_.rank(),
                                                 patience.waited_s(), board_.suspect(peer, timeout_ / 2), where));
  patience.start_again();
}

void Executor::fail_mismatch(int peer, const MessageHeader& theirs) {
  MessageHeader same = theirs;
  same.algorithm = header_.algorithm;
  same.round = header_.round;
  same.message_bytes = header_.message_bytes;
  const std::string who = board_.name_of(peer);
  if (same != header_)
    board_.fail(ErrorCode::kInvalidArgument, fmt::format("{} calls {} while rank {} calls {}", who, describe(theirs),
                                                         board_.rank(), describe(header_)));
  if (theirs.algorithm != header_.algorithm)
    board_.fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{} runs {} with another algorithm than rank {}: LANE_ALGORITHM, the tuning table and the library "
                    "must be the same on all ranks",
                    who, describe(theirs), board_.rank()));
  board_.fail(ErrorCode::kBug,
              fmt::format("{} sent {} B in step {} of {}, not the {} B that rank {} expects in step {}", who,
                          theirs.message_bytes, theirs.round + 1, describe(theirs), header_.message_bytes,
                          board_.rank(), header_.round + 1));
}

}  // namespace lane
