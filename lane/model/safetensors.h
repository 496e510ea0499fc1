#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/base/file.h"

namespace lane {

// One tensor of a safetensors file. Offsets count from the start of the file.
struct TensorEntry {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};

// The header of a safetensors file (format: github.com/huggingface/safetensors, README "Format"), checked in full:
// lengths, offsets, overlaps, duplicates, dtype x shape against bytes. Anything else is Error{kCorruptData} naming the
// tensor. Tensors of dtypes that Lane does not compute with are listed but cannot be read.
std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view header, int64_t file_bytes,
                                                            const std::string& where);

// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json names.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& folder);

  bool has(const std::string& name) const;
  const TensorEntry& entry(const std::string& name) const;  // Error{kCorruptData} naming the tensor if it is missing
  std::vector<std::string> names() const;

  // Reads columns [col_begin, col_end) of rows [row_begin, row_end) of a matrix (a vector is one row) densely to `out`.
  // Only those bytes are read. Any thread may call it.
  void read_slice(const std::string& name, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end,
                  void* out) const;

  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  struct Located {
    TensorEntry entry;
    const ReadFile* file;
  };
  std::vector<std::unique_ptr<ReadFile>> files_;
  std::map<std::string, Located> tensors_;
  mutable std::atomic<int64_t> bytes_read_{0};
};

}  // namespace lane
