// The forward pass of a depthwise layer for one instruction set, lanes along the channels.
#pragma once

#include "depthwise.h"
#include "plan.h"

namespace adderkit {
namespace {

template <class Isa>
struct DepthwiseForward {
  using Vec = typename Isa::Vec;
  using Base = Depthwise<Isa>;
  static constexpr int L = Isa::lanes;
  static constexpr int most = Isa::depthwise_pixels;  // of a tile

  static WeightSums pack(const ForwardPlan& plan, int64_t task) {
    Base::pack(plan.shape, plan.weight, task, plan.packed);
    return {0, 0};  // no offset
  }
  static void shift(const ForwardPlan&, int64_t) {}

  static int64_t input_rows(const ForwardPlan& plan, int64_t rows) {
    const Shape& s = plan.shape;
    return smaller(s.height, (rows - 1) * s.stride[0] + (s.kernel_height - 1) * s.dilation[0] + 1);
  }

  static int64_t scratch(const ForwardPlan& plan) {
    const Shape& s = plan.shape;
    const int64_t copied = s.input_stride[1] == 1 ? 0 : input_rows(plan, plan.band_rows) * s.width * L;
    const int64_t results = s.output_stride[1] == 1 ? 0 : plan.band_rows * plan.out_width * L;
    return Base::list_floats(s) + copied + results;
  }

  struct TileArguments {
    const DepthwiseTap* taps;
    int64_t tap_count;
    const int64_t* padded;  // where the filters of the taps outside the input lie
    int64_t padded_count;
    int64_t input_step, output_step;
    // To fetch while the tile is computed: what the row of tiles below writes, and what it is the first to
    // read of the input, a pixel at each of these rows and columns for each of its own.
    int64_t output_ahead;
    const float* input_ahead;
    int64_t ahead_rows, ahead_columns, row_step, column_step;
  };

