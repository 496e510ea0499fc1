#include "lane/comm/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>

#include "lane/base/log.h"
#include "lane/base/trace.h"
#include "lane/comm/bootstrap.h"
#include "lane/comm/bootstrap/door.h"
#include "lane/comm/executor/executor.h"
#include "lane/comm/executor/program.h"
#include "lane/comm/group/board.h"
#include "lane/comm/group/monitor.h"
#include "lane/comm/local_group.h"
#include "lane/comm/transport/ring.h"
#include "lane/plan/cost.h"
#include "lane/plan/parallel.h"

namespace lane {

using plan::Collective;

namespace {

constexpr int64_t kAlignedElements = 16;  // chunks of a vector begin at multiples of this

void check_on_cpu(const TensorView& tensor, const char* operation) {
  if (tensor.device.kind != DeviceKind::kCpu)
    throw Error(ErrorCode::kUnsupported, fmt::format("{} of tensors on a GPU is not there yet", operation));
}

void copy(const void* from, void* to, int64_t bytes) {
  if (from != to && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

JoinOptions checked(JoinOptions options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("rank {} of {} cannot be", options.rank, options.size));
  if (options.timeout.count() < 1)
    throw Error(ErrorCode::kInvalidArgument, "a timeout has to be at least a millisecond");
  if (options.algorithm == "auto") options.algorithm = setting("LANE_ALGORITHM");
  if (options.algorithm != "auto")  // an unknown name fails here, before anybody waits
    plan::make_schedule(options.algorithm, Collective::kAllReduce, options.size);
  return options;
}

}  // namespace

struct Communicator::Impl {
  Impl() = default;
  Impl(const JoinOptions& options, std::shared_ptr<GroupMemory> memory, std::vector<int> pids)
      : rank(options.rank),
        size(options.size),
        timeout(options.timeout),
        forced(options.algorithm),
        transport(make_ring_transport(memory, rank)),
        board(std::make_unique<Board>(std::move(memory), rank, std::move(pids))),
        executor(std::make_unique<Executor>(*transport, *board, timeout)) {
    for (const std::string& name : plan::schedule_names(Collective::kAllReduce)) {
      const plan::Schedule schedule = plan::make_schedule(name, Collective::kAllReduce, size);
      for (const int scale : {1, 2})
        candidates[scale - 1].push_back({name, plan::cost(schedule, Collective::kAllReduce, transport->link(), scale)});
    }
  }

  ~Impl() {
    if (!board) return;
    if (std::uncaught_exceptions() > exceptions_at_start)
      board->post_failure(ErrorCode::kPeerLost, board->name_of(rank) + " ended with an error");
    board->set_left();
  }

  const Program& program(Collective collective, const std::string& name, int root) {
    const auto key = std::tuple(collective, name, root);
    const auto found = programs.find(key);
    if (found != programs.end()) return found->second;
    Program program = compile(plan::make_schedule(name, collective, size, root), collective, root, rank);
    const auto names = plan::schedule_names(collective);
    program.algorithm = static_cast<uint8_t>(std::find(names.begin(), names.end(), name) - names.begin());
    return programs.emplace(key, std::move(program)).first->second;
  }

  const Program& all_reduce_program(int64_t bytes, int partial_scale) {
    if (forced != "auto") return program(Collective::kAllReduce, forced, 0);
    const auto& all = candidates[partial_scale - 1];
    const int best = plan::cheapest(all, bytes);
    const Program*& known = chosen[best];
    if (known == nullptr) known = &program(Collective::kAllReduce, all[best].name, 0);
    return *known;
  }

  void run(OperationKind kind, const Program& what, const Vector& vector, int64_t bytes, ReduceOp op = ReduceOp::kSum,
           int root = -1) {
    executor->run(what, vector,
                  {.number = ++number,
                   .vector_bytes = bytes,
                   .kind = kind,
                   .dtype = vector.dtype,
                   .reduce_op = op,
                   .root = static_cast<int16_t>(root)});
  }

