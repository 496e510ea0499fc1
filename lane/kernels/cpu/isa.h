#pragma once
#include <span>
#include <string_view>

#include "lane/base/thread_pool.h"
#include "lane/kernels/cpu/matmul.h"
#include "lane/kernels/kernels.h"

namespace lane::kernels::cpu {

// The instruction sets of this architecture, best first; the last is the plain one that every machine has.
struct Candidate {
  const Isa* isa;
  const char* missing;  // an instruction set extension that this machine lacks; null: it has all
};
std::span<const Candidate> candidates();

// The first that this machine has, at or after the one named by `cap` ("auto": no cap). Error{kInvalidArgument} for a
// name that no architecture has; a name of another architecture caps nothing.
const Isa& choose_isa(std::span<const Candidate> candidates, std::string_view cap);

// matmul() on one instruction set.
void matmul(const Isa& isa, TensorView x, const PackedMatrix& weight, TensorView bias, TensorView out,
            ThreadPool& threads);

extern const Isa kBaseline;

}  // namespace lane::kernels::cpu
