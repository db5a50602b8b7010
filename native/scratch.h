// Memory that a thread keeps between calls: fresh pages cost more than the work of a small layer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adderkit {

enum class Scratch { packed_weights, band };

// At least `floats` floats, 64-byte aligned, of the calling thread; valid until its next request of that
// kind. Null where memory is out.
float* thread_scratch(Scratch kind, int64_t floats);

// Gives back the calling thread's block of that kind where it is above 16 MiB, so that one large call does
// not hold memory for ever.
void trim_thread_scratch(Scratch kind);

}  // namespace adderkit
