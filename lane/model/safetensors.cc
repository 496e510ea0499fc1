#include "lane/model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane {
namespace {

using Tensors = std::map<std::string, TensorEntry>;

constexpr int64_t kLengthBytes = 8;               // of the header, a little-endian number in front of it
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // as in the reference implementation
constexpr int kMaxShards = 10000;

struct FormatDType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr std::array kDTypes = {
    FormatDType{"F64", 64, {}},          FormatDType{"F32", 32, DType::kF32},
    FormatDType{"F16", 16, DType::kF16}, FormatDType{"BF16", 16, DType::kBF16},
    FormatDType{"I64", 64, {}},          FormatDType{"I32", 32, DType::kI32},
    FormatDType{"I16", 16, {}},          FormatDType{"I8", 8, {}},
    FormatDType{"U64", 64, {}},          FormatDType{"U32", 32, {}},
    FormatDType{"U16", 16, {}},          FormatDType{"U8", 8, DType::kU8},
    FormatDType{"BOOL", 8, {}},          FormatDType{"C64", 64, {}},
    FormatDType{"F8_E4M3", 8, {}},       FormatDType{"F8_E5M2", 8, {}},
    FormatDType{"F8_E8M0", 8, {}},       FormatDType{"F8_E4M3FNUZ", 8, {}},
    FormatDType{"F8_E5M2FNUZ", 8, {}},   FormatDType{"F6_E2M3", 6, {}},
    FormatDType{"F6_E3M2", 6, {}},       FormatDType{"F4", 4, {}},
};

// Follows the JSON of a header event by event. Nothing but the one legal structure is accepted, so neither depth nor
// size of hostile input is ever built up in memory; a repeated key is seen before it could replace the first.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(const std::string& where, int64_t data_begin, int64_t file_bytes)
      : where_(where), data_begin_(data_begin), file_bytes_(file_bytes) {}

  Tensors take() {
    check_layout();
    return std::move(tensors_);
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t value) override { return unexpected("the number " + std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected("the number " + text); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kShape && state_ != State::kOffsets) return unexpected("the number " + std::to_string(value));
    if (value > static_cast<number_unsigned_t>(INT64_MAX))
      fail("the number " + std::to_string(value) + " is over 2^63");
    if (numbers_.size() == kMaxNumbers) fail("a list of more than " + std::to_string(kMaxNumbers) + " numbers");
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(string_t& text) override {
    if (state_ == State::kMetadata) return true;
    if (state_ != State::kDType) return unexpected("the text " + in_quotes(text));
    for (const FormatDType& known : kDTypes)
      if (known.name == text) {
        bits_ = known.bits, entry_.dtype = known.dtype, entry_.dtype_name = known.name;
        state_ = State::kField;
        return true;
      }
    fail("unknown dtype " + in_quotes(text));
  }
  bool start_object(std::size_t) override {
    if (state_ == State::kStart) return go(State::kName);
    if (state_ == State::kTensor) return go(State::kField);
    if (state_ == State::kMetadataStart) return go(State::kMetadata);
    return unexpected("an object");
  }
  bool key(string_t& text) override {
    if (state_ == State::kName) return start_tensor(text);
    if (state_ == State::kMetadata) return true;
    for (auto [name, state, seen] : {std::tuple{"dtype", State::kDType, &has_dtype_},
                                     {"shape", State::kShapeStart, &has_shape_},
                                     {"data_offsets", State::kOffsetsStart, &has_offsets_}})
      if (text == name) {
        if (std::exchange(*seen, true)) fail("field " + in_quotes(text) + " appears twice");
        return go(state);
      }
    fail("unknown field " + in_quotes(text));
  }
  bool start_array(std::size_t) override {
    numbers_.clear();
    if (state_ == State::kShapeStart) return go(State::kShape);
    if (state_ == State::kOffsetsStart) return go(State::kOffsets);
    return unexpected("a list");
  }
  bool end_array() override {
    if (state_ == State::kShape) {
      entry_.shape = numbers_;
    } else {
      if (numbers_.size() != 2) fail("\"data_offsets\" has " + std::to_string(numbers_.size()) + " numbers, not 2");
      entry_.begin = numbers_[0], entry_.end = numbers_[1];
    }
    return go(State::kField);
  }
  bool end_object() override {
    if (state_ == State::kField) finish_tensor();
    return go(state_ == State::kName ? State::kEnd : State::kName);
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    throw Error(ErrorCode::kCorruptData, where_ + ": the header is not valid JSON: " + error.what());
  }

 private:
  // What comes next: a tensor's name, its object, a key of that object, or the value of one.
  enum class State {
    kStart,
    kName,
    kTensor,
    kField,
    kDType,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kMetadataStart,
    kMetadata,
    kEnd
  };
  static constexpr size_t kMaxNumbers = 64;

  bool go(State state) {
    state_ = state;
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kCorruptData,
                where_ + ": " + (name_.empty() ? "the header" : "tensor " + in_quotes(name_)) + ": " + what);
  }
  [[noreturn]] bool unexpected(const std::string& found) const {
    const char* expected = "";
    switch (state_) {
      case State::kStart:
        expected = "an object of tensors";
        break;
      case State::kTensor:
        expected = "an object with dtype, shape and data_offsets";
        break;
      case State::kDType:
        expected = "the name of a dtype";
        break;
      case State::kShapeStart:
      case State::kShape:
        expected = "a shape: a list of whole numbers from 0";
        break;
      case State::kOffsetsStart:
      case State::kOffsets:
        expected = "data_offsets: a list of two whole numbers from 0";
        break;
      case State::kMetadataStart:
      case State::kMetadata:
        expected = "an object of texts";
        break;
      default:
        expected = "nothing more";
    }
    fail("expected " + std::string(expected) + ", found " + found);
  }

