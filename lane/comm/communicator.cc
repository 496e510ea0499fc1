#include "lane/comm/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <map>
#include <thread>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/log.h"
#include "lane/base/trace.h"
#include "lane/comm/bootstrap.h"
#include "lane/comm/bootstrap/tcp_door.h"
#include "lane/comm/cuda/proxy.h"
#include "lane/comm/cuda/self_test.h"
#include "lane/comm/device_group.h"
#include "lane/comm/executor/executor.h"
#include "lane/comm/executor/program.h"
#include "lane/comm/group/board.h"
#include "lane/comm/group/monitor.h"
#include "lane/comm/local_group.h"
#include "lane/comm/transport/network.h"
#include "lane/comm/transport/ring.h"
#include "lane/comm/tuner/chooser.h"
#include "lane/plan/parallel.h"

namespace lane {

using plan::Collective;

namespace {

constexpr int64_t kAlignedElements = 16;  // chunks of a vector begin at multiples of this

void copy_bytes(const void* from, void* to, int64_t bytes) {
  if (from != to && bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

std::byte* at(const void* base, int64_t offset) { return static_cast<std::byte*>(const_cast<void*>(base)) + offset; }

bool is_on_gpu(const TensorView& tensor) { return tensor.device.kind != DeviceKind::kCpu; }

// `out` has out_parts / in_parts as many elements as `in`.
void check(const char* operation, const TensorView& in, const TensorView& out, int64_t in_parts, int64_t out_parts,
           const Stream& stream) {
  if (in.device != out.device || in.device != stream.device())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} of tensors and a stream on different devices", operation));
  if (in.dtype != out.dtype || in.count() * out_parts != out.count() * in_parts || in.count() % in_parts != 0)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} of {} {} into {} {} among {} ranks", operation, in.count(), name_of(in.dtype),
                            out.count(), name_of(out.dtype), std::max(in_parts, out_parts)));
}

void check_sum(const char* operation, DType dtype) {
  if (!can_reduce(dtype))
    throw Error(ErrorCode::kUnsupported, fmt::format("{} of {}: only float32, bfloat16, float16 and int32 are added up",
                                                     operation, name_of(dtype)));
}

void check_root(const char* what, int root, int size) {
  if (root < 0 || root >= size)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("there is no rank {} to {}", root, what));
}

void check_options(const JoinOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("rank {} of {} cannot be", options.rank, options.size));
  if (options.timeout.count() < 1)
    throw Error(ErrorCode::kInvalidArgument, "a timeout has to be at least a millisecond");
}

// The name of an algorithm that was asked for; one that cannot run fails here, before anybody waits.
std::string checked_algorithm(const JoinOptions& options, const plan::Layout& layout) {
  const std::string name = options.algorithm == "auto" ? setting("LANE_ALGORITHM") : options.algorithm;
  if (name != "auto") plan::make_schedule(name, Collective::kAllReduce, layout);
  return name;
}

std::vector<std::string> names_by_rank(const std::vector<std::string>& hosts, const plan::Layout& layout) {
  std::vector<std::string> names;
  if (hosts.size() > 1)
    for (const int node : layout.node_of) names.push_back(hosts[node]);
  return names;
}

}  // namespace

struct Communicator::Impl {
  Impl() : chooser(plan::Fabric::one_node(1, {}), false, "auto") {}

  // Between processes.
  Impl(const JoinOptions& its_options, Meeting meeting)
      : options(its_options),
        local(make_ring_transport(meeting.memory, options.rank, meeting.layout)),
        network(make_network_transport(options, meeting)),
        chooser(fabric_of(meeting.layout), local->has_multicast(), checked_algorithm(options, meeting.layout)),
        number(options.first_number - 1),
        board(std::make_unique<Board>(meeting.memory, options.rank, meeting.pids,
                                      names_by_rank(meeting.hosts, meeting.layout))) {
    make_executor(static_cast<int>(meeting.memory->members().size()));
    // Often enough that a stopped process stands out well before its peers' deadline.
    const auto period = std::clamp(options.timeout / 10, std::chrono::milliseconds(5), std::chrono::milliseconds(100));
    monitor = std::make_unique<Monitor>(*board, meeting, period);
  }

