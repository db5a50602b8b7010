// Whether a layer's numbers are what the whole network promises: no overflow, powers of two, few bits.
#pragma once

#include <cstdint>

#include "network.h"

namespace adderkit {

// All throw a Refusal that names layer `index`; `high` is the largest value of the layer's input.

// Sums stay below 2^31 (a classifier's are 64 bits) and results before the shift below 2^62, whatever the
// image shows.
void check_arithmetic(const Layer& layer, int32_t index, int64_t high);

// Every multiplier is 0, a power of two or its negative.
void check_powers(const Layer& layer, int32_t index);

// An adder layer compares numbers of so many bits.
void check_bits(const Layer& layer, int32_t index, int64_t high, int64_t bits);

}  // namespace adderkit
