#include "lane/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"

namespace lane {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// What a family's class in Hugging Face transformers assumes where config.json is silent, and what it fixes.
struct Family {
  enum class Windows { kNone, kEveryLayer, kByLayer };

  std::string_view name;
  int64_t max_position_embeddings;
  double rms_norm_eps = 1e-6;
  int64_t num_kv_heads = 0;  // 0: as many as query heads
  int64_t head_dim = 0;      // 0: hidden_size / num_heads
  Windows windows = Windows::kNone;
  int64_t sliding_window = 0;  // 0: none
  int32_t bos = -1, eos = -1;
  bool always_qkv_bias = false;  // no attention_bias field: q, k and v have biases, out has none
  bool has_attention_bias = false, has_mlp_bias = false, has_partial_rotary = false;
  bool qk_norm = false, fused_qkv = false;
};

constexpr std::array kFamilies = {
    Family{.name = "llama",
           .max_position_embeddings = 2048,
           .bos = 1,
           .eos = 2,
           .has_attention_bias = true,
           .has_mlp_bias = true},
    Family{.name = "mistral",
           .max_position_embeddings = 131072,
           .num_kv_heads = 8,
           .windows = Family::Windows::kEveryLayer,
           .sliding_window = 4096,
           .bos = 1,
           .eos = 2},
    Family{.name = "qwen2",
           .max_position_embeddings = 32768,
           .num_kv_heads = 32,
           .windows = Family::Windows::kByLayer,
           .sliding_window = 4096,
           .always_qkv_bias = true},
    Family{.name = "qwen3",
           .max_position_embeddings = 32768,
           .num_kv_heads = 32,
           .head_dim = 128,
           .windows = Family::Windows::kByLayer,
           .sliding_window = 4096,
           .has_attention_bias = true,
           .qk_norm = true},
    Family{.name = "phi3",
           .max_position_embeddings = 4096,
           .rms_norm_eps = 1e-5,
           .windows = Family::Windows::kEveryLayer,
           .bos = 1,
           .eos = 32000,
           .has_partial_rotary = true,
           .fused_qkv = true},
};

// Typed, range-checked access to one JSON object of the file `where`.
struct Fields {
  const Json& json;
  const std::string& where;

  [[noreturn]] void corrupt(const std::string& what) const {
    throw Error(ErrorCode::kCorruptData, where + ": " + what);
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(ErrorCode::kUnsupported, where + ": " + what);
  }

  // The field, or null if it is missing or JSON's null.
  const Json* find(const char* field) const {
    const auto at = json.find(field);
    return at == json.end() || at->is_null() ? nullptr : &*at;
  }
  bool is_null(const char* field) const { return json.contains(field) && json.find(field)->is_null(); }

  int64_t integer(const char* field, int64_t fallback, int64_t least, int64_t most) const {
    const int64_t value = json_int(json, field, fallback, where);
    if (value < least || value > most)
      corrupt(in_quotes(field) + " is " + std::to_string(value) + "; expected a whole number from " +
              std::to_string(least) + " to " + std::to_string(most));
    return value;
  }
  int64_t required(const char* field, int64_t most) const {
    if (!find(field)) corrupt(in_quotes(field) + " is missing");
    return integer(field, 0, 1, most);
  }
  double number(const char* field, double fallback, double least, double most) const {
    const double value = json_number(json, field, fallback, where);
    if (!(value >= least && value <= most))
      corrupt(in_quotes(field) + " is " + Json(value).dump() + "; expected a number from " + Json(least).dump() +
              " to " + Json(most).dump());
    return value;
  }
  double required_number(const char* field, double least, double most) const {
    if (!find(field)) corrupt(in_quotes(field) + " is missing");
    return number(field, 0, least, most);
  }
  bool boolean(const char* field, bool fallback) const { return json_bool(json, field, fallback, where); }
  std::string text(const char* field, const std::string& fallback) const {
    return json_string(json, field, fallback, where);
  }

