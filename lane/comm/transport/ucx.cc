#include "lane/comm/transport/ucx.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/comm/transport/exchange.h"
#include "lane/comm/transport/ucx_devices.h"
#include "lane/comm/transport/ucx_worker.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// A ring in each direction and its mirror, for every rank of another host; less each in a large job.
constexpr uint64_t kMostRingBytes = 1 << 20, kLeastRingBytes = 64 << 10, kAllRingsBytes = 128 << 20;
static_assert(kLeastRingBytes / 2 >= Transport::kLeastRoom);
// A message has to fit into a segment of UCX's TCP (64 KiB) with its headers, else it is put together in a buffer
// first.
constexpr uint64_t kMessageBytes = 60 << 10, kPutBytes = 64 << 10;
constexpr int kMostInFlight = 64;  // writes of a link that UCX has queued, so that its queues stay short

// The helper leaves UCX to the caller while the caller looks after it at least so often.
constexpr int64_t kAbsentNs = 1'000'000;
constexpr milliseconds kFarewell = std::chrono::seconds(1);

uint64_t ring_bytes_for(size_t num_ranks) {  // the same on all ranks
  uint64_t bytes = kMostRingBytes;
  while (bytes > kLeastRingBytes && 2 * bytes * num_ranks > kAllRingsBytes) bytes /= 2;
  return bytes;
}

// What the peer of a link writes: positions in the two streams, in bytes.
struct Counters {
  alignas(64) uint64_t head;  // what it has sent
  alignas(64) uint64_t tail;  // what it has taken of ours
};

uint64_t read(uint64_t& counter) { return std::atomic_ref<uint64_t>(counter).load(std::memory_order_acquire); }
void write(uint64_t& counter, uint64_t value) {
  std::atomic_ref<uint64_t>(counter).store(value, std::memory_order_release);
}

// What a rank tells each peer before the first byte: where the peer may write. UCX's address and key follow.
struct Hello {
  uint64_t version = 1;
  uint64_t ring_bytes = 0;
  uint64_t counters = 0, ring = 0;  // addresses in this rank's memory
  uint64_t link = 0;                // what this rank calls the link to the peer: its messages have it in front
  uint64_t address_bytes = 0, key_bytes = 0;
};

// In front of a message, where messages take the place of puts.
struct Heading {
  enum Kind : uint32_t { kBytes, kTail, kPing, kPong };
  uint32_t link = 0;  // as the receiver calls it
  Kind kind = kBytes;
  uint64_t position = 0;  // of the first byte; of the tail
};
constexpr unsigned kMessageId = 1;

constexpr const char* kClosed = "the other side closed the connection";

struct Link {
  Fd socket;
  ucp_ep_h endpoint = nullptr;
  std::unique_ptr<ucp_rkey, FreeUcx> key;
  Counters* counters = nullptr;  // the peer writes it
  std::byte* ring = nullptr;     // the peer writes it
  // Of the peer's ring: bytes stay here until the peer has taken them, so that no write outlives its source.
  std::byte* mirror = nullptr;
  uint64_t remote_counters = 0, remote_ring = 0;
  uint32_t remote_link = 0;
  uint64_t sent = 0, their_taken = 0;
  uint64_t arrived = 0, taken = 0, told = 0;  // told: of `taken`, to the peer
  int num_in_flight = 0;
  bool is_settled = false;  // nothing that was written is on its way
  ucs_status_ptr_t flush = nullptr;
  ucs_status_t error = UCS_OK;
  bool is_confused = false;  // it sent what cannot be
  bool has_ended = false;    // its socket, as far as idle() saw
};

class UcxTransport final : public Transport {
 public:
  UcxTransport(std::vector<Fd> sockets, const UcxOptions& options, const UcxChoice& choice)
      : options_(options), worker_(choice), ring_bytes_(ring_bytes_for(sockets.size())), links_(sockets.size()) {
    connect(sockets, Clock::now() + options_.timeout);
    for (size_t rank = 0; rank < sockets.size(); ++rank) links_[rank].socket = std::move(sockets[rank]);
  }

