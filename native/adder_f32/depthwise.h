// Both passes of a depthwise layer (as many groups as channels and filters) for one instruction set.
//
// Lanes are channels: the input, the filter and the gradient are all vectors, read where they lie if a pixel's
// channels are neighbours, else from a copy that is [row][column][lane]. There are few taps to a sum, so it is
// the formula itself, tap by tap: no sums beside it, no offset, no result to compute again but where an input
// of the gradient is NaN.
//
// A part of a layer is what one task does of an image's channels: all of them where nothing is copied, else
// one vector, so that a band has many rows and hardly any is copied twice.
#pragma once

#include "blocks.h"
#include "input_grad.h"
#include "plan.h"

namespace adderkit {
namespace {

// Where a tap reads the part's first channel for the first pixel of a run, and where its filter lies in a
// packed block.
struct DepthwiseTap {
  const float* at;
  int64_t filter;
};

// What both passes share: filters, scratch, memory orders.
template <class Isa>
struct Depthwise {
  static constexpr int L = Isa::lanes;

  // Packs the filters of vector `block` of the channels as [tap][lane]; false where one is not finite.
  static bool pack(const Shape& s, const float* weight, int64_t block, float* packed) {
    const int64_t* step = s.weight_stride;
    const int64_t first = block * L, lanes = smaller(L, s.channels - first);
    float* to = packed + block * block_floats(s);
    bool is_odd = false;
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j, to += L) {
        const float* from = weight + first * step[0] + i * step[2] + j * step[3];
        for (int64_t c = 0; c < lanes; ++c) to[c] = from[c * step[0]];
        for (int64_t c = lanes; c < L; ++c) to[c] = 0.0f;
        is_odd |= Isa::any_not_finite(Isa::load(to));
      }
    return !is_odd;
  }

  static int64_t block_floats(const Shape& s) { return s.kernel_height * s.kernel_width * L; }

  static int64_t list_floats(const Shape& s) {  // a DepthwiseTap and an offset for each tap, in whole vectors
    return ceil_div(s.kernel_height * s.kernel_width * 6, 16) * 16;
  }

  // Copies rows of a vector of channels to [row][column][lane]; rows without a gap between them as one.
  static void gather_rows(const float* source, const int64_t* step, int64_t lanes, int64_t rows,
                          int64_t columns, float* target) {
    const bool is_run = step[2] == columns * step[3];
    const int64_t runs = is_run ? 1 : rows, pixels = is_run ? rows * columns : columns;
    for (int64_t r = 0; r < runs; ++r)
      gather<Isa>(source + r * step[2], step[3], step[1], pixels, lanes, target + r * pixels * L, L);
  }

  // The way back.
  static void scatter_rows(const float* source, const int64_t* step, int64_t lanes, int64_t rows,
                           int64_t columns, float* target) {
    const bool is_run = step[2] == columns * step[3];
    const int64_t runs = is_run ? 1 : rows, pixels = is_run ? rows * columns : columns;
    for (int64_t r = 0; r < runs; ++r)
      scatter<Isa>(source + r * pixels * L, L, lanes, pixels, target + r * step[2], step[1], step[3]);
  }
};

template <class Isa>
struct DepthwiseForward {
  using Vec = typename Isa::Vec;
  using Base = Depthwise<Isa>;
  static constexpr int L = Isa::lanes;
  static constexpr int most_pixels = Isa::depthwise_pixels;

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
    // What the next row of tiles writes, and what of the input it is the first to read.
    int64_t output_ahead;
    const float* ahead;
    int64_t ahead_rows, ahead_row_step, ahead_columns, ahead_column_step;
  };

  // P pixels times one vector of channels; `at` is where they lie from the taps' own first.
  template <int P, bool is_full>
  static void tile(const TileArguments& a, int64_t at, const float* packed, float* output, int lanes) {
    const Vec one = Isa::hidden_one();
    Vec outside = Isa::zero();
    for (int64_t k = 0; k < a.padded_count; ++k)
      outside = Isa::minus_distance(outside, Isa::zero(), Isa::load(packed + a.padded[k]), one);
    Vec total[P];
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      prefetch_far(output + p * a.output_step + a.output_ahead);
      total[p] = outside;
    }
    for (int64_t r = 0; r < a.ahead_rows; ++r)
      for (int64_t q = 0; q < a.ahead_columns; ++q) {
        const float* ahead = a.ahead + r * a.ahead_row_step + q * a.ahead_column_step + at;
        ADDERKIT_UNROLL
        for (int p = 0; p < P; ++p) prefetch_far(ahead + p * a.input_step);
      }
    for (int64_t k = 0; k < a.tap_count; ++k) {
      const float* x = a.taps[k].at + at;
      const Vec filter = Isa::load(packed + a.taps[k].filter);
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) {
        const float* from = x + p * a.input_step;
        const Vec input = is_full ? Isa::load(from) : Isa::load_first(from, lanes);
        total[p] = Isa::minus_distance(total[p], input, filter, one);
      }
    }
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      if (is_full)
        Isa::store(output + p * a.output_step, total[p]);
      else
        Isa::store_first(output + p * a.output_step, total[p], lanes);
    }
  }

  using Tile = void (*)(const TileArguments&, int64_t, const float*, float*, int);

  template <int... P>
  struct Sizes {
    static constexpr Tile full[] = {nullptr, &tile<P, true>...};
    static constexpr Tile part[] = {nullptr, &tile<P, false>...};
  };
  template <int Left, int... P>
  struct UpTo : UpTo<Left - 1, Left, P...> {};
  template <int... P>
  struct UpTo<0, P...> : Sizes<P...> {};

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
    if (s.input_stride[1] == 1) {
      input += low * row_step;
    } else {
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
    arguments.output_ahead = output_row_step;
    arguments.ahead_rows = smaller(s.stride[0], s.kernel_height);
    arguments.ahead_row_step = row_step;
    arguments.ahead_columns = smaller(s.stride[1], s.kernel_width);
    arguments.ahead_column_step = column_step;
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
      arguments.ahead = input + (h + height_reach + 1) * row_step + (w + width_reach) * column_step;
      for (int64_t k = 0; k < count;) {
        const int64_t size = tile_size(count - k, most_pixels);
        float* to = output + r * output_row_step + q * output_step + k * arguments.output_step;
        for (int64_t c = 0; c < channels; c += L) {
          const int lanes = static_cast<int>(smaller(L, channels - c));
          const Tile tile = lanes == L ? UpTo<most_pixels>::full[size] : UpTo<most_pixels>::part[size];
          tile(arguments, k * arguments.input_step + c,
               plan.packed + (first_channel + c) / L * Base::block_floats(s), to + c, lanes);
        }
        k += size;
      }
    };

    // Output columns [left, right) and rows [upper, lower) of the band read no padding beside or above and below.
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
        } else if ((r - upper) % most_pixels == 0) {  // downwards, or there would be tiles of one pixel only
          run(r, q, smaller(most_pixels, lower - r), true);
        }
      }
    if (!is_direct) Base::scatter_rows(results, step, channels, rows, plan.out_width, target);
  }
};

