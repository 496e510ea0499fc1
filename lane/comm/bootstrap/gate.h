#pragma once
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/bootstrap/address.h"
#include "lane/comm/bootstrap/secret.h"

namespace lane {

// How two ranks of different hosts come to trust a connection. Both ends know a key; the visitor V connects to the
// gate G:
//
//   V -> G  hello: who it says it is, a random number
//   G -> V  challenge: another random number, HMAC(key, "gate", both)
//   V -> G  proof: HMAC(key, "visitor", both), or that the challenge's was wrong; nothing that a wrong G could use
//   G -> V  verdict: welcome, or why not
//
// From the verdict on messages are sealed with an HMAC under a key made of both random numbers, and numbered.

enum class PacketKind : uint32_t {
  kHello,
  kChallenge,
  kProof,
  kOtherSecret,
  kOtherVersion,
  kWelcome,
  kRefusal,
  kReady,
  kGo,
  kFailed
};

struct PacketHead {
  static constexpr uint64_t kMagic = 0x4c616e6552616e6b;  // "LaneRank"
  static constexpr uint32_t kVersion = 1;                 // of all that goes between hosts
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  PacketKind kind = PacketKind::kHello;
  uint32_t bytes = 0;  // that follow
  uint32_t reserved = 0;
};

// What a visitor says of itself. Believed once it has proved that it knows the secret.
struct Introduction {
  enum Purpose : int32_t { kJoin, kData };
  int32_t purpose = kJoin;
  int32_t rank = 0, size = 0, pid = 0;
  uint64_t job = 0;        // hash of its name
  uint32_t data_port = 0;  // where it listens for other hosts
  uint32_t reserved = 0;
  Bytes32 nonce{};
  char host[64] = {};       // for messages
  char identity[128] = {};  // equal for ranks that can share memory
  char data_host[64] = {};  // empty: the host at which rank 0 was reached
};
void set_text(std::span<char> to, std::string_view text);
std::string get_text(std::span<const char> from);  // up to the first zero; what cannot be printed becomes ?

// Reads packets from a socket that does not block, never a byte beyond the packet.
class PacketReader {
 public:
  enum class State { kMore, kDone, kGone, kForeign, kOtherVersion };
  State read(int socket, uint32_t max_bytes);
  const PacketHead& head() const { return head_; }
  std::string take_body();  // of a packet that is done; the next may be read then

 private:
  PacketHead head_;
  size_t got_ = 0;
  std::string body_;
};

// A connection whose other end is known.
class Channel {
 public:
  using Clock = std::chrono::steady_clock;
  Channel() = default;
  Channel(Fd socket, const Bytes32& session, bool is_gate)
      : socket_(std::move(socket)), session_(session), is_gate_(is_gate) {}

  explicit operator bool() const { return static_cast<bool>(socket_); }
  int socket() const { return socket_.get(); }
  Fd release() { return std::move(socket_); }

  struct Message {
    PacketKind kind = PacketKind::kGo;
    std::string body;
  };
  // Waits for room until the deadline. False if the other end is gone or takes nothing.
  bool send(PacketKind kind, std::string_view body, Clock::time_point deadline);
  // What has arrived, if it is complete. `gone` once nothing more will come or something came that is not sealed.
  std::optional<Message> receive(bool* gone);

 private:
  Bytes32 seal(bool from_gate, uint64_t number, PacketKind kind, std::string_view body) const;
  Fd socket_;
  Bytes32 session_{};
  bool is_gate_ = false;
  uint64_t num_sent_ = 0, num_received_ = 0;
  PacketReader reader_;
};

// Where visitors come in. Whoever sends something else, or nothing, is turned away and delays nobody.
class Gate {
 public:
  Gate(Fd listener, const Bytes32& key, int max_undecided);
  int port() const { return local_address(listener_.get()).port(); }
  Address address() const { return local_address(listener_.get()); }

  void add_polls(std::vector<pollfd>& polls) const;

  // One that has proved to know the key and waits for a verdict.
  struct Guest {
    Channel channel;
    Introduction introduction;
    std::string from;  // its address
  };
  std::vector<Guest> serve();  // takes in what happened; never blocks

  std::function<void(const std::string&)> on_refusal = [](const std::string&) {};

 private:
  struct Visitor {
    Fd connection;
    std::string from;
    std::chrono::steady_clock::time_point until;
    PacketReader reader = {};
    std::optional<Introduction> introduction = {};
    Bytes32 nonce = {};
  };
  enum class Step { kWait, kDrop, kPass };
  Step advance(Visitor& visitor);
  Bytes32 answer(const Visitor& visitor, std::string_view role) const;

  Fd listener_;
  Bytes32 key_;
  size_t max_undecided_;
  std::vector<Visitor> undecided_;
};

// A way in, from the visitor's side. Does not block: step() goes on when something happened at socket(), or a little
// later when there is none.
class Visit {
 public:
  // `introduce` is asked once the connection stands; `source`: the local address to come from, of length 0 for any.
  Visit(std::vector<Address> addresses, const Address& source, const Bytes32& key,
        std::function<Introduction(int socket)> introduce);

  enum class State { kConnecting, kProving, kWaiting, kWelcome, kRefused };
  void step();
  State state() const { return state_; }
  void add_polls(std::vector<pollfd>& polls) const;

  // After a welcome: the connection, and what it came with.
  Channel take_channel() { return std::move(channel_); }
  Address peer() const { return peer_; }
  const std::string& body() const { return body_; }

  // Why not, so far: of a refused one for good, else of the last attempt. kOtherSecret, kOtherVersion, kRefusal (then
  // body() is the reason), kGo when the connection ended after the proof.
  PacketKind refusal() const { return refusal_; }
  uint32_t other_version() const { return other_version_; }
  const std::string& trouble() const { return trouble_; }
  int num_attempts() const { return num_attempts_; }

 private:
  void connect_next();
  void retry(const std::string& why);
  void refuse(PacketKind why);
  void introduce_self();
  void prove();

  std::vector<Address> addresses_;
  Address source_;
  Bytes32 key_;
  std::function<Introduction(int)> introduce_;
  State state_ = State::kConnecting;
  Fd socket_;
  std::chrono::steady_clock::time_point next_attempt_{}, attempt_until_{};
  int num_attempts_ = 0;
  Introduction introduction_;
  PacketReader reader_;
  Channel channel_;
  Address peer_;
  std::string body_, trouble_ = "no answer";
  PacketKind refusal_ = PacketKind::kGo;
  uint32_t other_version_ = 0;
};

}  // namespace lane
