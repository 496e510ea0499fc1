#pragma once

namespace lane::tokenizers {

// Hugging Face's `tokenizers` classifies characters by Unicode 16 (Oniguruma 6.9.10), but normalises by Unicode 9
// (unicode-normalization-alignments 0.1). Same ids need the same tables, so the difference to the libraries that Lane
// uses (PCRE2 10.42: Unicode 14, utf8proc 2.8: 15) is kept here.

// An older character of the same category and the same length in UTF-8, for one that is newer than Unicode 14.
char32_t as_unicode_14(char32_t point);

// True for what has no combining class, decomposition or composition there.
bool is_unknown_to_normalization(char32_t point);

}  // namespace lane::tokenizers
