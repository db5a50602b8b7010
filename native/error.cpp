#include "error.h"

#include <cstdarg>
#include <cstdio>

namespace {
thread_local char message[512] = "";
}

namespace adderkit {

int32_t fail(adderkit_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

}  // namespace adderkit

extern "C" const char* adderkit_error(void) {
  return message;
}
extern "C" int32_t adderkit_abi_version(void) {
  return ADDERKIT_ABI_VERSION;
}
