#include "lane/comm/bootstrap/secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <string>

#include "lane/base/error.h"

namespace lane {

Bytes32 random_bytes() {
  Bytes32 bytes;
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw_system_error("drawing random numbers");
  return bytes;
}

Bytes32 hmac(std::string_view key, std::initializer_list<std::string_view> parts) {
  std::string text;  // each part with its length, so that no two lists of parts give one text
  for (const std::string_view part : parts) {
    const uint64_t length = part.size();
    text.append(reinterpret_cast<const char*>(&length), sizeof(length));
    text += part;
  }
  Bytes32 result;
  unsigned int length = 0;
  const bool done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                         reinterpret_cast<const unsigned char*>(text.data()), text.size(), result.data(), &length);
  if (!done || length != result.size()) throw Error(ErrorCode::kSystem, "libcrypto does not compute HMAC-SHA256");
  return result;
}

Bytes32 hmac(const Bytes32& key, std::initializer_list<std::string_view> parts) { return hmac(view(key), parts); }

bool equal(const Bytes32& a, const Bytes32& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

}  // namespace lane
