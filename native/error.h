// The message behind adderkit_error().
#pragma once

#include "adderkit.h"

namespace adderkit {

// Keeps `message` for adderkit_error() in this thread and returns `status`.
int32_t fail(adderkit_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace adderkit