  // Between threads.
  Impl(const JoinOptions& its_options, const plan::Layout& layout, std::shared_ptr<GroupMemory> memory,
       std::shared_ptr<ThreadGroups> its_threads)
      : options(its_options),
        threads(std::move(its_threads)),
        local(make_ring_transport(memory, options.rank, layout)),
        chooser(fabric_of(layout), local->has_multicast(), checked_algorithm(options, layout)),
        number(options.first_number - 1),
        board(std::make_unique<Board>(std::move(memory), options.rank, std::vector<int>())) {
    make_executor(options.size);
  }

  ~Impl() {
    if (!board) return;
    if (std::uncaught_exceptions() > exceptions_at_start)
      board->post_failure(ErrorCode::kPeerLost, board->name_of(options.rank) + " ended with an error");
    board->set_left();
  }

  // What was measured, for this group and those split off it: rank 0's of the whole job.
  struct Tuning {
    TuningHardware hardware;  // whatever the transport
    TuningTable table;
  };

  void use(std::shared_ptr<const Tuning> what) {
    tuning = std::move(what);
    if (!tuning) return;
    chooser.use(tuning->table, hardware());
    recents.fill({});
  }

  TuningHardware hardware() const {
    TuningHardware result = tuning ? tuning->hardware : this_hardware("");
    if (local) result.transport = local->name() + (network ? ", " + network->name() : "");
    return result;
  }

  // Before the first collective that the caller asks for, which starts counting anew.
  void share_tuning(Communicator& group) {
    const std::string text = group.broadcast_text(options.rank == 0 ? tuning_to_share() : "", 0);
    const Json said = Json::parse(text);
    auto shared = std::make_shared<Tuning>();
    shared->hardware = {said.at("cpu_model").get<std::string>(), said.at("num_cpus").get<int>(), ""};
    if (said.contains("table")) shared->table = TuningTable::parse(said["table"].get<std::string>(), "rank 0's table");
    use(std::move(shared));
    number = options.first_number - 1;
    board->set_doing(OperationKind::kNone, number);
  }

  // Once for every power of two.
  void log_choice(int64_t bytes, int partial_scale) {
    const uint64_t bit = uint64_t{1} << std::bit_width(static_cast<uint64_t>(bytes));
    uint64_t& logged = logged_sizes[partial_scale > 1 ? 1 : 0];
    if (options.rank != 0 || (logged & bit) != 0 || !log_enabled(LogLevel::kInfo)) return;
    logged |= bit;
    log(LogLevel::kInfo, fmt::format("all_reduce of {} B, {} bits an element: {}", bytes, partial_scale > 1 ? 16 : 32,
                                     chooser.explain(Collective::kAllReduce, bytes, partial_scale)));
  }

  plan::Fabric fabric_of(const plan::Layout& layout) const {
    return {layout, local->link(), network ? network->link() : local->link()};
  }

  void make_executor(int ranks_on_host) {
    std::vector<Transport*> ways;
    for (const int node : chooser.fabric().layout.node_of)
      ways.push_back(!network || node == chooser.fabric().layout.node_of[options.rank] ? local.get() : network.get());
    // Emulated hosts share the cores of one machine, each without knowing of the others.
    const bool own_core =
        options.host.empty() && ranks_on_host <= static_cast<int>(std::thread::hardware_concurrency());
    executor = std::make_unique<Executor>(std::move(ways), *board, options.timeout, own_core);
  }

  const Program& program(Collective collective, const std::string& name, int root) {
    const auto key = std::tuple(collective, name, root);
    const auto found = programs.find(key);
    if (found != programs.end()) return found->second;
    const plan::Layout& layout = chooser.fabric().layout;
    return programs
        .emplace(key,
                 compile(plan::make_schedule(name, collective, layout, root), collective, layout, root, options.rank))
        .first->second;
  }

