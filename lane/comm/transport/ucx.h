#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/transport.h"

namespace lane {

struct UcxOptions {
  std::chrono::milliseconds timeout;           // of the wire-up
  bool use_rdma = false;                       // else TCP through UCX; the same on all ranks
  std::vector<std::string> rdma_devices = {};  // "mlx5_0:1"; empty: UCX chooses
  // How bytes get into the receiver's ring: by one-sided puts, which RDMA does without the receiver's processor, or by
  // messages that the receiver's UCX hands to us, which is what puts over TCP come to as well, only dearer.
  enum class Delivery { kAuto, kPuts, kMessages };
  Delivery delivery = Delivery::kAuto;
};

// Links to ranks of other hosts over what UCX finds: RDMA networks, or TCP. `sockets` by rank, connected and
// authenticated; where there is none, there is no link. They carry the wire-up and then tell, by their end, that a peer
// is gone, which UCX does not do reliably. What UCX itself sends is neither encrypted nor authenticated.
std::unique_ptr<Transport> make_ucx_transport(std::vector<Fd> sockets, const UcxOptions& options);

bool ucx_is_built_in();

}  // namespace lane
