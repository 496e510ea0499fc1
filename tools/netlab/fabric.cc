#include "tools/netlab/fabric.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::netlab {
namespace {

int64_t serialization_ns(const LinkSettings& link, int32_t bytes) {
  return link.rate_bits_per_s > 0 ? std::llround(8e9 * bytes / link.rate_bits_per_s) : 0;
}

}  // namespace

Fabric::Fabric(const Topology& topology) : seed_(topology.seed) {
  for (const Host& host : topology.hosts) {
    names_.push_back(host.name);
    links_.push_back(host.link);
    rack_of_.push_back(host.rack);
  }
  for (const Rack& rack : topology.racks) {
    if (topology.racks.size() == 1) break;  // nothing passes the uplink of the only rack
    names_.push_back(rack.name);
    links_.push_back(rack.uplink);
  }
  lanes_.resize(2 * links_.size());
}

void Fabric::submit(int64_t now_ns, int from, int to, int32_t bytes, uint32_t tag) {
  uint32_t index = static_cast<uint32_t>(packets_.size());
  if (unused_.empty()) {
    packets_.emplace_back();
  } else {
    index = unused_.back();
    unused_.pop_back();
  }
  packets_[index] = {now_ns, now_ns, bytes, static_cast<int16_t>(from), static_cast<int16_t>(to), 0, tag};
  enter(now_ns, lane_of(packets_[index]), index);
}

bool Fabric::accepts(int host) const {
  const LinkSettings& link = links_[static_cast<size_t>(host)];
  const double room = std::max(128.0 * 1024, link.rate_bits_per_s / 8 * 2e-3);
  return static_cast<double>(lanes_[2 * static_cast<size_t>(host)].waiting_bytes) < room;
}

void Fabric::advance(int64_t now_ns, std::vector<Outcome>& ended) {
  while (next_ns() <= now_ns) {
    const Event event = events_.top();
    events_.pop();
    if (event.lane != kArrives) {
      leave(event.lane, event.packet);
    } else if (const int lane = lane_of(packets_[event.packet]); lane >= 0) {
      enter(event.time_ns, lane, event.packet);
    } else {
      end(event.packet, packets_[event.packet].to, event.time_ns);
    }
  }
  ended.insert(ended.end(), ended_.begin(), ended_.end());
  ended_.clear();
}

int Fabric::lane_of(const Packet& packet) const {
  const int num_hosts = static_cast<int>(rack_of_.size());
  const int source = rack_of_[static_cast<size_t>(packet.from)], target = rack_of_[static_cast<size_t>(packet.to)];
  const bool between_racks = source != target;
  const int hop = packet.hop > 0 && !between_racks ? packet.hop + 2 : packet.hop;
  switch (hop) {
    case 0:
      return 2 * packet.from;
    case 1:
      return 2 * (num_hosts + source);
    case 2:
      return 2 * (num_hosts + target) + 1;
    case 3:
      return 2 * packet.to + 1;
    default:
      return -1;
  }
}

// The last bit of the packet is here.
void Fabric::enter(int64_t now_ns, int lane_index, uint32_t index) {
  Lane& lane = lanes_[static_cast<size_t>(lane_index)];
  const LinkSettings& link = links_[static_cast<size_t>(lane_index / 2)];
  Packet& packet = packets_[index];
  if (link.cut) {
    ++lane.stats.cut;
    return end(index, -1, now_ns);
  }
  // Two links in a row, each keeping sqrt(1 - loss), lose `loss` together.
  if (link.loss > 0 && draw(lane_index) >= std::sqrt(1 - link.loss)) {
    ++lane.stats.lost;
    return end(index, -1, now_ns);
  }
  if (packet.hop > 0 && !lane.waiting.empty() && lane.waiting_bytes + packet.bytes > link.queue_limit_bytes()) {
    ++lane.stats.overflowed;
    return end(index, -1, now_ns);
  }
  lane.waiting.push_back(index);
  lane.waiting_bytes += packet.bytes;
  if (lane.waiting.size() == 1) start(lane_index);
}

// The front packet begins to leave.
void Fabric::start(int lane_index) {
  Lane& lane = lanes_[static_cast<size_t>(lane_index)];
  const uint32_t index = lane.waiting.front();
  Packet& packet = packets_[index];
  packet.first_ns = std::max(packet.first_ns, lane.free_ns);
  packet.last_ns = std::max(
      packet.last_ns, packet.first_ns + serialization_ns(links_[static_cast<size_t>(lane_index / 2)], packet.bytes));
  lane.free_ns = packet.last_ns;
  schedule(packet.last_ns, index, lane_index);
}

// The last bit of the front packet is on the wire.
void Fabric::leave(int lane_index, uint32_t index) {
  Lane& lane = lanes_[static_cast<size_t>(lane_index)];
  const LinkSettings& link = links_[static_cast<size_t>(lane_index / 2)];
  Packet& packet = packets_[index];
  lane.waiting.pop_front();
  lane.waiting_bytes -= packet.bytes;
  if (!lane.waiting.empty()) start(lane_index);
  if (link.cut) {
    ++lane.stats.cut;
    return end(index, -1, packet.last_ns);
  }
  ++lane.stats.packets;
  lane.stats.bytes += packet.bytes;
  int64_t delay_ns = link.delay_ns / 2;
  if (link.jitter_ns > 0) {
    const double jitter_ns = (2 * draw(lane_index) - 1) * static_cast<double>(link.jitter_ns) / 2;
    delay_ns = std::max<int64_t>(0, delay_ns + std::llround(jitter_ns));
  }
  // A packet never overtakes the one before it, be it by jitter or because the delay was lowered.
  if (!link.reorder) delay_ns = std::max(delay_ns, lane.arrival_ns - packet.last_ns);
  packet.first_ns += delay_ns;
  packet.last_ns += delay_ns;
  lane.arrival_ns = packet.last_ns;
  ++packet.hop;
  schedule(packet.last_ns, index, kArrives);
}

void Fabric::schedule(int64_t time_ns, uint32_t packet, int32_t lane) {
  events_.push({time_ns, num_events_++, packet, lane});
}

double Fabric::draw(int lane) {
  return random_uniform(mix64(seed_) + static_cast<uint64_t>(lane), lanes_[static_cast<size_t>(lane)].drawn++);
}

void Fabric::end(uint32_t packet, int to, int64_t due_ns) {
  ended_.push_back({packets_[packet].tag, to, due_ns});
  unused_.push_back(packet);
}

void Fabric::change(const std::string& link, const std::string& key, const std::string& value) {
  const auto found = std::ranges::find(names_, link);
  if (found == names_.end())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("there is no link \"{}\"; there are: {}", link, fmt::join(names_, ", ")));
  set_field(links_[static_cast<size_t>(found - names_.begin())], key, Json(value), link);
}

std::vector<Fabric::LinkReport> Fabric::report() const {
  std::vector<LinkReport> links;
  for (size_t i = 0; i < names_.size(); ++i) links.push_back({names_[i], lanes_[2 * i].stats, lanes_[2 * i + 1].stats});
  return links;
}

}  // namespace lane::netlab