  bool start_tensor(const std::string& name) {
    name_ = name, entry_ = {}, bits_ = 0;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    if (name == "__metadata__") {
      if (std::exchange(has_metadata_, true)) fail("appears twice");
      return go(State::kMetadataStart);
    }
    if (name.empty()) fail("a tensor has an empty name");
    if (tensors_.contains(name)) fail("appears twice");
    return go(State::kTensor);
  }

  void finish_tensor() {
    if (!has_dtype_) fail("\"dtype\" is missing");
    if (!has_shape_) fail("\"shape\" is missing");
    if (!has_offsets_) fail("\"data_offsets\" is missing");
    int64_t bits = bits_;
    bool overflows = false;
    for (const int64_t extent : entry_.shape) overflows |= __builtin_mul_overflow(bits, extent, &bits);
    // A zero behind an overflow makes the product small again, so every step counts, not the last one alone.
    if (overflows) fail("its shape " + show(entry_.shape) + " has more elements than 2^63 bits hold");
    if (bits % 8 != 0) fail("its shape " + show(entry_.shape) + " does not end on a byte");
    const int64_t data_bytes = file_bytes_ - data_begin_;
    if (entry_.begin > entry_.end || entry_.end > data_bytes)
      fail("its data_offsets " + show({entry_.begin, entry_.end}) + " are not inside the " +
           std::to_string(data_bytes) + " bytes of data in the file");
    if (entry_.end - entry_.begin != bits / 8)
      fail("it has " + std::to_string(entry_.end - entry_.begin) + " bytes, but " + std::string(entry_.dtype_name) +
           " of shape " + show(entry_.shape) + " takes " + std::to_string(bits / 8));
    entry_.begin += data_begin_, entry_.end += data_begin_;
    tensors_.emplace(std::exchange(name_, {}), std::move(entry_));
  }

  // The tensors lie one after the other and fill the file.
  void check_layout() {
    std::vector<const Tensors::value_type*> order;
    for (const auto& tensor : tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
    });
    int64_t end = data_begin_;
    name_.clear();
    for (const auto* tensor : order) {
      name_ = tensor->first;
      const int64_t gap = tensor->second.begin - end;
      if (gap < 0) fail("its data overlaps that of another tensor by " + std::to_string(-gap) + " bytes");
      if (gap > 0) fail("the " + std::to_string(gap) + " bytes in front of its data belong to no tensor");
      end = tensor->second.end;
    }
    name_.clear();
    if (end != file_bytes_)
      fail("the last " + std::to_string(file_bytes_ - end) + " bytes of the file belong to no tensor");
  }

  static std::string show(const std::vector<int64_t>& numbers) {
    std::string text = "[";
    for (const int64_t number : numbers) text += (text.size() > 1 ? ", " : "") + std::to_string(number);
    return text + "]";
  }

  const std::string& where_;
  const int64_t data_begin_, file_bytes_;
  State state_ = State::kStart;
  Tensors tensors_;
  std::string name_;  // of the tensor that is being read
  TensorEntry entry_;
  int bits_ = 0;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, has_metadata_ = false;
  std::vector<int64_t> numbers_;
};

// A shard is a file beside the index; anything else could name a file that is none of the model's.
void check_shard_name(const std::string& shard, const std::string& tensor, const std::string& where) {
  if (shard.empty() || shard == "." || shard == ".." || shard.find('/') != std::string::npos ||
      shard.find('\0') != std::string::npos || shard.size() > 255)
    throw Error(ErrorCode::kCorruptData, where + ": tensor " + in_quotes(tensor) + ": " + in_quotes(shard) +
                                             " is not the name of a file in the same folder");
}

}  // namespace

int64_t TensorEntry::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view header, int64_t file_bytes,
                                                            const std::string& where) {
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(header.size());
  if (data_begin > file_bytes) throw Error(ErrorCode::kCorruptData, where + ": the file ends inside its header");
  if (!header.starts_with('{'))
    throw Error(ErrorCode::kCorruptData, where + ": the header does not start with '{': not a safetensors file");
  HeaderReader reader(where, data_begin, file_bytes);
  Json::sax_parse(header, &reader);
  return reader.take();
}

