#include "tools/netlab/router.h"

#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "tools/netlab/fabric.h"
#include "tools/netlab/message.h"

namespace lane::netlab {
namespace {

constexpr int kReadsInARow = 16;  // from one host, before the others have their turn
constexpr int64_t kLongestSleepNs = 1'000'000'000;
constexpr int64_t kLongestWakeNs = 200'000;

int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Json to_json(const LaneStats& stats) {
  return {{"packets", stats.packets},
          {"bytes", stats.bytes},
          {"lost", stats.lost},
          {"overflowed", stats.overflowed},
          {"cut", stats.cut}};
}

class Router {
 public:
  Router(const Topology& topology, const std::vector<int>& tuns, int control, const RouterOptions& options)
      : fabric_(topology),
        tuns_(tuns),
        control_(control),
        options_(options),
        readable_(tuns.size(), true),
        largest_packet_(static_cast<size_t>(topology.mtu)) {
    for (size_t i = 0; i < topology.hosts.size(); ++i) {
      in_addr address{};
      ::inet_pton(AF_INET, topology.hosts[i].address.c_str(), &address);
      host_of_[address.s_addr] = static_cast<int>(i);
    }
    epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) throw_system_error("making an epoll");
    // Edge-triggered: a host that has to wait for room on its link stays readable without waking us.
    for (size_t i = 0; i < tuns.size(); ++i) watch(tuns[i], EPOLLIN | EPOLLET, static_cast<uint32_t>(i));
    watch(control, EPOLLIN, static_cast<uint32_t>(tuns.size()));
  }

  void run() {
    while (!done_) {
      deliver();
      bool more = false;
      for (size_t host = 0; host < tuns_.size(); ++host) more |= read_from(static_cast<int>(host));
      wait(more ? 0 : fabric_.next_ns());
    }
  }

 private:
  void watch(int fd, uint32_t events, uint32_t id) const {
    epoll_event event{};
    event.events = events;
    event.data.u32 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw_system_error("watching a device");
  }

  // Sleeps until something is readable or `until_ns` has come. Waking up takes time, tens of microseconds on a virtual
  // machine, so the alarm is set that much early; how much is learnt from every alarm.
  void wait(int64_t until_ns) {
    std::array<epoll_event, 64> events;
    const int64_t begin_ns = now_ns();
    const int64_t alarm_ns =
        until_ns == Fabric::kNever ? begin_ns + kLongestSleepNs : until_ns - wake_ns_ - options_.spin_ns;
    const int64_t left_ns = std::clamp<int64_t>(alarm_ns - begin_ns, 0, kLongestSleepNs);
    const timespec limit{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
    const int count = ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()), &limit, nullptr);
    if (count < 0 && errno != EINTR) throw_system_error("waiting for packets (Linux 5.11 or newer is needed)");
    woke_ns_ = now_ns();
    // A step up or down by the same amount settles at the median, which a rare stall does not move.
    if (count == 0 && left_ns > 0)
      wake_ns_ =
          std::clamp<int64_t>(wake_ns_ + (woke_ns_ - begin_ns - left_ns > wake_ns_ ? 500 : -500), 0, kLongestWakeNs);
    slept_ = count > 0 && woke_ns_ - begin_ns > wake_ns_;
    for (int i = 0; i < count; ++i) {
      const uint32_t id = events[static_cast<size_t>(i)].data.u32;
      if (id < tuns_.size())
        readable_[id] = true;
      else
        answer();
    }
  }

  // Whether there may be more to read at once.
  bool read_from(int host) {
    const auto index = static_cast<size_t>(host);
    for (int i = 0; readable_[index] && i < kReadsInARow && fabric_.accepts(host); ++i) {
      const uint32_t slot = take_slot();
      const ssize_t bytes = ::read(tuns_[index], slots_[slot].get(), largest_packet_);
      if (bytes < 0) {
        readable_[index] = errno == EINTR;
        free_slots_.push_back(slot);
        break;
      }
      const int target = destination(slots_[slot].get(), bytes);
      if (target < 0 || target == host) {
        ++num_unroutable_;
        free_slots_.push_back(slot);
        continue;
      }
      sizes_[slot] = static_cast<uint32_t>(bytes);
      // The packet that woke us was sent when we began to wake up.
      const int64_t sent_ns = std::max(last_ns_, std::exchange(slept_, false) ? woke_ns_ - wake_ns_ : now_ns());
      last_ns_ = sent_ns;
      fabric_.submit(sent_ns, host, target, static_cast<int32_t>(bytes), slot);
    }
    return readable_[index] && fabric_.accepts(host);
  }

