#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/doctor/checks/check.h"

// The network cards of a host: near their GPUs, up, at full speed, and able to reach GPU memory.
namespace lane::doctor {
namespace {

using topology::NicKind;
using topology::NicPort;
using topology::Path;

std::vector<const Nic*> compute_nics(const Case& c) {
  std::vector<const Nic*> nics;
  for (const Nic& nic : c.host.nics)
    if (is_compute(nic)) nics.push_back(&nic);
  return nics;
}

bool is_active(const Nic& nic) {
  return std::any_of(nic.ports.begin(), nic.ports.end(), [](const NicPort& port) { return port.state == "ACTIVE"; });
}

double rate_of(const Nic& nic) {
  double rate = 0;
  for (const NicPort& port : nic.ports)
    if (port.state == "ACTIVE") rate = std::max(rate, port.gbit_per_s);
  return rate;
}

bool are_siblings(const Nic& a, const Nic& b) {
  return a.kind == b.kind && a.role == b.role && a.model == b.model && a.board_id == b.board_id;
}

std::vector<Finding> no_fabric(const Case& c) {
  const auto nics = compute_nics(c);
  if (!nics.empty()) {
    std::vector<Evidence> evidence;
    for (const Nic* nic : nics)
      evidence.push_back({nic->name, fmt::format("{}, {:.0f} Gb/s", topology::name_of(nic->kind), rate_of(*nic))});
    return {fine(fmt::format("{} network card{} for jobs over several hosts", nics.size(), nics.size() == 1 ? "" : "s"),
                 evidence)};
  }
  for (const char* key : {"verbs.devices", "cxi.devices"})
    if (c.fact(key) != nullptr && !c.fact(key)->known())
      return {unknown("whether there is a fast network is not told", {c.evidence(key)},
                      "a full /sys/class: run it outside of the sandbox or container")};
  if (c.costs.num_hosts() > 1)
    return {note(fmt::format("no InfiniBand, RoCE, EFA or Slingshot here: a job over {} hosts goes over TCP",
                             c.costs.num_hosts()),
                 {{"/sys/class/infiniband, /sys/class/cxi", "no card for compute traffic"}},
                 "keep tensor parallelism inside the host: lane plan shows what each choice costs")};
  return {fine("no fast network, and none is needed inside one host",
               {{"/sys/class/infiniband, /sys/class/cxi", "no card for compute traffic"}})};
}

bool is_grace(const Case& c) {  // GPUs hang on their CPU by NVLink-C2C; NICs on the CPU are as near as can be
  return std::any_of(c.host.gpus.begin(), c.host.gpus.end(), [](const Gpu& gpu) {
    return gpu.name.find("GB200") != std::string::npos || gpu.name.find("GB300") != std::string::npos ||
           gpu.name.find("GH200") != std::string::npos;
  });
}

// The right question is asked per GPU: SYS between some GPU and some NIC is true of every host with two sockets.
std::vector<Finding> near_nic(const Case& c) {
  const auto nics = compute_nics(c);
  if (c.host.gpus.empty() || nics.empty()) return {};
  std::vector<Evidence> far, untold, near;
  const bool slingshot =
      std::any_of(nics.begin(), nics.end(), [](const Nic* nic) { return nic->kind == NicKind::kSlingshot; });
  bool at_bridge = true;
  for (int gpu = 0; gpu < static_cast<int>(c.host.gpus.size()); ++gpu) {
    Path path;
    const std::vector<int> nearest = nearest_nics(c.host, gpu, path);
    std::vector<std::string> names;
    for (const int nic : nearest) names.push_back(c.host.nics[nic].name);
    const Evidence seen{name_of_gpu(c.host.gpus[gpu]),
                        fmt::format("nearest: {} at {}", fmt::join(names, ", "), topology::name_of(path))};
    if (nearest.empty()) {
      untold.push_back({name_of_gpu(c.host.gpus[gpu]), "its distance to the NICs is not told"});
    } else if (path > Path::kPxb) {
      far.push_back(seen);
      at_bridge &= path == Path::kPhb;
    } else {
      near.push_back(seen);
    }
  }
  if (!untold.empty())
    return {unknown(fmt::format("how far {} GPUs are from the NICs is not told", untold.size()), untold,
                    "a full sysfs (not that of some containers), or --text topo_m=FILE with nvidia-smi topo -m")};
  if (far.empty()) return {fine("each GPU has a NIC on its own PCIe switch or next to it", near)};
  if (is_grace(c))
    return {note(
        "the NICs hang on the Grace CPUs, as they do on this platform; NCCL from 2.27 on reaches them over C2C", far)};
  // Kinds of Arm hosts whose GPUs may hang on the CPU by C2C, where the GPUs' own kind is not told.
  if (c.value("os.cpu_vendor") == "ARM" && c.host.gpus.front().sm == 0)
    return {unknown("the NICs hang on the CPUs; whether the GPUs reach them over NVLink-C2C is not told", far,
                    "the NVIDIA driver's NVML, which names the GPUs")};
  if (slingshot && at_bridge)
    return {note("the NICs hang on the CPU, as on most Slingshot machines; sites let GPUDirect cross the host bridge",
                 far, "export NCCL_NET_GDR_LEVEL=PHB (CSCS and Isambard-AI do)", "unset NCCL_NET_GDR_LEVEL")};
  if (c.is_virtual())
    return {
        unknown("no GPU has a NIC next to it, but virtual machines show PCIe flattened", far,
                "the provider's topology file: export NCCL_TOPO_FILE=/var/run/nvidia-topologyd/virtualTopology.xml, "
                "or write one on the host with lane doctor --nccl-topo FILE")};
  return {warning(fmt::format("{} of {} GPUs have no NIC at PIX or PXB: NCCL does not use GPUDirect RDMA over the host "
                              "bridge by default",
                              far.size(), c.host.gpus.size()),
                  far, c.costs.host_copies(),
                  "move the NIC to a slot on the GPU's PCIe switch; if there is none, measure NCCL_NET_GDR_LEVEL=PHB",
                  "unset NCCL_NET_GDR_LEVEL")};
}

std::vector<Finding> order(const Case& c) {
  std::vector<int> by_name;
  for (int nic = 0; nic < static_cast<int>(c.host.nics.size()); ++nic)
    if (is_compute(c.host.nics[nic])) by_name.push_back(nic);
  std::sort(by_name.begin(), by_name.end(),
            [&](int a, int b) { return natural_less(c.host.nics[a].name, c.host.nics[b].name); });
  const int num_gpus = static_cast<int>(c.host.gpus.size());
  if (num_gpus < 2 || by_name.size() < 2) return {};
  std::vector<Evidence> table;
  bool in_order = true;
  for (int gpu = 0; gpu < num_gpus; ++gpu) {
    Path path;
    const std::vector<int> nearest = nearest_nics(c.host, gpu, path);
    if (nearest.empty() || path > Path::kPxb) return {};  // gpu-far-from-nics speaks of that
    std::vector<std::string> names;
    for (const int nic : nearest) names.push_back(c.host.nics[nic].name);
    table.push_back({name_of_gpu(c.host.gpus[gpu]), fmt::format("NCCL_IB_HCA=={}", fmt::join(names, ","))});
    // GPU i would take the NIC at its share of the list, if there were no more to it than counting.
    const int counted = by_name[gpu * by_name.size() / num_gpus];
    in_order &= std::find(nearest.begin(), nearest.end(), counted) != nearest.end();
  }
  if (in_order) return {fine("GPUs and NICs are numbered alike", table)};
  return {note("GPU i is not next to the i-th NIC: scripts that count on that cross the host; NCCL itself does not",
               table, "where a rank is given one NIC, take it from this table: the second \"=\" makes the name exact")};
}

std::vector<Finding> port_down(const Case& c) {
  std::vector<Finding> found;
  std::vector<Evidence> untold;
  const auto nics = compute_nics(c);
  int num_up = 0;
  for (const Nic* nic : nics) num_up += is_active(*nic);
  for (const Nic* nic : nics) {
    if (is_active(*nic)) continue;
    if (nic->ports.empty() ||
        std::all_of(nic->ports.begin(), nic->ports.end(), [](const NicPort& p) { return p.state.empty(); })) {
      untold.push_back({nic->name, "the state of its ports is not told"});
      continue;
    }
    const NicPort& port = nic->ports.front();
    const Evidence seen{fmt::format("/sys/class/infiniband/{}/ports/{}/state, phys_state", nic->name, port.number),
                        port.phys_state.empty() ? port.state : port.state + ", " + port.phys_state};
    const bool has_active_sibling = std::any_of(nics.begin(), nics.end(), [&](const Nic* other) {
      return other != nic && is_active(*other) && are_siblings(*nic, *other);
    });
    if (nic->role == topology::NicRole::kUnknown && !has_active_sibling && num_up > 0) {
      found.push_back(note(fmt::format("{} is {} and has no sibling that is up: it may be meant for something else",
                                       nic->name, port.state),
                           {seen}));
      continue;
    }
    const bool waits = port.state == "INIT" || port.state == "ARMED";
    const std::string fix =
        waits ? "the link is up, but no subnet manager has configured it: sminfo; check the switch or opensm"
              : fmt::format(
                    "check the cable and the switch's port; sudo ip link set <netdev> up for Ethernet; sudo "
                    "mlxlink -d {} -p {} names the reason",
                    nic->name, port.number);
    const std::string what =
        fmt::format("{} is {}{}", nic->name, port.state, num_up > 0 ? " while its siblings are up" : "");
    if (num_up == 0)
      found.push_back(fatal(what + "; no port for compute traffic is up", {seen}, fix, "nothing was changed"));
    else  // its GPU shares another one's NIC
      found.push_back(warning(what, {seen}, c.costs.network_at(0.5), fix, "nothing was changed"));
  }
  if (!untold.empty())
    found.push_back(unknown("the state of some ports is not told", untold, "ibstat, or --text ibstat=FILE"));
  if (found.empty() && !nics.empty()) found.push_back(fine(fmt::format("all {} compute NICs are up", nics.size())));
  return found;
}

// Degraded is what is slower than its siblings of the same board and role; a rate by itself says nothing.
std::vector<Finding> port_slow(const Case& c) {
  std::vector<Finding> found;
  int num_rates = 0;
  const auto nics = compute_nics(c);
  for (const Nic* nic : nics) {
    const double rate = rate_of(*nic);
    if (rate <= 0) continue;
    ++num_rates;
    const Nic* best = nic;
    for (const Nic* other : nics)
      if (are_siblings(*nic, *other) && rate_of(*other) > rate_of(*best)) best = other;
    if (best == nic) continue;
    const auto words = [](const Nic& one) {
      for (const NicPort& port : one.ports)
        if (port.state == "ACTIVE" && port.gbit_per_s == rate_of(one))
          return fmt::format("{:g} Gb/sec{}", port.gbit_per_s,
                             port.speed_name.empty() ? "" : " (" + port.speed_name + ")");
      return std::string();
    };
    found.push_back(warning(
        fmt::format("{} runs at {:g} Gb/s, {} of the same board at {:g}", nic->name, rate, best->name, rate_of(*best)),
        {{fmt::format("/sys/class/infiniband/{}/ports/{}/rate", nic->name, nic->ports.front().number), words(*nic)},
         {fmt::format("/sys/class/infiniband/{}/ports/{}/rate", best->name, best->ports.front().number), words(*best)}},
        c.costs.network_at(rate / rate_of(*best)),
        fmt::format(
            "reseat or change cable and transceiver; sudo mlxlink -d {} -m -c shows width, speed and errors; compare "
            "the switch's port",
            nic->name),
        "nothing was changed"));
  }
  if (found.empty() && num_rates > 0) found.push_back(fine("all ports are as fast as their siblings"));
  return found;
}

std::vector<Finding> error_counters(const Case& c) {
  constexpr const char* kBad[] = {"link_downed",          "symbol_error",       "link_error_recovery",
                                  "port_rcv_errors",      "port_xmit_discards", "local_link_integrity_errors",
                                  "out_of_sequence",      "packet_seq_err",     "excessive_buffer_overrun_errors",
                                  "local_ack_timeout_err"};
  std::vector<Evidence> evidence;
  int num_read = 0;
  const auto nics = compute_nics(c);
  for (const Nic* nic : nics)
    for (const NicPort& port : nic->ports) {
      std::vector<std::string> set;
      for (const char* name : kBad) {
        const auto counter = port.counters.find(name);
        if (counter == port.counters.end()) continue;
        ++num_read;
        if (counter->second > 0) set.push_back(fmt::format("{} {}", name, counter->second));
      }
      if (!set.empty())
        evidence.push_back(
            {fmt::format("/sys/class/infiniband/{}/ports/{}/counters, hw_counters", nic->name, port.number),
             fmt::format("{}", fmt::join(set, ", "))});
    }
  if (nics.empty()) return {};
  const bool has_counters =
      std::any_of(nics.begin(), nics.end(), [](const Nic* nic) { return nic->kind != NicKind::kSlingshot; });
  if (num_read == 0 && has_counters)
    return {unknown("the error counters of the ports are not told", {},
                    "a full sysfs: /sys/class/infiniband/*/ports/*/counters")};
  if (num_read == 0) return {};
  if (evidence.empty()) return {fine("no errors counted on the ports")};
  return {note(fmt::format("{} port{} counted errors since the driver started; only those that grow matter",
                           evidence.size(), evidence.size() == 1 ? " has" : "s have"),
               evidence,
               "look again in an hour, under load: lane doctor --json both times; a link_downed that grows is a "
               "cable or a port to replace")};
}

std::vector<Finding> firmware(const Case& c) {
  const auto nics = compute_nics(c);
  std::vector<Evidence> evidence;
  bool differ = false;
  for (const Nic* nic : nics) {
    if (nic->firmware.empty()) continue;
    evidence.push_back({fmt::format("/sys/class/infiniband/{}/fw_ver", nic->name), nic->firmware});
    for (const Nic* other : nics)
      differ |= are_siblings(*nic, *other) && !other->firmware.empty() && other->firmware != nic->firmware;
  }
  if (evidence.size() < 2) return {};
  if (!differ) return {fine("NICs of the same board have the same firmware")};
  return {
      note("NICs of the same board have different firmware", evidence, "update them alike: mlxfwmanager --online -u")};
}

// NCCL's own test: nvidia_peermem's files, or a DMA-BUF registration that is not refused. Either is enough.
std::vector<Finding> gpu_direct(const Case& c) {
  const auto nics = compute_nics(c);
  if (c.host.gpus.empty() || nics.empty()) return {};
  const bool verbs = std::any_of(nics.begin(), nics.end(), [](const Nic* nic) {
    return nic->kind == NicKind::kInfiniband || nic->kind == NicKind::kRoce;
  });
  const std::string peermem = c.value("nvidia.peermem"), dmabuf = c.value("nvidia.dmabuf");
  const std::vector<Evidence> evidence{c.evidence("nvidia.peermem"), c.evidence("nvidia.dmabuf")};
  if (peermem == "loaded") return {fine("GPUDirect RDMA by nvidia_peermem", evidence)};
  if (dmabuf == "yes") return {fine("GPUDirect RDMA by DMA-BUF; nvidia_peermem is not needed", evidence)};
  if (!verbs)
    return {unknown("whether the NICs' own driver reaches GPU memory is not told", evidence,
                    "Slingshot: fi_info -p cxi lists FI_HMEM; EFA: fi_info -p efa -c FI_HMEM")};
  if (peermem.empty() || dmabuf.empty())
    return {unknown("whether GPUDirect RDMA works is not told", evidence,
                    "either of: test -d /sys/module/nvidia_peermem; or open kernel modules and a kernel with DMA-BUF")};
  return {
      warning("neither nvidia_peermem nor DMA-BUF: messages between hosts are copied through host memory", evidence,
              c.costs.host_copies(),
              "sudo modprobe nvidia-peermem (and list it in /etc/modules-load.d/), or install the driver's open kernel "
              "modules, with which DMA-BUF works by itself",
              "sudo modprobe -r nvidia-peermem")};
}

std::vector<Finding> libfabric(const Case& c) {
  const auto nics = compute_nics(c);
  const bool needs = std::any_of(nics.begin(), nics.end(), [](const Nic* nic) {
    return nic->kind == NicKind::kSlingshot || nic->kind == NicKind::kEfa;
  });
  if (!needs) return {};
  const Fact* library = c.fact("lib.libfabric");
  const Evidence seen = c.evidence("lib.libfabric");
  if (library == nullptr || !library->known())
    return {unknown("whether libfabric is installed is not told", {seen}, "fi_info --version")};
  if (!library->value.empty() && library->value != "absent")
    return {fine("libfabric " + library->value + " drives Slingshot and EFA; NCCL needs its plugin too (aws-ofi-nccl)",
                 {seen})};
  return {warning("libfabric is missing: NCCL and MPI reach Slingshot and EFA through it, or fall back to TCP", {seen},
                  c.costs.unknown("TCP's latency on these cards is not published"),
                  "install the vendor's libfabric and aws-ofi-nccl; sites set NCCL_NET=\"AWS Libfabric\"",
                  "remove the packages")};
}

}  // namespace

std::span<const Check> nic_checks() {
  static constexpr Check kChecks[] = {
      {"no-fabric", no_fabric},           {"gpu-far-from-nics", near_nic}, {"gpu-nic-order", order},
      {"nic-port-down", port_down},       {"nic-port-slow", port_slow},    {"nic-error-counters", error_counters},
      {"nic-firmware-differs", firmware}, {"gpudirect-rdma", gpu_direct},  {"libfabric-missing", libfabric}};
  return kChecks;
}

}  // namespace lane::doctor
