#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// RDMA devices with a port that is up, as UCX calls them ("mlx5_0:1"). With `nics`, a comma list of interfaces or
// addresses as in LANE_NICS, only those behind them. `sysfs` is another directory in tests.
std::vector<std::string> find_rdma_devices(const std::string& nics, const std::string& sysfs = "/sys");

// The interfaces that these sockets use ("eth0"), without those that have no Internet address.
std::vector<std::string> interfaces_of(const std::vector<Fd>& sockets);

// What UCX may use: transports and devices as in its variables UCX_TLS and UCX_NET_DEVICES; empty: all it finds.
struct UcxChoice {
  std::string transports, devices;
  std::string note = {};  // for the log: what was changed of the user's own choice
};
// `user_tls`: what the user's UCX_TLS says. Shared memory is left out, because UCX takes hosts for one that are not:
// emulated ones, and containers with a network each.
UcxChoice choose_ucx(bool use_rdma, std::string devices, const std::optional<std::string>& user_tls);

// The way that an endpoint goes, as UCX names it ("tcp", "rc_mlx5"), and whether puts are the network's own work.
struct UcxWay {
  std::string name;
  bool has_native_puts = false;
};
UcxWay parse_ucx_way(std::string_view info);  // what ucp_ep_print_info() writes

}  // namespace lane
