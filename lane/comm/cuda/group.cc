#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "lane/base/log.h"
#include "lane/comm/cuda/choice.h"
#include "lane/comm/cuda/launch.cuh"
#include "lane/comm/cuda/multicast_memory.h"
#include "lane/comm/cuda/nccl.cuh"
#include "lane/comm/cuda/nvshmem_memory.h"
#include "lane/comm/cuda/peer_memory.h"
#include "lane/comm/cuda/pinned.cuh"
#include "lane/comm/cuda/proxy.h"
#include "lane/comm/cuda/put.cuh"
#include "lane/comm/cuda/watch.h"
#include "lane/comm/device_group.h"
#include "lane/device/cuda/native.cuh"

namespace lane {
namespace {

using namespace cuda;

// Vectors up to this size go in one operation; longer ones in several.
constexpr int64_t kMostBytes = 8 << 20;
constexpr int64_t kBufferBytes = 18 << 20;
constexpr int64_t kRegionBytes = kHeaderBytes + kBuffers * kBufferBytes;

// Makes a device current for as long as it lives.
class OnDevice {
 public:
  explicit OnDevice(int index) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != index) check(cudaSetDevice(index), "choosing a device");
  }
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

// Who sits where. Nodes whose ranks are numbered as they appear.
struct Seats {
  Seats(const plan::Layout& layout, int rank) : node_of(layout.node_of), node(layout.node_of[rank]) {
    num_nodes = *std::max_element(node_of.begin(), node_of.end()) + 1;
    members.resize(num_nodes);
    for (int r = 0; r < static_cast<int>(node_of.size()); ++r) members[node_of[r]].push_back(r);
    size = static_cast<int>(members[node].size());
    place = static_cast<int>(std::find(members[node].begin(), members[node].end(), rank) - members[node].begin());
    for (const auto& each : members)
      if (static_cast<int>(each.size()) != size)
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("collectives on GPUs need nodes with as many ranks each; there are nodes with {} and "
                                "with {}: start the same number on each, or split the group first",
                                size, each.size()));
    if (size > kMostPeers || num_nodes > kMostNodes)
      throw Error(ErrorCode::kUnsupported, fmt::format("collectives on GPUs are for up to {} ranks a node and {} nodes",
                                                       kMostPeers, kMostNodes));
  }
  std::vector<int> node_of;
  int place_of(int rank) const {
    const std::vector<int>& ranks = members[node_of[rank]];
    return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  }
  std::vector<std::vector<int>> members;  // ranks by node and place
  int node, num_nodes, size, place;
};