  // Two steps, so that a failure of this one finds an object to take apart.
  void start() {
    const auto deadline = Clock::now() + options_.timeout;
    for (Link& link : links_) {
      if (!link.endpoint) continue;
      const UcxWay way = way_of(link.endpoint);
      if (way_.name.empty()) way_ = way;
      way_.has_native_puts &= way.has_native_puts;
    }
    by_messages_ = options_.delivery == UcxOptions::Delivery::kMessages ||
                   (options_.delivery == UcxOptions::Delivery::kAuto && !way_.has_native_puts);
    {
      const std::lock_guard lock(mutex_);
      for (int rank = 0; rank < num_ranks(); ++rank)
        if (links_[rank].endpoint) tell_tail(rank);  // connects
      settle(deadline);
      for (int rank = 0; rank < num_ranks(); ++rank)
        if (links_[rank].endpoint && !links_[rank].is_settled)
          throw Error(ErrorCode::kPeerLost,
                      fmt::format("UCX ({}) finds no way to rank {}: {}; do both hosts have the same network? "
                                  "LANE_TRANSPORT=tcp does without UCX",
                                  way_.name, rank,
                                  links_[rank].error != UCS_OK ? ucs_status_string(links_[rank].error) : "no answer"));
    }
    // Nobody stops looking after UCX before all others have come so far.
    std::vector<Fd> sockets;
    for (Link& link : links_) sockets.push_back(std::move(link.socket));
    exchange(sockets, std::vector<std::string>(sockets.size(), "ready"), deadline, "starting UCX", [this] {
      const std::lock_guard lock(mutex_);
      progress();
    });
    for (size_t rank = 0; rank < sockets.size(); ++rank) links_[rank].socket = std::move(sockets[rank]);
    is_started_ = true;
    stop_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop_) throw_system_error("making an eventfd");
    helper_ = std::thread([this] { help(); });
  }

  ~UcxTransport() override {
    if (helper_.joinable()) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = ::write(stop_.get(), &one, sizeof(one));
      helper_.join();
    }
    const std::lock_guard lock(mutex_);
    // What was sent still arrives. A peer that died does not answer, nor does one that is stopped.
    if (is_started_) settle(Clock::now() + std::min(options_.timeout, kFarewell));
    std::vector<ucs_status_ptr_t> closing;
    for (Link& link : links_) {
      if (link.flush) ucp_request_free(link.flush);
      link.key.reset();
      if (!link.endpoint) continue;
      ucp_request_param_t how{};
      how.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      how.flags = UCP_EP_CLOSE_FLAG_FORCE;
      const ucs_status_ptr_t request = ucp_ep_close_nbx(link.endpoint, &how);
      if (UCS_PTR_IS_PTR(request)) closing.push_back(request);
    }
    const auto deadline = Clock::now() + kFarewell;
    for (const ucs_status_ptr_t request : closing) {
      while (ucp_request_check_status(request) == UCS_INPROGRESS && Clock::now() < deadline)
        ucp_worker_progress(worker_.get());
      ucp_request_free(request);
    }
  }

  int64_t try_send(int to, std::span<const iovec> pieces) override {
    Link& link = links_[to];
    uint64_t wanted = 0;
    for (const iovec& piece : pieces) wanted += piece.iov_len;
    const std::lock_guard lock(mutex_);
    if (link.error != UCS_OK) return 0;
    if (room(link) < wanted || link.num_in_flight >= kMostInFlight) {
      link.their_taken = read(link.counters->tail);
      if (room(link) < wanted || link.num_in_flight >= kMostInFlight) {
        progress();
        link.their_taken = read(link.counters->tail);
      }
      // Whole cache lines, so that what the reader sees of a long message stays aligned.
      if (room(link) < wanted) wanted = room(link) / kAlignment * kAlignment;
    }
    const uint64_t step = by_messages_ ? kMessageBytes : kPutBytes;
    uint64_t written = 0, in_piece = 0;
    size_t piece = 0;
    while (written < wanted && link.num_in_flight < kMostInFlight && link.error == UCS_OK) {
      const uint64_t begin = link.sent % ring_bytes_;
      const uint64_t bytes = std::min({step, wanted - written, ring_bytes_ - begin});
      for (uint64_t done = 0; done < bytes;) {
        const uint64_t part = std::min<uint64_t>(pieces[piece].iov_len - in_piece, bytes - done);
        if (part > 0)
          std::memcpy(link.mirror + begin + done, static_cast<const std::byte*>(pieces[piece].iov_base) + in_piece,
                      part);
        done += part, in_piece += part;
        if (in_piece == pieces[piece].iov_len) ++piece, in_piece = 0;
      }
      send_ring(to, begin, bytes);
      written += bytes;
      link.sent += bytes;
      if (!by_messages_) tell_head(to);
    }
    if (written > 0) pause_ns_ = 0;
    return static_cast<int64_t>(written);
  }

  std::span<const std::byte> try_peek(int from, int64_t wanted) override {
    Link& link = links_[from];
    if (link.arrived - link.taken < static_cast<uint64_t>(std::max<int64_t>(wanted, 1))) {
      const std::lock_guard lock(mutex_);
      uint64_t head = read(link.counters->head);
      if (head - link.taken < static_cast<uint64_t>(std::max<int64_t>(wanted, 1))) {
        progress();
        head = read(link.counters->head);
      }
      if (head != link.arrived) pause_ns_ = 0;
      link.arrived = head;
    }
    const uint64_t at = link.taken % ring_bytes_;
    return {link.ring + at, std::min(link.arrived - link.taken, ring_bytes_ - at)};
  }

  void release(int from, int64_t bytes) override {
    Link& link = links_[from];
    ensure(bytes >= 0 && static_cast<uint64_t>(bytes) <= link.arrived - link.taken,
           "only bytes that arrived are released");
    link.taken += static_cast<uint64_t>(bytes);
    // Whatever the sender waits for, three quarters of the ring are free in its eyes once all is released.
    if (link.taken - link.told < ring_bytes_ / 4) return;
    const std::lock_guard lock(mutex_);
    tell_tail(from);
  }

  void idle(nanoseconds longest) override {
    int64_t ns = std::max<int64_t>(longest.count(), 0);
    if (way_.has_native_puts) {  // nothing tells when a put has arrived
      {
        const std::lock_guard lock(mutex_);
        progress();
      }
      pause_ns_ = std::clamp<int64_t>(2 * pause_ns_, 20'000, 1'000'000);
      ns = std::min(ns, pause_ns_);
      const timespec pause{0, ns};
      ::nanosleep(&pause, nullptr);
      return;
    }
    polls_.assign(1, {worker_.event_fd(), POLLIN, 0});
    polled_.assign(1, -1);
    {
      const std::lock_guard lock(mutex_);
      if (progress()) return;
      // It refuses while there is something to do, and for good if UCX is broken: that must not keep the core busy.
      if (ucp_worker_arm(worker_.get()) != UCS_OK) ns = std::min<int64_t>(ns, 20'000);
      caller_ns_.store(now_ns() + ns, std::memory_order_relaxed);
    }
    for (int rank = 0; rank < num_ranks(); ++rank) {
      if (!links_[rank].socket || links_[rank].has_ended) continue;
      polls_.push_back({links_[rank].socket.get(), POLLIN, 0});
      polled_.push_back(rank);
    }
    const timespec limit{ns / 1'000'000'000, ns % 1'000'000'000};
    ::ppoll(polls_.data(), polls_.size(), &limit, nullptr);
    for (size_t i = 1; i < polls_.size(); ++i)
      if (polls_[i].revents) links_[polled_[i]].has_ended = true;
    const std::lock_guard lock(mutex_);
    progress();
  }

  std::string broken(int which) const override {
    const Link& link = links_[which];
    const std::lock_guard lock(mutex_);
    ucp_worker_progress(worker_.get());
    if (read(link.counters->head) != link.taken) return "";
    if (link.is_confused) return "it sent what is not of this job";
    if (std::string why = socket_end(link); !why.empty()) return why;
    return link.error != UCS_OK ? ucs_status_string(link.error) : "";
  }

  // TCP: the guess of our own TCP transport and what UCX was measured to add to it on one machine. RDMA: not measured;
  // what such networks promise.
  plan::Link link() const override {
    if (way_.has_native_puts) return {.latency_s = 2e-6, .bytes_per_s = 12e9, .message_s = 0.3e-6};
    return {.latency_s = 16.5e-6, .bytes_per_s = 0.8e9, .message_s = 4.5e-6};
  }
  std::string name() const override { return "UCX (" + way_.name + ")"; }

 private:
  // Something that UCX may still read, or has to tell us when it is done with.
  struct Parcel {
    UcxTransport* transport;
    Link* link;
    Heading heading;
  };

  int num_ranks() const { return static_cast<int>(links_.size()); }
  uint64_t room(const Link& link) const { return ring_bytes_ - (link.sent - link.their_taken); }

  void connect(const std::vector<Fd>& sockets, Clock::time_point deadline) {
    size_t num_links = 0;
    for (const Fd& socket : sockets) num_links += socket ? 1 : 0;
    std::byte* memory = worker_.make_memory(num_links * (2 * ring_bytes_ + 4096));
    const std::string address = worker_.address(), key = worker_.packed_key();
    std::vector<std::string> hellos(sockets.size());
    for (int rank = 0; rank < num_ranks(); ++rank) {
      if (!sockets[rank]) continue;
      Link& link = links_[rank];
      link.counters = reinterpret_cast<Counters*>(memory);
      link.ring = memory + 4096;
      link.mirror = link.ring + ring_bytes_;
      memory += 2 * ring_bytes_ + 4096;
      const Hello hello{.ring_bytes = ring_bytes_,
                        .counters = reinterpret_cast<uint64_t>(link.counters),
                        .ring = reinterpret_cast<uint64_t>(link.ring),
                        .link = static_cast<uint64_t>(rank),
                        .address_bytes = address.size(),
                        .key_bytes = key.size()};
      hellos[rank].assign(reinterpret_cast<const char*>(&hello), sizeof(hello));
      hellos[rank] += address + key;
    }
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kMessageId;
    handler.cb = on_message;
    handler.arg = this;
    check_ucx(ucp_worker_set_am_recv_handler(worker_.get(), &handler), "setting a handler");
    const std::vector<std::string> answers = exchange(sockets, hellos, deadline, "exchanging addresses of UCX");
    for (int rank = 0; rank < num_ranks(); ++rank)
      if (sockets[rank]) reach(rank, answers[rank]);
  }

  void reach(int rank, const std::string& answer) {
    Hello theirs;
    if (answer.size() >= sizeof(theirs)) std::memcpy(&theirs, answer.data(), sizeof(theirs));
    if (answer.size() < sizeof(theirs) || theirs.version != Hello{}.version || theirs.ring_bytes != ring_bytes_ ||
        theirs.address_bytes > answer.size() || theirs.key_bytes > answer.size() ||
        sizeof(theirs) + theirs.address_bytes + theirs.key_bytes != answer.size())
      throw Error(
          ErrorCode::kCorruptData,
          fmt::format("rank {} introduces itself to UCX in another way: do all ranks run the same version?", rank));
    Link& link = links_[rank];
    link.remote_counters = theirs.counters;
    link.remote_ring = theirs.ring;
    link.remote_link = static_cast<uint32_t>(theirs.link);
    ucp_ep_params_t params{};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(answer.data() + sizeof(theirs));
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.arg = &link;
    params.err_handler.cb = [](void* its_link, ucp_ep_h, ucs_status_t status) {
      static_cast<Link*>(its_link)->error = status;
    };
    if (const ucs_status_t status = ucp_ep_create(worker_.get(), &params, &link.endpoint); status != UCS_OK)
      throw_ucx_error(fmt::format("finding a way to rank {}", rank), status);
    ucp_rkey_h key = nullptr;
    check_ucx(ucp_ep_rkey_unpack(link.endpoint, answer.data() + sizeof(theirs) + theirs.address_bytes, &key),
              "reading a memory key");
    link.key.reset(key);
  }

  // All from here on: with the lock.

  bool progress() {
    const bool moved = ucp_worker_progress(worker_.get()) != 0;
    caller_ns_.store(now_ns(), std::memory_order_relaxed);
    return moved;
  }

  Parcel* take_parcel(Link& link) {
    if (free_.empty()) {
      parcels_.push_back({this, nullptr, {}});
      free_.push_back(&parcels_.back());
    }
    Parcel* parcel = free_.back();
    free_.pop_back();
    parcel->link = &link;
    return parcel;
  }

  static ucp_request_param_t tracked(Parcel* parcel) {
    ucp_request_param_t how{};
    how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    how.user_data = parcel;
    how.cb.send = [](void* request, ucs_status_t status, void* user_data) {
      auto* of = static_cast<Parcel*>(user_data);
      --of->link->num_in_flight;
      of->transport->give_back(of, status);
      ucp_request_free(request);
    };
    return how;
  }
  void give_back(Parcel* parcel, ucs_status_t status) {
    if (status != UCS_OK && parcel->link->error == UCS_OK) parcel->link->error = status;
    free_.push_back(parcel);
  }
  void track(Parcel* parcel, ucs_status_ptr_t request) {
    if (UCS_PTR_IS_PTR(request))
      ++parcel->link->num_in_flight;
    else
      give_back(parcel, UCS_PTR_STATUS(request));
  }

  void put(Link& link, const void* from, uint64_t bytes, uint64_t remote, Parcel* parcel) {
    ucp_request_param_t how = tracked(parcel);
    if (bytes > sizeof(uint64_t)) {
      how.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
      how.memh = worker_.memory();
    }
    track(parcel, ucp_put_nbx(link.endpoint, from, bytes, remote, link.key.get(), &how));
  }
  void put_counter(Link& link, uint64_t value, uint64_t remote) {
    Parcel* parcel = take_parcel(link);
    parcel->heading.position = value;
    put(link, &parcel->heading.position, sizeof(value), remote, parcel);
  }
  void message(int to, Heading::Kind kind, uint64_t position, const void* data = nullptr, uint64_t bytes = 0) {
    Link& link = links_[to];
    Parcel* parcel = take_parcel(link);
    parcel->heading = {link.remote_link, kind, position};
    ucp_request_param_t how = tracked(parcel);
    how.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    how.flags = UCP_AM_SEND_FLAG_EAGER;
    track(parcel, ucp_am_send_nbx(link.endpoint, kMessageId, &parcel->heading, sizeof(Heading), data, bytes, &how));
  }

  void send_ring(int to, uint64_t begin, uint64_t bytes) {
    Link& link = links_[to];
    if (by_messages_) return message(to, Heading::kBytes, link.sent, link.mirror + begin, bytes);
    put(link, link.mirror + begin, bytes, link.remote_ring + begin, take_parcel(link));
  }
  void tell_head(int to) {
    Link& link = links_[to];
    if (const ucs_status_t status = ucp_worker_fence(worker_.get()); status != UCS_OK) link.error = status;
    put_counter(link, link.sent, link.remote_counters + offsetof(Counters, head));
  }
  void tell_tail(int to) {
    Link& link = links_[to];
    if (link.error != UCS_OK) return;
    link.told = link.taken;
    if (by_messages_) return message(to, Heading::kTail, link.taken);
    put_counter(link, link.taken, link.remote_counters + offsetof(Counters, tail));
  }

  static ucs_status_t on_message(void* self, const void* header, size_t header_bytes, void* data, size_t bytes,
                                 const ucp_am_recv_param_t* how) {
    static_cast<UcxTransport*>(self)->receive(header, header_bytes, data, bytes, how->recv_attr);
    return UCS_OK;
  }
  void receive(const void* header, size_t header_bytes, const void* data, uint64_t bytes, uint64_t attributes) {
    Heading heading;
    if (header_bytes != sizeof(heading)) return;
    std::memcpy(&heading, header, sizeof(heading));
    if (heading.link >= links_.size() || !links_[heading.link].endpoint) return;
    Link& link = links_[heading.link];
    switch (heading.kind) {
      case Heading::kBytes: {
        const uint64_t head = read(link.counters->head), at = head % ring_bytes_;
        if (heading.position != head || bytes > ring_bytes_ - at || (attributes & UCP_AM_RECV_ATTR_FLAG_RNDV)) break;
        std::memcpy(link.ring + at, data, bytes);
        return write(link.counters->head, head + bytes);
      }
      case Heading::kTail:
        if (heading.position < read(link.counters->tail) || heading.position > link.sent) break;
        return write(link.counters->tail, heading.position);
      case Heading::kPing:
        if (link.error == UCS_OK) message(static_cast<int>(heading.link), Heading::kPong, 0);
        return;
      case Heading::kPong:
        link.is_settled = true;
        return;
    }
    link.is_confused = true;
  }

  static std::string socket_end(const Link& link) {
    char byte;
    const ssize_t got = link.socket ? ::recv(link.socket.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) : -1;
    if (got == 0) return kClosed;
    if (got > 0) return "the other side sent something out of place";
    return !link.socket || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? "" : std::strerror(errno);
  }

  // Waits until all that was written has reached the peers, those that live.
  void settle(Clock::time_point deadline) {
    for (int rank = 0; rank < num_ranks(); ++rank) {
      Link& link = links_[rank];
      link.is_settled = false;
      if (!link.endpoint || link.error != UCS_OK) continue;
      if (by_messages_) {
        message(rank, Heading::kPing, 0);
        continue;
      }
      const ucp_request_param_t how{};
      const ucs_status_ptr_t request = ucp_ep_flush_nbx(link.endpoint, &how);
      if (UCS_PTR_IS_PTR(request))
        link.flush = request;
      else
        end_flush(link, UCS_PTR_STATUS(request));
    }
    for (;;) {
      bool moved = false;
      for (int i = 0; i < 16; ++i) moved |= progress();
      bool is_over = true;
      for (Link& link : links_) {
        if (!link.endpoint || link.is_settled) continue;
        if (link.flush && ucp_request_check_status(link.flush) != UCS_INPROGRESS) {
          end_flush(link, ucp_request_check_status(link.flush));
          ucp_request_free(std::exchange(link.flush, nullptr));
        }
        const bool is_gone = link.error != UCS_OK || socket_end(link) == kClosed;
        if (!link.is_settled && !is_gone) is_over = false;
      }
      if (is_over || Clock::now() > deadline) return;
      if (moved || ucp_worker_arm(worker_.get()) != UCS_OK) continue;
      pollfd event{worker_.event_fd(), POLLIN, 0};
      ::poll(&event, 1, 1);
    }
  }
  static void end_flush(Link& link, ucs_status_t status) {
    if (status == UCS_OK)
      link.is_settled = true;
    else if (link.error == UCS_OK)
      link.error = status;
  }

  // Looks after UCX while the rank computes: sends what is queued, and takes in bytes where no network does that.
  void help() {
    for (;;) {
      const int64_t absent_ns = now_ns() - caller_ns_.load(std::memory_order_relaxed);
      int64_t ns = std::clamp(kAbsentNs - absent_ns, kAbsentNs, 10 * kAbsentNs);
      bool armed = false;
      if (absent_ns > kAbsentNs) {
        std::unique_lock lock(mutex_, std::try_to_lock);
        if (lock) {
          int turn = 0;
          while (turn < 64 && ucp_worker_progress(worker_.get()) != 0) ++turn;
          if (turn == 64) continue;  // the caller may have the lock in between
          armed = ucp_worker_arm(worker_.get()) == UCS_OK;
          ns = (armed ? 100 : 1) * kAbsentNs;
        }
      }
      pollfd polls[] = {{stop_.get(), POLLIN, 0}, {worker_.event_fd(), POLLIN, 0}};
      const timespec limit{0, ns};
      ::ppoll(polls, armed ? 2 : 1, &limit, nullptr);
      if (polls[0].revents) return;
    }
  }

  UcxOptions options_;
  UcxWorker worker_;
  UcxWay way_;
  bool by_messages_ = false, is_started_ = false;
  uint64_t ring_bytes_;
  std::deque<Parcel> parcels_;
  std::vector<Parcel*> free_;
  std::vector<Link> links_;  // by rank
  std::vector<pollfd> polls_;
  std::vector<int> polled_;
  int64_t pause_ns_ = 0;
  mutable std::mutex mutex_;            // UCX, the links' ends at UCX, and what its callbacks touch
  std::atomic<int64_t> caller_ns_ = 0;  // until when the caller looks after UCX
  Fd stop_;
  std::thread helper_;
};

}  // namespace

std::unique_ptr<Transport> make_ucx_transport(std::vector<Fd> sockets, const UcxOptions& options) {
  std::string devices;
  for (const std::string& device : options.use_rdma ? options.rdma_devices : interfaces_of(sockets))
    devices += (devices.empty() ? "" : ",") + device;
  auto transport = std::make_unique<UcxTransport>(std::move(sockets), options,
                                                  choose_ucx(options.use_rdma, devices, launcher_variable("UCX_TLS")));
  transport->start();
  log(LogLevel::kDebug, fmt::format("data between hosts goes over {}", transport->name()));
  return transport;
}

bool ucx_is_built_in() { return true; }

}  // namespace lane
