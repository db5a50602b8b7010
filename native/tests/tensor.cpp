#include "tensor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr uint32_t mark = 0x7fc5a5a5;  // a NaN: where a kernel used it, a result would be NaN

Sizes draw_strides(Random& random, const Sizes& size, bool may_repeat) {
  std::array<int, 4> order = {3, 2, 1, 0};     // innermost first: NCHW
  if (random.one_in(2)) order = {1, 3, 2, 0};  // NHWC
  if (random.one_in(5)) std::swap(order[random.between(0, 3)], order[random.between(0, 3)]);
  Sizes stride;
  int64_t step = random.one_in(5) ? random.between(2, 3) : 1;
  for (int axis : order) {
    stride[axis] = step;
    step = step * std::max<int64_t>(1, size[axis]) + (random.one_in(4) ? random.between(1, 5) : 0);
  }
  for (int64_t& s : stride)
    if (random.one_in(20))
      s = -s;
    else if (may_repeat && random.one_in(10))
      s = 0;
  return stride;
}

}  // namespace

Tensor::Tensor(Random& random, const Sizes& size, bool may_repeat)
    : size_(size), stride_(draw_strides(random, size, may_repeat)), page_(sysconf(_SC_PAGESIZE)) {
  int64_t low = 0, high = 1;
  for (int axis = 0; axis < 4; ++axis) {
    const int64_t reach = (size[axis] - 1) * stride_[axis];
    low += std::min<int64_t>(0, reach);
    high += std::max<int64_t>(0, reach);
  }
  if (size[0] == 0) low = high = 0;
  const int64_t floats = high - low;
  bytes_ = std::max<int64_t>(1, (floats * 4 + page_ - 1) / page_) * page_;
  void* pages = mmap(nullptr, bytes_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (pages == MAP_FAILED ||
      mprotect(static_cast<char*>(pages) + page_, bytes_, PROT_READ | PROT_WRITE) != 0) {
    std::perror("no memory for a tensor");
    std::exit(1);
  }
  pages_ = static_cast<char*>(pages);
  const int64_t before = random.one_in(3) ? 0 : bytes_ - floats * 4;
  origin_ = reinterpret_cast<float*>(pages_ + page_ + before) - low;
  for (int64_t k = 0; k < bytes_; k += 4) std::memcpy(pages_ + page_ + k, &mark, 4);
}

Tensor::~Tensor() {
  munmap(pages_, bytes_ + 2 * page_);
}

std::vector<float> Tensor::values() const {
  std::vector<float> all;
  all.reserve(size_[0] * size_[1] * size_[2] * size_[3]);
  each([&](float value) { all.push_back(value); });
  return all;
}

void Tensor::mark_elements() {
  each([](float& value) { std::memcpy(&value, &mark, 4); });
}

bool Tensor::is_clean() {
  mark_elements();
  for (int64_t k = 0; k < bytes_; k += 4)
    if (std::memcmp(pages_ + page_ + k, &mark, 4) != 0) return false;
  return true;
}
