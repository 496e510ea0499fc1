#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lane {

namespace tokenizers {
class DecodePipeline;
}

// Text to ids and back, exactly as Hugging Face's `tokenizers` does it for the same tokenizer.json: BPE models,
// byte-level (Llama 3, Qwen) or with byte fallback (Llama 2, Mistral). Immutable; any thread may use it.
class Tokenizer {
 public:
  // `text` is tokenizer.json; `where` its name for messages. Error{kUnsupported} names a component that Lane does not
  // know, Error{kCorruptData} what is wrong with the file. Its `truncation` and `padding` are not applied.
  static Tokenizer parse(std::string_view text, const std::string& where);
  static Tokenizer load(const std::string& folder);  // reads folder/tokenizer.json
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Special tokens written out in `text` become their ids; the post-processor adds its own (bos) if
  // add_special_tokens. Text that is not UTF-8 is read with U+FFFD in place of each bad sequence. Error{kUnsupported}
  // if an expression of the file takes unreasonably long on this text.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const;
  // Unknown ids are passed over.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  int64_t vocab_size() const;  // highest id + 1
  std::optional<int32_t> token_id(std::string_view token) const;
  std::string token(int32_t id) const;  // as written in the file; empty for an unknown id
  bool is_special(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
  friend class StreamDecoder;
};

// Turns ids into text as they come, in constant time each. The pieces add up to decode() of all ids; none ends inside a
// UTF-8 sequence, and a byte that never becomes part of one comes out as U+FFFD. Text comes as soon as later ids cannot
// change it: with byte fallback a run of byte tokens waits for its end, because one bad byte turns all of it to U+FFFD.
// The tokenizer outlives the decoder. One thread at a time.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  std::string push(int32_t id);
  std::string finish();  // what was held back; then no more push()

 private:
  const Tokenizer::Impl* tokenizer_;
  bool skip_special_;
  std::unique_ptr<tokenizers::DecodePipeline> pipeline_;
};

}  // namespace lane
