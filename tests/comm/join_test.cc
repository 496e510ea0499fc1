// How ranks meet: who is missing, who is turned away, and what both sides are told.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "lane/base/random.h"
#include "lane/comm/bootstrap/door.h"
#include "lane/comm/communicator.h"
#include "tests/comm/spawned.h"

namespace lane {
namespace {

using std::chrono::milliseconds;

std::string new_job() {
  static int number = 0;
  return "test/" + std::to_string(::getpid()) + "/" + std::to_string(++number);
}

// One rank of a job, as a process that no launcher watches.
Spawned start_rank(const std::string& job, int rank, int size, int timeout_ms = 20'000) {
  return Spawned(
      {LANE_RANK_MAIN, "ok", std::to_string(size), "-1", std::to_string(timeout_ms)},
      {"RANK=" + std::to_string(rank), "WORLD_SIZE=" + std::to_string(size), "LANE_JOB=" + job, "LANE_LOG=warn"});
}

// A connection to rank 0 of the job, once there is one.
Fd visit(const std::string& job) {
  socklen_t length;
  const sockaddr_un address = meeting_address(job, &length);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return socket;
    ::sched_yield();
  }
  throw Error(ErrorCode::kTimeout, "rank 0 of " + job + " did not open its door");
}

// What rank 0 answers.
std::string answer(const Fd& socket) {
  char packet[4096];
  const ssize_t got = ::recv(socket.get(), packet, sizeof(packet), 0);
  if (got < static_cast<ssize_t>(sizeof(Reply))) return "";
  return std::string(packet + sizeof(Reply), static_cast<size_t>(got) - sizeof(Reply));
}

void expect_in(const std::string& text, const std::string& words) {
  EXPECT_NE(text.find(words), std::string::npos) << "wanted: " << words << "\ngot: " << text;
}

TEST(Join, NamesTheMissingRanksOnAllOthers) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 4, 500), rank2 = start_rank(job, 2, 4, 2000);
  const auto first = rank0.wait(), second = rank2.wait();
  EXPECT_EQ(first.status, 1);
  EXPECT_EQ(second.status, 1);
  expect_in(first.text, "ranks 1, 3 of 4 did not come to job " + job + " within 0.5 s");
  expect_in(second.text, "ranks 1, 3 of 4 did not come to job " + job + " within 0.5 s");
}

TEST(Join, SaysWhenRankZeroIsMissing) {
  const std::string job = new_job();
  const auto result = start_rank(job, 1, 2, 300).wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, "rank 1 waited 0.3 s for rank 0 of job " + job + ", which did not come");
}

TEST(Join, TurnsStrangersAwayAndGoesOn) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 2);
  const Fd noise = visit(job), silent = visit(job), old = visit(job), large = visit(job);
  ASSERT_EQ(::send(noise.get(), "GET / HTTP/1.1", 14, 0), 14);
  expect_in(answer(noise), "is no rank of job " + job + ": it sent 14 B of something else");
  const Hello hello{.version = Hello::kVersion + 1, .rank = 1, .size = 2};
  ASSERT_GT(::send(old.get(), &hello, sizeof(hello), 0), 0);
  expect_in(answer(old), "all ranks must run the same build");
  const std::string bytes(100'000, 'x');
  ASSERT_GT(::send(large.get(), bytes.data(), bytes.size(), 0), 0);
  expect_in(answer(large), "it sent 100000 B of something else");
  const auto second = start_rank(job, 1, 2).wait(), first = rank0.wait();
  EXPECT_EQ(first.status, 0) << first.text;
  EXPECT_EQ(second.status, 0) << second.text;
  expect_in(first.text, "refused: pid ");
}

TEST(Join, RandomNoiseChangesNothing) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 2);
  for (uint64_t i = 0; i < 300; ++i) {
    const Fd socket = visit(job);
    std::string bytes(1 + random_bits(1, i) % 200, '\0');
    const Hello hello{.rank = 1, .size = 2};
    if (i % 2 == 0) std::memcpy(bytes.data(), &hello, std::min(bytes.size(), sizeof(hello.magic)));
    for (size_t j = i % 2 == 0 ? sizeof(hello.magic) : 0; j < bytes.size(); ++j)
      bytes[j] = static_cast<char>(random_bits(i, j));
    ASSERT_GT(::send(socket.get(), bytes.data(), bytes.size(), 0), 0);
    if (i % 3 == 0) {
      EXPECT_NE(answer(socket), "");
    }
  }
  const auto second = start_rank(job, 1, 2).wait(), first = rank0.wait();
  EXPECT_EQ(first.status, 0) << first.text.substr(0, 2000);
  EXPECT_EQ(second.status, 0) << second.text;
}

TEST(Join, RefusesAnotherSize) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 2);
  const auto other = start_rank(job, 1, 3).wait();
  EXPECT_EQ(other.status, 1);
  expect_in(other.text, "job " + job + " has 2 ranks, but rank 1 (pid ");
  expect_in(other.text, "was told of 3");
  EXPECT_EQ(start_rank(job, 1, 2).wait().status, 0);
  const auto first = rank0.wait();
  EXPECT_EQ(first.status, 0);
  expect_in(first.text, "was told of 3");
}

TEST(Join, RefusesASecondOfTheSameRank) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 3), rank1 = start_rank(job, 1, 3);
  // One of the two is first; which does not matter.
  const Fd socket = visit(job);
  const Hello hello{.rank = 2, .size = 3};
  const Fd twice = visit(job);
  ASSERT_GT(::send(socket.get(), &hello, sizeof(hello), 0), 0);
  ASSERT_GT(::send(twice.get(), &hello, sizeof(hello), 0), 0);
  expect_in(answer(twice), "rank 2 of job " + job + " is here already (pid ");
}

TEST(Join, RefusesASecondRankZero) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 2);
  visit(job);  // it is there
  const auto other = start_rank(job, 0, 2).wait();
  EXPECT_EQ(other.status, 1);
  expect_in(other.text, "job " + job + " has a rank 0 already");
  EXPECT_EQ(start_rank(job, 1, 2).wait().status, 0);
  EXPECT_EQ(rank0.wait().status, 0);
}

TEST(Join, ADeathWhileOthersAreStillMissingIsTold) {
  const std::string job = new_job();
  Spawned rank0 = start_rank(job, 0, 3);
  {
    const Fd socket = visit(job);
    const Hello hello{.rank = 2, .size = 3};
    ASSERT_GT(::send(socket.get(), &hello, sizeof(hello), 0), 0);
  }
  const auto result = rank0.wait();
  EXPECT_EQ(result.status, 1);
  expect_in(result.text, "rank 2 (pid " + std::to_string(::getpid()) + ") died while rank 1 of 3 had not joined yet");
}

TEST(Join, LongJobNamesAreFine) {
  const std::string job = new_job() + std::string(500, 'x');
  Spawned rank0 = start_rank(job, 0, 2);
  EXPECT_EQ(start_rank(job, 1, 2).wait().status, 0);
  EXPECT_EQ(rank0.wait().status, 0);
}

TEST(Join, ImpossibleOptionsAreRefused) {
  EXPECT_THROW(Communicator::join({.rank = 2, .size = 2, .job = "x"}), Error);
  EXPECT_THROW(Communicator::join({.rank = 0, .size = 0, .job = "x"}), Error);
  EXPECT_THROW(Communicator::join({.rank = 0, .size = 2}), Error) << "no job";
  EXPECT_EQ(Communicator::join({}).size(), 1);
}

}  // namespace
}  // namespace lane
