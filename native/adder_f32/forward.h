// The forward pass for one instruction set.
//
// sum |x - f| = 2 sum max(x, f) - sum x - sum f: one maximum and one fused multiply-add for each tap, which
// use different units, where subtraction, absolute value and addition are three. The sums of x are one box
// filter over channel sums, the sums of f are packed beside the filters. Each tap subtracts 2 max(x, f) from
// y, the sums are added last; since the factor is not 1, no compiler can turn the multiply-add into an
// addition, which would compete with the maximum for the same two pipes (Zen 4: 2.0 instead of 1.1 cycles a
// vector).
#pragma once

#include "blocks.h"
#include "plan.h"

namespace adderkit {
namespace {

template <class Isa>
struct Forward {
  using Vec = typename Isa::Vec;
  static constexpr int L = Isa::lanes;
  static constexpr int tile_rows = 3;  // at most, where rows are short

  // ---- filters -------------------------------------------------------------------------------------------

  static int64_t block_floats(const ForwardPlan& plan) {
    return plan.shape.kernel_height * plan.shape.kernel_width * plan.group_channels * L;
  }

  static WeightSums pack(const ForwardPlan& plan, int64_t task) {
    const Shape& s = plan.shape;
    const int64_t first = task % plan.blocks * L;
    const int lanes = static_cast<int>(smaller(L, plan.group_filters - first));
    const int64_t* step = s.weight_stride;
    const float* source = plan.weight + (task / plan.blocks * plan.group_filters + first) * step[0];
    const int64_t taps = s.kernel_height * s.kernel_width, channels = plan.group_channels;
    float* packed = plan.packed + task * block_floats(plan);
    const bool is_contiguous =
        step[3] == 1 && step[2] == s.kernel_width && step[1] == s.kernel_height * s.kernel_width;
    if (is_contiguous) {
      pack_contiguous(source, step[0], lanes, taps, channels, packed);
    } else {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* from = source + tap / s.kernel_width * step[2] + tap % s.kernel_width * step[3];
        float* to = packed + tap * channels * L;
        if (lanes < L)
          for (int64_t k = 0; k < channels * L; ++k) to[k] = 0.0f;
        if (step[1] == 1)
          transpose<Isa>(from, step[0], lanes, channels, to, L);
        else
          for (int64_t c = 0; c < channels; ++c)
            for (int o = 0; o < lanes; ++o) to[c * L + o] = from[o * step[0] + c * step[1]];
      }
    }
    return sums(plan, task);
  }

  // Filters whose channels and taps are one run of memory: transpose it and send each vector to its place.
  static void pack_contiguous(const float* source, int64_t step, int lanes, int64_t taps, int64_t channels,
                              float* packed) {
    const int64_t run = taps * channels;
    for (int64_t k = 0; k < run; k += L) {
      const int wide = static_cast<int>(smaller(L, run - k));
      Vec block[L];
      for (int o = 0; o < L; ++o)
        block[o] = o < lanes ? Isa::load_first(source + o * step + k, wide) : Isa::zero();
      Isa::transpose(block);
      for (int j = 0; j < wide; ++j)
        Isa::store(packed + ((k + j) % taps * channels + (k + j) / taps) * L, block[j]);
    }
  }

  static WeightSums sums(const ForwardPlan& plan, int64_t task) {
    const float* packed = plan.packed + task * block_floats(plan);
    Vec sum = Isa::zero(), squares = Isa::zero();
    for (int64_t k = 0; k < block_floats(plan); k += L) {
      const Vec f = Isa::load(packed + k);
      sum = Isa::add(sum, f);
      squares = Isa::multiply_add(f, f, squares);
    }
    Isa::store(plan.filter_sums + task * L, sum);
    float lanes[L];
    WeightSums total{0, 0};
    Isa::store(lanes, squares);
    for (int o = 0; o < L; ++o) {
      total.sum += plan.filter_sums[task * L + o];
      total.squares += lanes[o];
    }
    return total;
  }

  // Minus the offset, and with the other sign where that is negative: so padding becomes -|offset|, far below
  // every filter, and its maxima are the filters', which are small.
  static float shifted(float value, float offset) { return offset < 0.0f ? offset - value : value - offset; }

