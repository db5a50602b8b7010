#include "sha256.h"

#include <algorithm>
#include <cstring>

namespace adderkit {
namespace {

constexpr uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t turned(uint32_t x, int bits) {
  return x >> bits | x << (32 - bits);
}

}  // namespace

void Sha256::block(const uint8_t* bytes) {
  uint32_t w[64];
  for (int t = 0; t < 16; ++t)
    w[t] = static_cast<uint32_t>(bytes[4 * t]) << 24 | static_cast<uint32_t>(bytes[4 * t + 1]) << 16 |
           static_cast<uint32_t>(bytes[4 * t + 2]) << 8 | bytes[4 * t + 3];
  for (int t = 16; t < 64; ++t) {
    const uint32_t a = w[t - 15], b = w[t - 2];
    w[t] = w[t - 16] + w[t - 7] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) +
           (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
  }
  uint32_t s[8];
  std::memcpy(s, state_, sizeof s);
  for (int t = 0; t < 64; t += 8)
    for (int k = 0; k < 8; ++k) {  // instead of moving the eight words on, their names move
      const auto word = [&](int index) -> uint32_t& { return s[(index - k) & 7]; };
      const uint32_t a = word(0), e = word(4);
      word(7) += (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & word(5)) ^ (~e & word(6))) +
                 constants[t + k] + w[t + k];
      word(3) += word(7);
      word(7) += (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) +
                 ((a & word(1)) ^ (a & word(2)) ^ (word(1) & word(2)));
    }
  for (int k = 0; k < 8; ++k) state_[k] += s[k];
}

void Sha256::add(const void* bytes, int64_t size) {
  const uint8_t* from = static_cast<const uint8_t*>(bytes);
  size_ += static_cast<uint64_t>(size);
  while (size > 0) {
    if (rest_size_ == 0 && size >= 64) {
      block(from);
      from += 64, size -= 64;
      continue;
    }
    const int part = static_cast<int>(std::min<int64_t>(size, 64 - rest_size_));
    std::memcpy(rest_ + rest_size_, from, static_cast<size_t>(part));
    from += part, size -= part, rest_size_ += part;
    if (rest_size_ == 64) {
      block(rest_);
      rest_size_ = 0;
    }
  }
}

std::string Sha256::digits() {
  const uint64_t bits = 8 * size_;
  const uint8_t one = 0x80, zero = 0;
  add(&one, 1);
  while (rest_size_ != 56) add(&zero, 1);
  uint8_t length[8];
  for (int k = 0; k < 8; ++k) length[k] = static_cast<uint8_t>(bits >> (56 - 8 * k));
  add(length, 8);
  std::string out;
  for (uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[word >> shift & 15];
  return out;
}

}  // namespace adderkit
