// NCCL's ncclAllReduce. Options: "" for its own choice, "symmetric" for memory in symmetric windows, or a protocol
// (LL, LL128, Simple) or an algorithm (Ring, Tree) to be held to.
#include <nccl.h>

#include "bench/peers/cuda/peer.h"

namespace {

using namespace lane::peer;

void check(ncclResult_t status, const char* doing) {
  if (status != ncclSuccess) fail(std::string(doing) + ": " + ncclGetErrorString(status));
}

std::string version() {
  int code = 0;
  ncclGetVersion(&code);
  return "NCCL " + std::to_string(code / 10000) + "." + std::to_string(code / 100 % 100) + "." +
         std::to_string(code % 100);
}

std::string name = version();

// A variable of NCCL's environment while a communicator is made; it reads these then.
class Setting {
 public:
  Setting(const char* variable, const std::string& value) : variable_(variable) { setenv(variable_, value.c_str(), 1); }
  ~Setting() { unsetenv(variable_); }

 private:
  const char* variable_;
};

class Nccl {
 public:
  Nccl(const Group& group, const std::string& options, size_t) : symmetric_(options == "symmetric") {
    setenv("NCCL_NVLS_ENABLE", "0", 1);  // no NVLink multicast
    std::unique_ptr<Setting> held_to;
    if (options == "LL" || options == "LL128" || options == "Simple")
      held_to = std::make_unique<Setting>("NCCL_PROTO", options);
    else if (options == "Ring" || options == "Tree")
      held_to = std::make_unique<Setting>("NCCL_ALGO", options);
    else if (!options.empty() && !symmetric_)
      fail("NCCL: no option " + options + "; there are symmetric, LL, LL128, Simple, Ring and Tree");
    name = version() + (symmetric_ ? ", symmetric windows" : options.empty() ? "" : ", " + options);

    ncclUniqueId id{};
    group.together([&] {
      if (group.rank() == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    });
    id = group.gather(id)[0];
    group.together([&] { check(ncclCommInitRank(&comm_, group.size(), id, group.rank()), "ncclCommInitRank"); });
  }
  ~Nccl() {
    cudaDeviceSynchronize();
    for (const Window& window : windows_) {
      if (window.handle) ncclCommWindowDeregister(comm_, window.handle);
      if (window.memory) ncclMemFree(window.memory);
    }
    if (comm_) ncclCommDestroy(comm_);
  }

  void* allocate(size_t bytes) {
    if (!symmetric_) return nullptr;
    constexpr size_t kAlignment = NCCL_WIN_REQUIRED_ALIGNMENT;
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    windows_.push_back({.bytes = bytes});
    Window& window = windows_.back();
    check(ncclMemAlloc(&window.memory, bytes), "ncclMemAlloc");
    check(ncclCommWindowRegister(comm_, window.memory, bytes, &window.handle, NCCL_WIN_COLL_SYMMETRIC),
          "ncclCommWindowRegister");
    return window.memory;
  }

  void all_reduce(const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
    if (symmetric_ && !(in_window(in) && in_window(out)))
      fail("the vectors do not lie in symmetric windows: " + (error.empty() ? "NCCL gave none" : error));
    constexpr ncclDataType_t kTypes[] = {ncclFloat32, ncclBfloat16, ncclFloat16};
    check(ncclAllReduce(in, out, count, kTypes[type], ncclSum, comm_, stream), "ncclAllReduce");
  }

  std::string error;

 private:
  struct Window {
    size_t bytes = 0;
    void* memory = nullptr;
    ncclWindow_t handle = nullptr;  // stays null where NCCL finds that it cannot
  };
  bool in_window(const void* address) const {
    for (const Window& window : windows_)
      if (window.handle && address >= window.memory && address < static_cast<char*>(window.memory) + window.bytes)
        return true;
    return false;
  }

  bool symmetric_;
  ncclComm_t comm_ = nullptr;
  std::vector<Window> windows_;
};

using Peer = Nccl;

}  // namespace

#include "bench/peers/cuda/exports.h"
