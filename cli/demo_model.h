#pragma once
#include <string>

namespace lane::cli {

// The folder of the model that comes with Lane: beside an installed program, or in the source tree it was built in.
// Error{kInvalidArgument} saying what to do if it is in neither place.
std::string demo_model_folder();

}  // namespace lane::cli