  // A token id or a list of them. An id may lie outside the vocabulary (then it never comes up).
  std::vector<int32_t> token_ids(const char* field, int32_t fallback) const {
    if (!json.contains(field) && fallback >= 0) return {fallback};
    const Json* value = find(field);
    if (!value) return {};
    std::vector<int32_t> ids;
    const auto take = [&](const Json& id) {
      if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > INT32_MAX || ids.size() == 1024)
        corrupt(in_quotes(field) + " is not a token id or a list of at most 1024 of them");
      ids.push_back(id.get<int32_t>());
    };
    if (value->is_array())
      for (const Json& id : *value) take(id);
    else
      take(*value);
    return ids;
  }
};

Fields read_object(const Json& json, const std::string& where) {
  if (!json.is_object())
    throw Error(ErrorCode::kCorruptData, where + ": expected an object, found " + json.type_name());
  return {json, where};
}

const Family& family_of(const Fields& config) {
  const std::string type = config.text("model_type", "");
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.name == type) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.name);
  }
  if (type.empty()) config.corrupt("\"model_type\" is missing");
  config.unsupported("model_type " + in_quotes(type) + " is not implemented; Lane knows " + known);
}

// What a config of a known model_type may still ask for and Lane does not do.
void check_features(const Fields& config) {
  for (const char* nested : {"text_config", "vision_config", "audio_config"})
    if (config.find(nested)) config.unsupported(std::string(nested) + ": models of more than text are not implemented");
  for (const char* experts : {"num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"})
    if (const Json* value = config.find(experts); value && *value != 0)
      config.unsupported(std::string(experts) + ": mixtures of experts are not implemented");
  for (const char* quantized : {"quantization_config", "compression_config"})
    if (const Json* value = config.find(quantized)) {
      std::string method = "?";
      if (value->is_object())
        if (const auto at = value->find("quant_method"); at != value->end() && at->is_string())
          method = at->get<std::string>();
      config.unsupported(std::string(quantized) + ": quantized weights (" + in_quotes(method) +
                         ") are not implemented");
    }
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    config.unsupported("hidden_act " + in_quotes(activation) + " is not implemented; Lane knows silu");
}

plan::ModelShape read_shape(const Fields& config, const Family& family) {
  plan::ModelShape shape;
  shape.vocab_size = config.required("vocab_size", 1 << 24);
  shape.hidden_size = config.required("hidden_size", 1 << 17);
  shape.intermediate_size = config.required("intermediate_size", 1 << 20);
  shape.num_layers = static_cast<int>(config.required("num_hidden_layers", 4096));
  shape.num_heads = static_cast<int>(config.required("num_attention_heads", 4096));

  const bool as_queries = family.num_kv_heads == 0 || config.is_null("num_key_value_heads");
  const int64_t kv_fallback = as_queries ? shape.num_heads : family.num_kv_heads;
  shape.num_kv_heads = static_cast<int>(config.integer("num_key_value_heads", kv_fallback, 1, 4096));
  if (shape.num_heads % shape.num_kv_heads != 0)
    config.corrupt(std::to_string(shape.num_kv_heads) + " \"num_key_value_heads\" do not divide " +
                   std::to_string(shape.num_heads) + " \"num_attention_heads\"");

  const bool divided = family.head_dim == 0 || config.is_null("head_dim");
  if (divided && !config.find("head_dim") && shape.hidden_size % shape.num_heads != 0)
    config.corrupt(std::to_string(shape.num_heads) + " \"num_attention_heads\" do not divide \"hidden_size\" " +
                   std::to_string(shape.hidden_size) + ", and there is no \"head_dim\"");
  shape.head_dim = static_cast<int>(
      config.integer("head_dim", divided ? shape.hidden_size / shape.num_heads : family.head_dim, 1, 4096));
  return shape;
}