template <class Isa>
struct DepthwiseInputGrad {
  using Vec = typename Isa::Vec;
  using Base = Depthwise<Isa>;
  static constexpr int L = Isa::lanes;
  static constexpr int most_pixels = Isa::input_grad_pixels;

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
// What the next row of tiles reads and writes.
    int64_t input_ahead, output_ahead;
    const float* grad_ahead;
  };

  // P pixels times one vector of channels; `at` is where their taps lie from the taps' own first. Returns
  // whether an input is NaN, which the clamp would lose.
  template <int P, bool is_full>
  static bool tile(const TileArguments& a, int64_t at, const float* packed, const float* input,
                   float* output, int lanes) {
    Vec x[P], total[P];
    Vec sum = Isa::zero();  // NaN where one of x is, and for infinities of both signs, which does no harm
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const float* from = input + p * a.input_step;
      prefetch_far(from + a.input_ahead);
      prefetch_far(output + p * a.output_step + a.output_ahead);
      prefetch_far(a.grad_ahead + p * a.grad_step + at);
      x[p] = is_full ? Isa::load(from) : Isa::load_first(from, lanes);
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
        const Vec factor = is_full ? Isa::load(from) : Isa::load_first(from, lanes);
        const Vec d = Isa::difference(filter, x[p], one, p);
        total[p] = Isa::multiply_add(Isa::clamp_to_one(d, one), factor, total[p]);
      }
    }
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      if (is_full)
        Isa::store(output + p * a.output_step, total[p]);
      else
        Isa::store_first(output + p * a.output_step, total[p], lanes);
    }
    return Isa::any_nan(sum);
  }

  using Tile = bool (*)(const TileArguments&, int64_t, const float*, const float*, float*, int);

  template <int... P>
  struct Sizes {
    static constexpr Tile full[] = {nullptr, &tile<P, true>...};
    static constexpr Tile part[] = {nullptr, &tile<P, false>...};
  };
  template <int Left, int... P>
  struct UpTo : UpTo<Left - 1, Left, P...> {};
  template <int... P>
  struct UpTo<0, P...> : Sizes<P...> {};

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
    if (s.output_stride[1] != 1) {
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
    if (s.input_stride[1] != 1) {
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
    arguments.input_ahead = row_step;
    arguments.output_ahead = output_row_step;
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
      // Each row of grad_output is new once, to the rows below it.
      arguments.grad_ahead =
          grad + ((first_row + r + 1 + s.padding[0]) / s.stride[0] - low) * grad_row_step + q * grad_step;
      const int64_t column = residue + q * s.stride[1];
      const float* from = input + r * row_step + column * column_step;
      float* to = output + r * output_row_step + column * output_step;
      for (int64_t k = 0; k < count;) {
        const int64_t size = tile_size(count - k, most_pixels);
        for (int64_t c = 0; c < channels; c += L) {
          const int lanes = static_cast<int>(smaller(L, channels - c));
          const Tile tile = lanes == L ? UpTo<most_pixels>::full[size] : UpTo<most_pixels>::part[size];
          is_odd |= tile(arguments, k * arguments.grad_step + c,
                         plan.packed + (first_channel + c) / L * Base::block_floats(s),
                         from + k * arguments.input_step + c, to + k * arguments.output_step + c, lanes);
        }
        k += size;
      }
    };

    // Every tap of rows [upper, lower) and, in a residue class, of pixels [left, right) lies in grad_output, but
    // for those that the stride steps over.
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
          } else if ((r - upper) / s.stride[0] % most_pixels == 0) {  // downwards, as in the forward pass
            run(r, residue, q, smaller(most_pixels, ceil_div(lower - r, s.stride[0])), true);
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