  static void shift(const ForwardPlan& plan, int64_t task) {
    float* packed = plan.packed + task * block_floats(plan);
    for (int64_t k = 0; k < block_floats(plan); ++k) packed[k] = shifted(packed[k], plan.offset);
    sums(plan, task);
  }

  // ---- scratch -------------------------------------------------------------------------------------------

  static int64_t row_columns(const ForwardPlan& plan) { return plan.column_phase_count * plan.phase_columns; }
  static int64_t slots(const ForwardPlan& plan) {
    return plan.row_phase_count * (plan.band_rows + plan.max_row_shift);
  }
  // A run of channels of one tap. One long sum of float32 drifts where its terms are alike (an image of one
  // colour: 5.8e-5 of sum(|x| + |f|) for 4608 terms, where random data has 3e-6), so after some `run_terms`
  // terms the sums are put aside and start anew.
  static constexpr int64_t run_terms = 512;
  struct Run {
    int64_t offset, channels;  // from the first pixel of the tile
    bool is_end;               // of a sum, and not of the last
  };
  static int64_t run_count(const ForwardPlan& plan) {
    return plan.shape.kernel_height * plan.shape.kernel_width * ceil_div(plan.group_channels, run_terms);
  }
  static int64_t runs_floats(const ForwardPlan& plan) {  // in whole vectors
    return ceil_div(run_count(plan) * int64_t{sizeof(Run)}, 64) * 16;
  }

  static int64_t chunk_blocks(const ForwardPlan& plan) {
    return smaller(plan.blocks, larger(1, chunk_floats / block_floats(plan)));
  }

  static int64_t scratch(const ForwardPlan& plan) {
    return runs_floats(plan) + Isa::forward_pixels * L + slots(plan) * (plan.row_floats + row_columns(plan)) +
           plan.band_rows * plan.out_width + chunk_blocks(plan) * tile_rows * plan.out_width * L + L;
  }

  // One padded row [channel][column] and its channel sums [column].
  static void fill_row(const ForwardPlan& plan, int64_t image, int64_t group, int64_t padded_row, float* row,
                       float* sum) {
    const Shape& s = plan.shape;
    const int64_t h = padded_row - s.padding[0], columns = row_columns(plan);
    const int64_t channels = plan.group_channels;
    const bool is_inside = h >= 0 && h < s.height;
    const float* source = plan.input + image * s.input_stride[0] + group * channels * s.input_stride[1] +
                          (is_inside ? h : 0) * s.input_stride[2];
    clear<Isa>(row, channels * columns);
    for (int64_t phase = 0; is_inside && phase < plan.column_phase_count; ++phase) {
      // Columns [first, last) of this phase lie inside the input; the others are padding.
      const int64_t start = plan.column_phases[phase] - s.padding[1];  // input column of the phase's first
      const int64_t first = larger(0, ceil_div(-start, s.stride[1]));
      const int64_t last = smaller(plan.phase_columns, ceil_div(s.width - start, s.stride[1]));
      if (first < last)
        gather<Isa>(source + (start + first * s.stride[1]) * s.input_stride[3], s.input_stride[1],
                    s.stride[1] * s.input_stride[3], channels, last - first,
                    row + phase * plan.phase_columns + first, columns);
    }
    if (plan.offset != 0.0f)
      for (int64_t k = 0; k < channels * columns; ++k) row[k] = shifted(row[k], plan.offset);
    // Sums over the channels of a vector of columns at a time. The last vector reads on into what follows the
    // row in scratch, and what it gets there is not stored.
    for (int64_t q = 0; q < columns; q += L) {
      Vec even = Isa::load(row + q), odd = Isa::zero();
      int64_t c = 1;
      for (; c + 1 < channels; c += 2) {
        odd = Isa::add(odd, Isa::load(row + c * columns + q));
        even = Isa::add(even, Isa::load(row + (c + 1) * columns + q));
      }
      if (c < channels) odd = Isa::add(odd, Isa::load(row + c * columns + q));
      store_up_to<Isa>(sum + q, Isa::add(even, odd), columns - q);
    }
    if (plan.offset != 0.0f)
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t w =
            plan.column_phases[k / plan.phase_columns] + k % plan.phase_columns * s.stride[1] - s.padding[1];
        if (!is_inside || w < 0 || w >= s.width) sum[k] = 0.0f;  // add_padding() sees to these
      }
  }

