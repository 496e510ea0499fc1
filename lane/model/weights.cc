#include "lane/model/weights.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <thread>

#include "lane/base/json.h"
#include "lane/base/log.h"
#include "lane/base/random.h"
#include "lane/device/staging.h"
#include "lane/model/safetensors.h"

namespace lane {
namespace {

using kernels::PackedMatrix;
using plan::Range;

constexpr int64_t kPieceBytes = int64_t{4} << 20;        // what a thread reads at once
constexpr int64_t kMostPinnedBytes = int64_t{64} << 20;  // of a rank: page-locked memory is taken from everybody

// Columns `cols` of rows `rows` of one tensor; a vector is one row.
struct Slice {
  std::string tensor;
  std::vector<int64_t> shape;  // of the whole tensor
  Range rows, cols;
  int64_t count() const { return rows.size() * cols.size(); }
};

Slice row_slice(std::string tensor, int64_t rows, int64_t cols, Range part) {
  return {std::move(tensor), {rows, cols}, part, {0, cols}};
}
Slice col_slice(std::string tensor, int64_t rows, int64_t cols, Range part) {
  return {std::move(tensor), {rows, cols}, {0, rows}, part};
}
Slice vector_slice(std::string tensor, int64_t count, Range part) { return {std::move(tensor), {count}, {0, 1}, part}; }

// Slices stacked in one place of this rank: a matrix, or a vector of float32.
struct Target {
  PackedMatrix* matrix = nullptr;
  Buffer* vector = nullptr;
  std::vector<Slice> slices = {};

  // Of the matrix; a vector is a row of all slices one after the other.
  int64_t rows() const { return matrix ? sum(&Slice::rows) : 1; }
  int64_t cols() const { return matrix ? slices.front().cols.size() : sum(&Slice::cols); }

 private:
  int64_t sum(Range Slice::*part) const {
    int64_t total = 0;
    for (const Slice& slice : slices) total += (slice.*part).size();
    return total;
  }
};

// All that a rank loads, as data: the checks, the total for progress, the parallel loop and the random weights read
// the same list.
struct WorkList {
  std::vector<Target> targets;

  void add(PackedMatrix& to, std::vector<Slice> slices) {
    targets.push_back({.matrix = &to, .slices = std::move(slices)});
  }
  void add(Buffer& to, std::vector<Slice> slices) { targets.push_back({.vector = &to, .slices = std::move(slices)}); }

  void allocate(Device device, DType dtype) const {
    for (const Target& target : targets)
      if (target.matrix)
        *target.matrix = PackedMatrix(device, dtype, target.rows(), target.cols());
      else
        *target.vector = Buffer(kernels::activation_type(dtype, device), {1, 1, 1, target.cols()}, device);
  }

