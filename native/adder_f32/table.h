// The table row of one instruction set, from its vector operations.
#pragma once

#include "depthwise_forward.h"
#include "depthwise_input_grad.h"
#include "forward.h"
#include "input_grad.h"
#include "peak/peak.h"

namespace adderkit {
namespace {

template <class Pass>
constexpr ForwardKernels forward_of() {
  return {&Pass::pack, &Pass::shift, &Pass::scratch, &Pass::band};
}
template <class Pass>
constexpr InputGradKernels input_grad_of() {
  return {&Pass::pack, &Pass::scratch, &Pass::band};
}

template <class Isa>
constexpr AdderF32Kernels kernels_of() {
  return {Isa::lanes,
          forward_of<Forward<Isa>>(),
          forward_of<DepthwiseForward<Isa>>(),
          input_grad_of<InputGrad<Isa>>(),
          input_grad_of<DepthwiseInputGrad<Isa>>(),
          &Peak<Isa>::run};
}

}  // namespace
}  // namespace adderkit
