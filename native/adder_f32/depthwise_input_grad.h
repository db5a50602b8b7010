// The input gradient of a depthwise layer for one instruction set, lanes along the channels.
#pragma once

#include "depthwise.h"
#include "input_grad.h"
#include "plan.h"

namespace adderkit {
namespace {

template <class Isa>
struct DepthwiseInputGrad {
  using Vec = typename Isa::Vec;
  using Base = Depthwise<Isa>;
  static constexpr int L = Isa::lanes;
  static constexpr int most = Isa::input_grad_pixels;  // of a tile

  static bool pack(const InputGradPlan& plan, int64_t task) {
    return Base::pack(plan.shape, plan.weight, task, plan.packed);
  }

  static int64_t scratch(const InputGradPlan& plan) {
    const Shape& s = plan.shape;
    const int64_t pixels = plan.band_rows * s.width;
    const int64_t gradients = s.output_stride[1] == 1 ? 0 : plan.grad_rows * plan.out_width * L;
    const int64_t inputs = s.input_stride[1] == 1 ? 0 : pixels * L;
    const int64_t results = plan.grad_input_stride[1] == 1 ? 0 : pixels * L;
    return Base::list_floats(s) + gradients + inputs + results;
  }

  struct TileArguments {
    const DepthwiseTap* taps;
    int64_t tap_count;
    int64_t grad_step, input_step, output_step;
    // To fetch while the tile is computed: what the row of tiles below reads and writes.
    int64_t input_ahead, output_ahead;
    const float* grad_ahead;
  };

