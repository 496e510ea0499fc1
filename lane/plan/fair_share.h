#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace lane::plan {

// A link that a flow goes over. `count`: flows like this one, itself included, that share the link with it and count as
// it does; more than one only where a flow stands for many (see fold.h).
struct Hop {
  int link = 0;
  int count = 1;
  bool operator==(const Hop&) const = default;
};

// Max-min fair rates of flows on links (Bertsekas and Gallager, Data Networks, 1992, section 6.5.2): no flow can be
// faster without one that is not faster becoming slower. By progressive filling: all rates rise together; when a link
// is full, the flows over it keep their rate and the others rise on.
//
// Rates of a set of flows that no link joins to others depend on that set alone, so solve() looks only at the sets in
// which something was added or removed. The result does not depend on the order of calls. Not for several threads.
class FairShare {
 public:
  // Bytes per unit of time; infinity for links that hold nobody up.
  explicit FairShare(std::vector<double> capacities);

  // Flows are numbered; numbers of removed ones are used again. A flow's rate is 0 until the next solve(), and infinite
  // after it if no link limits it.
  int add(std::span<const Hop> hops);
  void remove(int flow);
  double rate(int flow) const { return flows_[flow].rate; }

  // The flows whose rate is another than before, in no particular order. Valid until the next call.
  const std::vector<int>& solve();

 private:
  struct Member {  // of a link: the flow, and which of its hops this is
    int flow, hop;
  };
  struct Link {
    double capacity = 0;
    std::vector<Member> members = {};
    double left = 0;          // while solving: of the capacity, for the flows not settled
    int64_t open = 0;         // ... how many of those there are
    int64_t settled_now = 0;  // ... and that settle at the present level
    uint64_t seen = 0;
    double level() const { return left / static_cast<double>(open); }
  };
  struct Flow {
    std::vector<Hop> hops = {};
    std::vector<int> places = {};  // in the links' members
    double rate = 0, next_rate = 0;
    uint64_t seen = 0;
    bool is_settled = false;
  };

  void find_set(int link);
  void fill();
  void settle(int link, double level);
  void touch(int link);

  std::vector<Link> links_;
  std::vector<Flow> flows_;
  std::vector<int> free_, touched_, changed_, free_running_;  // free_running_: new flows that no link limits
  std::vector<int> set_links_, set_flows_, settling_;
  std::vector<std::pair<double, int>> heap_;
  uint64_t now_ = 0;
};

}  // namespace lane::plan
