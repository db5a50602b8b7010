#include "refusal.h"

#include <cstdarg>
#include <cstdio>

#include "json.h"

namespace adderkit {

void refuse(const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Refusal(message);
}

std::string shown(std::string_view text, size_t longest) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (out.size() >= longest) return out + "...";
    const size_t length = json::utf8_length(text.substr(at));
    const unsigned char first = static_cast<unsigned char>(text[at]);
    // controls: C0, DEL, and C1, which is 0xc2 and 0x80 to 0x9f
    const bool is_control = first < 0x20 || first == 0x7f ||
                            (length == 2 && first == 0xc2 && static_cast<unsigned char>(text[at + 1]) < 0xa0);
    if (length == 0 || is_control) {
      char code[8];
      std::snprintf(code, sizeof code, "\\x%02x", first);
      out += code;
      ++at;
    } else {
      out += text.substr(at, length);
      at += length;
    }
  }
  return out;
}

}  // namespace adderkit