// The layers that see only the last tokens, as transformers decides it. qwen2 and qwen3: `layer_types`, else the
// layers from `max_window_layers` on, and only with `use_sliding_window`.
std::vector<int> read_windows(const Fields& config, const Family& family, int num_layers) {
  std::vector<int> windows(static_cast<size_t>(num_layers), 0);
  const bool by_layer = family.windows == Family::Windows::kByLayer;
  if (family.windows == Family::Windows::kNone) return windows;

  int window = 0;
  if ((!by_layer || config.boolean("use_sliding_window", false)) && !config.is_null("sliding_window") &&
      (config.find("sliding_window") || family.sliding_window > 0))
    window = static_cast<int>(config.integer("sliding_window", family.sliding_window, 1, INT32_MAX));
  if (!by_layer) {
    std::fill(windows.begin(), windows.end(), window);
    return windows;
  }

  const Json* types = config.find("layer_types");
  if (!types) {
    const int64_t first = config.integer("max_window_layers", 28, 0, INT32_MAX);
    for (int64_t layer = first; layer < num_layers; ++layer) windows[static_cast<size_t>(layer)] = window;
    return windows;
  }
  if (!types->is_array() || types->size() != windows.size())
    config.corrupt("\"layer_types\" is not a list of " + std::to_string(num_layers) + " names, one a layer");
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    const Json& type = (*types)[layer];
    if (!type.is_string()) config.corrupt("\"layer_types\" holds something that is not a name");
    if (type == "full_attention") continue;
    if (type != "sliding_attention")
      config.unsupported("layer type " + in_quotes(type.get<std::string>()) +
                         " is not implemented; Lane knows full_attention, sliding_attention");
    if (window == 0) config.corrupt("\"layer_types\" has sliding_attention, but no sliding window is in force");
    windows[layer] = window;
  }
  return windows;
}

// The `llama3` rule: frequencies whose wavelength exceeds the context of pre-training are divided by `factor`, high
// ones stay, and those between are interpolated.
void scale_llama3(const Fields& config, const Fields& rope, int64_t max_positions, std::vector<float>& inv_freq) {
  const double factor = rope.required_number("factor", 1e-6, 1e6);
  const double low = rope.required_number("low_freq_factor", 1e-6, 1e6);
  const double high = rope.required_number("high_freq_factor", 1e-6, 1e6);
  if (!(low < high)) rope.corrupt("\"low_freq_factor\" is not below \"high_freq_factor\"");
  int64_t context = rope.integer("original_max_position_embeddings", max_positions, 1, 1 << 30);
  context = config.integer("original_max_position_embeddings", context, 1, 1 << 30);

  const auto old_context = static_cast<float>(context), divisor = static_cast<float>(factor);
  const auto low_wavelength = static_cast<float>(static_cast<double>(context) / low);
  const auto high_wavelength = static_cast<float>(static_cast<double>(context) / high);
  for (float& f : inv_freq) {
    const float wavelength = (1.0f / f) * static_cast<float>(2 * M_PI);
    if (wavelength > low_wavelength) {
      f /= divisor;
    } else if (!(wavelength < high_wavelength)) {
      const float smooth =
          ((1.0f / wavelength) * old_context - static_cast<float>(low)) / static_cast<float>(high - low);
      f = (1.0f - smooth) * f / divisor + smooth * f;
    }
  }
}

// Every operation is rounded to float32 in the order that PyTorch uses: positions multiply these numbers, so a
// frequency that is better by half a unit in the last place would be worse.
RopeConfig read_rope(const Fields& config, const Family& family, int head_dim, int64_t max_positions) {
  static const Json kEmpty = Json::object();
  const Json* found = config.find("rope_scaling");
  if (!found || found->empty()) found = config.find("rope_parameters");
  const Fields rope = read_object(found ? *found : kEmpty, config.where);
  for (const auto& [key, value] : rope.json.items())
    if (value.is_object())
      rope.unsupported("rope_parameters of their own for " + in_quotes(key) + " layers are not implemented");

  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type != "default" && type != "linear" && type != "llama3")
    rope.unsupported("rope type " + in_quotes(type) + " is not implemented; Lane knows default, linear, llama3");

  RopeConfig result;
  result.theta = rope.number("rope_theta", config.number("rope_theta", 10000, 1, 1e12), 1, 1e12);
  const double share = rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1, 0, 1), 0, 1);
  if (share != 1 && !family.has_partial_rotary)
    rope.unsupported("partial_rotary_factor is not implemented for " + std::string(family.name));
  const int dim = static_cast<int>(head_dim * share);  // an odd number is rounded up below
  result.rotary_dim = (dim + 1) / 2 * 2;
  if (dim < 1 || result.rotary_dim > head_dim)
    rope.corrupt(std::to_string(dim) + " of the " + std::to_string(head_dim) +
                 " elements of a head rotate; expected an even number of at least 2");

  const auto base = static_cast<float>(result.theta);
  for (int j = 0; j < result.rotary_dim / 2; ++j)
    result.inv_freq.push_back(1.0f / std::pow(base, static_cast<float>(2 * j) / static_cast<float>(dim)));
  if (type == "linear") {
    const auto factor = static_cast<float>(rope.required_number("factor", 1e-6, 1e6));
    for (float& f : result.inv_freq) f /= factor;
  }
  if (type == "llama3") scale_llama3(config, rope, max_positions, result.inv_freq);
  return result;
}