  // The program for a vector, remembered: the choice takes longer than a small collective.
  const Program& program_for(Collective collective, int64_t bytes, int partial_scale = 1, int root = 0) {
    Recent& recent = recents[(static_cast<uint64_t>(bytes) * 0x9e3779b97f4a7c15u >> 60)];
    if (recent.program == nullptr || recent.bytes != bytes || recent.collective != collective ||
        recent.partial_scale != partial_scale || recent.root != root) {
      if (collective == Collective::kAllReduce) log_choice(bytes, partial_scale);
      recent = {bytes, collective, partial_scale, root,
                &program(collective, chooser.choose(collective, bytes, partial_scale, root), root)};
    }
    return *recent.program;
  }

  void run(OperationKind kind, const Program& what, DType dtype, int64_t bytes, ReduceOp op = ReduceOp::kSum,
           int root = -1) {
    executor->run(
        what, chunks, dtype,
        {.number = ++number, .vector_bytes = bytes, .root = static_cast<int16_t>(root), .kind = kind, .reduce_op = op});
  }

  // Chunks of even size.
  void cut_evenly(const void* in, void* out, DType dtype, int64_t count, int num_chunks) {
    chunks.resize(num_chunks);
    for (int i = 0; i < num_chunks; ++i) {
      const plan::Range part = plan::even_part(count, num_chunks, i, kAlignedElements);
      chunks[i] = {at(in, part.begin * size_of(dtype)), at(out, part.begin * size_of(dtype)), part.size()};
    }
  }

  void gather_bytes(OperationKind kind, const void* mine, void* all, DType dtype, int64_t count) {
    const int64_t bytes = count * size_of(dtype);
    copy_bytes(mine, at(all, options.rank * bytes), bytes);
    chunks.resize(options.size);
    for (int r = 0; r < options.size; ++r) chunks[r] = {at(all, r * bytes), at(all, r * bytes), count};
    run(kind, program_for(Collective::kAllGather, bytes * options.size), dtype, bytes);
  }

  void broadcast_bytes(OperationKind kind, void* data, DType dtype, int64_t count, int root) {
    check_root("broadcast from", root, options.size);
    const int64_t bytes = count * size_of(dtype);
    const Program& what = program_for(Collective::kBroadcast, bytes, 1, root);
    cut_evenly(data, data, dtype, count, what.num_chunks);
    run(kind, what, dtype, bytes, ReduceOp::kSum, root);
  }

  // What each rank gave, by rank.
  std::vector<std::string> exchange(const std::string& mine) {
    std::vector<int64_t> lengths(options.size);
    const auto length = static_cast<int64_t>(mine.size());
    gather_bytes(OperationKind::kSplit, &length, lengths.data(), DType::kU8, sizeof(length));
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::string padded = mine, all(static_cast<size_t>(longest * options.size), '\0');
    padded.resize(static_cast<size_t>(longest));
    gather_bytes(OperationKind::kSplit, padded.data(), all.data(), DType::kU8, longest);
    std::vector<std::string> result;
    for (int r = 0; r < options.size; ++r)
      result.push_back(all.substr(static_cast<size_t>(r * longest), static_cast<size_t>(lengths[r])));
    return result;
  }

