// Integer networks with random numbers, whose activations neither vanish nor saturate.
#pragma once

#include "integer/network.h"
#include "random.h"

using adderkit::Layer;
using adderkit::LayerKind;
using adderkit::Network;

// All kinds of layers in all kinds of order and size.
Network random_network(Random& random);

// One adder layer or convolution on an image of that many channels, then pool and classifier.
Network single_layer(Random& random, LayerKind kind, int channels, int side, int filters, int kernel,
                     int stride);

// ResNet-20 for 32x32 images: a convolution, nine blocks of two adder layers at 16, 32 and 64 channels with
// 1x1 projections, pool and classifier.
Network resnet20(Random& random);
