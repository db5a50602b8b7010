// What the vector pipes of an instruction set do at most, in the operations that its kernels are made of.
#pragma once

#include <cstdint>

#include "adder_f32/blocks.h"
#include "adderkit.h"

namespace adderkit {
namespace {

template <class Isa>
struct Peak {
  using Vec = typename Isa::Vec;
  static constexpr int L = Isa::lanes;
  // Sums that do not wait for one another: as many as a tile has, but 16 at most, which is enough to hide the
  // 4 cycles of a multiply-add, and few enough beside two inputs that nothing of the loop goes to memory.
  static constexpr int sums = Isa::forward_pixels >= 16   ? 16
                              : Isa::forward_pixels >= 12 ? 10
                                                          : Isa::forward_pixels;
  static constexpr int grad_sums = Isa::forward_pixels >= 16   ? 16
                                   : Isa::forward_pixels >= 12 ? 8
                                                               : Isa::forward_pixels;
  static constexpr int inputs = 2;

  // `rounds` rounds of one operation for each sum; returns how many operations that were, counted in floats.
  // `values` holds L + inputs floats, the result goes to the first L. Everything is in registers but one
  // vector, loaded for every other operation from an address that the compiler does not know: it can't see
  // that the operations are the same ones again, and a load takes no vector pipe. (`portable` is what a
  // compiler makes of it: GCC 12 leaves maxima and clamps scalar here.)
  static int64_t run(int kind, int64_t rounds, float* values) {
    if (kind == ADDERKIT_PEAK_ADDER)
      return loop<sums>(rounds, values, [](const Vec& f, const Vec& x, int, const Vec& sum) {
        return Isa::minus_twice_max(f, x, sum);
      });
    if (kind == ADDERKIT_PEAK_MULTIPLY_ADD)
      return loop<sums>(rounds, values, [](const Vec& f, const Vec& x, int, const Vec& sum) {
        return Isa::multiply_add(f, x, sum);
      });
    const Vec one = Isa::hidden_one();
    const auto g = Isa::set_factor(values[0]);
    return loop<grad_sums>(rounds, values, [&](const Vec& f, const Vec& x, int i, const Vec& sum) {
      return Isa::multiply_add(Isa::clamp_to_one(Isa::difference(f, x, one, i), one), g, sum);
    });
  }

  template <int Sums, class Operation>
  static int64_t loop(int64_t rounds, float* values, const Operation& operation) {
    Vec x[inputs], sum[Sums];
    ADDERKIT_UNROLL
    for (int i = 0; i < inputs; ++i) x[i] = Isa::set(values[L + i]);
    ADDERKIT_UNROLL
    for (int i = 0; i < Sums; ++i) sum[i] = Isa::zero();
    for (int64_t round = 0; round < rounds; ++round) {
      ADDERKIT_UNROLL
      for (int i = 0; i < Sums; i += inputs) {
        const float* hidden = values;
        __asm__ volatile("" : "+r"(hidden));
        const Vec f = Isa::load(hidden);
        ADDERKIT_UNROLL
        for (int j = 0; j < inputs; ++j) sum[i + j] = operation(f, x[j], i / inputs + j, sum[i + j]);
      }
    }
    ADDERKIT_UNROLL
    for (int i = 1; i < Sums; ++i) sum[0] = Isa::add(sum[0], sum[i]);
    Isa::store(values, sum[0]);
    return rounds * Sums * L;
  }
};

}  // namespace
}  // namespace adderkit