  DeviceGroup& device(Device where) {
    if (on_device && gpu == where) return *on_device;
    if (on_device)
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("this rank's collectives use GPU {}; they cannot use GPU {}, too", gpu.index, where.index));
    gpu = where;
    HostSide host{.rank = options.rank,
                  .layout = chooser.fabric().layout,
                  .exchange = [this](const std::string& mine) { return exchange(mine); },
                  .split_channels = split_channels,
                  .board = board.get(),
                  .timeout = options.timeout,
                  .first_number = options.first_number,
                  .hardware = hardware(),
                  .tuning = tuning ? &tuning->table : nullptr};
    on_device = make_device_group(std::move(host), where.index);
    if (keeps_one_order) on_device->keep_one_order();
    if (setting("LANE_GPU_SELF_TEST") == "on")
      cuda::self_test(
          *on_device, [this](const std::string& mine) { return exchange(mine); }, options.rank, options.size, where);
    return *on_device;
  }
  DeviceGroup& opened_device() const {
    if (!on_device) throw Error(ErrorCode::kInvalidArgument, "call open_device() on all ranks first");
    return *on_device;
  }

  struct Recent {
    int64_t bytes = -1;
    Collective collective{};
    int partial_scale = 1, root = 0;
    const Program* program = nullptr;
  };

  JoinOptions options;
  const int exceptions_at_start = std::uncaught_exceptions();
  std::vector<Chunk> chunks;
  std::array<Recent, 16> recents;
  std::map<std::tuple<Collective, std::string, int>, Program> programs;
  std::shared_ptr<ThreadGroups> threads;  // if the ranks are threads
  int num_splits = 0;
  bool keeps_one_order = false;               // of sums on GPUs, too, once they are opened
  std::shared_ptr<const Tuning> tuning;       // null where nobody told
  std::array<uint64_t, 2> logged_sizes = {};  // of all-reduces of 32 and of 16 bits: a bit for each power of two

  std::unique_ptr<Transport> local;    // null in a group of one, like the rest
  std::unique_ptr<Transport> network;  // null if all ranks are on this host
  Chooser chooser;
  uint64_t number = 0;  // of the last collective
  std::unique_ptr<Board> board;
  std::unique_ptr<Executor> executor;
  std::unique_ptr<Monitor> monitor;  // null between threads; ends before the board goes

  std::function<std::vector<Communicator>(int)> split_channels;  // while a device is opened
  Device gpu;
  std::unique_ptr<DeviceGroup> on_device;  // null until it is used; ends before the board goes
};

Communicator::Communicator() : impl_(new Impl) {}
Communicator::Communicator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Communicator::~Communicator() = default;
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator& Communicator::operator=(Communicator&&) noexcept = default;

Communicator Communicator::join(const JoinOptions& options) {
  check_options(options);
  if (options.size == 1) return {};
  if (options.algorithm != "auto" && options.rendezvous.empty())
    checked_algorithm(options, plan::Layout::one_node(options.size));
  Communicator group(std::make_unique<Impl>(options, meet(options)));
  group.impl_->share_tuning(group);
  return group;
}

std::vector<Communicator> make_local_group(int num_ranks, JoinOptions options, plan::Layout layout) {
  options.size = num_ranks;
  options.rank = 0;
  check_options(options);
  if (layout.node_of.empty()) layout = plan::Layout::one_node(num_ranks);
  std::vector<Communicator> group;
  const auto memory = GroupMemory::for_threads(num_ranks);
  const auto threads = std::make_shared<ThreadGroups>();
  for (; options.rank < num_ranks; ++options.rank)
    if (num_ranks == 1)
      group.emplace_back();
    else
      group.push_back(Communicator(std::make_unique<Communicator::Impl>(options, layout, memory, threads)));
  return group;
}

int Communicator::rank() const { return impl_->options.rank; }
int Communicator::size() const { return impl_->options.size; }
const plan::Fabric& Communicator::fabric() const { return impl_->chooser.fabric(); }

void Communicator::all_reduce(TensorView in, TensorView out, ReduceOp op, Stream& stream) {
  const TraceSpan span("all_reduce", TraceKind::kCommunication, in.bytes());
  check("all_reduce", in, out, 1, 1, stream);
  check_sum("all_reduce", in.dtype);
  if (size() == 1) return copy_on_device(in, out, stream);
  if (is_on_gpu(in)) return device_group(in.device).all_reduce(in, out, op, stream);
  const int scale = static_cast<int>(size_of(partial_type(in.dtype)) / size_of(in.dtype));
  const Program& program = impl_->program_for(Collective::kAllReduce, in.bytes(), scale);
  impl_->cut_evenly(in.data, out.data, in.dtype, in.count(), program.num_chunks);
  impl_->run(OperationKind::kAllReduce, program, in.dtype, in.bytes(), op);
}