  int destination(const unsigned char* packet, ssize_t bytes) const {
    if (bytes < 20 || packet[0] >> 4 != 4) return -1;
    in_addr_t address = 0;
    std::memcpy(&address, packet + 16, sizeof address);
    const auto found = host_of_.find(address);
    return found == host_of_.end() ? -1 : found->second;
  }

  // What is due before another sleep could end goes now: half of a wake-up early rather than half of one late.
  void deliver() {
    const int64_t now = now_ns();
    ended_.clear();
    fabric_.advance(now + wake_ns_ / 2, ended_);
    for (const Fabric::Outcome& outcome : ended_) {
      if (outcome.to >= 0) {
        const ssize_t written =
            ::write(tuns_[static_cast<size_t>(outcome.to)], slots_[outcome.tag].get(), sizes_[outcome.tag]);
        if (written < 0) ++num_refused_;
        ++num_delivered_;
        late_ns_ += now - outcome.due_ns;
        latest_ns_ = std::max(latest_ns_, now - outcome.due_ns);
      }
      free_slots_.push_back(outcome.tag);
    }
  }

  uint32_t take_slot() {
    if (free_slots_.empty()) {
      free_slots_.push_back(static_cast<uint32_t>(slots_.size()));
      slots_.push_back(std::make_unique_for_overwrite<unsigned char[]>(largest_packet_));
      sizes_.push_back(0);
    }
    const uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  void answer() {
    const Message request = receive_message(control_, 0, "the laboratory");
    if (request.json.is_null()) {
      done_ = true;
      return;
    }
    Json reply = Json::object();
    try {
      const std::string where = "the request";
      if (request.json.value("do", "") == "set")
        fabric_.change(json_string(request.json, "link", "", where), json_string(request.json, "key", "", where),
                       json_string(request.json, "value", "", where));
      else
        reply = stats();
    } catch (const Error& error) {
      reply["error"] = error.what();
    }
    send_message(control_, reply);
  }

  Json stats() const {
    Json links = Json::array();
    for (const Fabric::LinkReport& link : fabric_.report())
      links.push_back({{"name", link.name}, {"sent", to_json(link.sent)}, {"received", to_json(link.received)}});
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    const auto delivered = static_cast<double>(std::max<int64_t>(1, num_delivered_));
    return {{"links", links},
            {"router",
             {{"delivered", num_delivered_},
              {"refused", num_refused_},
              {"unroutable", num_unroutable_},
              {"mean_late_us", static_cast<double>(late_ns_) * 1e-3 / delivered},
              {"max_late_us", static_cast<double>(latest_ns_) * 1e-3},
              {"wake_us", static_cast<double>(wake_ns_) * 1e-3},
              {"cpu_s", seconds(usage.ru_utime) + seconds(usage.ru_stime)}}}};
  }

  Fabric fabric_;
  std::vector<int> tuns_;
  int control_;
  RouterOptions options_;
  std::vector<char> readable_;  // by host: whether a read may find a packet
  size_t largest_packet_;
  Fd epoll_;
  bool done_ = false;
  int64_t wake_ns_ = 30'000;           // from an alarm to our first instruction: a running median
  int64_t woke_ns_ = 0, last_ns_ = 0;  // when the last sleep ended; the latest submit()
  bool slept_ = false;                 // whether it was ended by a packet that has not been read yet
  std::unordered_map<in_addr_t, int> host_of_;
  std::vector<std::unique_ptr<unsigned char[]>> slots_;  // packets on their way
  std::vector<uint32_t> sizes_, free_slots_;             // by slot; indices into slots_
  std::vector<Fabric::Outcome> ended_;
  int64_t num_delivered_ = 0, num_refused_ = 0, num_unroutable_ = 0, late_ns_ = 0, latest_ns_ = 0;
};

}  // namespace

void run_router(const Topology& topology, const std::vector<int>& tuns, int control, const RouterOptions& options) {
  // The ranks of an experiment may busy-wait on every core; a router that waits its turn behind them would add
  // milliseconds to each packet. (A real-time priority would do, too, but waking up takes it 50 µs longer.)
  ::setpriority(PRIO_PROCESS, 0, -20);
  ::prctl(PR_SET_TIMERSLACK, 1);
  Router(topology, tuns, control, options).run();
}

}  // namespace lane::netlab
