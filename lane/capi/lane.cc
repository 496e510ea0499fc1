#include "lane/capi/lane.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>

#include "lane/comm/communicator.h"
#include "lane/comm/launch.h"

using lane::Communicator;
using lane::DType;
using lane::Error;
using lane::ErrorCode;
using lane::JoinOptions;
using lane::ReduceOp;
using lane::TensorView;

struct lane_comm {
  Communicator communicator;
  lane::Stream stream;
};

namespace {

static_assert(LANE_VERSION_NUMBER == LANE_BUILD_VERSION_NUMBER, "lane.h has the version of the top CMakeLists.txt");

// 0 is success in C, so that a status is its ErrorCode plus one.
constexpr lane_status_t status_of(ErrorCode code) { return static_cast<lane_status_t>(code) + 1; }
static_assert(status_of(ErrorCode::kInvalidArgument) == LANE_INVALID_ARGUMENT);
static_assert(status_of(ErrorCode::kUnsupported) == LANE_UNSUPPORTED);
static_assert(status_of(ErrorCode::kTimeout) == LANE_TIMEOUT);
static_assert(status_of(ErrorCode::kPeerLost) == LANE_PEER_LOST);
static_assert(status_of(ErrorCode::kSystem) == LANE_SYSTEM_ERROR);
static_assert(status_of(ErrorCode::kDevice) == LANE_DEVICE_ERROR);
static_assert(status_of(ErrorCode::kCorruptData) == LANE_CORRUPT_DATA);
static_assert(status_of(ErrorCode::kCancelled) == LANE_CANCELLED);
static_assert(status_of(ErrorCode::kBug) == LANE_BUG);

static_assert(static_cast<int>(DType::kF32) == LANE_FLOAT32 && static_cast<int>(DType::kBF16) == LANE_BFLOAT16 &&
              static_cast<int>(DType::kF16) == LANE_FLOAT16 && static_cast<int>(DType::kI32) == LANE_INT32 &&
              static_cast<int>(DType::kU8) == LANE_UINT8);
static_assert(static_cast<int>(ReduceOp::kSum) == LANE_SUM && static_cast<int>(ReduceOp::kMax) == LANE_MAX &&
              static_cast<int>(ReduceOp::kMin) == LANE_MIN && static_cast<int>(ReduceOp::kProd) == LANE_PROD &&
              static_cast<int>(ReduceOp::kAvg) == LANE_AVG);

thread_local std::string last_error;
thread_local bool last_error_is_lost = false;  // there was no memory to keep it in

lane_status_t fail(lane_status_t status, const char* text) noexcept {
  try {
    last_error = text;
    last_error_is_lost = false;
  } catch (...) {
    last_error_is_lost = true;
  }
  return status;
}

// The border that no exception crosses.
template <class Body>
lane_status_t guarded(Body&& body) noexcept {
  try {
    body();
    return LANE_OK;
  } catch (const Error& error) {
    return fail(status_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(LANE_SYSTEM_ERROR, "out of memory");
  } catch (const std::exception& error) {
    return fail(LANE_BUG, error.what());
  } catch (...) {
    return fail(LANE_BUG, "an exception of an unknown kind");
  }
}

[[noreturn]] void refuse(const std::string& sentence) { throw Error(ErrorCode::kInvalidArgument, sentence); }

lane_comm& seat(lane_comm_t comm, const char* function) {
  if (comm == nullptr) refuse(fmt::format("{}: comm is NULL, expected one from lane_join() or lane_split()", function));
  return *comm;
}

// What a collective was called with, checked as far as this rank can.
class Call {
 public:
  Call(const char* function, lane_comm_t comm, size_t count, lane_dtype_t dtype)
      : function_(function), seat_(seat(comm, function)), count_(count), dtype_(dtype) {
    if (dtype < LANE_FLOAT32 || dtype > LANE_UINT8)
      refuse(fmt::format("{}: there is no dtype {}, expected LANE_FLOAT32 to LANE_UINT8", function, dtype));
    if (count > static_cast<size_t>(PTRDIFF_MAX) / size_of(type()) / seat_.communicator.size())
      refuse(fmt::format("{}: {} elements are more than memory can hold; was it a negative number?", function, count));
  }

  Communicator& group() const { return seat_.communicator; }
  lane::Stream& stream() const { return seat_.stream; }
  DType type() const { return static_cast<DType>(dtype_); }

  // `parts`: how many times count elements there are.
  TensorView vector(const char* name, const void* data, int parts = 1, lane::Device device = {}) const {
    if (data == nullptr && count_ > 0)
      refuse(fmt::format("{}: {} is NULL, expected {} elements", function_, name, count_ * static_cast<size_t>(parts)));
    return {const_cast<void*>(data), type(), {1, 1, parts, static_cast<int64_t>(count_)}, device};
  }

  ReduceOp op(lane_op_t op) const {
    if (op < LANE_SUM || op > LANE_AVG)
      refuse(fmt::format("{}: there is no op {}, expected LANE_SUM to LANE_AVG", function_, op));
    return static_cast<ReduceOp>(op);
  }

  int root(int root) const {
    if (root < 0 || root >= group().size())
      refuse(fmt::format("{}: there is no rank {} among {} ranks", function_, root, group().size()));
    return root;
  }

 private:
  const char* function_;
  lane_comm& seat_;
  size_t count_;
  lane_dtype_t dtype_;
};

lane::Device gpu(const char* function, int device) {
  if (device < 0) refuse(fmt::format("{}: there is no device {}, expected the number of a GPU", function, device));
  return {lane::DeviceKind::kCuda, device};
}

// The caller's options as this version knows them: a program built with another version has a struct of another size.
lane_join_options_t known_part(const lane_join_options_t* options) {
  constexpr size_t kFirstSize = offsetof(lane_join_options_t, host) + sizeof(lane_join_options_t::host);
  lane_join_options_t known{};
  if (options == nullptr) return known;
  const size_t size = options->struct_size;
  if (size < kFirstSize)
    refuse(fmt::format("lane_join: struct_size is {}, expected sizeof(lane_join_options_t)", size));
  const auto* bytes = reinterpret_cast<const unsigned char*>(options);
  if (size > sizeof(known) && !std::all_of(bytes + sizeof(known), bytes + size, [](auto byte) { return byte == 0; }))
    throw Error(ErrorCode::kUnsupported,
                fmt::format("lane_join: the options of a later version are set ({} bytes, this library knows {}): "
                            "leave them 0 or use a library of the version of the header",
                            size, sizeof(known)));
  std::memcpy(&known, options, std::min(size, sizeof(known)));
  return known;
}

void set(std::string& option, const char* text) {
  if (text != nullptr) option = text;
}

// Empty: nothing launched this process.
std::optional<JoinOptions> join_options(const lane_join_options_t& given) {
  JoinOptions options;
  if (given.timeout_ms < 0)
    refuse(fmt::format("lane_join: timeout_ms is {}, expected 1 or more, or 0 for LANE_TIMEOUT_MS", given.timeout_ms));
  if (given.timeout_ms > 0) options.timeout = std::chrono::milliseconds(given.timeout_ms);
  set(options.algorithm, given.algorithm);
  set(options.secret, given.secret);
  set(options.nics, given.nics);
  set(options.host, given.host);
  if (given.size != 0) {
    options.rank = given.rank;
    options.size = given.size;
    options.local_rank = given.local_rank;
    set(options.job, given.job);
    set(options.rendezvous, given.rendezvous);
    return options;
  }
  if (given.rank != 0 || given.local_rank != 0 || given.job != nullptr || given.rendezvous != nullptr)
    refuse(
        "lane_join: size is 0, so that the launcher says who this is, but rank, local_rank, job or rendezvous is set; "
        "set size as well, or none of them");
  const auto launched = lane::launched_rank();
  if (!launched) return std::nullopt;
  options.rank = launched->rank;
  options.size = launched->size;
  options.local_rank = launched->local_rank;
  options.job = launched->job;
  options.rendezvous = launched->rendezvous;
  return options;
}

}  // namespace

int lane_version(void) { return LANE_VERSION_NUMBER; }

const char* lane_status_string(lane_status_t status) {
  switch (status) {
    case LANE_OK:
      return "success";
    case LANE_INVALID_ARGUMENT:
      return "invalid argument";
    case LANE_UNSUPPORTED:
      return "not supported";
    case LANE_TIMEOUT:
      return "timeout";
    case LANE_PEER_LOST:
      return "a peer was lost";
    case LANE_SYSTEM_ERROR:
      return "error of the operating system";
    case LANE_DEVICE_ERROR:
      return "error of the device";
    case LANE_CORRUPT_DATA:
      return "corrupt data";
    case LANE_CANCELLED:
      return "cancelled";
    case LANE_BUG:
      return "a bug in Lane";
    default:
      return "no status of Lane";
  }
}

const char* lane_last_error(void) { return last_error_is_lost ? "out of memory" : last_error.c_str(); }

lane_status_t lane_join(const lane_join_options_t* options, lane_comm_t* comm) {
  return guarded([&] {
    if (comm == nullptr) refuse("lane_join: comm is NULL, expected a place for the communicator");
    *comm = nullptr;
    const auto wanted = join_options(known_part(options));
    auto joined = std::make_unique<lane_comm>();
    if (wanted) joined->communicator = Communicator::join(*wanted);
    *comm = joined.release();
  });
}

lane_status_t lane_leave(lane_comm_t comm) {
  return guarded([&] { delete comm; });
}

lane_status_t lane_abort(lane_comm_t comm, const char* reason) {
  return guarded(
      [&] { seat(comm, "lane_abort").communicator.abort(reason != nullptr ? reason : "no reason was given"); });
}

int lane_rank(lane_comm_t comm) {
  int rank = -1;
  guarded([&] { rank = seat(comm, "lane_rank").communicator.rank(); });
  return rank;
}

int lane_size(lane_comm_t comm) {
  int size = -1;
  guarded([&] { size = seat(comm, "lane_size").communicator.size(); });
  return size;
}

lane_status_t lane_split(lane_comm_t comm, int color, int key, lane_comm_t* part) {
  return guarded([&] {
    if (part == nullptr) refuse("lane_split: part is NULL, expected a place for the communicator");
    *part = nullptr;
    Communicator& whole = seat(comm, "lane_split").communicator;
    auto joined = std::make_unique<lane_comm>();
    joined->communicator = whole.split(color, key);
    *part = joined.release();
  });
}

lane_status_t lane_all_reduce(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype,
                              lane_op_t op) {
  return guarded([&] {
    const Call call("lane_all_reduce", comm, count, dtype);
    call.group().all_reduce(call.vector("in", in), call.vector("out", out), call.op(op), call.stream());
  });
}

lane_status_t lane_reduce_scatter(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype,
                                  lane_op_t op) {
  return guarded([&] {
    const Call call("lane_reduce_scatter", comm, count, dtype);
    call.group().reduce_scatter(call.vector("in", in, call.group().size()), call.vector("out", out), call.op(op),
                                call.stream());
  });
}

lane_status_t lane_all_gather(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype) {
  return guarded([&] {
    const Call call("lane_all_gather", comm, count, dtype);
    call.group().all_gather(call.vector("in", in), call.vector("out", out, call.group().size()), call.stream());
  });
}

lane_status_t lane_all_to_all(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype) {
  return guarded([&] {
    const Call call("lane_all_to_all", comm, count, dtype);
    const int size = call.group().size();
    call.group().all_to_all(call.vector("in", in, size), call.vector("out", out, size), call.stream());
  });
}

lane_status_t lane_broadcast(lane_comm_t comm, void* data, size_t count, lane_dtype_t dtype, int root) {
  return guarded([&] {
    const Call call("lane_broadcast", comm, count, dtype);
    call.group().broadcast(call.vector("data", data), call.root(root), call.stream());
  });
}

lane_status_t lane_barrier(lane_comm_t comm) {
  return guarded([&] {
    lane_comm& mine = seat(comm, "lane_barrier");
    mine.communicator.barrier(mine.stream);
  });
}

lane_status_t lane_open_device(lane_comm_t comm, int device) {
  return guarded([&] {
    Communicator& group = seat(comm, "lane_open_device").communicator;
    group.open_device(gpu("lane_open_device", device));
  });
}

lane_status_t lane_all_reduce_cuda(lane_comm_t comm, const void* in, void* out, size_t count, lane_dtype_t dtype,
                                   lane_op_t op, int device, void* cuda_stream) {
  return guarded([&] {
    const Call call("lane_all_reduce_cuda", comm, count, dtype);
    const lane::Device where = gpu("lane_all_reduce_cuda", device);
    const TensorView from = call.vector("in", in, 1, where), to = call.vector("out", out, 1, where);
    const ReduceOp operation = call.op(op);
    lane::Stream stream = lane::Stream::borrow(where, cuda_stream);
    call.group().all_reduce(from, to, operation, stream);
  });
}

lane_status_t lane_wait_cuda(lane_comm_t comm, int device, void* cuda_stream) {
  return guarded([&] {
    Communicator& group = seat(comm, "lane_wait_cuda").communicator;
    lane::Stream stream = lane::Stream::borrow(gpu("lane_wait_cuda", device), cuda_stream);
    group.wait(stream);
  });
}
