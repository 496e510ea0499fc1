#include "lane/comm/cuda/nvshmem_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <nvshmem_host.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <type_traits>

#include "lane/base/error.h"

namespace {

struct Library {
  decltype(&nvshmemx_get_uniqueid) get_uniqueid;
  decltype(&nvshmemx_set_attr_uniqueid_args) set_attr_uniqueid_args;
  decltype(&nvshmem_malloc) malloc;
  decltype(&nvshmem_ptr) ptr;
  decltype(&nvshmemid_hostlib_init_attr) init_attr;
  decltype(&nvshmemid_hostlib_finalize) finalize;
  decltype(&nvshmemid_init_status) init_status;
  std::string problem;

  Library() {
    void* library = ::dlopen("libnvshmem_host.so.3", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      problem = fmt::format(
          "NVSHMEM was not found ({}); pip install nvidia-nvshmem-cu13 has it: put its folder "
          "nvidia/nvshmem/lib into LD_LIBRARY_PATH",
          ::dlerror());
      return;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      return function != nullptr;
    };
    if (!find(get_uniqueid, "nvshmemx_get_uniqueid") ||
        !find(set_attr_uniqueid_args, "nvshmemx_set_attr_uniqueid_args") || !find(malloc, "nvshmem_malloc") ||
        !find(ptr, "nvshmem_ptr") || !find(init_attr, "nvshmemid_hostlib_init_attr") ||
        !find(finalize, "nvshmemid_hostlib_finalize") || !find(init_status, "nvshmemid_init_status"))
      problem = "libnvshmem_host.so.3 lacks functions; it has to be NVSHMEM 3.4 or newer";
  }
};
const Library& library() {
  static const Library loaded;
  return loaded;
}

}  // namespace

// What the static half calls of the shared one.
int nvshmemid_hostlib_init_attr(int requested, int* provided, unsigned int flags, nvshmemx_init_attr_t* attributes,
                                nvshmemi_version_t version, nvshmemx_device_lib_init_cb find_state) {
  return library().init_attr(requested, provided, flags, attributes, version, find_state);
}
void nvshmemid_hostlib_finalize(void* state, void* transport_state) { library().finalize(state, transport_state); }
int nvshmemid_init_status() { return library().init_status(); }

namespace lane::cuda::nvshmem {
namespace {

// NVSHMEM reads these when it is first called. What the user set stays.
void set_environment() {
  static std::once_flag once;
  std::call_once(once, [] {
    ::setenv("NVSHMEM_DISABLE_NVLS", "1", 0);  // multicast is for those who ask for it
    ::setenv("NVSHMEM_DISABLE_NCCL", "1", 0);  // it would open a communicator for collectives that are not called
  });
}

}  // namespace

std::string load() { return library().problem; }

std::string make_id() {
  set_environment();
  nvshmemx_uniqueid_t id = NVSHMEMX_UNIQUEID_INITIALIZER;
  if (library().get_uniqueid(&id) != 0)
    throw Error(ErrorCode::kUnsupported,
                "NVSHMEM found no address to listen at; NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME names "
                "an interface, NVSHMEM_DEBUG=INFO tells more");
  return std::string(reinterpret_cast<const char*>(&id), sizeof(id));
}

void start(const std::string& id, int rank, int size) {
  set_environment();
  nvshmemx_uniqueid_t unique = NVSHMEMX_UNIQUEID_INITIALIZER;
  ensure(id.size() == sizeof(unique), "an id is NVSHMEM's");
  std::memcpy(&unique, id.data(), sizeof(unique));
  nvshmemx_init_attr_t attributes = NVSHMEMX_INIT_ATTR_INITIALIZER;
  int status = library().set_attr_uniqueid_args(rank, size, &unique, &attributes), provided = 0;
  // What nvshmemx_init_attr() does, but that one ends the process if it fails.
  if (status == 0)
    status = nvshmemi_init_thread(
        NVSHMEM_THREAD_SERIALIZED, &provided, NVSHMEMX_INIT_WITH_UNIQUEID, &attributes,
        {NVSHMEM_VENDOR_MAJOR_VERSION, NVSHMEM_VENDOR_MINOR_VERSION, NVSHMEM_VENDOR_PATCH_VERSION});
  if (status != 0 || library().init_status() <= NVSHMEM_STATUS_IS_BOOTSTRAPPED)
    throw Error(
        ErrorCode::kUnsupported,
        "NVSHMEM did not start: it printed why above, and NVSHMEM_DEBUG=INFO tells more; between hosts it needs "
        "InfiniBand, RoCE, Slingshot or EFA (NVSHMEM_REMOTE_TRANSPORT)");
}

std::byte* allocate(int64_t bytes) { return static_cast<std::byte*>(library().malloc(static_cast<size_t>(bytes))); }
std::byte* mapped(std::byte* own, int pe) { return static_cast<std::byte*>(library().ptr(own, pe)); }

}  // namespace lane::cuda::nvshmem
