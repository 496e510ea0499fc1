#include <algorithm>
#include <bit>
#include <map>
#include <unordered_map>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/plan/workload.h"

namespace lane::plan {
namespace {

using Color = uint64_t;

Color mixed(Color a, Color b) { return mix64(mix64(a) ^ b); }
Color of_number(double value) { return std::bit_cast<uint64_t>(value); }

// Numbers colours in the order in which they first appear.
std::vector<int> numbered(const std::vector<Color>& colors, int& count) {
  std::unordered_map<Color, int> known;
  std::vector<int> classes;
  classes.reserve(colors.size());
  for (const Color color : colors)
    classes.push_back(known.try_emplace(color, static_cast<int>(known.size())).first->second);
  count = static_cast<int>(known.size());
  return classes;
}

class Refinement {
 public:
  explicit Refinement(const Workload& workload) : workload_(workload) {
    for (int rank = 0; rank < workload.num_ranks(); ++rank)
      ranks_.push_back(mixed(workload.program_of[rank], of_number(workload.slowness[rank])));
    for (const double capacity : workload.capacities) links_.push_back(of_number(capacity));
    for (size_t e = 0; e < workload.exchanges.size(); ++e)
      for (const Parcel& parcel : workload.exchanges[e].parcels) {
        const Color what = mixed(mixed(mixed(e, parcel.round), of_number(parcel.bytes)), of_number(parcel.wait_s));
        own_.push_back(mixed(what, of_number(parcel.latency_s)));
      }
    parcels_.resize(own_.size());
    for (int num_classes = -1, before = -2; num_classes != before;) {
      before = num_classes;
      num_classes = refine();
    }
  }

  const std::vector<Color>& ranks() const { return ranks_; }
  const std::vector<Color>& links() const { return links_; }
  const std::vector<Color>& parcels() const { return parcels_; }

 private:
  template <class Visit>
  void for_each_parcel(const Visit& visit) const {
    size_t i = 0;
    for (const Exchange& exchange : workload_.exchanges)
      for (const Parcel& parcel : exchange.parcels) visit(parcel, i++);
  }

  // Returns how many classes of ranks and links there are now. Sums of mixed colours stand for multisets.
  int refine() {
    for_each_parcel([&](const Parcel& parcel, size_t i) {
      Color receivers = 0, links = 0;
      for (const int to : parcel.to) receivers += mix64(ranks_[to]);
      for (const Hop& hop : parcel.hops) links += mix64(links_[hop.link]);
      parcels_[i] = mixed(mixed(mixed(own_[i], ranks_[parcel.from]), receivers), links);
    });
    std::vector<Color> sent(ranks_.size(), 0), received(ranks_.size(), 0), carried(links_.size(), 0);
    for_each_parcel([&](const Parcel& parcel, size_t i) {
      const Color color = mix64(parcels_[i]);
      sent[parcel.from] += color;
      for (const int to : parcel.to) received[to] += color;
      for (const Hop& hop : parcel.hops) carried[hop.link] += color;
    });
    for (size_t rank = 0; rank < ranks_.size(); ++rank)
      ranks_[rank] = mixed(mixed(ranks_[rank], sent[rank]), received[rank]);
    for (size_t link = 0; link < links_.size(); ++link) links_[link] = mixed(links_[link], carried[link]);
    int num_ranks = 0, num_links = 0;
    numbered(ranks_, num_ranks);
    numbered(links_, num_links);
    return num_ranks + num_links;
  }

  const Workload& workload_;
  std::vector<Color> ranks_, links_, parcels_, own_;
};

}  // namespace

Folded fold(const Workload& workload) {
  const Refinement refined(workload);
  Folded folded;
  int num_ranks = 0, num_links = 0, num_parcels = 0;
  folded.class_of_rank = numbered(refined.ranks(), num_ranks);
  folded.class_of_link = numbered(refined.links(), num_links);
  const std::vector<int> class_of_parcel = numbered(refined.parcels(), num_parcels);

  Workload& small = folded.workload;
  small.labels = workload.labels;
  small.programs = workload.programs;
  small.program_of.resize(num_ranks);
  small.slowness.resize(num_ranks);
  for (int rank = 0; rank < workload.num_ranks(); ++rank) {
    small.program_of[folded.class_of_rank[rank]] = workload.program_of[rank];
    small.slowness[folded.class_of_rank[rank]] = workload.slowness[rank];
  }
  // Of each class of links one is looked at: how many messages of each class go over it.
  std::vector<int> example(num_links, -1);
  for (int link = static_cast<int>(folded.class_of_link.size()) - 1; link >= 0; --link)
    example[folded.class_of_link[link]] = link;
  small.capacities.resize(num_links);
  for (int link = 0; link < num_links; ++link) small.capacities[link] = workload.capacities[example[link]];

  std::vector<std::map<int, int>> count_by_link(num_parcels);  // of a class of messages: link class, count
  std::vector<bool> is_taken(num_parcels, false);
  size_t i = 0;
  for (const Exchange& exchange : workload.exchanges)
    for (const Parcel& parcel : exchange.parcels) {
      for (const Hop& hop : parcel.hops) {
        ensure(hop.count == 1, "what is folded is not folded yet");
        const int link = folded.class_of_link[hop.link];
        if (example[link] == hop.link) ++count_by_link[class_of_parcel[i]][link];
      }
      ++i;
    }
  i = 0;
  for (const Exchange& exchange : workload.exchanges) {
    Exchange& into =
        small.exchanges.emplace_back(Exchange{exchange.name, {}, exchange.holds_sender, exchange.eager_bytes});
    for (const Parcel& parcel : exchange.parcels) {
      const int index = class_of_parcel[i++];
      if (is_taken[index]) continue;
      is_taken[index] = true;
      Parcel& one = into.parcels.emplace_back(parcel);
      one.from = folded.class_of_rank[parcel.from];
      for (int& to : one.to) to = folded.class_of_rank[to];
      std::sort(one.to.begin(), one.to.end());
      one.to.erase(std::unique(one.to.begin(), one.to.end()), one.to.end());
      one.hops.clear();
      for (const auto& [link, count] : count_by_link[index]) one.hops.push_back({link, count});
    }
  }
  return folded;
}

}  // namespace lane::plan
