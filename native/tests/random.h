// Numbers that are the same on every machine for the same seed, which the standard library's are not.
#pragma once

#include <cstdint>
#include <initializer_list>

struct Random {
  uint64_t state;

  uint64_t next() {  // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int64_t between(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int64_t n) { return between(1, n) == 1; }
  int64_t pick(std::initializer_list<int64_t> values) {
    return values.begin()[between(0, static_cast<int64_t>(values.size()) - 1)];
  }
  // Mean 0, variance 1: the sum of four uniform numbers of 16 bits.
  float normal() {
    const uint64_t bits = next();
    int64_t sum = 0;
    for (int k = 0; k < 64; k += 16) sum += static_cast<int64_t>(bits >> k & 0xffff);
    return static_cast<float>(sum - 2 * 0xffff) * (1.7320508f / 65536);
  }
};