  // What allocate() takes.
  int64_t bytes(Device device, DType dtype) const {
    int64_t bytes = 0;
    for (const Target& target : targets)
      bytes += target.matrix ? PackedMatrix::bytes_on(device, dtype, target.rows(), target.cols())
                             : target.cols() * size_of(kernels::activation_type(dtype, device));
    return bytes;
  }
};

// The tensors of a checkpoint in the names of Hugging Face, cut for one rank. `prefix` is "model." unless the
// checkpoint is of the bare decoder.
void list_weights(const ModelConfig& config, const plan::RankSlices& mine, int rank, const std::string& prefix,
                  Weights& weights, WorkList& list) {
  const plan::ModelShape& shape = config.shape;
  const int64_t hidden = shape.hidden_size, inner = shape.intermediate_size, head = shape.head_dim;
  const int64_t q_rows = shape.num_heads * head, kv_rows = shape.num_kv_heads * head;
  const Range all{0, hidden}, q{mine.heads.begin * head, mine.heads.end * head},
      kv{mine.kv_heads.begin * head, mine.kv_heads.end * head};

  // A projection of several parts: tensors of their own, or one after the other in a fused tensor.
  struct Part {
    std::string name;
    int64_t rows;
    Range range;
  };
  const auto stack = [&](const std::string& fused_name, const std::vector<Part>& parts, const auto& make_slice) {
    int64_t fused_rows = 0, first = 0;
    for (const Part& part : parts) fused_rows += part.rows;
    std::vector<Slice> slices;
    for (const auto& [name, rows, range] : parts) {
      if (config.fused_qkv)
        slices.push_back(make_slice(fused_name, fused_rows, Range{first + range.begin, first + range.end}));
      else
        slices.push_back(make_slice(name, rows, range));
      first += rows;
    }
    return slices;
  };
  const auto matrix = [&](const std::string& name, int64_t rows, Range part) {
    return row_slice(name + ".weight", rows, hidden, part);
  };
  const auto bias = [&](const std::string& name, int64_t rows, Range part) {
    return vector_slice(name + ".bias", rows, part);
  };

  list.add(weights.embedding, {row_slice(prefix + "embed_tokens.weight", shape.vocab_size, hidden, mine.vocab)});
  weights.layers.resize(static_cast<size_t>(shape.num_layers));
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    LayerWeights& layer = weights.layers[i];
    const std::string base = prefix + "layers." + std::to_string(i) + ".", attention = base + "self_attn.",
                      mlp = base + "mlp.";
    const std::vector<Part> qkv = {
        {attention + "q_proj", q_rows, q}, {attention + "k_proj", kv_rows, kv}, {attention + "v_proj", kv_rows, kv}};
    const std::vector<Part> gate_up = {{mlp + "gate_proj", inner, mine.intermediate},
                                       {mlp + "up_proj", inner, mine.intermediate}};
    list.add(layer.attention_norm, {vector_slice(base + "input_layernorm.weight", hidden, all)});
    list.add(layer.qkv, stack(attention + "qkv_proj", qkv, matrix));
    if (config.qkv_bias) list.add(layer.qkv_bias, stack(attention + "qkv_proj", qkv, bias));
    if (config.qk_norm) {
      list.add(layer.q_norm, {vector_slice(attention + "q_norm.weight", head, {0, head})});
      list.add(layer.k_norm, {vector_slice(attention + "k_norm.weight", head, {0, head})});
    }
    list.add(layer.out, {col_slice(attention + "o_proj.weight", hidden, q_rows, q)});
    if (config.out_bias && rank == 0) list.add(layer.out_bias, {bias(attention + "o_proj", hidden, all)});
    list.add(layer.mlp_norm, {vector_slice(base + "post_attention_layernorm.weight", hidden, all)});
    list.add(layer.gate_up, stack(mlp + "gate_up_proj", gate_up, matrix));
    if (config.mlp_bias) list.add(layer.gate_up_bias, stack(mlp + "gate_up_proj", gate_up, bias));
    list.add(layer.down, {col_slice(mlp + "down_proj.weight", hidden, inner, mine.intermediate)});
    if (config.mlp_bias && rank == 0) list.add(layer.down_bias, {bias(mlp + "down_proj", hidden, all)});
  }
  list.add(weights.final_norm, {vector_slice(prefix + "norm.weight", hidden, all)});
  if (!config.tie_word_embeddings)
    list.add(weights.lm_head, {row_slice("lm_head.weight", shape.vocab_size, hidden, mine.vocab)});
}

// Where values come from. Any thread may ask.
class Source {
 public:
  virtual ~Source() = default;
  virtual DType dtype(const Slice& slice) const = 0;         // of what read() writes
  virtual DType stored_dtype(const Slice& slice) const = 0;  // in the checkpoint
  virtual void read(const Slice& slice, Range rows, void* out) const = 0;
  // Makes all values where they are wanted, if that is on a GPU and nothing has to be read for it.
  virtual bool fill_on_gpu(const WorkList&, Stream&) const { return false; }
};

std::string show_shape(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

class CheckpointSource final : public Source {
 public:
  explicit CheckpointSource(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  // Before anything is read: what is missing or does not fit the config.
  void check(const WorkList& list) const {
    for (const Target& target : list.targets)
      for (const Slice& slice : target.slices) {
        const TensorEntry& entry = checkpoint_.entry(slice.tensor);
        const std::string name = checkpoint_.path_of(slice.tensor) + ": tensor " + in_quotes(slice.tensor);
        if (entry.shape != slice.shape)
          throw Error(ErrorCode::kCorruptData,
                      name + " has shape " + show_shape(entry.shape) + "; config.json says " + show_shape(slice.shape));
        if (entry.dtype != DType::kF32 && entry.dtype != DType::kBF16 && entry.dtype != DType::kF16)
          throw Error(ErrorCode::kUnsupported, name + " is of dtype " + std::string(entry.dtype_name) +
                                                   "; weights of F32, BF16 and F16 are implemented");
      }
  }

  // A tensor that nothing asked for is often harmless, and sometimes the sign of a wrong config.json.
  void warn_of_unused(const WorkList& list, const ModelConfig& config) const {
    std::set<std::string> used;
    for (const Target& target : list.targets)
      for (const Slice& slice : target.slices) used.insert(slice.tensor);
    std::string first;
    int64_t num_unused = 0;
    for (const std::string& name : checkpoint_.names()) {
      if (used.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
      if (config.tie_word_embeddings && name == "lm_head.weight") continue;
      if (num_unused++ == 0) first = name;
    }
    if (num_unused > 0)
      log(LogLevel::kWarn, std::to_string(num_unused) + " tensors of the checkpoint are not used, the first is " +
                               in_quotes(first) + " in " + checkpoint_.path_of(first));
  }

  DType dtype(const Slice& slice) const override { return *checkpoint_.entry(slice.tensor).dtype; }
  DType stored_dtype(const Slice& slice) const override { return dtype(slice); }
  void read(const Slice& slice, Range rows, void* out) const override {
    checkpoint_.read_slice(slice.tensor, rows.begin, rows.end, slice.cols.begin, slice.cols.end, out);
  }

 private:
  const Checkpoint& checkpoint_;
};

// Norms are 1, everything else has a standard deviation of 0.02.
class RandomSource final : public Source {
 public:
  RandomSource(uint64_t seed, DType stored_dtype) : seed_(seed), stored_dtype_(stored_dtype) {}

  DType dtype(const Slice&) const override { return DType::kF32; }
  DType stored_dtype(const Slice&) const override { return stored_dtype_; }
  void read(const Slice& slice, Range rows, void* out) const override {
    Stream here;  // the calling thread
    kernels::fill_random(tensor_of(slice), rows.begin, slice.cols.begin,
                         {out, DType::kF32, {1, 1, rows.size(), slice.cols.size()}, {}}, here);
  }

  bool fill_on_gpu(const WorkList& list, Stream& stream) const override {
    if (stream.device().kind != DeviceKind::kCuda) return false;
    for (const Target& target : list.targets) {
      int64_t first = 0;  // row, or element of a vector
      for (const Slice& slice : target.slices) {
        const int64_t count = target.matrix ? slice.rows.size() : slice.cols.size();
        const TensorView out = target.matrix
                                   ? target.matrix->device_rows(first, count)
                                   : as_column(*target.vector).row_range(first, count).reshaped({1, 1, 1, count});
        kernels::fill_random(tensor_of(slice), slice.rows.begin, slice.cols.begin, out, stream);
        first += count;
      }
    }
    stream.synchronize();
    return true;
  }

 private:
  kernels::RandomTensor tensor_of(const Slice& slice) const {
    if (slice.tensor.ends_with("norm.weight")) return {.cols = slice.shape.back(), .mean = 1};
    return {.key = mix64(random_bits(seed_, hash_name(slice.tensor))), .cols = slice.shape.back(), .deviation = 0.02f};
  }
  static TensorView as_column(const Buffer& vector) { return vector.view().reshaped({1, 1, vector.view().count(), 1}); }

  uint64_t seed_;
  DType stored_dtype_;
};

// Rows of one target: whole groups of packed rows, so that no two pieces share one. A vector is one piece.
struct Piece {
  const Target* target;
  Range rows;

  // Where it goes on a GPU.
  TensorView on_device() const {
    return target->matrix ? target->matrix->device_rows(rows.begin, rows.size()) : target->vector->view();
  }
};

std::vector<Piece> cut(const WorkList& list, Device device) {
  std::vector<Piece> pieces;
  for (const Target& target : list.targets) {
    if (target.vector) {
      pieces.push_back({&target, {0, 1}});
      continue;
    }
    const DType type = device.kind == DeviceKind::kCuda ? target.matrix->dtype() : DType::kF32;
    const int64_t groups = kPieceBytes / (target.matrix->k() * size_of(type) * PackedMatrix::kRowGroup);
    const int64_t step = std::max<int64_t>(1, groups) * PackedMatrix::kRowGroup;
    for (int64_t row = 0; row < target.matrix->n(); row += step)
      pieces.push_back({&target, {row, std::min(row + step, target.matrix->n())}});
  }
  return pieces;
}

// The rows of one slice that belong to a piece.
struct Part {
  const Slice* slice;
  Range rows;     // of the slice's tensor
  int64_t first;  // row of the target
  std::array<int64_t, 4> shape() const { return {1, 1, rows.size(), slice->cols.size()}; }
};

// What a piece is made of, in its order.
std::vector<Part> parts_of(const Piece& piece) {
  std::vector<Part> parts;
  int64_t first = 0;  // row of the target where the slice begins; those of a vector follow each other in its one row
  for (const Slice& slice : piece.target->slices) {
    const Range wanted{std::max(piece.rows.begin, first), std::min(piece.rows.end, first + slice.rows.size())};
    const int64_t begin = slice.rows.begin + wanted.begin - first;
    if (wanted.size() > 0) parts.push_back({&slice, {begin, begin + wanted.size()}, wanted.begin});
    if (piece.target->matrix) first += slice.rows.size();
  }
  return parts;
}

// Fills pieces; every thread has a Loader of its own.
class Loader {
 public:
  explicit Loader(const Source& source) : source_(source) {}
  virtual ~Loader() = default;
  virtual void load(const Piece& piece) = 0;
  virtual void finish() {}  // returns when all of them are in place

 protected:
  // In memory of the loader's, until the next call.
  TensorView read(const Part& part) {
    TensorView values{nullptr, source_.dtype(*part.slice), part.shape(), {}};
    if (bounce_.size() < static_cast<size_t>(values.bytes())) bounce_.resize(static_cast<size_t>(values.bytes()));
    values.data = bounce_.data();
    source_.read(*part.slice, part.rows, values.data);
    return values;
  }
  // To `out`, converted to its type.
  void read_to(const Part& part, TensorView out) {
    if (source_.dtype(*part.slice) == out.dtype)
      source_.read(*part.slice, part.rows, out.data);
    else
      kernels::convert(read(part), out);
  }

 private:
  const Source& source_;
  std::vector<char> bounce_;
};

// Packs rows as the CPU's products want them.
class HostLoader final : public Loader {
 public:
  using Loader::Loader;

  void load(const Piece& piece) override {
    if (piece.target->matrix) {
      for (const Part& part : parts_of(piece)) piece.target->matrix->set_rows(part.first, read(part), stream_);
      return;
    }
    TensorView rest = piece.target->vector->view();
    for (const Part& part : parts_of(piece)) {
      rest.shape = part.shape();
      read_to(part, rest);
      rest.data = static_cast<char*>(rest.data) + rest.bytes();
    }
  }

 private:
  Stream stream_;
};

// Reads into page-locked memory while the piece before is on its way.
class DeviceLoader final : public Loader {
 public:
  DeviceLoader(const Source& source, Device gpu, int64_t piece_bytes) : Loader(source), staging_(gpu, piece_bytes) {}

  void load(const Piece& piece) override {
    const TensorView to = piece.on_device();
    auto* at = static_cast<char*>(staging_.next());
    for (const Part& part : parts_of(piece)) {
      const TensorView out{at, to.dtype, part.shape(), {}};
      read_to(part, out);
      at += out.bytes();
    }
    staging_.send(to);
  }
  void finish() override { staging_.finish(); }

 private:
  Staging staging_;
};

void load_all(const WorkList& list, const Source& source, int64_t total_bytes, const LoadOptions& options,
              Stream& stream) {
  const bool on_gpu = stream.device().kind == DeviceKind::kCuda;
  const std::vector<Piece> pieces = cut(list, stream.device());
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  int64_t num_loaders = stream.threads().size(), piece_bytes = 0;
  if (on_gpu) {
    for (const Piece& piece : pieces) piece_bytes = std::max(piece_bytes, piece.on_device().bytes());
    num_loaders = std::clamp<int64_t>(kMostPinnedBytes / (Staging::kPieces * piece_bytes), 1, num_loaders);
  }
  std::atomic<int64_t> next{0}, done{0};
  const auto caller = std::this_thread::get_id();
  stream.threads().run(num_loaders, [&](int64_t) {
    try {
      std::unique_ptr<Loader> loader;
      if (on_gpu)
        loader = std::make_unique<DeviceLoader>(source, stream.device(), piece_bytes);
      else
        loader = std::make_unique<HostLoader>(source);
      for (int64_t i; (i = next.fetch_add(1)) < num_pieces;) {
        const Piece& piece = pieces[static_cast<size_t>(i)];
        loader->load(piece);
        int64_t bytes = 0;  // as stored
        for (const Part& part : parts_of(piece))
          bytes += part.rows.size() * part.slice->cols.size() * size_of(source.stored_dtype(*part.slice));
        const int64_t so_far = done.fetch_add(bytes) + bytes;
        if (options.progress && std::this_thread::get_id() == caller) options.progress(so_far, total_bytes);
      }
      loader->finish();
    } catch (...) {
      next = num_pieces;  // the others need not go on
      throw;
    }
  });
}

}  // namespace

int64_t Weights::bytes() const {
  int64_t bytes = embedding.bytes() + final_norm.bytes() + lm_head.bytes();
  for (const LayerWeights& layer : layers) {
    for (const PackedMatrix* matrix : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down}) bytes += matrix->bytes();
    for (const Buffer* vector : {&layer.attention_norm, &layer.mlp_norm, &layer.qkv_bias, &layer.q_norm, &layer.k_norm,
                                 &layer.out_bias, &layer.gate_up_bias, &layer.down_bias})
      bytes += vector->bytes();
  }
  return bytes;
}

int64_t weight_bytes(const ModelConfig& config, const plan::ParallelPlan& plan, int rank, DType dtype, Device device) {
  Weights none;
  WorkList list;
  list_weights(config, plan::slices_of(plan, config.shape, rank), rank, "", none, list);
  return list.bytes(device, dtype);
}

Weights load_weights(const std::string& folder, const ModelConfig& config, const plan::ParallelPlan& plan, int rank,
                     const LoadOptions& options, Stream& stream, LoadReport* report) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_ptr<Checkpoint> checkpoint;
  std::string prefix = "model.";
  if (!options.dummy) {
    checkpoint = std::make_unique<Checkpoint>(folder);
    if (!checkpoint->has("model.embed_tokens.weight") && checkpoint->has("embed_tokens.weight")) prefix.clear();
  }

  Weights weights;
  WorkList list;
  list_weights(config, plan::slices_of(plan, config.shape, rank), rank, prefix, weights, list);

  std::unique_ptr<Source> source;
  if (checkpoint) {
    auto from = std::make_unique<CheckpointSource>(*checkpoint);
    from->check(list);
    if (rank == 0) from->warn_of_unused(list, config);
    source = std::move(from);
  } else {
    source = std::make_unique<RandomSource>(options.dummy_seed, config.dtype);
  }

  int64_t share = 0;
  for (const Target& target : list.targets)
    for (const Slice& slice : target.slices) share += slice.count() * size_of(source->stored_dtype(slice));
  list.allocate(stream.device(), options.dtype);
  if (!source->fill_on_gpu(list, stream)) load_all(list, *source, share, options, stream);
  if (options.progress) options.progress(share, share);
  if (report)
    *report = {.bytes_read = checkpoint ? checkpoint->bytes_read() : 0,
               .bytes_share = share,
               .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
  return weights;
}

}  // namespace lane
