#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/base/file.h"

namespace lane {

// One tensor of a safetensors file. Offsets count from the start of the file.
struct TensorEntry {
  std::optional<DType> dtype;   // empty: not one that Lane computes with, such as F8_E4M3
  std::string_view dtype_name;  // as the format spells it: "BF16"
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;

  // As a matrix: a vector or a scalar is one row, leading dimensions are rows.
  int64_t rows() const;
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
};

// The JSON header of a safetensors file (format: github.com/huggingface/safetensors, README "Format"), without the
// eight bytes of its length in front. Checked in full: lengths, offsets, overlaps, holes, duplicates, dtype x shape
// against bytes. Anything else is Error{kCorruptData} naming the tensor. Tensors of dtypes that Lane does not compute
// with are listed but cannot be read.
std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view header, int64_t file_bytes,
                                                            const std::string& where);

// Reads and checks the header of an open file.
std::map<std::string, TensorEntry> read_safetensors_header(const ReadFile& file);

// All tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json names.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& folder);

  bool has(const std::string& name) const;
  const TensorEntry& entry(const std::string& name) const;    // Error{kCorruptData} naming the tensor if it is missing
  const std::string& path_of(const std::string& name) const;  // the file that holds it
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
  const Located& find(const std::string& name) const;

  std::string where_;  // the file that lists the tensors
  std::vector<std::unique_ptr<ReadFile>> files_;
  std::map<std::string, Located> tensors_;
  mutable std::atomic<int64_t> bytes_read_{0};
};

}  // namespace lane
