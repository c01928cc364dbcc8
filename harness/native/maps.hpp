// The maps of a convolution, and which of their positions belong together.
//
// Maps are (K, B, H, W, C) and weights (K, L, kernel height, kernel width, S), contiguous float32, with S channels on the small
// side of a convolution and L on the large one.

#pragma once

#include <memory>
#include <vector>

#include "vectors.hpp"

namespace harness {
namespace {

using Scratch = std::unique_ptr<float[]>;

inline Scratch scratch(Index floats) { return Scratch(new float[floats]); }

// As in harness/lowering.py, in the order of harness/kernels.py.
struct Sizes {
  Index members, images, small_channels, large_channels;
  Index kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width;
  Index large_height, large_width, small_height, small_width;

  Index taps() const { return kernel_height * kernel_width; }
  Index small() const { return small_height * small_width; }
  Index large() const { return large_height * large_width; }
  Index weights() const { return large_channels * taps() * small_channels; }

  // Whether maps of 2 x 2 stay as large, as the last ones of an encoder that has halved them as often as it can.
  bool allow_minimal_filtering() const {
    const bool keeps_sides = stride_height == 1 && stride_width == 1 && padding_height == 1 && padding_width == 1;
    return kernel_height == 3 && kernel_width == 3 && keeps_sides && large_height == 2 && large_width == 2;
  }
};

// ``count`` taps in a row, which lie side by side in the map and among the weights.
struct Tap {
  Index from, number, count = 1;
};

// The taps of every position of a result: those that fall onto the map that it comes from.
struct Taps {
  std::vector<Tap> taps;
  std::vector<Index> starts{0};

  const Tap* of(Index position) const { return taps.data() + starts[position]; }
  const Tap* end(Index position) const { return taps.data() + starts[position + 1]; }

  void add(Index from, Index number) {
    const bool is_first = taps.empty() || static_cast<Index>(taps.size()) == starts.back();
    if (!is_first && taps.back().from + taps.back().count == from && taps.back().number + taps.back().count == number)
      taps.back().count++;
    else
      taps.push_back({from, number});
  }

  void end_position() { starts.push_back(static_cast<Index>(taps.size())); }
};

// Along one side: where each tap of each position of the result falls onto a map of so many positions; -1 where beside it.
std::vector<Index> sources(Index positions, Index kernel, Index stride, Index padding, Index from_positions, bool up) {
  std::vector<Index> found;
  for (Index position = 0; position < positions; position++)
    for (Index tap = 0; tap < kernel; tap++) {
      const Index at = up ? position + padding - tap : position * stride + tap - padding;
      const Index source = up ? at / stride : at;
      found.push_back(at < 0 || (up && at % stride) || source >= from_positions ? -1 : source);
    }
  return found;
}

// From the large map to the small one, or back where ``up``.
Taps taps_of(const Sizes& sizes, bool up) {
  const Index height = up ? sizes.large_height : sizes.small_height, width = up ? sizes.large_width : sizes.small_width;
  const Index from_height = up ? sizes.small_height : sizes.large_height, from_width = up ? sizes.small_width : sizes.large_width;
  const auto rows = sources(height, sizes.kernel_height, sizes.stride_height, sizes.padding_height, from_height, up);
  const auto columns = sources(width, sizes.kernel_width, sizes.stride_width, sizes.padding_width, from_width, up);
  Taps found;
  for (Index y = 0; y < height; y++)
    for (Index x = 0; x < width; x++) {
      for (Index i = 0; i < sizes.kernel_height; i++)
        for (Index j = 0; j < sizes.kernel_width; j++) {
          const Index row = rows[y * sizes.kernel_height + i], column = columns[x * sizes.kernel_width + j];
          if (row >= 0 && column >= 0) found.add(row * from_width + column, i * sizes.kernel_width + j);
        }
      found.end_position();
    }
  return found;
}

}  // namespace
}  // namespace harness