  // Chunks of even size.
  std::span<const int64_t> even_chunks(int64_t count, int num_chunks) {
    offsets.resize(num_chunks + 1);
    offsets[0] = 0;
    for (int chunk = 0; chunk < num_chunks; ++chunk)
      offsets[chunk + 1] = plan::even_part(count, num_chunks, chunk, kAlignedElements).end;
    return offsets;
  }

  void gather_bytes(OperationKind kind, const void* mine, void* all, DType dtype, int64_t count) {
    offsets.resize(size + 1);
    for (int r = 0; r <= size; ++r) offsets[r] = r * count;
    const int64_t bytes = count * size_of(dtype);
    copy(mine, static_cast<char*>(all) + rank * bytes, bytes);
    run(kind, program(Collective::kAllGather, "direct", 0), {all, all, dtype, offsets}, bytes);
  }

  void broadcast_bytes(OperationKind kind, void* data, DType dtype, int64_t count, int root) {
    if (root < 0 || root >= size)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("there is no rank {} to broadcast from", root));
    run(kind, program(Collective::kBroadcast, "binomial", root), {data, data, dtype, even_chunks(count, 1)},
        count * size_of(dtype), ReduceOp::kSum, root);
  }

  int rank = 0, size = 1;
  std::chrono::nanoseconds timeout{};
  std::string forced;
  const int exceptions_at_start = std::uncaught_exceptions();
  uint64_t number = 0;  // of the last collective
  std::vector<int64_t> offsets;
  std::array<std::vector<plan::Candidate>, 2> candidates;  // by partial scale - 1
  std::array<const Program*, 8> chosen{};                  // by candidate
  std::map<std::tuple<Collective, std::string, int>, Program> programs;

  std::unique_ptr<Transport> transport;  // null in a group of one, like the rest
  std::unique_ptr<Board> board;
  std::unique_ptr<Executor> executor;
  std::unique_ptr<Monitor> monitor;  // null between threads; ends before the board goes
};

Communicator::Communicator() : impl_(new Impl) {}
Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;

Communicator Communicator::join(const JoinOptions& requested) {
  const JoinOptions options = checked(requested);
  if (options.size == 1) return {};
  Meeting meeting = meet(options);
  auto impl = std::make_unique<Impl>(options, meeting.memory, meeting.pids);
  // Often enough that a stopped process stands out well before its peers' deadline.
  const auto period = std::clamp(options.timeout / 10, std::chrono::milliseconds(5), std::chrono::milliseconds(100));
  impl->monitor =
      std::make_unique<Monitor>(*impl->board, std::move(meeting.connections), std::move(meeting.door), period);
  Communicator group(std::move(impl));
  if (group.rank() == 0 && log_enabled(LogLevel::kInfo))
    for (const int64_t bytes : {8 << 10, 128 << 10, 4 << 20})
      log(LogLevel::kInfo, fmt::format("all_reduce of {} B: {}", bytes, group.explain_all_reduce(bytes)));
  return group;
}

std::vector<Communicator> make_local_group(int num_ranks, JoinOptions options) {
  options.size = num_ranks;
  const JoinOptions common = checked(options);
  std::vector<Communicator> group;
  const auto memory = GroupMemory::for_threads(num_ranks);
  for (options.rank = 0; options.rank < num_ranks; ++options.rank) {
    if (num_ranks == 1) {
      group.emplace_back();
      continue;
    }
    JoinOptions own = common;
    own.rank = options.rank;
    group.push_back(Communicator(std::make_unique<Communicator::Impl>(own, memory, std::vector<int>())));
  }
  return group;
}

int Communicator::rank() const { return impl_->rank; }
int Communicator::size() const { return impl_->size; }

void Communicator::all_reduce(TensorView in, TensorView out, ReduceOp op, Stream&) {
  const TraceSpan span("all_reduce", TraceKind::kCommunication, in.bytes());
  check_on_cpu(in, "all_reduce");
  check_on_cpu(out, "all_reduce");
  if (in.dtype != out.dtype || in.count() != out.count())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("all_reduce of {} {} into {} {}", in.count(),
                                                         name_of(in.dtype), out.count(), name_of(out.dtype)));
  if (in.dtype != DType::kF32 && in.dtype != DType::kBF16 && in.dtype != DType::kF16)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("all_reduce of {}: only float32, bfloat16 and float16 are added up", name_of(in.dtype)));
  if (impl_->size == 1) return copy(in.data, out.data, in.bytes());
  const Program& program = impl_->all_reduce_program(in.bytes(), in.dtype == DType::kF32 ? 1 : 2);
  impl_->run(OperationKind::kAllReduce, program,
             {in.data, out.data, in.dtype, impl_->even_chunks(in.count(), program.num_chunks)}, in.bytes(), op);
}