  // The taps of the padding are all -|offset|. Adding thousands of them one by one would round each time and
  // in the same direction (an error of 8e-5 of sum(|x| + |f|) has been seen): one product.
  static void add_padding(const ForwardPlan& plan, int64_t row, float* patches) {
    const Shape& s = plan.shape;
    const float magnitude = plan.offset < 0.0f ? -plan.offset : plan.offset;
    const auto inside = [](int64_t position, int64_t taps, int64_t dilation, int64_t size) {
      int64_t count = 0;
      for (int64_t k = 0; k < taps; ++k)
        if (position + k * dilation >= 0 && position + k * dilation < size) ++count;
      return count;
    };
    const int64_t rows = inside(row * s.stride[0] - s.padding[0], s.kernel_height, s.dilation[0], s.height);
    for (int64_t q = 0; q < plan.out_width; ++q) {
      const int64_t columns = inside(q * s.stride[1] - s.padding[1], s.kernel_width, s.dilation[1], s.width);
      const int64_t padded = (s.kernel_height * s.kernel_width - rows * columns) * plan.group_channels;
      patches[q] -= static_cast<float>(static_cast<double>(magnitude) * static_cast<double>(padded));
    }
  }

  // Whether any output row of the band reads slot (phase, index).
  static bool is_used(const ForwardPlan& plan, int64_t phase, int64_t index, int64_t rows) {
    for (int64_t i = 0; i < plan.shape.kernel_height; ++i) {
      const Tap tap = plan.row_taps[i];
      if (tap.phase == phase && index >= tap.shift && index < tap.shift + rows) return true;
    }
    return false;
  }

  // ---- arithmetic ----------------------------------------------------------------------------------------

  struct TileArguments {
    const float* x;  // first pixel, first channel, of the band's row 0
    const Run *runs, *runs_end;
    float* whole;  // room for the sums put aside
    int64_t channel_step, row_step;
    const float* filters;     // packed block
    const float* filter_sum;  // of the block's lanes
    const float* patch_sums;
    int64_t patch_step;  // from one output row to the next
    float* output;
    int64_t output_pixel_step, output_row_step;
    int lanes;
  };

