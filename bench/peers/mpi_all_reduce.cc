// MPI beside each rank; see coprocess.h. Started by `lane bench allreduce --peers mpi`, as a child of a process that
// mpirun or srun started.
#include <mpi.h>

#include <cstring>

#include "bench/peers/coprocess.h"
#include "lane/base/error.h"

namespace {

using namespace lane;

// MPI 3.1 has no 16-bit floating point: an operation of the user's, on 16-bit numbers.
template <DType dtype, ReduceOp op>
void combine_16_bit(void* in, void* inout, int* count, MPI_Datatype*) {
  peers::combine(dtype, op, inout, in, inout, *count);
}

class Mpi final : public peers::Library {
 public:
  Mpi() {
    MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  ~Mpi() override { MPI_Finalize(); }

  std::string name() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length);
    std::string name(text, static_cast<size_t>(length));  // "Open MPI v4.1.4, package: ...", or several lines
    return name.substr(0, name.find_first_of(",\n"));
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void prepare(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) override {
    if (count > INT32_MAX) throw Error(ErrorCode::kUnsupported, "MPI counts elements in 32 bits");
    if (op == ReduceOp::kAvg) throw Error(ErrorCode::kUnsupported, "MPI has no average");
    in_ = in, out_ = out, count_ = static_cast<int>(count);
    type_ = dtype == DType::kF32 ? MPI_FLOAT : dtype == DType::kI32 ? MPI_INT32_T : MPI_UINT16_T;
    op_ = op == ReduceOp::kSum ? MPI_SUM : op == ReduceOp::kMax ? MPI_MAX : op == ReduceOp::kMin ? MPI_MIN : MPI_PROD;
    if (dtype == DType::kBF16) use_own<DType::kBF16>(op);
    if (dtype == DType::kF16) use_own<DType::kF16>(op);
  }
  void all_reduce() override { MPI_Allreduce(in_, out_, count_, type_, op_, MPI_COMM_WORLD); }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
  void send(const void* data, int64_t bytes, int to) override {
    MPI_Send(data, static_cast<int>(bytes), MPI_BYTE, to, 0, MPI_COMM_WORLD);
  }
  void receive(void* data, int64_t bytes, int from) override {
    MPI_Recv(data, static_cast<int>(bytes), MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }

 private:
  template <DType dtype>
  void use_own(ReduceOp op) {
    if (own_op_ != MPI_OP_NULL) MPI_Op_free(&own_op_);
    MPI_User_function* function = op == ReduceOp::kSum   ? combine_16_bit<dtype, ReduceOp::kSum>
                                  : op == ReduceOp::kMax ? combine_16_bit<dtype, ReduceOp::kMax>
                                  : op == ReduceOp::kMin ? combine_16_bit<dtype, ReduceOp::kMin>
                                                         : combine_16_bit<dtype, ReduceOp::kProd>;
    MPI_Op_create(function, /*commute=*/1, &own_op_);
    op_ = own_op_;
  }

  int rank_ = 0, size_ = 1, count_ = 0;
  const void* in_ = nullptr;
  void* out_ = nullptr;
  MPI_Datatype type_ = MPI_FLOAT;
  MPI_Op op_ = MPI_SUM, own_op_ = MPI_OP_NULL;
};

}  // namespace

int main() {
  lane::peers::claim_standard_output();
  try {
    Mpi library;
    return lane::peers::serve(library);
  } catch (const std::exception& error) {
    lane::peers::answer_error(error.what());
  }
  return 1;
}