void Communicator::reduce_scatter(TensorView in, TensorView out, ReduceOp op, Stream& stream) {
  const TraceSpan span("reduce_scatter", TraceKind::kCommunication, in.bytes());
  check("reduce_scatter", in, out, size(), 1, stream);
  check_sum("reduce_scatter", in.dtype);
  if (size() == 1) return copy_on_device(in, out, stream);
  if (is_on_gpu(in)) return device_group(in.device).reduce_scatter(in, out, op, stream);
  const int scale = static_cast<int>(size_of(partial_type(in.dtype)) / size_of(in.dtype));
  impl_->chunks.resize(size());
  for (int r = 0; r < size(); ++r)
    impl_->chunks[r] = {at(in.data, r * out.bytes()), r == rank() ? out.data : nullptr, out.count()};
  impl_->run(OperationKind::kReduceScatter, impl_->program_for(Collective::kReduceScatter, in.bytes(), scale), in.dtype,
             in.bytes(), op);
}

void Communicator::all_gather(TensorView in, TensorView out, Stream& stream) {
  const TraceSpan span("all_gather", TraceKind::kCommunication, out.bytes());
  check("all_gather", in, out, 1, size(), stream);
  if (size() == 1) return copy_on_device(in, out, stream);
  if (is_on_gpu(in)) return device_group(in.device).all_gather(in, out, stream);
  impl_->gather_bytes(OperationKind::kAllGather, in.data, out.data, in.dtype, in.count());
}

void Communicator::all_to_all(TensorView in, TensorView out, Stream& stream) {
  const TraceSpan span("all_to_all", TraceKind::kCommunication, in.bytes());
  check("all_to_all", in, out, size(), size(), stream);
  if (size() == 1) return copy_on_device(in, out, stream);
  if (is_on_gpu(in)) throw Error(ErrorCode::kUnsupported, "all_to_all of tensors on GPUs is not there");
  const std::byte* in_begin = at(in.data, 0);
  const std::byte* out_begin = at(out.data, 0);
  if (in.bytes() > 0 && in_begin < out_begin + out.bytes() && out_begin < in_begin + in.bytes())
    throw Error(ErrorCode::kInvalidArgument, "all_to_all needs an output apart from its input");
  const int n = size();
  const int64_t count = in.count() / n, bytes = count * size_of(in.dtype);
  impl_->chunks.assign(static_cast<size_t>(n) * n, {nullptr, nullptr, count});
  for (int peer = 0; peer < n; ++peer) {
    impl_->chunks[rank() * n + peer].in = at(in.data, peer * bytes);
    impl_->chunks[peer * n + rank()].out = at(out.data, peer * bytes);
  }
  copy_bytes(at(in.data, rank() * bytes), at(out.data, rank() * bytes), bytes);
  impl_->run(OperationKind::kAllToAll, impl_->program_for(Collective::kAllToAll, in.bytes()), in.dtype, in.bytes());
}

void Communicator::broadcast(TensorView inout, int root, Stream& stream) {
  const TraceSpan span("broadcast", TraceKind::kCommunication, inout.bytes());
  check("broadcast", inout, inout, 1, 1, stream);
  check_root("broadcast from", root, size());
  if (size() == 1) return;
  if (is_on_gpu(inout)) return device_group(inout.device).broadcast(inout, root, stream);
  impl_->broadcast_bytes(OperationKind::kBroadcast, inout.data, inout.dtype, inout.count(), root);
}

void Communicator::barrier(Stream& stream) {
  const TraceSpan span("barrier", TraceKind::kCommunication);
  if (size() == 1) return;
  if (stream.device().kind != DeviceKind::kCpu) {
    const TensorView nothing{nullptr, DType::kU8, {1, 1, 1, 0}, stream.device()};
    return device_group(stream.device()).all_gather(nothing, nothing, stream);
  }
  impl_->gather_bytes(OperationKind::kBarrier, nullptr, nullptr, DType::kU8, 0);
}