std::map<std::string, TensorEntry> read_safetensors_header(const ReadFile& file) {
  const auto corrupt = [&](const std::string& what) {
    throw Error(ErrorCode::kCorruptData, file.path() + ": " + what);
  };
  if (file.size() < kLengthBytes)
    corrupt("the file has " + std::to_string(file.size()) + " bytes: not a safetensors file");
  std::array<unsigned char, kLengthBytes> bytes;
  file.read(0, bytes.data(), kLengthBytes);
  uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | bytes[static_cast<size_t>(i)];
  if (length > kMaxHeaderBytes)
    corrupt("a header of " + std::to_string(length) + " bytes; at most " + std::to_string(kMaxHeaderBytes) +
            " are allowed");
  if (static_cast<int64_t>(length) > file.size() - kLengthBytes)
    corrupt("a header of " + std::to_string(length) + " bytes, but the file has only " + std::to_string(file.size()));
  std::string header(length, '\0');
  file.read(kLengthBytes, header.data(), static_cast<int64_t>(length));
  return parse_safetensors_header(header, file.size(), file.path());
}

Checkpoint::Checkpoint(const std::string& folder) {
  const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
  const auto open = [&](const std::string& path) {
    files_.push_back(std::make_unique<ReadFile>(path));
    return read_safetensors_header(*files_.back());
  };
  if (file_exists(single)) {
    where_ = single;
    for (auto& [name, entry] : open(single)) tensors_.emplace(name, Located{entry, files_.back().get()});
    return;
  }
  if (!file_exists(index))
    throw Error(ErrorCode::kInvalidArgument,
                folder +
                    " holds neither model.safetensors nor model.safetensors.index.json; other formats of weights "
                    "must be converted first");

  where_ = index;
  const Json json = parse_json(read_file(index, kMaxHeaderBytes), index);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object())
    throw Error(ErrorCode::kCorruptData, index + ": there is no object \"weight_map\"");
  std::map<std::string, std::pair<const ReadFile*, Tensors>> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string())
      throw Error(ErrorCode::kCorruptData, index + ": tensor " + in_quotes(name) + ": expected the name of a file");
    const std::string file = shard.get<std::string>();
    auto at = shards.find(file);
    if (at == shards.end()) {
      check_shard_name(file, name, index);
      if (shards.size() == kMaxShards)
        throw Error(ErrorCode::kCorruptData, index + ": more than " + std::to_string(kMaxShards) + " shards");
      if (!file_exists(folder + "/" + file))
        throw Error(ErrorCode::kCorruptData, index + ": tensor " + in_quotes(name) + " is in " + in_quotes(file) +
                                                 ", but there is no such file");
      Tensors tensors = open(folder + "/" + file);
      at = shards.emplace(file, std::pair(files_.back().get(), std::move(tensors))).first;
    }
    const auto entry = at->second.second.find(name);
    if (entry == at->second.second.end())
      throw Error(ErrorCode::kCorruptData, at->second.first->path() + ": tensor " + in_quotes(name) +
                                               ", which the index places here, is missing");
    tensors_.emplace(name, Located{entry->second, at->second.first});
  }
}

bool Checkpoint::has(const std::string& name) const { return tensors_.contains(name); }

const Checkpoint::Located& Checkpoint::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  if (at == tensors_.end())
    throw Error(ErrorCode::kCorruptData, where_ + ": tensor " + in_quotes(name) + " is missing");
  return at->second;
}

const TensorEntry& Checkpoint::entry(const std::string& name) const { return find(name).entry; }
const std::string& Checkpoint::path_of(const std::string& name) const { return find(name).file->path(); }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, located] : tensors_) names.push_back(name);
  return names;
}

void Checkpoint::read_slice(const std::string& name, int64_t row_begin, int64_t row_end, int64_t col_begin,
                            int64_t col_end, void* out) const {
  const auto& [entry, file] = find(name);
  if (!entry.dtype)
    throw Error(ErrorCode::kUnsupported, file->path() + ": tensor " + in_quotes(name) + " is of dtype " +
                                             std::string(entry.dtype_name) + ", which is not implemented");
  const int64_t cols = entry.cols(), element = size_of(*entry.dtype);
  ensure(0 <= row_begin && row_begin <= row_end && row_end <= entry.rows() && 0 <= col_begin && col_begin <= col_end &&
             col_end <= cols,
         "a slice lies inside its tensor");
  const int64_t segment = (col_end - col_begin) * element;
  if (col_end - col_begin == cols) {
    file->read(entry.begin + row_begin * cols * element, out, (row_end - row_begin) * segment);
  } else {
    // Row by row, however short: a call costs about as much as copying 4 KB, and whole rows would multiply the bytes
    // that a rank reads by the number of ranks.
    char* to = static_cast<char*>(out);
    for (int64_t row = row_begin; row < row_end; ++row, to += segment)
      file->read(entry.begin + (row * cols + col_begin) * element, to, segment);
  }
  bytes_read_.fetch_add((row_end - row_begin) * segment, std::memory_order_relaxed);
}

}  // namespace lane