  // R rows of P pixels times one vector of filters. Returns whether a result is not finite.
  template <int R, int P>
  static bool tile(const TileArguments& a) {
    Vec y[R][P];
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) prefetch(a.output + r * a.output_row_step + p * a.output_pixel_step);
    ADDERKIT_UNROLL
    for (int r = 0; r < R; ++r) {
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) y[r][p] = Isa::zero();
    }
    bool has_whole = false;
    const float* f = a.filters;
    for (const Run* run = a.runs; run < a.runs_end; ++run) {
      const float* x[R];
      for (int r = 0; r < R; ++r) {
        x[r] = a.x + run->offset + r * a.row_step;
        ADDERKIT_HIDE(x[r]);
      }
      for (int64_t c = 0; c < run->channels; ++c) {
        const Vec filter = Isa::load(f);
        ADDERKIT_UNROLL
        for (int r = 0; r < R; ++r) {
          ADDERKIT_UNROLL
          for (int p = 0; p < P; ++p) y[r][p] = Isa::minus_twice_max(filter, Isa::set(x[r][p]), y[r][p]);
          x[r] += a.channel_step;
        }
        f += L;
      }
      if (!run->is_end) continue;
      ADDERKIT_UNROLL
      for (int r = 0; r < R; ++r) {
        ADDERKIT_UNROLL
        for (int p = 0; p < P; ++p) {
          float* sum = a.whole + (r * P + p) * L;
          Isa::store(sum, has_whole ? Isa::add(Isa::load(sum), y[r][p]) : y[r][p]);
          y[r][p] = Isa::zero();
        }
      }
      has_whole = true;
    }
    if (has_whole) {
      ADDERKIT_UNROLL
      for (int r = 0; r < R; ++r) {
        ADDERKIT_UNROLL
        for (int p = 0; p < P; ++p) y[r][p] = Isa::add(Isa::load(a.whole + (r * P + p) * L), y[r][p]);
      }
    }
    const Vec filter_sum = Isa::load(a.filter_sum);
    bool is_odd = false;
    ADDERKIT_UNROLL
    for (int r = 0; r < R; ++r) {
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p)
        y[r][p] = Isa::add(y[r][p], Isa::add(Isa::set(a.patch_sums[r * a.patch_step + p]), filter_sum));
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) is_odd |= Isa::any_not_finite(y[r][p]);
    }
    ADDERKIT_UNROLL
    for (int r = 0; r < R; ++r) {
      float* output = a.output + r * a.output_row_step;
      ADDERKIT_UNROLL
      for (int p = 0; p < P; ++p) {
        // Where rounding left a distance below zero; repair() sees to tiles that are not finite.
        const Vec value = is_odd ? y[r][p] : Isa::min_zero(y[r][p]);
        if (a.lanes == L)
          Isa::store(output + p * a.output_pixel_step, value);
        else
          Isa::store_first(output + p * a.output_pixel_step, value, a.lanes);
      }
    }
    return is_odd;
  }

  using Tile = bool (*)(const TileArguments&);

  // Tiles of R rows for every number of pixels that the registers hold.
  template <int R, int... P>
  struct Sizes {
    static constexpr Tile tiles[] = {nullptr, &tile<R, P>...};
  };
  template <int R, int Left, int... P>
  struct UpTo : UpTo<R, Left - 1, Left, P...> {};
  template <int R, int... P>
  struct UpTo<R, 0, P...> : Sizes<R, P...> {};

  // The tile for `rows` rows of `pixels` pixels, or null where the registers do not hold them.
  static Tile find_tile(int64_t rows, int64_t pixels) {
    constexpr int most = Isa::forward_pixels;
    if (rows * pixels > most) return nullptr;
    if (rows == 3) return UpTo<3, most / 3>::tiles[pixels];
    if (rows == 2) return UpTo<2, most / 2>::tiles[pixels];
    return UpTo<1, most>::tiles[pixels];
  }

  // Computes again, by the formula itself, what the maximum's identity lost: infinities and NaN.
  static void repair(const ForwardPlan& plan, int64_t image, int64_t first_filter, int64_t lanes,
                     int64_t row) {
    const int64_t* step = plan.shape.output_stride;
    for (int64_t o = first_filter; o < first_filter + lanes; ++o)
      for (int64_t q = 0; q < plan.out_width; ++q) {
        float* y = plan.output + image * step[0] + o * step[1] + row * step[2] + q * step[3];
        if (!(*y - *y == 0.0f))
          *y = exact_output(plan, image, o, row, q);
        else if (*y > 0.0f)
          *y = 0.0f;
      }
  }

  // The rows of a tile with which rows of so many pixels fill the registers best.
  static int64_t rows_of_tile(int64_t pixels) {
    int64_t best = 1, best_tiles = 0;
    for (int64_t rows = 1; rows <= tile_rows; ++rows) {
      const int64_t tiles = ceil_div(pixels, Isa::forward_pixels / rows);  // of rows * pixels / tiles sums
      if (best_tiles == 0 || rows * best_tiles > best * tiles) best = rows, best_tiles = tiles;
    }
    return best;
  }

  static void band(const ForwardPlan& plan, int64_t task, float* scratch) {
    const Shape& s = plan.shape;
    const int64_t first_row = task % plan.bands * plan.band_rows;
    const int64_t rows = smaller(plan.band_rows, plan.out_height - first_row);
    const int64_t group = task / plan.bands % s.groups, image = task / plan.bands / s.groups;
    const int64_t columns = row_columns(plan), phase_slots = plan.band_rows + plan.max_row_shift;

    Run* runs = reinterpret_cast<Run*>(scratch);
    Run* runs_end = runs;
    float* whole = scratch + runs_floats(plan);
    float* padded = whole + Isa::forward_pixels * L;
    float* sums = padded + slots(plan) * plan.row_floats;
    float* patches = sums + slots(plan) * columns;
    float* line = patches + plan.band_rows * plan.out_width;

    for (int64_t phase = 0; phase < plan.row_phase_count; ++phase)
      for (int64_t index = 0; index < rows + plan.max_row_shift; ++index)
        if (is_used(plan, phase, index, rows)) {
          const int64_t slot = phase * phase_slots + index;
          const int64_t padded_row = plan.row_phases[phase] + s.stride[0] * (first_row + index);
          fill_row(plan, image, group, padded_row, padded + slot * plan.row_floats, sums + slot * columns);
        }

    clear<Isa>(patches, rows * plan.out_width);
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j) {
        const int64_t slot = plan.row_taps[i].phase * phase_slots + plan.row_taps[i].shift;
        const int64_t column = plan.column_taps[j].phase * plan.phase_columns + plan.column_taps[j].shift;
        for (int64_t c = 0; c < plan.group_channels; c += run_terms)
          *runs_end++ = {slot * plan.row_floats + column + c * columns,
                         smaller(run_terms, plan.group_channels - c), false};
        for (int64_t r = 0; r < rows; ++r) {
          const float* from = sums + (slot + r) * columns + column;
          float* to = patches + r * plan.out_width;
          for (int64_t q = 0; q < plan.out_width; ++q) to[q] += from[q];
        }
      }
    for (Run *run = runs, *start = runs; run < runs_end; ++run) {
      int64_t terms = run + 1 < runs_end ? (run + 1)->channels : 0;
      for (const Run* one = start; one <= run; ++one) terms += one->channels;
      run->is_end = run + 1 < runs_end && terms > run_terms;
      if (run->is_end) start = run + 1;
    }
    if (plan.offset != 0.0f)
      for (int64_t r = 0; r < rows; ++r) add_padding(plan, first_row + r, patches + r * plan.out_width);

    // Tiles outside, blocks of filters inside: inputs stay in the first-level cache, outputs are written a
    // pixel at a time. A chunk of blocks is what the second-level cache holds.
    const int64_t* step = s.output_stride;
    const bool is_direct = step[1] == 1;
    const int64_t chunk = chunk_blocks(plan), block_line = tile_rows * plan.out_width * L;
    const int64_t tall_most = rows_of_tile(plan.out_width);
    TileArguments arguments{};
    arguments.runs = runs;
    arguments.runs_end = runs_end;
    arguments.whole = whole;
    arguments.channel_step = columns;
    arguments.row_step = plan.row_floats;
    arguments.patch_step = plan.out_width;
    arguments.output_pixel_step = is_direct ? step[3] : L;
    arguments.output_row_step = is_direct ? step[2] : plan.out_width * L;
    for (int64_t first_block = 0; first_block < plan.blocks; first_block += chunk) {
      const int64_t blocks = smaller(chunk, plan.blocks - first_block);
      const int64_t first_filter = group * plan.group_filters + first_block * L;
      const int64_t filters = smaller(blocks * L, plan.group_filters - first_block * L);
      for (int64_t r = 0; r < rows;) {
        const int64_t tall = tile_size(rows - r, tall_most);
        float* output = plan.output + image * step[0] + first_filter * step[1] + (first_row + r) * step[2];
        bool is_odd = false;
        for (int64_t q = 0; q < plan.out_width;) {
          const int64_t wide = tile_size(plan.out_width - q, Isa::forward_pixels / tall);
          const Tile tile = find_tile(tall, wide);
          arguments.x = padded + r * plan.row_floats + q;
          arguments.patch_sums = patches + r * plan.out_width + q;
          for (int64_t b = 0; b < blocks; ++b) {
            const int64_t packed = group * plan.blocks + first_block + b;
            arguments.filters = plan.packed + packed * block_floats(plan);
            arguments.filter_sum = plan.filter_sums + packed * L;
            arguments.output = is_direct ? output + b * L + q * step[3] : line + b * block_line + q * L;
            arguments.lanes = static_cast<int>(smaller(L, filters - b * L));
            is_odd |= tile(arguments);
          }
          q += wide;
        }
        for (int64_t b = 0; b < blocks && !is_direct; ++b)
          for (int64_t k = 0; k < tall; ++k)
            scatter<Isa>(line + b * block_line + k * plan.out_width * L, L, smaller(L, filters - b * L),
                         plan.out_width, output + b * L * step[1] + k * step[2], step[1], step[3]);
        for (int64_t k = 0; k < tall && is_odd; ++k)
          repair(plan, image, first_filter, filters, first_row + r + k);
        r += tall;
      }
    }
  }
};

}  // namespace
}  // namespace adderkit