void Communicator::all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon,
                                           TensorView normed, Stream& stream, float fp8_scale) {
  const TraceSpan span("all_reduce_add_rms_norm", TraceKind::kCommunication, in.bytes());
  check("all_reduce_add_rms_norm", in, residual, 1, 1, stream);
  if (!is_on_gpu(in))
    throw Error(ErrorCode::kUnsupported, "all_reduce_add_rms_norm is for tensors on GPUs; on CPUs, call its parts");
  const DType type = fp8_scale == 0 ? in.dtype : DType::kU8;
  if (weight.dtype != in.dtype || weight.count() != in.cols() || normed.dtype != type || normed.count() != in.count())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("all_reduce_add_rms_norm of [{}, {}] with a weight of {} and an output of {} {}", in.rows(),
                            in.cols(), weight.count(), normed.count(), name_of(normed.dtype)));
  if (size() == 1) throw Error(ErrorCode::kUnsupported, "all_reduce_add_rms_norm in a group of one");
  device_group(in.device).all_reduce_add_rms_norm(in, residual, weight, epsilon, normed, fp8_scale, stream);
}

bool Communicator::fuses_norm(TensorView in) {
  return is_on_gpu(in) && size() > 1 && device_group(in.device).fuses_norm(in);
}

void Communicator::wait(Stream& stream) {
  stream.synchronize();
  check_failure();
}
void Communicator::check_failure() {
  if (impl_->on_device) impl_->on_device->check_failure();
}

void Communicator::open_device(Device device) {
  if (size() == 1 || device.kind == DeviceKind::kCpu) return;
  device_group(device);
}
DeviceGroup& Communicator::device_group(Device device) {
  impl_->split_channels = [this](int channels) { return cuda::split_channels(*this, channels); };
  DeviceGroup& group = impl_->device(device);
  impl_->split_channels = nullptr;
  return group;
}
std::string Communicator::device_fabric() const { return impl_->opened_device().fabric(); }
std::vector<std::string> Communicator::device_algorithms(Device device) { return device_group(device).algorithms(); }
void Communicator::set_device_algorithm(const std::string& name) { impl_->opened_device().set_algorithm(name); }
std::string Communicator::device_algorithm(int64_t bytes, DType dtype) const {
  return impl_->opened_device().algorithm(bytes, dtype);
}
std::string Communicator::explain_device(int64_t bytes, DType dtype) const {
  return impl_->opened_device().explain(bytes, dtype);
}
TuningHardware Communicator::device_hardware() const { return impl_->opened_device().hardware(); }
void Communicator::set_device_blocks(int most) { impl_->opened_device().set_most_blocks(most); }

Communicator Communicator::split(int color, int key) {
  if (size() == 1) return {};
  struct Wish {
    int color, key;
    char rendezvous[56];  // of a door that this rank would open
  };
  const int this_split = impl_->num_splits++;
  const auto exchange = [&](const Wish& mine) {
    std::vector<Wish> all(size());
    impl_->gather_bytes(OperationKind::kSplit, &mine, all.data(), DType::kU8, sizeof(Wish));
    return all;
  };
  Wish wish{color, key, {}};
  std::vector<Wish> wishes = exchange(wish);
  std::vector<int> members;  // ranks here, in the new order
  for (int r = 0; r < size(); ++r)
    if (wishes[r].color == color && color >= 0) members.push_back(r);
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return wishes[a].key < wishes[b].key; });

  JoinOptions options = impl_->options;
  options.size = static_cast<int>(members.size());
  options.rank = static_cast<int>(std::find(members.begin(), members.end(), rank()) - members.begin());
  options.job = fmt::format("{}/split{}.{}", impl_->options.job, this_split, color);
  const plan::Layout& layout = fabric().layout;
  plan::Layout part;
  std::map<int, int> node_names;  // nodes of the part, numbered as they appear
  for (const int member : members)
    part.node_of.push_back(
        node_names.emplace(layout.node_of[member], static_cast<int>(node_names.size())).first->second);
  const auto fits = [&](const std::string& name) {
    const auto names = plan::schedule_names(Collective::kAllReduce, part);
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (options.size > 0 && options.algorithm != "auto" && !fits(options.algorithm)) options.algorithm = "auto";

  if (impl_->threads) {
    if (options.size <= 1) return {};
    auto memory = impl_->threads->memory(options.job, options.size);
    return Communicator(std::make_unique<Impl>(options, part, std::move(memory), impl_->threads));
  }
  // Where ranks of several hosts are to meet, the first of them opens a door and says where it is.
  std::unique_ptr<TcpDoor> door;
  if (impl_->network) {
    const bool opens = options.size > 1 && options.rank == 0 && node_names.size() > 1;
    if (opens) {
      door = open_tcp_door(options);
      const std::string address = tcp_door_address(*door);
      ensure(address.size() < sizeof(wish.rendezvous), "an address with a port is shorter than this");
      std::memcpy(wish.rendezvous, address.c_str(), address.size() + 1);
    }
    wishes = exchange(wish);
    options.rendezvous = node_names.size() > 1 ? wishes[members[0]].rendezvous : "";
  }
  if (options.size <= 1) return {};
  Communicator group(std::make_unique<Impl>(options, meet(options, std::move(door))));
  group.impl_->use(impl_->tuning);
  return group;
}

