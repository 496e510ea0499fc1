// Who holds what of the matrices that a warp multiplies with mma.m16n8k16, and from where ldmatrix takes it (PTX ISA,
// "Matrix Fragments for mma.m16n8k16" and "ldmatrix"). With g = lane / 4 and t = lane % 4:
//
//   A [16 x 16]  register r, half h:  row g + 8 (r % 2), column 2 t + h + 8 (r / 2)
//   B [16 x 8]   register r, half h:  row 2 t + h + 8 r, column g
//   C [16 x 8]   element e:           row g + 8 (e / 2), column 2 t + e % 2
//
// ldmatrix.x4 loads four 8 x 8 matrices. Lane l names the row l % 8 of matrix l / 8, and register i of a lane becomes
// elements (g, 2 t) and (g, 2 t + 1) of matrix i, or with .trans (2 t, g) and (2 t + 1, g).
#pragma once

namespace lane::cuda::attention {

struct Place {
  int row, column;
};

constexpr Place place_in_a(int lane, int reg, int half) {
  return {lane / 4 + 8 * (reg % 2), 2 * (lane % 4) + half + 8 * (reg / 2)};
}
constexpr Place place_in_b(int lane, int reg, int half) { return {2 * (lane % 4) + half + 8 * reg, lane / 4}; }
constexpr Place place_in_c(int lane, int element) {
  return {lane / 4 + 8 * (element / 2), 2 * (lane % 4) + element % 2};
}

// Keys lie as [key, dimension] and are wanted as B = K^T: what a lane names so that registers 0 and 1 are B of keys
// 0 to 7 and registers 2 and 3 are B of keys 8 to 15, 16 dimensions deep.
constexpr Place key_named_by(int lane) { return {lane % 8 + 8 * (lane / 16), 8 * (lane / 8 % 2)}; }

// Values lie as [key, dimension] and are wanted as B = V, 16 keys deep: with .trans, registers 0 and 1 are B of
// dimensions 0 to 7 and registers 2 and 3 are B of dimensions 8 to 15.
constexpr Place value_named_by(int lane) { return {lane % 8 + 8 * (lane / 8 % 2), 8 * (lane / 16)}; }

// A row in shared memory has 16 bytes more than its elements: (head_dim / 8 + 1) is odd, so the eight rows that a phase
// of ldmatrix reads lie in eight different groups of four banks.
constexpr int shared_row_bytes(int head_dim) { return head_dim * 2 + 16; }

}  // namespace lane::cuda::attention
