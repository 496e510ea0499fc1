#pragma once

namespace lane {

// Set by SIGINT or SIGTERM once watch_for_interrupt() was called; the loops of the CLI look at it between steps.
// A second signal ends the process at once.
void watch_for_interrupt();
bool interrupted();

}  // namespace lane
