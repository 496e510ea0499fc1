#include "lane/net/cuda/device_peer.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <stdlib.h>

#include <array>
#include <filesystem>

#include "bench/peers/cuda/plugin.h"
#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/device/cuda/native.cuh"
#include "lane/net/agreement.h"

namespace lane::net::cuda {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorCode::kUnsupported, why); }

// Beside this program: in the build's bench/peers or the installation's libexec.
std::string plugin_path(const std::string& library, const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code none;
  const std::string file = "liblane-peer-" + library + ".so";
  const fs::path here = fs::read_symlink("/proc/self/exe", none).parent_path();
  std::vector<fs::path> places = {here, here / "../bench/peers/cuda", here / "../bench/peers",
                                  here / "../libexec/lane"};
  if (!directory.empty()) places = {directory};
  for (const fs::path& place : places)
    if (fs::exists(place / file, none)) return fs::canonical(place / file, none);
  refuse(fmt::format("{} is not in {}; build it (bench/peers/cuda) or say where it is with --peer-dir", file,
                     places.front().string()));
}

LanePeerType type_of(DType dtype) {
  return dtype == DType::kBF16 ? kLanePeerBF16 : dtype == DType::kF16 ? kLanePeerF16 : kLanePeerF32;
}

// The nodes as plugin.h can say them: consecutive ranks, evenly. 0 if they are otherwise.
int even_nodes(const plan::Layout& layout) {
  const int nodes = layout.num_nodes(), size = static_cast<int>(layout.node_of.size());
  if (size % nodes != 0) return 0;
  for (int rank = 0; rank < size; ++rank)
    if (layout.node_of[static_cast<size_t>(rank)] != rank / (size / nodes)) return 0;
  return nodes;
}

// C functions of a shared library. It is never unloaded: libraries such as these leave threads and handlers behind.
struct Functions {
  decltype(&lane_peer_name) name;
  decltype(&lane_peer_open) open;
  decltype(&lane_peer_close) close;
  decltype(&lane_peer_allocate) allocate;
  decltype(&lane_peer_why_not) why_not;
  decltype(&lane_peer_all_reduce) all_reduce;
  decltype(&lane_peer_captured) captured;
  decltype(&lane_peer_error) error;
  decltype(&lane_peer_all_reduce_add_rms_norm) fused;  // may be null

  explicit Functions(const std::string& path) {
    // Local: two libraries may bring two versions of a third.
    void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) refuse(fmt::format("{} does not load: {}", path, ::dlerror()));
    const auto find = [&](const char* symbol, auto& into, bool must_be) {
      into = reinterpret_cast<std::remove_reference_t<decltype(into)>>(::dlsym(handle, symbol));
      if (into == nullptr && must_be) refuse(fmt::format("{} has no {}", path, symbol));
    };
    find("lane_peer_name", name, true);
    find("lane_peer_open", open, true);
    find("lane_peer_close", close, true);
    find("lane_peer_allocate", allocate, true);
    find("lane_peer_why_not", why_not, true);
    find("lane_peer_all_reduce", all_reduce, true);
    find("lane_peer_captured", captured, true);
    find("lane_peer_error", error, true);
    find("lane_peer_all_reduce_add_rms_norm", fused, false);
  }
};

}  // namespace

void pretend_hosts_to_nccl(const Communicator& group) {
  if (setting("LANE_HOST").empty()) return;
  const int node = group.fabric().layout.node_of[static_cast<size_t>(group.rank())];
  for (const auto& [name, value] : {std::pair<const char*, std::string>{"NCCL_HOSTID", fmt::format("lane-{}", node)},
                                    {"NCCL_NET", "Socket"},
                                    {"NCCL_SOCKET_IFNAME", "lo"},
                                    {"NCCL_IB_DISABLE", "1"}})
    ::setenv(name, value.c_str(), 1);
}

struct PluginPeer::Impl {
  Communicator& group;
  Stream host;
  std::optional<Functions> functions;
  void* peer = nullptr;
  std::string library, why_not;

  explicit Impl(Communicator& its_group) : group(its_group) {}
  ~Impl() {
    if (peer != nullptr) functions->close(peer);
  }

