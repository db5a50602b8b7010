// Plain loops over 8 filters, for any processor; compilers turn them into whatever vectors its baseline has.
#include "kernels.h"

namespace adderkit {
namespace {

struct PortableU8 {
  static constexpr int filters = 8, depth = 1, convolution_depth = 1, pixels = 4;
  struct Scope {};
  static int64_t filter_of(int64_t lane) { return lane; }

  struct Finish {
    const Epilogue& epilogue;
    int64_t filter, pixel;
    Finish(const SlidingLayer& layer, int64_t first)
        : epilogue(layer.epilogue), filter(first), pixel(layer.filters) {}

    template <int P>
    void store(const int32_t (&sum)[P][filters], const uint8_t* residual, uint8_t* output) const {
      const Epilogue& e = epilogue;
      for (int p = 0; p < P; ++p)
        for (int lane = 0; lane < filters; ++lane) {
          int64_t value = e.multiplier[filter + lane] * sum[p][lane] + e.offset[filter + lane];
          if (residual != nullptr)
            value += e.residual_multiplier * (int64_t{residual[p * pixel + lane]} << e.residual_shift);
          // A right shift of a negative number is arithmetic with every compiler that builds this.
          value = std::max(value >> e.shift, e.low[filter + lane]);
          output[p * pixel + lane] = static_cast<uint8_t>(std::min(value, e.high[filter + lane]));
        }
    }
  };

  template <int P>
  static void adder_tile(const SlidingLayer& layer, const Finish& finish, const uint8_t* packed,
                         const uint8_t* x, const uint8_t* residual, uint8_t* output) {
    int32_t sum[P][filters] = {};
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; ++k, packed += filters)
        for (int p = 0; p < P; ++p) {
          const int32_t value = x[p * layer.x_stride + k];
          for (int lane = 0; lane < filters; ++lane) {
            const int32_t difference = value - packed[lane];
            sum[p][lane] += difference < 0 ? -difference : difference;
          }
        }
    finish.template store<P>(sum, residual, output);
  }

  template <int P>
  static void convolution_tile(const SlidingLayer& layer, const Finish& finish, const uint8_t* packed,
                               const int16_t* x, const uint8_t* residual, uint8_t* output) {
    int32_t sum[P][filters] = {};
    const int16_t* weight = reinterpret_cast<const int16_t*>(packed);
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; ++k, weight += filters)
        for (int p = 0; p < P; ++p) {
          const int16_t value = x[p * layer.x_stride + k];
          for (int lane = 0; lane < filters; ++lane) sum[p][lane] += value * weight[lane];
        }
    finish.template store<P>(sum, residual, output);
  }
};

}  // namespace

const AdderU8Kernels adder_u8_portable = u8_kernels_of<PortableU8>();

}  // namespace adderkit
