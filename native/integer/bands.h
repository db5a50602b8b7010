// Few images on many threads: every layer in bands of rows, claimed in order. A band waits until what it
// reads is there, which bands claimed before it make; so whoever has the lowest one can always go on, however
// many threads there really are.
#pragma once

#include <atomic>
#include <vector>

#include "integer/layers.h"

namespace adderkit {

class Bands {
 public:
  // `count` images, each of which is to be cut into `bands` bands or fewer. Throws std::bad_alloc.
  Bands(const Plan::State& plan, int64_t count, int64_t bands);

  // Makes bands until none is left; `place(image)` says where an image is.
  template <class PlaceOf>
  void work(const PlaceOf& place) {
    for (int64_t ticket; (ticket = next_.fetch_add(1, std::memory_order_relaxed)) < tickets_;) {
      const int64_t step = step_of_[static_cast<size_t>(ticket / count_)];
      const int64_t image = ticket % count_;
      const int64_t band = ticket / count_ - first_[static_cast<size_t>(step)];
      wait_for_inputs(image, step, band);
      const auto [first, last] = rows(step, band);
      make_rows(place(image), step, first, last);
      done_[static_cast<size_t>(image * stride_ + first_[static_cast<size_t>(step)] + band)].store(
          1, std::memory_order_release);
    }
  }

 private:
  struct Rows {
    int64_t first, last;
  };
  Rows rows(int64_t step, int64_t band) const;
  void wait_for_inputs(int64_t image, int64_t step, int64_t band) const;
  void wait_for(int64_t image, int64_t step, int64_t first, int64_t last) const;

  const Plan::State& plan_;
  int64_t count_, stride_ = 0, tickets_ = 0;
  std::vector<int64_t> first_;    // number of the first band of each tensor
  std::vector<int64_t> bands_;    // bands of each tensor
  std::vector<int64_t> step_of_;  // tensor that each band belongs to
  std::vector<std::atomic<uint8_t>> done_;
  std::atomic<int64_t> next_{0};
};

}  // namespace adderkit