  static int all_gather(void* context, const void* mine, size_t bytes, void* all) noexcept {
    auto& self = *static_cast<Impl*>(context);
    try {
      const auto length = static_cast<int64_t>(bytes);
      self.group.all_gather({const_cast<void*>(mine), DType::kU8, {1, 1, 1, length}, {}},
                            {all, DType::kU8, {1, 1, self.group.size(), length}, {}}, self.host);
      return 0;
    } catch (const std::exception& error) {
      log(LogLevel::kError, fmt::format("a peer library's exchange failed: {}", error.what()));
      return 1;
    }
  }

  void load(const DevicePeer& what, const std::string& directory) {
    if (even_nodes(group.fabric().layout) == 0)
      refuse("its plugin knows hosts with equally many consecutive ranks only");
    functions.emplace(plugin_path(what.library, directory));
  }

  void open(const DevicePeer& what, int device, int64_t max_bytes) {
    const LanePeerGroup seat{group.rank(), group.size(), device, even_nodes(group.fabric().layout), all_gather, this};
    std::array<char, 512> why{};
    peer = functions->open(&seat, what.options.c_str(), static_cast<size_t>(max_bytes), why.data(), why.size() - 1);
    if (peer == nullptr) refuse(why[0] != '\0' ? why.data() : "its plugin did not open and does not say why");
    const char* name = functions->name();
    library = name != nullptr ? name : what.text;
  }

  // Runs a step on this rank; afterwards all know whether it went well everywhere.
  template <class Step>
  bool all_succeed(const Step& step) {
    std::string failure;
    try {
      step();
    } catch (const Error& error) {
      failure = fmt::format("rank {}: {}", group.rank(), error.what());
    }
    why_not = first_said(group, failure);
    return why_not.empty();
  }

  void require(int status) const {
    if (status == 0) return;
    const char* words = functions->error(peer);
    refuse(words != nullptr && *words != '\0' ? words : fmt::format("{} returned {}", library, status));
  }
};

PluginPeer::PluginPeer(Communicator& group, const DevicePeer& peer, const std::string& directory, int device,
                       int64_t max_bytes)
    : impl_(std::make_unique<Impl>(group)) {
  const bool works = impl_->all_succeed([&] { impl_->load(peer, directory); }) &&
                     impl_->all_succeed([&] { impl_->open(peer, device, max_bytes); });
  if (!works && impl_->peer != nullptr) {
    impl_->functions->close(impl_->peer);
    impl_->peer = nullptr;
  }
}
PluginPeer::~PluginPeer() = default;

const std::string& PluginPeer::library() const { return impl_->library; }
const std::string& PluginPeer::why_not() const { return impl_->why_not; }

void* PluginPeer::allocate(int64_t bytes) {
  return impl_->functions->allocate(impl_->peer, static_cast<size_t>(bytes));
}

std::string PluginPeer::why_not(int64_t count, DType dtype) const {
  if (!impl_->why_not.empty()) return impl_->why_not;
  if (dtype == DType::kI32) return "its plugin adds float32, bfloat16 and float16 only";
  const char* words = impl_->functions->why_not(impl_->peer, static_cast<size_t>(count), type_of(dtype));
  return words != nullptr ? words : "";
}

bool PluginPeer::has_fused() const { return impl_->functions && impl_->functions->fused != nullptr; }

void PluginPeer::all_reduce(TensorView in, TensorView out, Stream& stream) {
  impl_->require(impl_->functions->all_reduce(impl_->peer, in.data, out.data, static_cast<size_t>(in.count()),
                                              type_of(in.dtype), lane::cuda::raw(stream)));
}

void PluginPeer::all_reduce_add_rms_norm(TensorView in, TensorView residual, TensorView weight, float epsilon,
                                         TensorView normed, Stream& stream) {
  const int status = impl_->functions->fused(impl_->peer, in.data, residual.data, weight.data, epsilon, normed.data,
                                             static_cast<size_t>(in.rows()), static_cast<size_t>(in.cols()),
                                             type_of(in.dtype), lane::cuda::raw(stream));
  impl_->require(status);
}

void PluginPeer::captured() { impl_->require(impl_->functions->captured(impl_->peer)); }

}  // namespace lane::net::cuda
