// The table row of one instruction set, from its vector operations.
#pragma once

#include "forward.h"
#include "input_grad.h"
#include "peak/peak.h"

namespace adderkit {
namespace {

template <class Isa>
constexpr AdderF32Kernels kernels_of() {
  return {Isa::lanes,          &Forward<Isa>::pack,   &Forward<Isa>::shift,     &Forward<Isa>::scratch,
          &Forward<Isa>::band, &InputGrad<Isa>::pack, &InputGrad<Isa>::scratch, &InputGrad<Isa>::band,
          &Peak<Isa>::run};
}

}  // namespace
}  // namespace adderkit
