// A 1x1 filter with stride 1 and without padding knows no rows: the positions of its images can be cut anew,
// into lines that fill the tiles. Rows of 7 pixels, or of 1 as a linear layer has them, would leave most sums
// unused.
#pragma once

#include "plan.h"

namespace adderkit {

// Pixels of a line: up to 64, for more would crowd the cache, and more than half of that, whichever leaves
// fewest over.
inline int64_t pixels_of_line(int64_t positions) {
  constexpr int64_t most = 64;
  if (positions <= most) return positions;
  int64_t best = most;
  for (int64_t pixels = most; pixels > most / 2; --pixels)
    if (positions % pixels < positions % best) best = pixels;
  return best;
}

inline bool is_pointwise(const Shape& s) {
  return s.kernel_height == 1 && s.kernel_width == 1 && s.stride[0] == 1 && s.stride[1] == 1 &&
         s.padding[0] == 0 && s.padding[1] == 0;
}

// The element step between neighbouring positions (batch, height, width) of a tensor where there is one, else
// 0.
inline int64_t position_step(const Shape& s, const int64_t* stride) {
  const int64_t sizes[] = {s.width, s.height, s.batch}, steps[] = {stride[3], stride[2], stride[0]};
  int64_t step = 0, before = 1;
  for (int i = 0; i < 3; ++i) {
    if (sizes[i] == 1) continue;
    if (step == 0) step = steps[i] / before;
    if (step == 0 || steps[i] != step * before) return 0;
    before *= sizes[i];
  }
  return step == 0 ? 1 : step;  // one position alone
}

inline void set_lines(Shape* s, int64_t lines, int64_t pixels) {
  s->batch = 1;
  s->height = lines;
  s->width = pixels;
}

inline void set_line_strides(int64_t* stride, int64_t step, int64_t pixels) {
  stride[0] = 0;
  stride[2] = step * pixels;
  stride[3] = step;
}

// Calls run(lines, pixels, first position) for the whole lines and for what is left; stops at the first
// failure.
template <class Run>
int32_t by_lines(int64_t positions, const Run& run) {
  const int64_t pixels = pixels_of_line(positions), lines = positions / pixels, rest = positions % pixels;
  if (int32_t status = run(lines, pixels, int64_t{0})) return status;
  return rest > 0 ? run(int64_t{1}, rest, lines * pixels) : ADDERKIT_OK;
}

}  // namespace adderkit
