// Integer additions on the pipes of floating point.
//
// vpsadbw leaves a sum of 8 distances, at most 2040, in a 64-bit lane. Read as a double that is a denormal
// number, n * 2^-1074, and adding doubles in that range adds the integers: exactly, up to 2^53. On Zen 4 the
// integer addition shares pipes with vpsadbw, so that the pair takes 1.34 cycles, and vaddpd does not: 1.00.
// Neither AMD's nor Intel's adders are slower for such numbers.
#pragma once

#include <immintrin.h>

namespace adderkit {
namespace {

// The processor's standard arithmetic within a scope: a caller may have set denormal numbers to count as zero
// (torch.set_flush_denormal, or any library built with -ffast-math).
class Denormals {
 public:
  Denormals() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~Denormals() { _mm_setcsr(before_); }
  Denormals(const Denormals&) = delete;
  Denormals& operator=(const Denormals&) = delete;

 private:
  unsigned before_;
};

}  // namespace
}  // namespace adderkit