  // P pixels times one vector of channels; `at` is how far the first of both lies from what the taps point
  // at. Returns whether an input is NaN, which the clamp would lose.
  template <int P, bool is_whole>
  static bool tile(const TileArguments& a, int64_t at, const float* packed, const float* input, float* output,
                   int lanes) {
    Vec x[P], total[P];
    Vec sum = Isa::zero();  // NaN where one of x is, and for infinities of both signs, which does no harm
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const float* from = input + p * a.input_step;
      prefetch_far(from + a.input_ahead);
      prefetch_far(output + p * a.output_step + a.output_ahead);
      prefetch_far(a.grad_ahead + p * a.grad_step + at);
      x[p] = is_whole ? Isa::load(from) : Isa::load_first(from, lanes);
      sum = Isa::add(sum, x[p]);
      total[p] = Isa::zero();
    }
    const Vec one = Isa::hidden_one();
    for (int64_t k = 0; k < a.tap_count; ++k) {
      const float* g = a.taps[k].at + at;
      const Vec filter = Isa::load(packed + a.taps[k].filter);
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) {
        const float* from = g + p * a.grad_step;
        const Vec factor = is_whole ? Isa::load(from) : Isa::load_first(from, lanes);
        const Vec d = Isa::difference(filter, x[p], one, p);
        total[p] = Isa::multiply_add(Isa::clamp_to_one(d, one), factor, total[p]);
      }
    }
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      if (is_whole)
        Isa::store(output + p * a.output_step, total[p]);
      else
        Isa::store_first(output + p * a.output_step, total[p], lanes);
    }
    return Isa::any_nan(sum);
  }

  using Tile = bool (*)(const TileArguments&, int64_t, const float*, const float*, float*, int);

  using Tiles = DepthwiseTilesUpTo<DepthwiseInputGrad, most>;

  static void band(const InputGradPlan& plan, int64_t task, float* scratch) {
    const Shape& s = plan.shape;
    const int64_t first_row = task % plan.bands * plan.band_rows;
    const int64_t rows = smaller(plan.band_rows, s.height - first_row);
    const int64_t part = task / plan.bands % plan.parts, image = task / plan.bands / plan.parts;
    const int64_t first_channel = part * plan.blocks * L;
    const int64_t channels = smaller(plan.blocks * L, s.channels - first_channel);

    DepthwiseTap* taps = reinterpret_cast<DepthwiseTap*>(scratch);
    float* copied = scratch + Base::list_floats(s);

    // Rows [low, high] of grad_output that reach the band.
    const int64_t reach = (s.kernel_height - 1) * s.dilation[0];
    const int64_t low = larger(0, ceil_div(first_row + s.padding[0] - reach, s.stride[0]));
    const int64_t high =
        smaller(plan.out_height - 1, floor_div(first_row + rows - 1 + s.padding[0], s.stride[0]));
    const float* grad = plan.grad_output + image * s.output_stride[0] + first_channel * s.output_stride[1] +
                        low * s.output_stride[2];
    int64_t grad_row_step = s.output_stride[2], grad_step = s.output_stride[3];
    const float* grad_ahead = grad + s.output_stride[2];
    if (s.output_stride[1] != 1) {
      grad_ahead = grad + channels * s.output_stride[1];
      if (low <= high)
        Base::gather_rows(grad, s.output_stride, channels, high - low + 1, plan.out_width, copied);
      grad = copied;
      grad_row_step = plan.out_width * L;
      grad_step = L;
      copied += plan.grad_rows * grad_row_step;
    }

    const float* input = plan.input + image * s.input_stride[0] + first_channel * s.input_stride[1] +
                         first_row * s.input_stride[2];
    int64_t row_step = s.input_stride[2], column_step = s.input_stride[3];
    int64_t input_ahead = row_step;
    if (s.input_stride[1] != 1) {
      input_ahead = floats_between(copied, input + channels * s.input_stride[1]);
      Base::gather_rows(input, s.input_stride, channels, rows, s.width, copied);
      input = copied;
      row_step = s.width * L;
      column_step = L;
      copied += plan.band_rows * row_step;
    }

    const int64_t* step = plan.grad_input_stride;
    const bool is_direct = step[1] == 1;
    const int64_t output_row_step = is_direct ? step[2] : s.width * L;
    const int64_t output_step = is_direct ? step[3] : L;
    float* target = plan.grad_input + image * step[0] + first_channel * step[1] + first_row * step[2];
    float* output = is_direct ? target : copied;

    TileArguments arguments{};
    arguments.taps = taps;
    arguments.input_ahead = input_ahead;
    arguments.output_ahead = is_direct ? output_row_step : floats_between(output, target);
    bool is_odd = false;
    // `count` pixels, rightwards or downwards from (r, q) of a residue class, that the same taps reach.
    const auto run = [&](int64_t r, int64_t residue, int64_t q, int64_t count, bool is_down) {
      arguments.grad_step = is_down ? grad_row_step : grad_step;
      arguments.input_step = is_down ? s.stride[0] * row_step : s.stride[1] * column_step;
      arguments.output_step = is_down ? s.stride[0] * output_row_step : s.stride[1] * output_step;
      DepthwiseTap* last = taps;
      for (int64_t i = 0; i < s.kernel_height; ++i) {
        const int64_t h = first_row + r + s.padding[0] - i * s.dilation[0];
        if (h < 0 || h % s.stride[0] != 0 || h / s.stride[0] >= plan.out_height) continue;
        const float* from = grad + (h / s.stride[0] - low) * grad_row_step;
        for (int64_t k = plan.class_first[residue]; k < plan.class_first[residue + 1]; ++k) {
          const int64_t column = q + plan.class_taps[k].shift;
          if (column >= 0 && column < plan.out_width)
            *last++ = {from + column * grad_step, (i * s.kernel_width + plan.class_taps[k].column) * L};
        }
      }
      arguments.tap_count = last - taps;
      arguments.grad_ahead =
          grad_ahead + ((first_row + r + s.padding[0]) / s.stride[0] - low) * grad_row_step + q * grad_step;
      const int64_t column = residue + q * s.stride[1];
      const float* from = input + r * row_step + column * column_step;
      float* to = output + r * output_row_step + column * output_step;
      for (int64_t k = 0; k < count;) {
        const int64_t size = tile_size(count - k, most);
        for (int64_t c = 0; c < channels; c += L) {
          const int lanes = static_cast<int>(smaller(L, channels - c));
          const Tile tile = lanes == L ? Tiles::whole[size] : Tiles::partial[size];
          is_odd |= tile(arguments, k * arguments.grad_step + c,
                         plan.packed + (first_channel + c) / L * Base::block_floats(s),
                         from + k * arguments.input_step + c, to + k * arguments.output_step + c, lanes);
        }
        k += size;
      }
    };

    // Every tap of rows [upper, lower) and, in a residue class, of pixels [left, right) lies in grad_output,
    // but for those that the stride steps over.
    const int64_t upper = smaller(rows, larger(0, reach - s.padding[0] - first_row));
    const int64_t lower =
        larger(upper, smaller(rows, (plan.out_height - 1) * s.stride[0] - s.padding[0] - first_row + 1));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t residue = 0; residue < plan.classes; ++residue) {
        const int64_t pixels = ceil_div(s.width - residue, s.stride[1]);
        int64_t left = 0, right = pixels;
        for (int64_t k = plan.class_first[residue]; k < plan.class_first[residue + 1]; ++k) {
          left = larger(left, -plan.class_taps[k].shift);
          right = smaller(right, plan.out_width - plan.class_taps[k].shift);
        }
        for (int64_t q = 0; q < pixels; ++q) {
          if (q == left && left < right) {
            run(r, residue, q, right - left, false);
            q = right - 1;
          } else if (r < upper || r >= lower) {
            run(r, residue, q, 1, false);
          } else if ((r - upper) / s.stride[0] % most == 0) {  // downwards, as in the forward pass
            run(r, residue, q, smaller(most, ceil_div(lower - r, s.stride[0])), true);
          }
        }
      }
    if (!is_direct) Base::scatter_rows(copied, step, channels, rows, s.width, target);
    for (int64_t r = 0; r < rows && is_odd; ++r)
      InputGrad<Isa>::repair(plan, image, first_channel, channels, first_row + r);
  }
};

}  // namespace
}  // namespace adderkit
