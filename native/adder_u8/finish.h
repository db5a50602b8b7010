// The end of every layer for one number: what the paths without 64-bit vectors use.
#pragma once

#include <algorithm>

#include "plan.h"

namespace adderkit {
namespace {

inline uint8_t finish_one(const Epilogue& e, int64_t filter, int64_t sum, int64_t residual) {
  const int64_t value = e.multiplier[filter] * sum + e.offset[filter] + e.residual_multiplier * residual;
  // A right shift of a negative number is arithmetic in every compiler that this builds with.
  return static_cast<uint8_t>(std::min(std::max(value >> e.shift, e.low[filter]), e.high[filter]));
}

}  // namespace
}  // namespace adderkit
