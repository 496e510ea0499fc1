#include "lane/base/error.h"
#include "lane/comm/transport/ucx.h"

namespace lane {

std::unique_ptr<Transport> make_ucx_transport(std::vector<Fd>, const UcxOptions&) {
  throw Error(ErrorCode::kUnsupported,
              "this build is without UCX: install libucx-dev and build again, or use LANE_TRANSPORT=tcp");
}

bool ucx_is_built_in() { return false; }

}  // namespace lane
