#include "bounds.h"

#include <algorithm>
#include <cstdlib>

#include "refusal.h"

namespace adderkit {
namespace {

constexpr int64_t largest_sum = int64_t{1} << 31, largest_result = int64_t{1} << 62;  // both excluded

// The largest magnitude that the sum of output `o` can have.
int64_t sum_bound(const Layer& layer, int64_t o, int64_t high) {
  if (layer.kind == LayerKind::average_pool) return high * layer.height * layer.width;
  if (layer.padding[0] > 0 || layer.padding[1] > 0)
    for (uint8_t pad : layer.pad) high = std::max<int64_t>(high, pad);
  int64_t sum = 0;
  if (layer.kind == LayerKind::adder) {
    const int64_t taps = static_cast<int64_t>(layer.adder_weight.size()) / layer.out_channels;
    for (int64_t k = o * taps; k < (o + 1) * taps; ++k) {
      const int64_t weight = layer.adder_weight[static_cast<size_t>(k)];
      sum += std::max(weight, high - weight);
    }
  } else {
    const int64_t taps = static_cast<int64_t>(layer.weight.size()) / layer.out_channels;
    for (int64_t k = o * taps; k < (o + 1) * taps; ++k)
      sum += high * std::abs(static_cast<int>(layer.weight[static_cast<size_t>(k)]));
  }
  return sum;
}

uint64_t magnitude(int64_t number) {
  return number < 0 ? -static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
}

}  // namespace

void check_arithmetic(const Layer& layer, int32_t index, int64_t high) {
  for (size_t o = 0; o < layer.multiplier.size(); ++o) {
    const int64_t bound = sum_bound(layer, static_cast<int64_t>(o), high);
    if (layer.kind != LayerKind::classifier && bound >= largest_sum)
      refuse("`layers[%d]`: the sum of output %zu can reach %lld; it must stay below 2^31", index, o,
             static_cast<long long>(bound));
    uint64_t result = 0;
    const bool overflows =
        __builtin_mul_overflow(magnitude(layer.multiplier[o]), static_cast<uint64_t>(bound), &result) ||
        __builtin_add_overflow(result, magnitude(layer.offset[o]), &result) ||
        __builtin_add_overflow(result, 255 * magnitude(layer.residual_multiplier), &result);
    if (overflows || result >= static_cast<uint64_t>(largest_result))
      refuse(
          "`layers[%d]`: multiplier (=%d) and offset (=%lld) of output %zu are too large: with a sum of up "
          "to %lld "
          "the result must stay below 2^62",
          index, layer.multiplier[o], static_cast<long long>(layer.offset[o]), o,
          static_cast<long long>(bound));
  }
}

void check_powers(const Layer& layer, int32_t index) {
  const auto is_power = [](int64_t multiplier) {
    return (magnitude(multiplier) & (magnitude(multiplier) - 1)) == 0;  // 0 too: a channel that is constant
  };
  for (size_t o = 0; o < layer.multiplier.size(); ++o)
    if (!is_power(layer.multiplier[o]))
      refuse(
          "`%d.multiplier` (=%d for output %zu) must be a power of two or its negative: `multiplier_free` is "
          "true",
          index, layer.multiplier[o], o);
  if (!is_power(layer.residual_multiplier))
    refuse(
        "`layers[%d].residual_multiplier` (=%d) must be a power of two or its negative: `multiplier_free` is "
        "true",
        index, layer.residual_multiplier);
}

void check_bits(const Layer& layer, int32_t index, int64_t high, int64_t bits) {
  const int64_t highest = (1 << bits) - 1;
  for (uint8_t weight : layer.adder_weight)
    if (weight > highest)
      refuse("`%d.weight` (=%d somewhere) must be at most %lld: `bits` is %lld", index, weight,
             static_cast<long long>(highest), static_cast<long long>(bits));
  if (high > highest)
    refuse(
        "`layers[%d].input` (=%d) has values up to %lld; an adder layer's must end at %lld where `bits` is "
        "%lld",
        index, layer.input, static_cast<long long>(high), static_cast<long long>(highest),
        static_cast<long long>(bits));
}

}  // namespace adderkit
