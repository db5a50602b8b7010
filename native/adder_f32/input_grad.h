// The input gradient for one instruction set: sum g * clamp(f - x, -1, 1), vectors along the input channels.
#pragma once

#include "blocks.h"
#include "plan.h"

namespace adderkit {
namespace {

template <class Isa>
struct InputGrad {
  using Vec = typename Isa::Vec;
  static constexpr int L = Isa::lanes;

  static int64_t block_floats(const InputGradPlan& plan) {
    return plan.shape.kernel_height * plan.shape.kernel_width * plan.group_filters * L;
  }

  static bool pack(const InputGradPlan& plan, int64_t task) {
    const Shape& s = plan.shape;
    const int64_t first = task % plan.blocks * L, group = task / plan.blocks;
    const int64_t lanes = smaller(L, plan.group_channels - first);
    const int64_t* step = s.weight_stride;
    const float* source = plan.weight + group * plan.group_filters * step[0] + first * step[1];
    float* to = plan.packed + task * block_floats(plan);
    bool is_odd = false;
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j)
        for (int64_t o = 0; o < plan.group_filters; ++o, to += L) {
          const float* from = source + o * step[0] + i * step[2] + j * step[3];
          if (step[1] == 1) {
            Isa::store(to, lanes == L ? Isa::load(from) : Isa::load_first(from, static_cast<int>(lanes)));
          } else {
            for (int64_t c = 0; c < lanes; ++c) to[c] = from[c * step[1]];
            for (int64_t c = lanes; c < L; ++c) to[c] = 0.0f;
          }
          is_odd |= Isa::any_not_finite(Isa::load(to));
        }
    return !is_odd;
  }

  static int64_t padded_channels(const InputGradPlan& plan) { return plan.blocks * L; }

  static int64_t scratch(const InputGradPlan& plan) {
    return list_floats(plan) + plan.grad_rows * plan.group_filters * plan.grad_columns +
           plan.band_rows * plan.shape.width * padded_channels(plan) +
           chunk_blocks(plan) * plan.shape.width * L;
  }
  static int64_t chunk_blocks(const InputGradPlan& plan) {
    return smaller(plan.blocks, larger(1, chunk_floats / block_floats(plan)));
  }
  static int64_t list_floats(const InputGradPlan& plan) {  // RowTap for each filter row, in whole vectors
    return ceil_div(plan.shape.kernel_height * 4, 16) * 16;
  }

  // A filter row that reaches the current input row, and the scratch row of grad_output that it reaches it
  // from.
  struct RowTap {
    int64_t filter_row, grad_row;
  };

  struct TileArguments {
    const float* g;  // grad_output column of the first pixel at shift 0, row 0 of the scratch, filter 0
    const ClassTap* taps;
    int64_t tap_count, filters, columns, kernel_width;
    const float* packed;
    const RowTap* rows;
    int64_t row_count;
  };

  // P pixels times one vector of channels. Returns whether an input is NaN, which the clamp would lose.
  template <int P>
  static bool tile(const TileArguments& a, const float* input, int64_t input_step, float* output,
                   int64_t output_step, int lanes) {
    Vec x[P], total[P];
    bool is_odd = false;
    for (int p = 0; p < P; ++p) {
      prefetch(output + p * output_step);
      prefetch(input + (P + p) * input_step);  // the next tile's
    }
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      x[p] = lanes == L ? Isa::load(input + p * input_step) : Isa::load_first(input + p * input_step, lanes);
      is_odd |= Isa::any_nan(x[p]);
      total[p] = Isa::zero();
    }
    const Vec one = Isa::hidden_one();
    for (int64_t row = 0; row < a.row_count; ++row)
      for (int64_t k = 0; k < a.tap_count; ++k) {
        const float* f =
            a.packed + (a.rows[row].filter_row * a.kernel_width + a.taps[k].column) * a.filters * L;
        const float* g = a.g + a.rows[row].grad_row * a.filters * a.columns + a.taps[k].shift;
        for (int64_t o = 0; o < a.filters; ++o) {
          const Vec filter = Isa::load(f);
          ADDERKIT_UNROLL
          for (int p = 0; p < P; ++p) {
            const Vec d = Isa::difference(filter, x[p], one, p);
            total[p] = Isa::multiply_add(Isa::clamp_to_one(d, one), Isa::set_factor(g[p]), total[p]);
          }
          f += L;
          g += a.columns;
        }
      }
    ADDERKIT_UNROLL
    for (int p = 0; p < P; ++p) {
      if (lanes == L)
        Isa::store(output + p * output_step, total[p]);
      else
        Isa::store_first(output + p * output_step, total[p], lanes);
    }
    return is_odd;
  }

  using Tile = bool (*)(const TileArguments&, const float*, int64_t, float*, int64_t, int);

  template <int... P>
  struct Sizes {
    static constexpr Tile tiles[] = {nullptr, &tile<P>...};
  };
  template <int Left, int... P>
  struct UpTo : UpTo<Left - 1, Left, P...> {};
  template <int... P>
  struct UpTo<0, P...> : Sizes<P...> {};

  static void repair(const InputGradPlan& plan, int64_t image, int64_t first_channel, int64_t lanes,
                     int64_t row) {
    const int64_t *from = plan.shape.input_stride, *to = plan.grad_input_stride;
    for (int64_t c = first_channel; c < first_channel + lanes; ++c)
      for (int64_t w = 0; w < plan.shape.width; ++w) {
        const float x = plan.input[image * from[0] + c * from[1] + row * from[2] + w * from[3]];
        if (x != x)
          plan.grad_input[image * to[0] + c * to[1] + row * to[2] + w * to[3]] =
              exact_input_grad(plan, image, c, row, w);
      }
  }

