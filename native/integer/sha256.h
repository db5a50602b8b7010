// SHA-256 (FIPS 180-4), which finds damage.
#pragma once

#include <cstdint>
#include <string>

namespace adderkit {

class Sha256 {
 public:
  void add(const void* bytes, int64_t size);
  // 64 lower-case hexadecimal digits of all that was added. Nothing may be added afterwards.
  std::string digits();

 private:
  void block(const uint8_t* bytes);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t rest_[64];  // what does not fill a block yet
  int rest_size_ = 0;
  uint64_t size_ = 0;
};

}  // namespace adderkit
