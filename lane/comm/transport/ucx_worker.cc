#include "lane/comm/transport/ucx_worker.h"

#include <fmt/format.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <cstdarg>
#include <cstdlib>
#include <mutex>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

// `family`: in front of the names of a transport's own settings. UCX 1.13 takes those from a program without it only,
// later versions with it, and each merely warns of the other spelling.
void set(ucp_config_t* config, const std::string& family, const std::string& name, const std::string& value) {
  const std::string whole = family + name;
  if (launcher_variable(("UCX_" + whole).c_str())) return;  // the user's choice
  check_ucx(ucp_config_modify(config, whole.c_str(), value.c_str()), ("setting UCX_" + whole + "=" + value).c_str());
  if (!family.empty()) ucp_config_modify(config, name.c_str(), value.c_str());
}

// Measured over the loopback interface: messages of 28 KiB in segments of 32 KiB take half as long again for 1 MiB, and
// those of 240 KiB longer for 64 KiB; buffers of 8 MiB in the kernel change nothing.
void set_up_tcp(ucp_config_t* config) {
  set(config, "TCP_", "TX_SEG_SIZE", "64k");
  set(config, "TCP_", "RX_SEG_SIZE", "512k");
}

// A position that overtakes its bytes would show the reader memory that is not written yet: puts stay in order only on
// one path and without the relaxed ordering of PCI.
void set_up_rdma(ucp_config_t* config) {
  set(config, "", "MAX_RMA_RAILS", "1");
  set(config, "IB_", "PCI_RELAXED_ORDERING", "n");
}

// What UCX has to say goes into our log instead of on standard output. A peer's death is told by Transport::broken(),
// so that UCX's own words about it are details.
ucs_log_func_rc_t pass_on(const char* file, unsigned line, const char*, ucs_log_level_t level,
                          const ucs_log_component_config_t*, const char* message, va_list arguments) {
  if (level == UCS_LOG_LEVEL_FATAL) return UCS_LOG_FUNC_RC_CONTINUE;  // UCX ends the process: it may say why
  if (!log_enabled(LogLevel::kDebug)) return UCS_LOG_FUNC_RC_STOP;
  char text[1024];
  ::vsnprintf(text, sizeof(text), message, arguments);
  log(LogLevel::kDebug, fmt::format("UCX: {} ({}:{})", text, file, line));
  return UCS_LOG_FUNC_RC_STOP;
}

void quiet_log() {
  static std::once_flag once;
  std::call_once(once, [] { ucs_log_push_handler(pass_on); });
}

}  // namespace

void throw_ucx_error(const std::string& doing, ucs_status_t status) {
  throw Error(ErrorCode::kSystem,
              fmt::format("UCX failed in {}: {}; LANE_LOG=debug shows more, LANE_TRANSPORT=tcp does without UCX", doing,
                          ucs_status_string(status)));
}

UcxWorker::UcxWorker(const UcxChoice& choice) {
  quiet_log();
  if (!choice.note.empty()) log(LogLevel::kWarn, choice.note);
  ucp_config_t* config = nullptr;
  check_ucx(ucp_config_read(nullptr, nullptr, &config), "reading its settings");
  const std::unique_ptr<ucp_config_t, void (*)(ucp_config_t*)> owner(config, ucp_config_release);
  check_ucx(ucp_config_modify(config, "TLS", choice.transports.c_str()), "choosing transports");
  if (!choice.devices.empty()) set(config, "", "NET_DEVICES", choice.devices);
  if (choice.transports.find("tcp") != std::string::npos) set_up_tcp(config);
  if (choice.transports != "tcp") set_up_rdma(config);

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  ucp_context_h context = nullptr;
  if (const ucs_status_t status = ucp_init(&params, config, &context); status != UCS_OK) {
    const std::string devices = launcher_variable("UCX_NET_DEVICES").value_or(choice.devices);
    throw_ucx_error(
        fmt::format("opening UCX_TLS={} on UCX_NET_DEVICES={}", choice.transports, devices.empty() ? "all" : devices),
        status);
  }
  context_.reset(context);

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // our lock is around every use
  ucp_worker_h worker = nullptr;
  check_ucx(ucp_worker_create(context, &worker_params, &worker), "making a worker");
  worker_.reset(worker);
  check_ucx(ucp_worker_get_efd(worker, &event_fd_), "asking for its events");
}

UcxWorker::~UcxWorker() {
  worker_.reset();
  if (memory_handle_) ucp_mem_unmap(context_.get(), memory_handle_);
  context_.reset();
  if (memory_) ::munmap(memory_, memory_bytes_);
}

std::string UcxWorker::address() const {
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  check_ucx(ucp_worker_get_address(worker_.get(), &address, &bytes), "asking for its address");
  const std::string copy(reinterpret_cast<const char*>(address), bytes);
  ucp_worker_release_address(worker_.get(), address);
  return copy;
}

std::byte* UcxWorker::make_memory(size_t bytes) {
  ensure(memory_ == nullptr, "a worker has one piece of memory");
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_system_error(fmt::format("allocating {} B for links", bytes));
  memory_ = memory;
  memory_bytes_ = bytes;
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = memory;
  params.length = bytes;
  if (const ucs_status_t status = ucp_mem_map(context_.get(), &params, &memory_handle_); status != UCS_OK)
    throw_ucx_error(fmt::format("registering {} B (is the limit of locked memory, ulimit -l, too low?)", bytes),
                    status);
  return static_cast<std::byte*>(memory);
}

std::string UcxWorker::packed_key() const {
  void* key = nullptr;
  size_t bytes = 0;
  check_ucx(ucp_rkey_pack(context_.get(), memory_handle_, &key, &bytes), "packing a memory key");
  const std::string copy(static_cast<const char*>(key), bytes);
  ucp_rkey_buffer_release(key);
  return copy;
}

// UCX 1.13 tells this in print only; the last line is there for lanes with puts of their own:
//   #                 lane[0]:  3:rc_mlx5/mlx5_0:1.0 md[4] -> addr[1].md[4]/ib/sysdev[255] am am_bw#0 wireup
//   #                  put[0]: 0..<short>..221..<bcopy>..8256..<zcopy>..(inf)
// A way that is not understood counts as one without: then the receiver's helper moves the bytes, whatever the network.
UcxWay way_of(ucp_ep_h endpoint) {
  char* text = nullptr;
  size_t bytes = 0;
  FILE* stream = ::open_memstream(&text, &bytes);
  if (stream == nullptr) throw_system_error("asking UCX for its transports");
  ucp_ep_print_info(endpoint, stream);
  ::fclose(stream);
  const std::unique_ptr<char, void (*)(void*)> owner(text, std::free);
  return parse_ucx_way({text, bytes});
}

}  // namespace lane