  static void band(const InputGradPlan& plan, int64_t task, float* scratch) {
    const Shape& s = plan.shape;
    const int64_t first_row = task % plan.bands * plan.band_rows;
    const int64_t rows = smaller(plan.band_rows, s.height - first_row);
    const int64_t group = task / plan.bands % s.groups, image = task / plan.bands / s.groups;
    const int64_t filters = plan.group_filters, columns = plan.grad_columns, width = s.width;
    const int64_t channels = plan.group_channels, padded = padded_channels(plan);

    RowTap* row_taps = reinterpret_cast<RowTap*>(scratch);
    float* grad = scratch + list_floats(plan);
    float* inputs = grad + plan.grad_rows * filters * columns;
    float* line = inputs + plan.band_rows * width * padded;

    // The rows of grad_output that reach this band.
    const int64_t reach = (s.kernel_height - 1) * s.dilation[0];
    const int64_t low = larger(0, ceil_div(first_row + s.padding[0] - reach, s.stride[0]));
    const int64_t high =
        smaller(plan.out_height - 1, floor_div(first_row + rows - 1 + s.padding[0], s.stride[0]));
    for (int64_t row = low; row <= high; ++row) {
      float* target = grad + (row - low) * filters * columns;
      const float* source = plan.grad_output + image * s.output_stride[0] +
                            group * filters * s.output_stride[1] + row * s.output_stride[2];
      clear<Isa>(target, filters * columns);
      gather<Isa>(source, s.output_stride[1], s.output_stride[3], filters, plan.out_width,
                  target + plan.pad_left, columns);
    }

    const float* input = plan.input + image * s.input_stride[0] + group * channels * s.input_stride[1] +
                         first_row * s.input_stride[2];
    const bool reads_input = s.input_stride[1] == 1;
    if (!reads_input)  // [row][column][channel], so that a pixel's channels are one vector
      for (int64_t r = 0; r < rows; ++r)
        gather<Isa>(input + r * s.input_stride[2], s.input_stride[3], s.input_stride[1], width, channels,
                    inputs + r * width * padded, padded);
    const int64_t row_step = reads_input ? s.input_stride[2] : width * padded;
    const int64_t column_step = reads_input ? s.input_stride[3] : padded;
    if (!reads_input) input = inputs;

    // Tiles outside, blocks of channels inside, as in the forward pass.
    const int64_t* step = plan.grad_input_stride;
    const bool is_direct = step[1] == 1;
    const int64_t chunk = chunk_blocks(plan), block_line = width * L;
    TileArguments arguments{};
    arguments.filters = filters;
    arguments.columns = columns;
    arguments.kernel_width = s.kernel_width;
    arguments.rows = row_taps;
    for (int64_t first_block = 0; first_block < plan.blocks; first_block += chunk) {
      const int64_t blocks = smaller(chunk, plan.blocks - first_block);
      const int64_t first_channel = first_block * L, some = smaller(blocks * L, channels - first_channel);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = first_row + r;
        float* output =
            plan.grad_input + image * step[0] + (group * channels + first_channel) * step[1] + row * step[2];
        const int64_t pixel_step = is_direct ? step[3] : L;
        bool is_odd = false;
        arguments.row_count = 0;
        for (int64_t i = 0; i < s.kernel_height; ++i) {
          const int64_t h = row + s.padding[0] - i * s.dilation[0];
          if (h >= 0 && h % s.stride[0] == 0 && h / s.stride[0] < plan.out_height)
            row_taps[arguments.row_count++] = {i, h / s.stride[0] - low};
        }
        for (int64_t k = 0; k < plan.classes; ++k) {
          arguments.taps = plan.class_taps + plan.class_first[k];
          arguments.tap_count = plan.class_first[k + 1] - plan.class_first[k];
          const int64_t pixels = ceil_div(width - k, s.stride[1]);
          if (arguments.row_count == 0 || arguments.tap_count == 0) {  // a stride steps over these pixels
            for (int64_t b = 0; b < (is_direct ? 1 : blocks); ++b)
              for (int64_t q = 0; q < pixels; ++q)
                clear<Isa>((is_direct ? output : line + b * block_line) + (k + q * s.stride[1]) * pixel_step,
                           is_direct ? some : L);
            continue;
          }
          for (int64_t q = 0; q < pixels;) {
            const int64_t size = tile_size(pixels - q, Isa::input_grad_pixels);
            const int64_t column = k + q * s.stride[1];
            arguments.g = grad + plan.pad_left + q;
            for (int64_t b = 0; b < blocks; ++b) {
              arguments.packed = plan.packed + (group * plan.blocks + first_block + b) * block_floats(plan);
              const float* x = input + r * row_step + column * column_step + first_channel + b * L;
              float* target = (is_direct ? output + b * L : line + b * block_line) + column * pixel_step;
              is_odd |= UpTo<Isa::input_grad_pixels>::tiles[size](arguments, x, s.stride[1] * column_step,
                                                                  target, s.stride[1] * pixel_step,
                                                                  static_cast<int>(smaller(L, some - b * L)));
            }
            q += size;
          }
        }
        for (int64_t b = 0; b < blocks && !is_direct; ++b)
          scatter<Isa>(line + b * block_line, L, smaller(L, some - b * L), width, output + b * L * step[1],
                       step[1], step[3]);
        if (is_odd) repair(plan, image, group * channels + first_channel, some, row);
      }
    }
  }
};

}  // namespace
}  // namespace adderkit
