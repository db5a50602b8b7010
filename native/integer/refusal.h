// How the reader says what is wrong with a file.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace adderkit {

// Thrown within the reader alone; `read.h` turns it into a status.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Text of a file, fit for a message: what could control a terminal or is no UTF-8 is spelled out, and what is
// long is cut.
std::string shown(std::string_view text, size_t longest = 60);

}  // namespace adderkit
