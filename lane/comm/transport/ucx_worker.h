#pragma once
#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "lane/comm/transport/ucx_devices.h"

namespace lane {

struct FreeUcx {
  void operator()(ucp_context_h context) const { ucp_cleanup(context); }
  void operator()(ucp_worker_h worker) const { ucp_worker_destroy(worker); }
  void operator()(ucp_rkey_h key) const { ucp_rkey_destroy(key); }
};

[[noreturn]] void throw_ucx_error(const std::string& doing, ucs_status_t status);
inline void check_ucx(ucs_status_t status, const char* doing) {
  if (status != UCS_OK) throw_ucx_error(doing, status);
}

// UCX's state of this rank: a context, a worker, and memory that peers may write. Not safe for several threads.
class UcxWorker {
 public:
  explicit UcxWorker(const UcxChoice& choice);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;

  ucp_worker_h get() const { return worker_.get(); }
  std::string address() const;
  int event_fd() const { return event_fd_; }

  // Zeroed pages for all the rings, registered; once.
  std::byte* make_memory(size_t bytes);
  std::string packed_key() const;
  ucp_mem_h memory() const { return memory_handle_; }

 private:
  std::unique_ptr<ucp_context, FreeUcx> context_;
  std::unique_ptr<ucp_worker, FreeUcx> worker_;
  void* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  ucp_mem_h memory_handle_ = nullptr;
  int event_fd_ = -1;
};

UcxWay way_of(ucp_ep_h endpoint);

}  // namespace lane