DType read_dtype(const Fields& config) {
  std::string name = config.text("dtype", config.text("torch_dtype", "float32"));
  if (name.starts_with("torch.")) name.erase(0, 6);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    if (name == name_of(dtype)) return dtype;
  config.unsupported("dtype " + in_quotes(name) + " is not implemented; Lane knows float32, bfloat16, float16");
}

std::string path_in(const std::string& folder, const char* file) { return folder + "/" + file; }

}  // namespace

int64_t ModelConfig::num_parameters() const {
  const int64_t hidden = shape.hidden_size, inner = shape.intermediate_size, head = shape.head_dim;
  const int64_t q = shape.num_heads * head, kv = shape.num_kv_heads * head;
  int64_t layer = 2 * hidden + (q + 2 * kv) * hidden + hidden * q + 3 * hidden * inner;
  if (qkv_bias) layer += q + 2 * kv;
  if (out_bias) layer += hidden;
  if (mlp_bias) layer += 2 * inner + hidden;
  if (qk_norm) layer += 2 * head;
  return shape.num_layers * layer + hidden + (tie_word_embeddings ? 1 : 2) * shape.vocab_size * hidden;
}

ModelConfig parse_model_config(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  const Fields config = read_object(json, where);
  const Family& family = family_of(config);
  check_features(config);

  ModelConfig model;
  model.model_type = family.name;
  model.shape = read_shape(config, family);
  model.rms_norm_eps = config.number("rms_norm_eps", family.rms_norm_eps, 0, 1);
  model.max_position_embeddings = config.integer("max_position_embeddings", family.max_position_embeddings, 1, 1 << 30);
  model.tie_word_embeddings = config.boolean("tie_word_embeddings", false);
  const bool attention_bias = family.has_attention_bias && config.boolean("attention_bias", false);
  model.qkv_bias = family.always_qkv_bias || attention_bias;
  model.out_bias = attention_bias;
  model.mlp_bias = family.has_mlp_bias && config.boolean("mlp_bias", false);
  model.qk_norm = family.qk_norm;
  model.fused_qkv = family.fused_qkv;
  model.windows = read_windows(config, family, model.shape.num_layers);
  model.rope = read_rope(config, family, model.shape.head_dim, model.max_position_embeddings);
  model.dtype = read_dtype(config);
  model.eos_token_ids = config.token_ids("eos_token_id", family.eos);
  const std::vector<int32_t> bos = config.token_ids("bos_token_id", family.bos);
  model.bos_token_id = bos.empty() ? -1 : bos.front();
  return model;
}

ModelConfig load_model_config(const std::string& folder) {
  const std::string path = path_in(folder, "config.json");
  return parse_model_config(read_file(path, kMaxConfigBytes), path);
}

GenerationDefaults load_generation_defaults(const std::string& folder) {
  GenerationDefaults defaults;
  const std::string path = path_in(folder, "generation_config.json");
  if (!file_exists(path)) return defaults;
  const Json json = parse_json(read_file(path, kMaxConfigBytes), path);
  const Fields fields = read_object(json, path);
  defaults.do_sample = fields.boolean("do_sample", false);
  defaults.temperature = fields.number("temperature", 1, 0, 1e6);
  defaults.top_p = fields.number("top_p", 1, 0, 1);
  defaults.min_p = fields.number("min_p", 0, 0, 1);
  defaults.repetition_penalty = fields.number("repetition_penalty", 1, 1e-6, 1e6);
  defaults.top_k = static_cast<int>(std::max<int64_t>(0, fields.integer("top_k", 0, -1, INT32_MAX)));
  defaults.eos_token_ids = fields.token_ids("eos_token_id", -1);
  return defaults;
}

}  // namespace lane
