#include "bench/peers/coprocess.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/trace.h"
#include "lane/net/vectors.h"

namespace lane::peers {
namespace {

using Json = nlohmann::json;

int answers_fd = STDOUT_FILENO;

void answer(const Json& json) {
  const std::string line = json.dump() + "\n";
  size_t sent = 0;
  while (sent < line.size()) {
    const ssize_t wrote = ::write(answers_fd, line.data() + sent, line.size() - sent);
    if (wrote < 0) return;  // whoever asked has gone; the end of input follows
    sent += static_cast<size_t>(wrote);
  }
}

std::vector<char> memory_for(int64_t bytes) { return std::vector<char>(static_cast<size_t>(bytes) + 64); }
char* aligned(std::vector<char>& memory) {
  return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
}

// Microseconds per call, of each batch.
template <class Call>
std::vector<double> time_batches(Library& library, int calls, int batches, const Call& call) {
  std::vector<double> us;
  for (int batch = 0; batch < batches; ++batch) {
    library.barrier();
    const int64_t start = now_ns();
    for (int i = 0; i < calls; ++i) call();
    us.push_back(static_cast<double>(now_ns() - start) * 1e-3 / calls);
  }
  return us;
}

Json all_reduce(Library& library, std::istringstream& arguments) {
  int64_t bytes = 0;
  std::string type, operation;
  int calls = 0, batches = 0;
  arguments >> bytes >> type >> operation >> calls >> batches;
  if (!arguments || bytes < 0 || calls < 1 || batches < 1)
    throw Error(ErrorCode::kInvalidArgument, "all_reduce takes: bytes dtype op calls batches");
  const DType dtype = net::summable_from_name(type);
  const ReduceOp op = net::reduce_op_from_name(operation);
  const int64_t count = bytes / size_of(dtype);
  std::vector<char> in = memory_for(bytes), out = memory_for(bytes);
  net::fill(dtype, op, library.rank(), count, aligned(in));
  library.prepare(aligned(in), aligned(out), count, dtype, op);
  library.all_reduce();
  const int64_t num_wrong = net::count_wrong(dtype, op, library.size(), aligned(out), count, net::Rounding::kEveryStep);
  const int warm_up = std::max(1, calls / 4);
  for (int i = 0; i < warm_up; ++i) library.all_reduce();
  return {
      {"ok", true}, {"us", time_batches(library, calls, batches, [&] { library.all_reduce(); })}, {"wrong", num_wrong}};
}

Json ping_pong(Library& library, std::istringstream& arguments) {
  int64_t bytes = 0;
  int calls = 0, batches = 0;
  arguments >> bytes >> calls >> batches;
  if (!arguments || bytes < 0 || calls < 1 || batches < 1)
    throw Error(ErrorCode::kInvalidArgument, "ping_pong takes: bytes calls batches");
  std::vector<char> memory = memory_for(bytes);
  char* data = aligned(memory);
  const int last = library.size() - 1;
  const auto call = [&] {
    if (library.rank() == 0) {
      library.send(data, bytes, last);
      library.receive(data, bytes, last);
    } else if (library.rank() == last) {
      library.receive(data, bytes, 0);
      library.send(data, bytes, 0);
    }
  };
  for (int i = 0; i < std::max(1, calls / 4); ++i) call();
  std::vector<double> us = time_batches(library, calls, batches, call);
  for (double& each : us) each = library.rank() == 0 || library.rank() == last ? each / 2 : 0;
  return {{"ok", true}, {"us", us}};
}

template <class T, class Widen, class Narrow>
void combine_as(ReduceOp op, void* into, const void* a, const void* b, int64_t count, Widen widen, Narrow narrow) {
  const auto* x = static_cast<const T*>(a);
  const auto* y = static_cast<const T*>(b);
  auto* z = static_cast<T*>(into);
  const auto each = [&](auto f) {
#pragma GCC ivdep  // into is a or b, or apart from both
    for (int64_t i = 0; i < count; ++i) z[i] = narrow(f(widen(x[i]), widen(y[i])));
  };
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kAvg:
      return each([](auto p, auto q) { return p + q; });
    case ReduceOp::kProd:
      return each([](auto p, auto q) { return p * q; });
    case ReduceOp::kMax:
      return each([](auto p, auto q) { return std::max(p, q); });
    case ReduceOp::kMin:
      return each([](auto p, auto q) { return std::min(p, q); });
  }
}

}  // namespace

void combine(DType dtype, ReduceOp op, void* into, const void* a, const void* b, int64_t count) {
  const auto same = [](auto x) { return x; };
  if (dtype == DType::kF32) {
    combine_as<float>(op, into, a, b, count, same, same);
  } else if (dtype == DType::kI32 && (op == ReduceOp::kMax || op == ReduceOp::kMin)) {
    combine_as<int32_t>(op, into, a, b, count, same, same);
  } else if (dtype == DType::kI32) {  // wraps around
    combine_as<uint32_t>(op, into, a, b, count, same, same);
  } else if (dtype == DType::kBF16) {
    // lane's own conversion without its branch, so that the loop is vectorised: the data has no NaN.
    const auto widen = [](uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); };
    const auto narrow = [](float x) {
      const auto bits = std::bit_cast<uint32_t>(x);
      return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    };
    combine_as<uint16_t>(op, into, a, b, count, widen, narrow);
  } else {
    const auto widen = [](uint16_t x) { return float_from_f16(x); };
    const auto narrow = [](float x) { return f16_from_float(x); };
    combine_as<uint16_t>(op, into, a, b, count, widen, narrow);
  }
}

void claim_standard_output() {
  answers_fd = ::dup(STDOUT_FILENO);
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
}

void answer_error(const std::string& what) { answer({{"ok", false}, {"error", what}}); }

int serve(Library& library) {
  answer({{"ok", true}, {"name", library.name()}, {"rank", library.rank()}, {"size", library.size()}});
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "quit") return 0;
    try {
      if (command == "all_reduce")
        answer(all_reduce(library, words));
      else if (command == "ping_pong")
        answer(ping_pong(library, words));
      else
        answer_error("there is no command \"" + command + "\"");
    } catch (const std::exception& error) {
      answer_error(error.what());
    }
  }
  return 0;
}

}  // namespace lane::peers