void Communicator::all_gather(TensorView in, TensorView out, Stream&) {
  const TraceSpan span("all_gather", TraceKind::kCommunication, out.bytes());
  check_on_cpu(in, "all_gather");
  check_on_cpu(out, "all_gather");
  if (in.dtype != out.dtype || in.count() * impl_->size != out.count())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("all_gather of {} {} from each of {} ranks into {} {}", in.count(), name_of(in.dtype),
                            impl_->size, out.count(), name_of(out.dtype)));
  if (impl_->size == 1) return copy(in.data, out.data, in.bytes());
  impl_->gather_bytes(OperationKind::kAllGather, in.data, out.data, in.dtype, in.count());
}

void Communicator::broadcast(TensorView inout, int root, Stream&) {
  const TraceSpan span("broadcast", TraceKind::kCommunication, inout.bytes());
  check_on_cpu(inout, "broadcast");
  if (impl_->size == 1) return;
  impl_->broadcast_bytes(OperationKind::kBroadcast, inout.data, inout.dtype, inout.count(), root);
}

void Communicator::barrier(Stream&) {
  const TraceSpan span("barrier", TraceKind::kCommunication);
  if (impl_->size == 1) return;
  impl_->run(OperationKind::kBarrier, impl_->program(Collective::kAllReduce, "one_shot", 0),
             {nullptr, nullptr, DType::kF32, impl_->even_chunks(0, 1)}, 0);
}

std::string Communicator::broadcast_text(const std::string& text, int root) {
  if (impl_->size == 1) return text;
  int64_t length = static_cast<int64_t>(text.size());
  impl_->broadcast_bytes(OperationKind::kBroadcastText, &length, DType::kU8, sizeof(length), root);
  std::string result = impl_->rank == root ? text : std::string(static_cast<size_t>(length), '\0');
  impl_->broadcast_bytes(OperationKind::kBroadcastText, result.data(), DType::kU8, length, root);
  return result;
}

std::vector<std::string> Communicator::gather_text(const std::string& text, int root) {
  if (root < 0 || root >= impl_->size)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("there is no rank {} to gather on", root));
  if (impl_->size == 1) return {text};
  const auto length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(impl_->size);
  impl_->gather_bytes(OperationKind::kGatherText, &length, lengths.data(), DType::kU8, sizeof(length));

  std::vector<int64_t> offsets{0};
  for (const int64_t each : lengths) offsets.push_back(offsets.back() + each);
  std::string all(static_cast<size_t>(offsets.back()), '\0');
  std::memcpy(all.data() + offsets[impl_->rank], text.data(), text.size());
  impl_->run(OperationKind::kGatherText, impl_->program(Collective::kGather, "direct", root),
             {all.data(), all.data(), DType::kU8, offsets}, offsets.back(), ReduceOp::kSum, root);
  std::vector<std::string> result;
  if (impl_->rank == root)
    for (int rank = 0; rank < impl_->size; ++rank)
      result.push_back(all.substr(static_cast<size_t>(offsets[rank]), static_cast<size_t>(lengths[rank])));
  return result;
}

void Communicator::abort(const std::string& reason) noexcept {
  if (!impl_->board) return;
  impl_->board->post_failure(ErrorCode::kPeerLost, impl_->board->name_of(impl_->rank) + " gave up: " + reason);
}

std::string Communicator::explain_all_reduce(int64_t bytes) const {
  if (impl_->size == 1) return "nothing runs: a group of one";
  if (impl_->forced != "auto") return impl_->forced + ", because LANE_ALGORITHM or the caller forces it";
  return plan::explain(impl_->candidates[1], bytes);
}

}  // namespace lane
