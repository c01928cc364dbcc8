// What convolutions are made of: products of maps with weights, and of maps with maps. Every sum has one order, whatever the width
// of the vectors.

#pragma once

#include <algorithm>
#include <cstring>

#include "maps.hpp"

namespace harness {
namespace {

// Images at a time, so that their maps stay in the cache while all channels are gone through.
constexpr Index IMAGES = 24;

// Numbers that stay in the nearest cache.
constexpr Index NEAR = 8192;

// Some channels of the results of a convolution, and what they are made of.
struct Task {
  float* to;
  Index to_channels, to_stride;  // the latter from image to image
  const float* from;
  Index from_channels, from_stride;
  const float* weight;  // (taps, channels of the source, channels of this task)
  const float* bias;    // or null
  float floor;          // no result is less
};

// One position of P images, V vectors of N channels.
template <int P, int V, int N>
inline void convolve_position(const Task& task, float* to, const float* from, const Tap* taps, const Tap* end) {
  Vector<N> sums[P][V];
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) {
    const Vector<N> start = task.bias ? load<N>(task.bias + v * N) : Vector<N>{};
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) sums[p][v] = start;
  }
  for (const Tap* tap = taps; tap < end; tap++) {
    const float* maps = from + tap->from * task.from_channels;
    const float* weight = task.weight + tap->number * task.from_channels * V * N;
    for (Index i = 0; i < tap->count * task.from_channels; i++, weight += V * N)
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) {
        const float value = maps[p * task.from_stride + i];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sums[p][v] += value * load<N>(weight + v * N);
      }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; p++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) store<N>(to + p * task.to_stride + v * N, no_less<N>(sums[p][v], task.floor));
}

template <int V, int N>
void convolve_images(const Task& task, Index images, const Taps& taps, Index positions) {
  in_blocks<(12 * V <= SUMS ? 12 : 6), 6, 4, 2, 1>(images, [&]<int P>(Index first) {
    float* to = task.to + first * task.to_stride;
    const float* from = task.from + first * task.from_stride;
    for (Index position = 0; position < positions; position++, to += task.to_channels)
      convolve_position<P, V, N>(task, to, from, taps.of(position), taps.end(position));
  });
}

// A member's weights for V * N channels of the result in one direction: (taps, channels of the source, V * N). They are packed when
// the first images come to them, to be near then.
struct Packing {
  const float* weight;
  const Sizes& sizes;
  bool up;

  template <int V, int N>
  void operator()(float* block, Index first) const {
    const Index rows = sizes.large_channels, taps = sizes.taps(), channels = sizes.small_channels;
    if (up)
      transpose<V, N>(block, weight + first * taps * channels, taps * channels, taps * channels);
    else
      for (Index tap = 0; tap < taps; tap++)
        for (Index row = 0; row < rows; row++, block += V * N)
          std::memcpy(block, weight + (row * taps + tap) * channels + first, V * N * sizeof(float));
  }
};

// Positions of the large map and of the small one that a tap connects, ``count`` pairs at equal steps.
struct Run {
  Index large, small, count;
};

// Those of every tap, how many positions a step has on each map, and whether a run is one pair of positions in all images, whatever
// its count.
struct Links {
  std::vector<std::vector<Run>> runs;
  Index large_step, small_step;
  bool over_images;
};

// Images at a time, so that those channels of their maps that are multiplied at once stay near; by the widest blocks that there
// are, as every sum has one order.
Index images_at_once(const Sizes& sizes) {
  return std::clamp<Index>(NEAR / (8 * sizes.large() + 32 * sizes.small()), 1, std::max<Index>(1, sizes.images));
}

// So few images at a time are gone through one by one, more of them position by position.
constexpr Index FEW_IMAGES = 3;

Links links_of(const Sizes& sizes) {
  const bool over_images = images_at_once(sizes) > FEW_IMAGES;
  Links links{std::vector<std::vector<Run>>(sizes.taps()), sizes.stride_width, 1, over_images};
  if (over_images) links.large_step = sizes.large(), links.small_step = sizes.small();
  const Taps taps = taps_of(sizes, false);
  for (Index position = 0; position < sizes.small(); position++)
    for (const Tap* tap = taps.of(position); tap < taps.end(position); tap++)
      for (Index each = 0; each < tap->count; each++) {
        std::vector<Run>& runs = links.runs[tap->number + each];
        const Index from = tap->from + each;
        const Run last = runs.empty() ? Run{} : runs.back();
        if (!over_images && last.count && last.large + last.count * links.large_step == from && last.small + last.count == position)
          runs.back().count++;
        else
          runs.push_back({from, position, 1});
      }
  return links;
}