std::string Communicator::broadcast_text(const std::string& text, int root) {
  if (size() == 1) return text;
  int64_t length = static_cast<int64_t>(text.size());
  impl_->broadcast_bytes(OperationKind::kBroadcastText, &length, DType::kU8, sizeof(length), root);
  std::string result = rank() == root ? text : std::string(static_cast<size_t>(length), '\0');
  impl_->broadcast_bytes(OperationKind::kBroadcastText, result.data(), DType::kU8, length, root);
  return result;
}

std::vector<std::string> Communicator::gather_text(const std::string& text, int root) {
  check_root("gather on", root, size());
  if (size() == 1) return {text};
  const auto length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(size());
  impl_->gather_bytes(OperationKind::kGatherText, &length, lengths.data(), DType::kU8, sizeof(length));

  std::vector<int64_t> offsets{0};
  for (const int64_t each : lengths) offsets.push_back(offsets.back() + each);
  std::string all(static_cast<size_t>(offsets.back()), '\0');
  std::memcpy(all.data() + offsets[rank()], text.data(), text.size());
  impl_->chunks.resize(size());
  for (int r = 0; r < size(); ++r) impl_->chunks[r] = {all.data() + offsets[r], all.data() + offsets[r], lengths[r]};
  impl_->run(OperationKind::kGatherText, impl_->program_for(Collective::kGather, offsets.back(), 1, root), DType::kU8,
             offsets.back(), ReduceOp::kSum, root);
  std::vector<std::string> result;
  if (rank() == root)
    for (int r = 0; r < size(); ++r)
      result.push_back(all.substr(static_cast<size_t>(offsets[r]), static_cast<size_t>(lengths[r])));
  return result;
}

void Communicator::abort(const std::string& reason) noexcept {
  if (!impl_->board) return;
  impl_->board->post_failure(ErrorCode::kPeerLost, impl_->board->name_of(rank()) + " gave up: " + reason);
}

std::string Communicator::all_reduce_algorithm(int64_t bytes, DType dtype) const {
  return impl_->chooser.choose(Collective::kAllReduce, bytes,
                               static_cast<int>(size_of(partial_type(dtype)) / size_of(dtype)));
}

void Communicator::set_algorithm(const std::string& name) {
  if (name != "auto") plan::make_schedule(name, Collective::kAllReduce, fabric().layout);
  impl_->chooser.force(name);
  impl_->recents.fill({});
}

void Communicator::keep_one_order() {
  impl_->chooser.keep_one_order();
  impl_->keeps_one_order = true;
  if (impl_->on_device) impl_->on_device->keep_one_order();
  impl_->recents.fill({});
}

TuningHardware Communicator::hardware() const { return impl_->hardware(); }

std::string Communicator::explain_all_reduce(int64_t bytes, DType dtype) const {
  if (size() == 1) return "nothing runs: a group of one";
  return impl_->chooser.explain(Collective::kAllReduce, bytes,
                                static_cast<int>(size_of(partial_type(dtype)) / size_of(dtype)));
}

}  // namespace lane
