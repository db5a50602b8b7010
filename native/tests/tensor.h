// Tensors laid out at random, as views between memory that must not be touched.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "random.h"

using Sizes = std::array<int64_t, 4>;

// Four axes (N, C, H, W) in any order in memory, with gaps, reversed axes and, where it is only read,
// repeated ones (stride 0). The memory ends, or starts, at a page that cannot be accessed, so reads past that
// end are caught as well; every float of it that belongs to no element holds a mark.
class Tensor {
 public:
  Tensor(Random& random, const Sizes& size, bool may_repeat);
  ~Tensor();
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  const Sizes& size() const { return size_; }
  const Sizes& stride() const { return stride_; }
  float* data() const { return origin_; }
  float& at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return origin_[n * stride_[0] + c * stride_[1] + h * stride_[2] + w * stride_[3]];
  }

  template <class Function>
  void each(const Function& function) const {
    for (int64_t n = 0; n < size_[0]; ++n)
      for (int64_t c = 0; c < size_[1]; ++c)
        for (int64_t h = 0; h < size_[2]; ++h)
          for (int64_t w = 0; w < size_[3]; ++w) function(at(n, c, h, w));
  }
  std::vector<float> values() const;  // in the order N, C, H, W

  void mark_elements();  // as the memory around them
  // Whether everything around the elements still holds the mark. The elements are marked afterwards.
  bool is_clean();

 private:
  Sizes size_, stride_;
  float* origin_;  // element (0, 0, 0, 0)
  char* pages_;    // an inaccessible page, `bytes_` of memory, another inaccessible page
  int64_t bytes_, page_;
};
