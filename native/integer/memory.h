// Memory whose start is a multiple of 64 bytes, and a pool of such blocks of one size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace adderkit {

inline int64_t round_up(int64_t number, int64_t step) {
  return (number + step - 1) / step * step;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <class Number>
using Aligned = std::unique_ptr<Number[], Free>;

// Zeros. Throws std::bad_alloc.
template <class Number>
Aligned<Number> aligned(int64_t count) {
  void* memory = nullptr;
  const size_t bytes = (static_cast<size_t>(count) * sizeof(Number) + 63) / 64 * 64 + 64;
  if (posix_memalign(&memory, 64, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return Aligned<Number>(static_cast<Number*>(memory));
}

// Blocks of one size that calls borrow and give back; up to `kept_bytes` of them stay for the next call.
class BlockPool {
 public:
  // A new block is made ready by `prepare`. Throws std::bad_alloc.
  template <class Prepare>
  Aligned<uint8_t> take(int64_t bytes, const Prepare& prepare) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!blocks_.empty()) {
        Aligned<uint8_t> block = std::move(blocks_.back());
        blocks_.pop_back();
        return block;
      }
      blocks_.reserve(lent_and_kept_ + 1);  // so that giving back can't fail
      ++lent_and_kept_;
    }
    try {
      Aligned<uint8_t> block = aligned<uint8_t>(bytes);
      prepare(block.get());
      return block;
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      --lent_and_kept_;
      throw;
    }
  }

  void give_back(Aligned<uint8_t> block, int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    if ((static_cast<int64_t>(blocks_.size()) + 1) * bytes <= kept_bytes)
      blocks_.push_back(std::move(block));
    else
      --lent_and_kept_;
  }

 private:
  static constexpr int64_t kept_bytes = int64_t{64} << 20;
  std::mutex mutex_;
  std::vector<Aligned<uint8_t>> blocks_;
  size_t lent_and_kept_ = 0;
};

}  // namespace adderkit
