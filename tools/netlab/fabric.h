#pragma once
#include <cstdint>
#include <deque>
#include <limits>
#include <queue>
#include <string>
#include <vector>

#include "tools/netlab/topology.h"

namespace lane::netlab {

struct LaneStats {
  int64_t packets = 0, bytes = 0;             // that passed
  int64_t lost = 0, overflowed = 0, cut = 0;  // packets dropped: by chance, by a full queue, by a cut
};

// When packets arrive: a pure function of what is submitted and of the time it is told, with no clock, no socket and no
// bytes of its own. A packet passes its host's link, between racks both uplinks, and the link of the host it goes to.
//
// Each direction of a link is a lane: a queue before a rate limiter, then a delay. A lane forwards the first bit of a
// packet while the last is still arriving. With f, l the times at which the first and last bit of a packet of s bits
// arrive, r the rate and p the time at which the last bit of the packet before it left, its bits leave
//     from  f' = max(f, p)   to  l' = max(l, f' + s/r),
// so that a path where nothing else goes on costs its delay and one serialization: that of its slowest link.
//
// One thread at a time. Times are nanoseconds from any origin and never go back.
class Fabric {
 public:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // The end of a packet: `tag` is the caller's word from submit(); `to` is -1 if it was dropped.
  struct Outcome {
    uint32_t tag;
    int to;
    int64_t due_ns;
  };

  explicit Fabric(const Topology& topology);

  void submit(int64_t now_ns, int from, int to, int32_t bytes, uint32_t tag);

  // Whether a host may hand over its next packet. A sender's own link never drops for want of space: like a network
  // card it lets the sender wait, here while 128 KiB or 2 ms of its rate, whichever is more, have yet to leave.
  bool accepts(int host) const;

  // The time of the next thing that will happen, or kNever.
  int64_t next_ns() const { return events_.empty() ? kNever : events_.top().time_ns; }

  // Lets everything happen that is due, and appends the packets that ended, in order of time.
  void advance(int64_t now_ns, std::vector<Outcome>& ended);

  // Links are named by their host; an uplink by its rack. Throws Error{kInvalidArgument} that lists the names.
  // Takes effect for what has not yet begun to leave the link's queue.
  void change(const std::string& link, const std::string& key, const std::string& value);

  struct LinkReport {
    std::string name;
    LaneStats sent, received;  // as seen by the host or rack at its end
  };
  std::vector<LinkReport> report() const;

 private:
  struct Packet {
    int64_t first_ns, last_ns;
    int32_t bytes;
    int16_t from, to;
    int8_t hop;
    uint32_t tag;
  };
  struct Lane {
    std::deque<uint32_t> waiting;  // packets; the front one is leaving
    int64_t waiting_bytes = 0;
    int64_t free_ns = 0;     // when the last packet's last bit left
    int64_t arrival_ns = 0;  // when the last packet arrived at the far end
    uint64_t drawn = 0;      // random numbers so far
    LaneStats stats;
  };
  struct Event {
    int64_t time_ns;
    uint64_t order;  // equal times: first come, first served
    uint32_t packet;
    int32_t lane;  // the lane that the packet has left; kArrives: the packet comes to its next lane or its end
    bool operator>(const Event& other) const {
      return time_ns != other.time_ns ? time_ns > other.time_ns : order > other.order;
    }
  };
  static constexpr int32_t kArrives = -1;

  int lane_of(const Packet& packet) const;  // -1 behind the last
  void enter(int64_t now_ns, int lane, uint32_t packet);
  void start(int lane);
  void leave(int lane, uint32_t packet);
  void schedule(int64_t time_ns, uint32_t packet, int32_t lane);
  double draw(int lane);
  void end(uint32_t packet, int to, int64_t due_ns);

  std::vector<std::string> names_;  // of links: hosts, then racks
  std::vector<LinkSettings> links_;
  std::vector<Lane> lanes_;  // 2 * link: towards the spine; 2 * link + 1: away from it
  std::vector<int> rack_of_;
  uint64_t seed_;
  uint64_t num_events_ = 0;
  std::vector<Packet> packets_;
  std::vector<uint32_t> unused_;  // indices into packets_
  std::vector<Outcome> ended_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

}  // namespace lane::netlab
