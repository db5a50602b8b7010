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
      const Band& band = bands_[static_cast<size_t>(ticket / count_)];
      const int64_t image = ticket % count_;
      wait_for_inputs(image, band);
      make_rows(place(image), band.tensor, band.first, band.last);
      done_[static_cast<size_t>(ticket)].store(1, std::memory_order_release);
    }
  }

 private:
  struct Band {
    int64_t tensor, first, last;  // rows
  };
  void wait_for_inputs(int64_t image, const Band& band) const;
  void wait_for(int64_t image, int64_t tensor, int64_t first, int64_t last) const;

  const Plan::State& plan_;
  int64_t count_, tickets_;
  std::vector<Band> bands_;         // of one image, in the order in which they are claimed
  std::vector<size_t> first_band_;  // of each tensor, and the end
  std::vector<std::atomic<uint8_t>> done_;
  std::atomic<int64_t> next_{0};
};

}  // namespace adderkit
