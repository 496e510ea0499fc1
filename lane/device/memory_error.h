#pragma once
#include "lane/base/error.h"

namespace lane {

// A device had not enough memory. For the few who can go on with less; to everybody else it is an Error.
class DeviceMemoryError final : public Error {
 public:
  explicit DeviceMemoryError(const std::string& message) : Error(ErrorCode::kDevice, message) {}
};

}  // namespace lane
