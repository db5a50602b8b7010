// Plain loops over 8 filters, for any processor; compilers turn them into whatever vectors its baseline has.
#include "finish.h"
#include "kernels.h"

namespace adderkit {
namespace {

struct PortableU8 {
  static constexpr int lanes = 8, depth = 1, pixels = 4, vectors = 1;
  static constexpr int convolution_lanes = 8, convolution_pixels = 4;
  struct Scope {};

  template <int P>
  static void finish(const SlidingLayer& layer, const int32_t (&sum)[P][8], int64_t filter,
                     const uint8_t* residual, uint8_t* output) {
    for (int p = 0; p < P; ++p)
      for (int lane = 0; lane < 8; ++lane) {
        const int64_t to = p * layer.filters + lane;
        output[to] =
            finish_one(layer.epilogue, filter + lane, sum[p][lane], residual == nullptr ? 0 : residual[to]);
      }
  }

  template <int P, int V>
  static void adder_tile(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* x, int64_t filter,
                         const uint8_t* residual, uint8_t* output) {
    int32_t sum[P][8] = {};
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; ++k, packed += 8)
        for (int p = 0; p < P; ++p) {
          const int32_t value = x[p * layer.x_stride + k];
          for (int lane = 0; lane < 8; ++lane) {
            const int32_t difference = value - packed[lane];
            sum[p][lane] += difference < 0 ? -difference : difference;
          }
        }
    finish<P>(layer, sum, filter, residual, output);
  }

  template <int P>
  static void convolution_tile(const SlidingLayer& layer, const int16_t* packed, const int16_t* x,
                               int64_t filter, const uint8_t* residual, uint8_t* output) {
    int32_t sum[P][8] = {};
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; k += 2, packed += 16)
        for (int p = 0; p < P; ++p) {
          const int16_t* pair = x + p * layer.x_stride + k;
          for (int lane = 0; lane < 8; ++lane)
            sum[p][lane] += pair[0] * packed[2 * lane] + pair[1] * packed[2 * lane + 1];
        }
    finish<P>(layer, sum, filter, residual, output);
  }
};

}  // namespace

const AdderU8Kernels adder_u8_portable = u8_kernels_of<PortableU8>();

}  // namespace adderkit