class CudaGroup final : public DeviceGroup {
 public:
  CudaGroup(HostSide host, int device_index)
      : host_(std::move(host)),
        device_(device_index),
        on_(device_index),
        seats_(host_.layout, host_.rank),
        report_(sizeof(Report)) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device_), "asking what the GPU is");
    if (properties.major < 8)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} is of compute capability {}.{}; collectives need 8.0 (A100) or later",
                              properties.name, properties.major, properties.minor));
    load_kernels();
    most_blocks_ = std::min(kMostBlocks, properties.multiProcessorCount) - 1;
    most_cluster_ = properties.major >= 9 ? 8 : 1;
    const std::string fabric = setting("LANE_GPU_FABRIC");
    if (fabric != "auto" && fabric != "p2p" && fabric != "nvshmem" && fabric != "proxy")
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("LANE_GPU_FABRIC={}: it is auto, p2p, nvshmem or proxy", fabric));
    const bool by_puts = seats_.num_nodes > 1 && fabric == "nvshmem";
    is_direct_ = seats_.num_nodes == 1 || fabric == "p2p" || by_puts;
    if (by_puts) {
      open_puts();
    } else {
      const std::vector<int> reach = is_direct_ ? std::vector<int>(seats_.node_of.size(), 0) : seats_.node_of;
      memory_ = make_peer_memory(host_.exchange, host_.rank, reach, device_, kRegionBytes);
    }

    for (int p = 0; p < seats_.size; ++p) group_.regions[p] = memory_->of(seats_.members[seats_.node][p]);
    for (int node = 0; is_direct_ && !by_puts && node < seats_.num_nodes; ++node)
      if (node != seats_.node) group_.across[node] = memory_->of(seats_.members[node][seats_.place]);
    group_.size = seats_.size;
    group_.place = seats_.place;
    group_.num_nodes = seats_.num_nodes;
    group_.node = seats_.node;
    group_.report = report_.as<Report>();
    group_.timeout_ns = static_cast<uint64_t>(std::chrono::nanoseconds(host_.timeout).count());
    group_.buffer_lines = kBufferBytes / kLineBytes;
    fill_empty(group_.regions[group_.place], kRegionBytes, static_cast<uint32_t>(host_.first_number), nullptr);
    check(cudaStreamSynchronize(nullptr), "clearing the buffers");
    const std::string gpu = name_of_gpus(host_.exchange(properties.name));  // nobody stores before all have cleared

    if (seats_.num_nodes == 1)
      multicast_ = make_multicast_memory(host_.exchange, host_.rank, seats_.node_of, device_, *memory_);
    if (!is_direct_) open_network();
    nccl_ = Nccl::find(host_.exchange, host_.rank, static_cast<int>(seats_.node_of.size()));
    hardware_ = hardware_of_gpus(host_.hardware, gpu, CudaGroup::fabric());
    situation_ = {.ranks_per_node = seats_.size,
                  .num_nodes = seats_.num_nodes,
                  .is_direct = is_direct_,
                  .by_puts = by_puts,
                  .has_nccl = nccl_ != nullptr,
                  .no_multicast = multicast_.why_not,
                  .gpu = gpu,
                  .measured = find_measured({gpu, seats_.size, seats_.num_nodes}, hardware_,
                                            host_.tuning != nullptr ? *host_.tuning : TuningTable())};
    host_.tuning = nullptr;
    if (setting("LANE_NCCL") == "only") forced_ = Choice{Algorithm::kNccl};
    watch_.emplace(*host_.board, *report_.as<Report>(), host_.timeout, [this](const Report& report) {
      return report.step == Step::kBetweenNodes ? seats_.members[report.peer][seats_.place]
                                                : seats_.members[seats_.node][report.peer];
    });
    on_.reset();
  }

  ~CudaGroup() override {
    int before = device_;
    cudaGetDevice(&before);
    cudaSetDevice(device_);   // unchecked, as all here: the GPU may be lost
    cudaDeviceSynchronize();  // kernels under way end, by their deadline or the watch's word if not by themselves
    proxy_.reset();
    watch_.reset();
    cudaSetDevice(before);
  }

  void all_reduce(TensorView in, TensorView out, ReduceOp op, Stream& stream) override {
    const OnDevice on(begin_call());
    const int64_t most = kMostBytes / size_of(in.dtype);
    for (int64_t done = 0, count; done < in.count(); done += count) {
      Choice choice = choose(in.bytes(), in.dtype);
      if (choice.algorithm == Algorithm::kNccl && nccl_->is_ready(raw(stream)))
        return nccl_->all_reduce(in.data, out.data, in.count(), in.dtype, op, raw(stream));
      if (choice.algorithm == Algorithm::kNccl) choice = own_choice(in.bytes(), in.dtype);
      count = std::min(most, in.count() - done);
      const auto at = [&](const TensorView& tensor) {
        return static_cast<char*>(tensor.data) + done * size_of(in.dtype);
      };
      run(choice, in.dtype, op, at(in), at(out), count, stream);
    }
  }

  void all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon, TensorView normed,
                               float fp8_scale, Stream& stream) override {
    const OnDevice on(begin_call());
    const int64_t bytes = in.bytes(), row_bytes = in.cols() * size_of(in.dtype);
    if (!has_norm(in))
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("all_reduce_add_rms_norm is for the GPUs of one node, rows of a multiple of {} and at most "
                      "{} bytes, and at most {} in all; here are {} nodes and {} rows of {}",
                      kLineBytes, most_row_bytes(), kMostBytes, seats_.num_nodes, in.rows(), row_bytes));
    if (bytes == 0) return;
    for (const TensorView* tensor : {&in, &residual, &weight, &normed})
      if (reinterpret_cast<uintptr_t>(tensor->data) % kLineBytes != 0)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("all_reduce_add_rms_norm needs tensors at multiples of {} bytes", kLineBytes));
    // Measured on H200: one shot pays as long as all its copies are no more than a MiB, and a few rows are spread over
    // eight blocks each; then a line for each thread is best.
    Choice choice = forced_.value_or(Choice{});
    if (choice.algorithm != Algorithm::kOneShot && choice.algorithm != Algorithm::kTwoShot) choice = {};
    const bool is_forced = forced_ && forced_->algorithm == choice.algorithm;
    if (lines_needed(Shot::kOne, group_.size, bytes) > group_.buffer_lines ||
        (!is_forced && bytes * (group_.size - 1) > 1 << 20))
      choice.algorithm = Algorithm::kTwoShot;
    const Shot shot = choice.algorithm == Algorithm::kOneShot ? Shot::kOne : Shot::kTwo;
    const auto row_lines = static_cast<int>(row_bytes / kLineBytes);
    const int64_t rows = in.rows();
    Launch launch = launch_on(stream);
    launch.cluster = choice.blocks > 0 ? choice.blocks
                     : rows <= 4       ? 8
                                       : static_cast<int>(std::bit_ceil(row_lines / 512u));
    launch.cluster =
        static_cast<int>(std::bit_floor(static_cast<unsigned>(std::clamp(launch.cluster, 1, most_cluster_))));
    launch.threads = choice.threads > 0 ? choice.threads : 512;
    while (launch.cluster < most_cluster_ && launch.cluster * 512 * 2 < row_lines) launch.cluster *= 2;
    while (launch.threads > 64 && launch.cluster * launch.threads / 2 >= row_lines) launch.threads /= 2;
    while (launch.threads < 512 && launch.cluster * launch.threads * 2 < row_lines) launch.threads *= 2;
    launch.blocks = static_cast<int>(std::min<int64_t>(rows, most_blocks_ / launch.cluster - 1) + 1) * launch.cluster;
    need(lines_needed(shot, group_.size, bytes));
    cuda::all_reduce_add_rms_norm(
        with_call(DeviceCall::kAllReduceNorm, choice.algorithm, in.dtype, ReduceOp::kSum, bytes), shot, in.dtype,
        {in.data, residual.data, weight.data, normed.data, rows, in.cols(), epsilon, fp8_scale != 0, fp8_scale},
        launch);
  }

  bool fuses_norm(TensorView in) const override {
    return has_norm(in) && !(forced_ && forced_->algorithm == Algorithm::kNccl);
  }

  void reduce_scatter(TensorView in, TensorView out, ReduceOp op, Stream& stream) override {
    const OnDevice on(begin_flat("reduce_scatter"));
    const int64_t bytes = out.bytes();
    if (bytes == 0) return;
    need_at_once("reduce_scatter", lines_needed_scatter(group_.size, bytes), in.bytes());
    cuda::reduce_scatter(with_call(DeviceCall::kReduceScatter, Algorithm::kOneShot, in.dtype, op, bytes), in.dtype, op,
                         in.data, out.data, out.count(), with_grid_for(bytes, stream));
  }

  void all_gather(TensorView in, TensorView out, Stream& stream) override {
    const OnDevice on(begin_flat("all_gather"));
    need_at_once("all_gather", lines_needed_all_gather(group_.size, in.bytes()), out.bytes());
    cuda::all_gather(with_call(DeviceCall::kAllGather, Algorithm::kOneShot, in.dtype, ReduceOp::kSum, in.bytes()),
                     in.data, out.data, in.bytes(), with_grid_for(in.bytes(), stream));
  }

  void broadcast(TensorView inout, int root, Stream& stream) override {
    const OnDevice on(begin_flat("broadcast"));
    need_at_once("broadcast", lines_needed_broadcast(group_.size, inout.bytes()), inout.bytes());
    const int place = seats_.place_of(root);
    cuda::broadcast(with_call(DeviceCall::kBroadcast, Algorithm::kOneShot, inout.dtype, ReduceOp::kSum,
                              inout.bytes() * group_.size + root),
                    place, inout.data, inout.bytes(), with_grid_for(inout.bytes(), stream));
  }

  void check_failure() override {
    watch_->look();
    if (host_.board->failed()) host_.board->throw_failure();
  }

  std::vector<std::string> algorithms() const override {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates(situation_, 64 << 10, DType::kBF16))
      if (candidate.why_not.empty()) names.push_back(name_of(candidate.choice));
    return names;
  }
  void set_algorithm(const std::string& name) override {
    if (name == "auto") return forced_.reset();
    const Choice choice = choice_from_name(name);
    if (const std::string why = why_not(choice.algorithm, situation_); !why.empty())
      throw Error(ErrorCode::kUnsupported, fmt::format("{} cannot run here: {}", name, why));
    forced_ = choice;
  }
  void set_most_blocks(int most) override { most_blocks_ = std::clamp(most - 1, 1, kMostBlocks - 1); }
  void keep_one_order() override { one_order_ = true; }
  std::string algorithm(int64_t bytes, DType dtype) const override { return name_of(choose(bytes, dtype)); }
  std::string explain(int64_t bytes, DType dtype) const override {
    std::string text;
    for (const Candidate& candidate : candidates(situation_, bytes, dtype))
      text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", name_of(candidate.choice),
                          candidate.why_not.empty()
                              ? fmt::format("{:.1f} µs ({})", candidate.expected_s * 1e6, candidate.source)
                              : candidate.why_not);
    return text;
  }
  TuningHardware hardware() const override { return hardware_; }
  std::string fabric() const override {
    return fmt::format("peer memory ({}){}", memory_->kind(),
                       put_peers_   ? ", puts between nodes"
                       : is_direct_ ? ""
                                    : ", host proxy between nodes");
  }

 private:
  int64_t most_row_bytes() const { return int64_t{kLineBytes} * 512 * most_cluster_; }
  bool has_norm(const TensorView& in) const {
    const int64_t row_bytes = in.cols() * size_of(in.dtype);
    return seats_.num_nodes == 1 && row_bytes % kLineBytes == 0 && row_bytes <= most_row_bytes() &&
           in.bytes() <= kMostBytes;
  }

  // The device to run on, after a look whether the group still lives.
  int begin_call() {
    check_failure();
    return device_;
  }
  int begin_flat(const char* operation) {
    if (seats_.num_nodes > 1)
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{} on GPUs of several nodes is not there; use a group of one node's ranks (split)", operation));
    return begin_call();
  }

  Choice choose(int64_t bytes, DType dtype) const {
    if (forced_) return *forced_;
    for (const Candidate& candidate : candidates(situation_, bytes, dtype)) {
      if (!candidate.why_not.empty()) continue;
      if (!one_order_ || keeps_one_order(candidate.choice.algorithm)) return candidate.choice;
    }
    throw Error(ErrorCode::kUnsupported, "no all-reduce runs among these GPUs");
  }
  // Those that are chosen by size add in one order: within a node all ours do; between nodes it is the doubling's.
  // NCCL's depends on the size.
  static bool keeps_one_order(Algorithm algorithm) {
    return algorithm != Algorithm::kNccl && algorithm != Algorithm::kHierOneShot &&
           algorithm != Algorithm::kHierHalving;
  }
  Choice own_choice(int64_t bytes, DType dtype) const {
    Situation without = situation_;
    without.has_nccl = false;
    return candidates(without, bytes, dtype).front().choice;
  }

  Launch launch_on(const Stream& stream) const {
    Launch launch;
    launch.stream = raw(stream);
    launch.is_chained = most_cluster_ > 1;  // sm_90 brought both
    return launch;
  }
  Launch with_grid_for(int64_t bytes, const Stream& stream) const {
    const Choice choice = with_grid({Algorithm::kOneShot}, situation_, bytes, most_blocks_);
    Launch launch = launch_on(stream);
    launch.blocks = choice.blocks + 1, launch.threads = choice.threads;
    return launch;
  }

  Group with_call(DeviceCall call, Algorithm algorithm, DType type, ReduceOp op, int64_t bytes) const {
    Group group = group_;
    group.call = call_word(call, static_cast<uint32_t>(algorithm), type, op, bytes);
    return group;
  }

  void need(int64_t lines) const { ensure(lines <= group_.buffer_lines, "an operation fits into a buffer"); }
  void need_at_once(const char* operation, int64_t lines, int64_t bytes) const {
    if (lines > group_.buffer_lines)
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} of {} bytes on {} GPUs: at most {} bytes of buffer are there; do "
                              "it in parts",
                              operation, bytes, group_.size, kBufferBytes));
  }

  void run(Choice choice, DType type, ReduceOp op, const void* in, void* out, int64_t count, const Stream& stream) {
    const int64_t bytes = count * size_of(type);
    // A vector that one way has no room for goes the other.
    if (choice.algorithm == Algorithm::kOneShot && lines_needed(Shot::kOne, group_.size, bytes) > group_.buffer_lines)
      choice = {Algorithm::kTwoShot};
    if (choice.algorithm == Algorithm::kTwoShotFp8 && op != ReduceOp::kSum && op != ReduceOp::kAvg)
      choice.algorithm = Algorithm::kTwoShot;
    const int64_t wire_bytes = choice.algorithm == Algorithm::kTwoShotFp8 ? count : bytes;
    choice = with_grid(choice, situation_, wire_bytes, most_blocks_);
    Launch launch = launch_on(stream);
    if (choice.algorithm == Algorithm::kProxy) choice.blocks = std::min(choice.blocks, kMailboxes);
    launch.blocks = choice.blocks + 1, launch.threads = choice.threads;
    const Group group = with_call(DeviceCall::kAllReduce, choice.algorithm, type, op, bytes);
    switch (choice.algorithm) {
      case Algorithm::kOneShot:
      case Algorithm::kTwoShot: {
        const Shot shot = choice.algorithm == Algorithm::kOneShot ? Shot::kOne : Shot::kTwo;
        need(lines_needed(shot, group_.size, bytes));
        return cuda::all_reduce(group, shot, type, op, in, out, count, launch);
      }
      case Algorithm::kTwoShotFp8:
        need(lines_needed_compressed(group_.size, type, bytes));
        return compressed_all_reduce(group, type, op, in, out, count, launch);
      case Algorithm::kHierOneShot:
      case Algorithm::kHierDoubling:
      case Algorithm::kHierHalving: {
        const Between between = choice.algorithm == Algorithm::kHierOneShot    ? Between::kOneShot
                                : choice.algorithm == Algorithm::kHierDoubling ? Between::kDoubling
                                                                               : Between::kHalving;
        const int64_t lines =
            put_peers_ ? lines_needed_put(between, group_, type, bytes) : lines_needed(between, group_, type, bytes);
        if (lines > group_.buffer_lines) return run_halves(choice, type, op, in, out, count, stream);
        if (put_peers_) return put_all_reduce(group, *put_peers_, between, type, op, in, out, count, launch);
        return hierarchical_all_reduce(group, between, type, op, in, out, count, launch);
      }
      case Algorithm::kProxy: {
        const int64_t lines = lines_needed_proxied(group_, bytes);
        if (lines > group_.buffer_lines) return run_halves(choice, type, op, in, out, count, stream);
        return proxied_all_reduce(group, *network_, type, op, in, out, count, launch);
      }
      case Algorithm::kTwoShotMulticast:
        need(lines_needed(Shot::kTwo, group_.size, bytes));
        return two_shot_multicast(group, multicast_.memory->data(), type, op, in, out, count, launch);
      case Algorithm::kNccl:
        break;
    }
  }
  void run_halves(Choice choice, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                  const Stream& stream) {
    const int64_t half = count / 2 / 8 * 8;
    ensure(half > 0, "a short vector fits");
    choice.blocks = 0;
    run(choice, type, op, in, out, half, stream);
    const int64_t offset = half * size_of(type);
    run(choice, type, op, static_cast<const char*>(in) + offset, static_cast<char*>(out) + offset, count - half,
        stream);
  }

  void open_puts() {
    auto memory = make_nvshmem_memory(host_.exchange, host_.rank, seats_.node_of, device_, kRegionBytes);
    load_put_kernels();
    put_peers_.emplace();
    for (int node = 0; node < seats_.num_nodes; ++node)
      put_peers_->pe[node] = memory->pe_of(seats_.members[node][seats_.place]);
    memory_ = std::move(memory);
  }

  void open_network() {
    const int64_t bytes = 2 * kMostBytes + (1 << 20);  // of partial sums, twice as wide at most
    mailboxes_.emplace(static_cast<int64_t>(sizeof(Mailbox)) * kMailboxes);
    to_network_.emplace(bytes);
    from_network_.emplace(bytes);
    network_ = HostNetwork{mailboxes_->as<Mailbox>(), to_network_->as<std::byte>(), from_network_->as<std::byte>()};
    // A mailbox has an order when its two numbers differ; none is the first operation's.
    for (int m = 0; m < kMailboxes; ++m)
      network_->mailboxes[m].posted = network_->mailboxes[m].landed = static_cast<uint32_t>(host_.first_number - 1);
    proxy_.emplace(host_.split_channels(proxy_channels_setting()),
                   Proxy::Memory{network_->mailboxes, network_->to_network, from_network_->as<std::byte>(), bytes},
                   [this](const Error& error) {
                     host_.board->post_failure(
                         error.code(), fmt::format("between nodes, where the ranks with one place in their nodes are "
                                                   "numbered by node: {}",
                                                   error.what()));
                   });
  }

  HostSide host_;
  int device_;
  std::optional<OnDevice> on_;  // while it is constructed
  Seats seats_;
  Pinned report_;
  int most_blocks_ = 1;
  int most_cluster_ = 1;  // blocks that can share a row
  bool is_direct_ = true, one_order_ = false;
  std::unique_ptr<PeerMemory> memory_;
  Multicast multicast_;  // over memory_
  std::optional<PutPeers> put_peers_;
  Group group_{};
  std::optional<Pinned> mailboxes_, to_network_, from_network_;
  std::optional<HostNetwork> network_;
  std::optional<Proxy> proxy_;
  std::unique_ptr<Nccl> nccl_;
  TuningHardware hardware_;
  Situation situation_;
  std::optional<Choice> forced_;
  std::optional<Watch> watch_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_device_group(HostSide host, int device_index) {
  return std::make_unique<CudaGroup>(std::move(host), device_index);
}

}  // namespace lane
