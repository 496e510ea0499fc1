#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "lane/base/dtype.h"
#include "lane/base/error.h"
#include "lane/device/stream.h"

namespace lane {

// Borrowed memory with a shape: copied freely, freed never. Elements are dense, the last dimension innermost.
// A tensor of fewer than four dimensions has leading ones; rows() and cols() read any of them as a matrix.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, 4> shape{1, 1, 1, 1};
  Device device;

  int64_t count() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
  int64_t bytes() const { return count() * size_of(dtype); }
  int64_t cols() const { return shape[3]; }
  int64_t rows() const { return shape[0] * shape[1] * shape[2]; }

  template <class T>
  T* as() const {
    ensure(sizeof(T) == static_cast<size_t>(size_of(dtype)), "the element type has the size of the tensor's dtype");
    return static_cast<T*>(data);
  }

  // Rows [first, first + num_rows) of the matrix.
  TensorView row_range(int64_t first, int64_t num_rows) const {
    ensure(first >= 0 && num_rows >= 0 && first + num_rows <= rows(), "the row range lies inside the tensor");
    return {static_cast<char*>(data) + first * cols() * size_of(dtype), dtype, {1, 1, num_rows, cols()}, device};
  }
  // The same elements under another shape.
  TensorView reshaped(std::array<int64_t, 4> other) const {
    TensorView view{data, dtype, other, device};
    ensure(view.count() == count(), "a reshape keeps the number of elements");
    return view;
  }
};

// Lists on the host, seen as rows.
inline TensorView view_of(std::span<const int32_t> list) {
  return {const_cast<int32_t*>(list.data()), DType::kI32, {1, 1, 1, static_cast<int64_t>(list.size())}, {}};
}
inline TensorView view_of(std::span<const float> list) {
  return {const_cast<float*>(list.data()), DType::kF32, {1, 1, 1, static_cast<int64_t>(list.size())}, {}};
}

// Owned memory: moved, never copied. The owner outlives its views. CPU memory is 64-byte aligned and comes zeroed
// and untouched from the system: a page that nothing writes costs no memory.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device device, int64_t bytes);
  Buffer(DType dtype, std::array<int64_t, 4> shape, Device device = {});

  // Memory that is used bit by bit, such as a cache that starts empty: on the CPU it comes in small pages, so that a
  // first touch takes 4 KiB from the system and not 2 MiB.
  static Buffer sparse(Device device, int64_t bytes);

  int64_t bytes() const { return bytes_; }
  void* data() const { return memory_.get(); }
  TensorView view() const { return view_; }  // with the shape it was made with; [bytes] of kU8 otherwise
  // The front of the memory as another tensor; it must fit.
  TensorView view(DType dtype, std::array<int64_t, 4> shape) const;

 private:
  struct Free {
    Device device;
    int64_t bytes;
    void operator()(void* memory) const noexcept;
  };
  std::unique_ptr<void, Free> memory_;
  int64_t bytes_ = 0;
  TensorView view_;
};

// Copies between host memory and a tensor on any device, or between two on one; the CPU's copies are memcpy.
void copy_to_device(const void* host, TensorView to, Stream& stream);
void copy_to_host(TensorView from, void* host, Stream& stream);       // returns when the bytes are there
void copy_on_device(TensorView from, TensorView to, Stream& stream);  // of as many bytes; the same memory is fine

}  // namespace lane
