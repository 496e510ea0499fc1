#include "lane/comm/transport/tcp.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lane/base/error.h"

namespace lane {
namespace {

// Small enough to stay in a core's second-level cache, large enough that a system call per buffer does not show.
constexpr int64_t kBufferBytes = 256 << 10;
static_assert(kBufferBytes % Transport::kAlignment == 0);

struct FreeBuffer {
  void operator()(std::byte* buffer) const { ::operator delete[](buffer, std::align_val_t(Transport::kAlignment)); }
};

// Bytes that arrived, in a ring: byte s of the stream lies at a place that is equal to s modulo kAlignment, so that
// the end of the ring never cuts a unit of that size.
struct Link {
  Fd socket;
  std::unique_ptr<std::byte[], FreeBuffer> buffer;
  int64_t begin = 0, end = 0;  // begin < kBufferBytes, end <= begin + kBufferBytes
  bool is_full = false;        // for sending, as of the last attempt
  bool has_ended = false;      // nothing more will arrive
  int receive_error = 0, send_error = 0;
};

class TcpTransport final : public Transport {
 public:
  explicit TcpTransport(std::vector<Fd> sockets) : links_(sockets.size()) {
    for (size_t i = 0; i < sockets.size(); ++i) {
      if (!sockets[i]) continue;
      Link& link = links_[i];
      link.socket = std::move(sockets[i]);
      link.buffer.reset(static_cast<std::byte*>(
          ::operator new[](static_cast<size_t>(kBufferBytes), std::align_val_t(Transport::kAlignment))));
      const int one = 1;  // fails on a socket that is not TCP, which needs it not
      ::setsockopt(link.socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
      // The kernel sizes both buffers as it sees fit: set by hand they would stay as they are.
    }
  }

  // What was sent still arrives after the end of this process, unless there is something that nobody read: then the
  // kernel would cut the connection instead of ending it.
  ~TcpTransport() override {
    for (Link& link : links_) {
      if (!link.socket) continue;
      ::shutdown(link.socket.get(), SHUT_WR);
      for (int i = 0; i < 64 && ::recv(link.socket.get(), link.buffer.get(), kBufferBytes, MSG_DONTWAIT) > 0;) ++i;
    }
  }

  int64_t try_send(int to, std::span<const iovec> pieces) override {
    Link& link = links_[to];
    if (link.send_error != 0) return 0;
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces.data());
    message.msg_iovlen = pieces.size();
    for (;;) {
      const ssize_t sent = ::sendmsg(link.socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent >= 0) {
        link.is_full = false;
        return sent;
      }
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
        link.is_full = true;
        return 0;
      }
      link.send_error = errno;
      receive(link);  // what the peer sent before it went
      return 0;
    }
  }

  std::span<const std::byte> try_peek(int from, int64_t wanted) override {
    Link& link = links_[from];
    if (link.end - link.begin < std::max<int64_t>(wanted, 1)) receive(link);
    return {link.buffer.get() + link.begin, static_cast<size_t>(std::min(link.end, kBufferBytes) - link.begin)};
  }

  void release(int from, int64_t bytes) override {
    Link& link = links_[from];
    ensure(bytes >= 0 && bytes <= link.end - link.begin, "only bytes that arrived are released");
    link.begin += bytes;
    if (link.begin == link.end) {
      link.begin = link.end = link.begin % kAlignment;  // the front of the buffer is warm
    } else if (link.begin >= kBufferBytes) {
      link.begin -= kBufferBytes, link.end -= kBufferBytes;
    }
  }

  void idle(std::chrono::nanoseconds longest) override {
    polls_.clear();
    polled_.clear();
    for (size_t i = 0; i < links_.size(); ++i) {
      const Link& link = links_[i];
      if (!link.socket || link.has_ended) continue;
      const bool has_room = link.end - link.begin < kBufferBytes;
      const int events = (has_room ? POLLIN : 0) | (link.is_full && link.send_error == 0 ? POLLOUT : 0);
      if (events == 0) continue;
      polls_.push_back({link.socket.get(), static_cast<short>(events), 0});
      polled_.push_back(static_cast<int>(i));
    }
    const auto ns = std::max<int64_t>(longest.count(), 0);
    const timespec limit{ns / 1'000'000'000, ns % 1'000'000'000};
    if (::ppoll(polls_.data(), polls_.size(), &limit, nullptr) <= 0) return;
    for (size_t i = 0; i < polls_.size(); ++i) {
      Link& link = links_[polled_[i]];
      if (polls_[i].revents & POLLOUT) link.is_full = false;
      // Taken in at once: a link that nobody looks at now must not keep the next call from sleeping.
      if (polls_[i].revents & ~POLLOUT) receive(link);
    }
  }

  std::string broken(int which) const override {
    const Link& link = links_[which];
    if (link.begin != link.end || (!link.has_ended && link.send_error == 0)) return "";
    const int error = link.receive_error != 0 ? link.receive_error : link.send_error;
    return error != 0 ? std::strerror(error) : "the other side closed the connection";
  }

  // A first guess, between two hosts on Ethernet.
  plan::Link link() const override { return {.latency_s = 15e-6, .bytes_per_s = 1e9, .message_s = 3e-6}; }
  std::string name() const override { return "TCP"; }

 private:
  // Takes in what has arrived, as far as there is room in one piece.
  static void receive(Link& link) {
    if (link.has_ended) return;
    const int64_t at = link.end < kBufferBytes ? link.end : link.end - kBufferBytes;
    const int64_t room = link.end < kBufferBytes ? kBufferBytes - link.end : link.begin - at;
    if (room == 0) return;
    ssize_t got;
    do got = ::recv(link.socket.get(), link.buffer.get() + at, static_cast<size_t>(room), MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0) {
      link.end += got;
    } else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
      link.has_ended = true;
      link.receive_error = got == 0 ? 0 : errno;
    }
  }

  std::vector<Link> links_;  // by rank
  std::vector<pollfd> polls_;
  std::vector<int> polled_;
};

}  // namespace

std::unique_ptr<Transport> make_tcp_transport(std::vector<Fd> sockets) {
  return std::make_unique<TcpTransport>(std::move(sockets));
}

}  // namespace lane