  // P pixels times one vector of channels; `at` is how far the first of both lies from what the taps point
  // at.
  template <int P, bool is_whole>
  static void tile(const TileArguments& a, int64_t at, const float* packed, float* output, int lanes) {
    Vec total[P];
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      prefetch_far(output + p * a.output_step + a.output_ahead);
      total[p] = Isa::zero();
    }
    for (int64_t r = 0; r < a.ahead_rows; ++r)
      for (int64_t q = 0; q < a.ahead_columns; ++q) {
        const float* ahead = a.input_ahead + r * a.row_step + q * a.column_step + at;
        ADDERKIT_UNROLL
        for (int p = 0; p < P; ++p) prefetch_far(ahead + p * a.input_step);
      }
    const Vec one = Isa::hidden_one();
    for (int64_t k = 0; k < a.tap_count; ++k) {
      const float* x = a.taps[k].at + at;
      const Vec filter = Isa::load(packed + a.taps[k].filter);
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) {
        const float* from = x + p * a.input_step;
        const Vec input = is_whole ? Isa::load(from) : Isa::load_first(from, lanes);
        total[p] = Isa::minus_distance(total[p], input, filter, one);
      }
    }
    // The padded taps together, and last: where x and f have a large offset in common, these alone are large.
    Vec padded = Isa::zero();
    for (int64_t k = 0; k < a.padded_count; ++k)
      padded = Isa::minus_distance(padded, Isa::zero(), Isa::load(packed + a.padded[k]), one);
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const Vec value = Isa::add(total[p], padded);
      if (is_whole)
        Isa::store(output + p * a.output_step, value);
      else
        Isa::store_first(output + p * a.output_step, value, lanes);
    }
  }

  using Tile = void (*)(const TileArguments&, int64_t, const float*, float*, int);

  using Tiles = DepthwiseTilesUpTo<DepthwiseForward, most>;

  static void band(const ForwardPlan& plan, int64_t task, float* scratch) {
    const Shape& s = plan.shape;
    const int64_t first_row = task % plan.bands * plan.band_rows;
    const int64_t rows = smaller(plan.band_rows, plan.out_height - first_row);
    const int64_t part = task / plan.bands % plan.parts, image = task / plan.bands / plan.parts;
    const int64_t first_channel = part * plan.blocks * L;
    const int64_t channels = smaller(plan.blocks * L, s.channels - first_channel);

    DepthwiseTap* taps = reinterpret_cast<DepthwiseTap*>(scratch);
    int64_t* padded = reinterpret_cast<int64_t*>(taps + s.kernel_height * s.kernel_width);
    float* copied = scratch + Base::list_floats(s);

    // Input rows [low, high) that the band reads.
    const int64_t top = first_row * s.stride[0] - s.padding[0];
    const int64_t height_reach = (s.kernel_height - 1) * s.dilation[0];
    const int64_t width_reach = (s.kernel_width - 1) * s.dilation[1];
    const int64_t reach = (rows - 1) * s.stride[0] + height_reach + 1;
    const int64_t low = larger(0, top), high = smaller(s.height, top + reach);
    const float* input = plan.input + image * s.input_stride[0] + first_channel * s.input_stride[1];
    int64_t row_step = s.input_stride[2], column_step = s.input_stride[3];
    float* results = copied;
    const float* input_ahead;  // what the first row of tiles fetches; of a copy, the next part in its stead
    if (s.input_stride[1] == 1) {
      input += low * row_step;
      input_ahead = input + (top - low + height_reach + 1) * row_step;
    } else {
      input_ahead = input + channels * s.input_stride[1];
      if (low < high)
        Base::gather_rows(input + low * row_step, s.input_stride, channels, high - low, s.width, copied);
      input = copied;
      row_step = s.width * L;
      column_step = L;
      results += input_rows(plan, plan.band_rows) * row_step;
    }

    const int64_t* step = s.output_stride;
    const bool is_direct = step[1] == 1;
    const int64_t output_row_step = is_direct ? step[2] : plan.out_width * L;
    const int64_t output_step = is_direct ? step[3] : L;
    float* target = plan.output + image * step[0] + first_channel * step[1] + first_row * step[2];
    float* output = is_direct ? target : results;

    TileArguments arguments{};
    arguments.taps = taps;
    arguments.padded = padded;
    arguments.output_ahead = is_direct ? output_row_step : floats_between(output, target);
    arguments.ahead_rows = smaller(s.stride[0], s.kernel_height);
    arguments.row_step = row_step;
    arguments.ahead_columns = smaller(s.stride[1], s.kernel_width);
    arguments.column_step = column_step;
    // `count` pixels, rightwards or downwards from (r, q), that miss the input with the same taps.
    const auto run = [&](int64_t r, int64_t q, int64_t count, bool is_down) {
      arguments.input_step = is_down ? s.stride[0] * row_step : s.stride[1] * column_step;
      arguments.output_step = is_down ? output_row_step : output_step;
      const int64_t h = top - low + r * s.stride[0], w = q * s.stride[1] - s.padding[1];
      DepthwiseTap* last_tap = taps;
      int64_t* last_padded = padded;
      for (int64_t i = 0; i < s.kernel_height; ++i)
        for (int64_t j = 0; j < s.kernel_width; ++j) {
          const int64_t row = h + i * s.dilation[0], column = w + j * s.dilation[1];
          const int64_t filter = (i * s.kernel_width + j) * L;
          if (row >= 0 && row < high - low && column >= 0 && column < s.width)
            *last_tap++ = {input + row * row_step + column * column_step, filter};
          else
            *last_padded++ = filter;
        }
      arguments.tap_count = last_tap - taps;
      arguments.padded_count = last_padded - padded;
      arguments.input_ahead = input_ahead + r * s.stride[0] * row_step + (w + width_reach) * column_step;
      for (int64_t k = 0; k < count;) {
        const int64_t size = tile_size(count - k, most);
        float* to = output + r * output_row_step + q * output_step + k * arguments.output_step;
        for (int64_t c = 0; c < channels; c += L) {
          const int lanes = static_cast<int>(smaller(L, channels - c));
          const Tile tile = lanes == L ? Tiles::whole[size] : Tiles::partial[size];
          tile(arguments, k * arguments.input_step + c,
               plan.packed + (first_channel + c) / L * Base::block_floats(s), to + c, lanes);
        }
        k += size;
      }
    };

    // Output columns [left, right) and rows [upper, lower) of the band read no padding beside or above and
    // below.
    const int64_t left = smaller(plan.out_width, ceil_div(s.padding[1], s.stride[1]));
    const int64_t right = larger(left, floor_div(s.width - 1 + s.padding[1] - width_reach, s.stride[1]) + 1);
    const int64_t upper = smaller(rows, larger(0, ceil_div(-top, s.stride[0])));
    const int64_t lower =
        larger(upper, smaller(rows, floor_div(s.height - 1 - height_reach - top, s.stride[0]) + 1));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < plan.out_width; ++q) {
        if (q == left && left < right) {
          run(r, q, right - left, false);
          q = right - 1;
        } else if (r < upper || r >= lower) {
          run(r, q, 1, false);
        } else if ((r - upper) % most == 0) {  // downwards, or there would be tiles of one pixel only
          run(r, q, smaller(most, lower - r), true);
        }
      }
    if (!is_direct) Base::scatter_rows(results, step, channels, rows, plan.out_width, target);
  }
};

}  // namespace
}  // namespace adderkit
