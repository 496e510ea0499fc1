#include "lane/comm/bootstrap/gate.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "lane/base/error.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr uint32_t kMaxBody = 16 << 20;  // a table of many thousands of ranks
constexpr milliseconds kPatience{5000};  // with a visitor that connected and does not go on

template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

struct Challenge {
  Bytes32 nonce, proof;
};

// Small enough for any fresh socket's buffer. False if the other end is gone.
bool send_packet(int socket, PacketKind kind, std::string_view body) {
  const PacketHead head{.kind = kind, .bytes = static_cast<uint32_t>(body.size())};
  const std::string packet = std::string(bytes_of(head)) + std::string(body);
  ssize_t sent;
  do sent = ::send(socket, packet.data(), packet.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(packet.size());
}

void send_at_once(int socket) {
  const int one = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

}  // namespace

void set_text(std::span<char> to, std::string_view text) {
  std::fill(to.begin(), to.end(), '\0');
  std::copy_n(text.begin(), std::min(text.size(), to.size() - 1), to.begin());
}

std::string get_text(std::span<const char> from) {
  std::string text(from.begin(), std::find(from.begin(), from.end(), '\0'));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

PacketReader::State PacketReader::read(int socket, uint32_t max_bytes) {
  for (;;) {
    if (got_ == sizeof(head_) + body_.size() && got_ >= sizeof(head_) && body_.size() == head_.bytes)
      return State::kDone;
    char* to = got_ < sizeof(head_) ? reinterpret_cast<char*>(&head_) + got_ : body_.data() + (got_ - sizeof(head_));
    const size_t wanted = got_ < sizeof(head_) ? sizeof(head_) - got_ : body_.size() - (got_ - sizeof(head_));
    const ssize_t got = ::recv(socket, to, wanted, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return State::kMore;
    if (got <= 0) return State::kGone;
    got_ += static_cast<size_t>(got);
    if (got_ >= sizeof(head_.magic) && head_.magic != PacketHead::kMagic) return State::kForeign;
    if (got_ != sizeof(head_)) continue;
    if (head_.version != PacketHead::kVersion) return State::kOtherVersion;
    if (head_.bytes > max_bytes) return State::kForeign;
    body_.resize(head_.bytes);
  }
}

std::string PacketReader::take_body() {
  got_ = 0;
  std::string body = std::move(body_);
  body_.clear();
  return body;
}

Bytes32 Channel::seal(bool from_gate, uint64_t number, PacketKind kind, std::string_view body) const {
  return hmac(session_, {from_gate ? "gate" : "visitor", bytes_of(number), bytes_of(kind), body});
}

bool Channel::send(PacketKind kind, std::string_view body, Clock::time_point deadline) {
  const PacketHead head{.kind = kind, .bytes = static_cast<uint32_t>(body.size() + sizeof(Bytes32))};
  std::string packet(bytes_of(head));
  packet += body;
  packet += view(seal(is_gate_, num_sent_++, kind, body));
  for (size_t done = 0; done < packet.size();) {
    const ssize_t sent = ::send(socket_.get(), packet.data() + done, packet.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
      pollfd poll{socket_.get(), POLLOUT, 0};
      if (left <= 0 || ::poll(&poll, 1, static_cast<int>(std::min<int64_t>(left, 1000))) < 0) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

std::optional<Channel::Message> Channel::receive(bool* gone) {
  const auto state = reader_.read(socket_.get(), kMaxBody);
  *gone = state != PacketReader::State::kMore && state != PacketReader::State::kDone;
  if (state != PacketReader::State::kDone) return std::nullopt;
  Message message{reader_.head().kind, reader_.take_body()};
  Bytes32 seen{};
  if (message.body.size() >= sizeof(seen)) {
    std::memcpy(seen.data(), message.body.data() + message.body.size() - sizeof(seen), sizeof(seen));
    message.body.resize(message.body.size() - sizeof(seen));
    if (equal(seen, seal(!is_gate_, num_received_++, message.kind, message.body))) return message;
  }
  *gone = true;
  return std::nullopt;
}

Gate::Gate(Fd listener, const Bytes32& key, int max_undecided)
    : listener_(std::move(listener)), key_(key), max_undecided_(static_cast<size_t>(max_undecided)) {}

void Gate::add_polls(std::vector<pollfd>& polls) const {
  polls.push_back({listener_.get(), POLLIN, 0});
  for (const Visitor& visitor : undecided_) polls.push_back({visitor.connection.get(), POLLIN, 0});
}

std::vector<Gate::Guest> Gate::serve() {
  const auto now = Clock::now();
  for (int i = 0; i < 256; ++i) {
    Fd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) break;
    Address from;
    from.length = sizeof(from.bytes);
    if (::getpeername(connection.get(), reinterpret_cast<sockaddr*>(&from.bytes), &from.length) != 0) continue;
    send_at_once(connection.get());
    if (undecided_.size() >= max_undecided_) undecided_.erase(undecided_.begin());  // the one that came first
    undecided_.push_back({std::move(connection), from.text(), now + kPatience});
  }
  std::vector<Guest> guests;
  std::vector<Visitor> staying;
  for (Visitor& visitor : undecided_) {
    const Step step = advance(visitor);
    if (step == Step::kPass)
      guests.push_back({Channel(std::move(visitor.connection), answer(visitor, "session"), true), *visitor.introduction,
                        visitor.from});
    else if (step == Step::kWait && now < visitor.until)
      staying.push_back(std::move(visitor));
  }
  undecided_ = std::move(staying);
  return guests;
}

Bytes32 Gate::answer(const Visitor& visitor, std::string_view role) const {
  return hmac(key_, {role, bytes_of(*visitor.introduction), view(visitor.nonce)});
}

Gate::Step Gate::advance(Visitor& visitor) {
  using State = PacketReader::State;
  const int socket = visitor.connection.get();
  for (;;) {
    const State state = visitor.reader.read(socket, visitor.introduction ? sizeof(Bytes32) : sizeof(Introduction));
    if (state == State::kMore) return Step::kWait;
    if (state == State::kGone) return Step::kDrop;
    if (state == State::kForeign) {
      on_refusal(fmt::format("{} is no rank of Lane: it sent something else", visitor.from));
      return Step::kDrop;
    }
    if (state == State::kOtherVersion) {
      send_packet(socket, PacketKind::kOtherVersion, "");
      on_refusal(fmt::format("{} speaks version {}, not {}: all ranks must run the same build", visitor.from,
                             visitor.reader.head().version, PacketHead::kVersion));
      return Step::kDrop;
    }
    const PacketKind kind = visitor.reader.head().kind;
    const std::string body = visitor.reader.take_body();
    if (!visitor.introduction) {
      if (kind != PacketKind::kHello || body.size() != sizeof(Introduction)) {
        on_refusal(fmt::format("{} did not introduce itself as a rank does", visitor.from));
        return Step::kDrop;
      }
      std::memcpy(&visitor.introduction.emplace(), body.data(), sizeof(Introduction));
      visitor.nonce = random_bytes();
      const Challenge challenge{visitor.nonce, answer(visitor, "gate")};
      if (!send_packet(socket, PacketKind::kChallenge, bytes_of(challenge))) return Step::kDrop;
      continue;
    }
    Bytes32 proof{};
    if (kind == PacketKind::kProof && body.size() == sizeof(proof)) {
      std::memcpy(proof.data(), body.data(), sizeof(proof));
      if (equal(proof, answer(visitor, "visitor"))) return Step::kPass;
    }
    on_refusal(fmt::format("rank {} on {} (from {}) knows another secret: LANE_SECRET must be the same on all ranks",
                           visitor.introduction->rank, get_text(visitor.introduction->host), visitor.from));
    return Step::kDrop;
  }
}

Visit::Visit(std::vector<Address> addresses, const Address& source, const Bytes32& key,
             std::function<Introduction(int)> introduce)
    : addresses_(std::move(addresses)), source_(source), key_(key), introduce_(std::move(introduce)) {}

void Visit::add_polls(std::vector<pollfd>& polls) const {
  if (socket_) polls.push_back({socket_.get(), static_cast<short>(state_ == State::kConnecting ? POLLOUT : POLLIN), 0});
}

void Visit::retry(const std::string& why) {
  trouble_ = why;
  socket_ = Fd();
  reader_ = {};
  state_ = State::kConnecting;
  // The other side may simply be slower to start; nothing tells when it is there but trying.
  next_attempt_ = Clock::now() + std::min(milliseconds(2) * num_attempts_, milliseconds(50));
}

void Visit::refuse(PacketKind why) {
  refusal_ = why;
  state_ = State::kRefused;
  socket_ = Fd();
}

void Visit::connect_next() {
  if (Clock::now() < next_attempt_) return;
  peer_ = addresses_[static_cast<size_t>(num_attempts_++) % addresses_.size()];
  socket_ = Fd(::socket(peer_.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) return retry(std::strerror(errno));
  send_at_once(socket_.get());
  if (source_.length != 0 && source_.family() == peer_.family())
    ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&source_.bytes), source_.length);
  attempt_until_ = Clock::now() + kPatience;
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&peer_.bytes), peer_.length) != 0 &&
      errno != EINPROGRESS && errno != EINTR)
    retry(std::strerror(errno));
}

void Visit::introduce_self() {
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return retry(std::strerror(error));
  introduction_ = introduce_(socket_.get());
  introduction_.nonce = random_bytes();
  if (!send_packet(socket_.get(), PacketKind::kHello, bytes_of(introduction_))) return retry("the connection ended");
  state_ = State::kProving;
}

void Visit::prove() {
  using Read = PacketReader::State;
  const Read read = reader_.read(socket_.get(), sizeof(Challenge));
  if (read == Read::kMore) return;
  if (read == Read::kGone) return retry("the connection ended before the other side had said anything");
  if (read == Read::kForeign) return retry("another program answers there");
  if (read == Read::kOtherVersion || reader_.head().kind == PacketKind::kOtherVersion) {
    other_version_ = reader_.head().version;
    return refuse(PacketKind::kOtherVersion);
  }
  const std::string body = reader_.take_body();
  Challenge challenge;
  if (reader_.head().kind != PacketKind::kChallenge || body.size() != sizeof(challenge))
    return retry("another program answers there");
  std::memcpy(&challenge, body.data(), sizeof(challenge));
  const auto answer = [&](std::string_view role) {
    return hmac(key_, {role, bytes_of(introduction_), view(challenge.nonce)});
  };
  if (!equal(challenge.proof, answer("gate"))) {
    send_packet(socket_.get(), PacketKind::kOtherSecret, "");
    return refuse(PacketKind::kOtherSecret);
  }
  if (!send_packet(socket_.get(), PacketKind::kProof, view(answer("visitor")))) return retry("the connection ended");
  channel_ = Channel(Fd(socket_.release()), answer("session"), false);
  state_ = State::kWaiting;
}

void Visit::step() {
  if (state_ == State::kConnecting && !socket_) connect_next();
  if (state_ == State::kConnecting && socket_) {
    pollfd poll{socket_.get(), POLLOUT, 0};
    if (::poll(&poll, 1, 0) > 0)
      introduce_self();
    else if (Clock::now() > attempt_until_)
      retry("no answer");
  }
  if (state_ == State::kProving) {
    prove();
    if (state_ == State::kProving && Clock::now() > attempt_until_) retry("no answer");
  }
  if (state_ != State::kWaiting) return;
  bool gone = false;
  const auto message = channel_.receive(&gone);
  if (gone) return refuse(PacketKind::kGo);
  if (!message) return;
  body_ = message->body;
  if (message->kind == PacketKind::kWelcome)
    state_ = State::kWelcome;
  else
    refuse(message->kind);
}

}  // namespace lane
