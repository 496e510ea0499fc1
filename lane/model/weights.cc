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
#include "lane/model/safetensors.h"

namespace lane {
namespace {

using kernels::PackedMatrix;
using plan::Range;

constexpr int64_t kPieceBytes = int64_t{4} << 20;  // what a thread reads at once

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
  PackedMatrix* matrix;
  Buffer* vector;
  std::vector<Slice> slices;
};

// All that a rank loads, as data: the checks, the total for progress, the parallel loop and the random weights read
// the same list.
struct WorkList {
  std::vector<Target> targets;

  void add(PackedMatrix& to, std::vector<Slice> slices) { targets.push_back({&to, nullptr, std::move(slices)}); }
  void add(Buffer& to, std::vector<Slice> slices) { targets.push_back({nullptr, &to, std::move(slices)}); }

  void allocate(Device device, DType dtype) const {
    for (const Target& target : targets) {
      int64_t rows = 0, count = 0;
      for (const Slice& slice : target.slices) rows += slice.rows.size(), count += slice.count();
      if (target.matrix)
        *target.matrix = PackedMatrix(device, dtype, rows, target.slices.front().cols.size());
      else
        *target.vector = Buffer(kernels::activation_type(dtype, device), {1, 1, 1, count}, device);
    }
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

// Norms are 1, everything else is uniform with a standard deviation of 0.02. Four values share one random number, a
// group of four being aligned in the whole tensor.
class RandomSource final : public Source {
 public:
  RandomSource(uint64_t seed, DType stored_dtype) : seed_(seed), stored_dtype_(stored_dtype) {}

  DType dtype(const Slice&) const override { return DType::kF32; }
  DType stored_dtype(const Slice&) const override { return stored_dtype_; }
  void read(const Slice& slice, Range rows, void* out) const override {
    auto* values = static_cast<float*>(out);
    if (slice.tensor.ends_with("norm.weight")) {
      std::fill_n(values, rows.size() * slice.cols.size(), 1.0f);
      return;
    }
    const uint64_t key = mix64(random_bits(seed_, hash_name(slice.tensor)));
    const int64_t cols = slice.shape.back();
    if (slice.cols.size() == cols) return fill(key, rows.begin * cols, rows.size() * cols, values);
    for (int64_t row = rows.begin; row < rows.end; ++row, values += slice.cols.size())
      fill(key, row * cols + slice.cols.begin, slice.cols.size(), values);
  }

 private:
  static constexpr int64_t kBlock = 64;  // groups at a time: the second loop then runs in vector registers

  // Values [first, first + count) of the tensor.
  static void fill(uint64_t key, int64_t first, int64_t count, float* out) {
    constexpr float kScale = 0.02f * 1.7320508f / 32768;  // uniform on (-a, a) has a standard deviation of a / sqrt(3)
    std::array<uint64_t, kBlock> bits;
    std::array<int16_t, kBlock * 4> parts;
    while (count > 0) {
      const int64_t group = first / 4, skipped = first % 4;
      const int64_t num_groups = std::min(kBlock, (skipped + count + 3) / 4);
      for (int64_t i = 0; i < num_groups; ++i)
        bits[static_cast<size_t>(i)] = mix64(key ^ static_cast<uint64_t>(group + i));
      std::memcpy(parts.data(), bits.data(), sizeof(bits[0]) * static_cast<size_t>(num_groups));
      const int64_t taken = std::min(count, num_groups * 4 - skipped);
      const int16_t* part = parts.data() + skipped;
      for (int64_t i = 0; i < taken; ++i) out[i] = (static_cast<float>(part[i]) + 0.5f) * kScale;
      out += taken, first += taken, count -= taken;
    }
  }

  uint64_t seed_;
  DType stored_dtype_;
};

float as_float(const void* values, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(values)[i];
    case DType::kBF16:
      return float_from_bf16(static_cast<const uint16_t*>(values)[i]);
    default:
      return float_from_f16(static_cast<const uint16_t*>(values)[i]);
  }
}

// Rows [rows.begin, rows.end) of one target: whole groups of packed rows, so that no two pieces share one.
struct Piece {
  const Target* target;
  Range rows;
};

std::vector<Piece> cut(const WorkList& list) {
  std::vector<Piece> pieces;
  for (const Target& target : list.targets) {
    if (target.vector) {
      pieces.push_back({&target, {0, 1}});
      continue;
    }
    const int64_t groups = kPieceBytes / (target.matrix->k() * size_of(DType::kF32) * PackedMatrix::kRowGroup);
    const int64_t step = std::max<int64_t>(1, groups) * PackedMatrix::kRowGroup;
    for (int64_t row = 0; row < target.matrix->n(); row += step)
      pieces.push_back({&target, {row, std::min(row + step, target.matrix->n())}});
  }
  return pieces;
}

// Fills pieces with one bounce buffer; every thread has a Loader of its own.
class Loader {
 public:
  Loader(const Source& source, Device device) : source_(source), stream_(device) {}

