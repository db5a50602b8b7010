/* A C11 program that uses the library: one layer small enough to check by hand. */
#include <stdio.h>

#include "adderkit.h"

int main(void) {
  adderkit_conv2d_shape shape = {
      .batch = 1,
      .channels = 1,
      .height = 2,
      .width = 2,
      .out_channels = 1,
      .kernel_height = 2,
      .kernel_width = 2,
      .stride = {1, 1},
      .padding = {0, 0},
      .dilation = {1, 1},
      .groups = 1,
      .input_stride = {4, 4, 2, 1},
      .weight_stride = {4, 4, 2, 1},
      .output_stride = {1, 1, 1, 1},
  };
  const float input[4] = {1.0f, 2.0f, 3.0f, 4.0f}, weight[4] = {0.5f, 2.0f, 5.0f, 4.25f};
  const float expected_grad[4] = {-1.0f, 0.0f, 2.0f, 0.5f}; /* 2 clamp(weight - input) */
  const float grad_output = 2.0f;
  float output, grad[4];

  if (adderkit_abi_version() != ADDERKIT_ABI_VERSION) {
    fprintf(stderr, "header and library differ\n");
    return 1;
  }
  if (adderkit_adder2d_f32(&shape, input, weight, &output, 1) != ADDERKIT_OK ||
      adderkit_adder2d_input_grad_f32(&shape, &grad_output, input, weight, grad, shape.input_stride, 1) !=
          ADDERKIT_OK) {
    fprintf(stderr, "%s\n", adderkit_error());
    return 1;
  }
  if (output != -2.75f) {
    fprintf(stderr, "output %g, not -2.75\n", (double)output);
    return 1;
  }
  for (int k = 0; k < 4; ++k)
    if (grad[k] != expected_grad[k]) {
      fprintf(stderr, "gradient %d is %g, not %g\n", k, (double)grad[k], (double)expected_grad[k]);
      return 1;
    }
  printf("path: %s\n", adderkit_isa_name(adderkit_isa_active()));
  return 0;
}