// WIDTH channels of all positions, side by side.
template <int WIDTH>
void gather_channels(float* to, const float* from, Index positions, Index channels) {
  for (Index position = 0; position < positions; position++, to += WIDTH, from += channels)
    std::memcpy(to, from, WIDTH * sizeof(float));
}

// The same, but where there are no others: they are side by side already.
template <int WIDTH>
const float* side_by_side(float* block, const float* from, Index positions, Index channels) {
  if (channels == WIDTH) return from;
  gather_channels<WIDTH>(block, from, positions, channels);
  return block;
}

// The gradient of R rows of weights, V vectors of N channels, of large maps with WIDTH numbers at every position and small maps with
// these channels alone; adds to what is there unless ``fresh``. Few rows have U sums, one after the other, not to wait for one of them.
template <int R, int V, int N, int WIDTH = R>
void add_to_gradient(float* to, Index to_stride, const float* large, const float* small, const Sizes& sizes, const Links& links,
                     const std::vector<Run>& runs, bool fresh) {
  constexpr int U = R == 1 ? 4 : R == 3 ? 2 : 1;
  const Index large_step = links.large_step * WIDTH, small_step = links.small_step * V * N;
  Vector<N> sums[U][R][V]{};
  const auto add = [&, large_step, small_step]<int M>(const float* left, const float* right) {
#pragma GCC unroll 4
    for (int u = 0; u < M; u++)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sums[u][r][v] += left[u * large_step + r] * load<N>(right + u * small_step + v * N);
  };
  const Index times = links.over_images ? 1 : sizes.images;
  for (Index image = 0; image < times; image++, large += sizes.large() * WIDTH, small += sizes.small() * V * N)
    for (const Run& run : runs) {
      const Index count = links.over_images ? sizes.images : run.count;
      const float* left = large + run.large * WIDTH;
      const float* right = small + run.small * V * N;
      Index each = 0;
      for (; each + U <= count; each += U, left += U * large_step, right += U * small_step) add.template operator()<U>(left, right);
      for (; each < count; each++, left += large_step, right += small_step) add.template operator()<1>(left, right);
    }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      Vector<N> sum = sums[0][r][v];
#pragma GCC unroll 4
      for (int u = 1; u < U; u++) sum += sums[u][r][v];
      if (!fresh) sum += load<N>(to + r * to_stride + v * N);
      store<N>(to + r * to_stride + v * N, sum);
    }
}

// Positions at a time, so that they stay near while their channels go to several blocks.
constexpr Index POSITIONS = 32;

// Channels of small maps at a time.
constexpr Index BLOCK = 2 * LANES;

// Of some images, whose maps are laid out anew: the channels that are multiplied at once side by side, of the large maps all in blocks
// of the same size, of the small ones a block at a time. Calls add.operator()<R, V, N>(large, small, row, first) for the gradient of R
// rows and V * N channels, from those numbers of the maps.
template <typename F>
void add_weight_gradient(const float* large, const float* small, const Sizes& sizes, float* large_blocks, float* small_block, F add) {
  const Index large_positions = sizes.images * sizes.large(), small_positions = sizes.images * sizes.small();
  for (Index start = 0; start < large_positions; start += POSITIONS)
    over_rows(sizes.large_channels, [&]<int R>(Index row) {
      float* block = large_blocks + row * large_positions + start * R;
      const Index count = std::min(POSITIONS, large_positions - start);
      gather_channels<R>(block, large + start * sizes.large_channels + row, count, sizes.large_channels);
    });
  over_channels<2>(sizes.small_channels, [&]<int V, int N>(Index first) {
    const float* channels = side_by_side<V * N>(small_block, small + first, small_positions, sizes.small_channels);
    over_rows(sizes.large_channels, [&]<int R>(Index row) {
      add.template operator()<R, V, N>(large_blocks + row * large_positions, channels, row, first);
    });
  });
}

}  // namespace
}  // namespace harness