  // Returns the bytes done, as stored.
  int64_t load(const Piece& piece) { return piece.target->matrix ? load_rows(piece) : load_vector(*piece.target); }

 private:
  int64_t load_rows(const Piece& piece) {
    PackedMatrix& matrix = *piece.target->matrix;
    int64_t stored_bytes = 0, first = 0;  // row of the matrix where the slice begins
    for (const Slice& slice : piece.target->slices) {
      const Range wanted{std::max(piece.rows.begin, first), std::min(piece.rows.end, first + slice.rows.size())};
      if (wanted.size() > 0) {
        const int64_t begin = slice.rows.begin + wanted.begin - first;
        void* values = read(slice, {begin, begin + wanted.size()});
        matrix.set_rows(wanted.begin, {values, source_.dtype(slice), {1, 1, wanted.size(), matrix.k()}, {}}, stream_);
        stored_bytes += wanted.size() * matrix.k() * size_of(source_.stored_dtype(slice));
      }
      first += slice.rows.size();
    }
    return stored_bytes;
  }

  int64_t load_vector(const Target& target) {
    std::vector<float> joined;
    int64_t stored_bytes = 0;
    for (const Slice& slice : target.slices) {
      const void* values = read(slice, slice.rows);
      for (int64_t i = 0; i < slice.count(); ++i) joined.push_back(as_float(values, source_.dtype(slice), i));
      stored_bytes += slice.count() * size_of(source_.stored_dtype(slice));
    }
    kernels::store({joined.data(), DType::kF32, {1, 1, 1, static_cast<int64_t>(joined.size())}, {}},
                   target.vector->view(), stream_);
    return stored_bytes;
  }

  void* read(const Slice& slice, Range rows) {
    const auto bytes = static_cast<size_t>(rows.size() * slice.cols.size() * size_of(source_.dtype(slice)));
    if (bounce_.size() < bytes) bounce_.resize(bytes);
    source_.read(slice, rows, bounce_.data());
    return bounce_.data();
  }

  const Source& source_;
  Stream stream_;  // for copies to a GPU
  std::vector<char> bounce_;
};

void load_all(const WorkList& list, const Source& source, int64_t total_bytes, const LoadOptions& options,
              Stream& stream) {
  const std::vector<Piece> pieces = cut(list);
  const auto num_pieces = static_cast<int64_t>(pieces.size());
  std::atomic<int64_t> next{0}, done{0};
  const auto caller = std::this_thread::get_id();
  stream.threads().run(stream.threads().size(), [&](int64_t) {
    Loader loader(source, stream.device());
    try {
      for (int64_t i; (i = next.fetch_add(1)) < num_pieces;) {
        const int64_t bytes = loader.load(pieces[static_cast<size_t>(i)]);
        const int64_t so_far = done.fetch_add(bytes) + bytes;
        if (options.progress && std::this_thread::get_id() == caller) options.progress(so_far, total_bytes);
      }
    } catch (...) {
      next = num_pieces;  // the others need not go on
      throw;
    }
  });
  if (options.progress) options.progress(total_bytes, total_bytes);
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
  load_all(list, *source, share, options, stream);
  if (report)
    *report = {.bytes_read = checkpoint ? checkpoint->bytes_read() : 0,
               .bytes_share = share,
               .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
  return weights;
}

}  // namespace lane
