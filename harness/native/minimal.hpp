// Convolutions of maps of 2 x 2 that stay as large, in nine products in place of sixteen.

#pragma once

#include <cmath>

#include "products.hpp"

namespace harness {
namespace {

// Minimal filtering (Winograd 1980) of maps of 2 x 2: along a side, y0 = w1 x0 + w2 x1 and y1 = w0 x0 + w1 x1 are three products,
// m0 = w1 (x0 + x1), m1 = (w2 - w1) x1 and m2 = (w0 - w1) x0, of which y0 = m0 + m1 and y1 = m0 + m2. So nine in place of 16, which
// are laid out as maps of 3 x 3, and the weights with them. On the way up w0 and w2 change places, and so do m1 and m2.

// (images, 2, 2, C) to (images, 3, 3, C), along each side x0 + x1 first, then x1 and x0, or x0 and x1 where ``in_order``.
void widen(float* to, const float* from, Index images, Index channels, bool in_order) {
  const Index first = in_order ? 0 : 1, last = 1 - first;
  const Index rows[3][2] = {{0, 1}, {first, first}, {last, last}};
  for (Index image = 0; image < images; image++, from += 4 * channels)
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < 3; j++, to += channels) {
        const float* __restrict corners[4];
        for (int each = 0; each < 4; each++) corners[each] = from + (2 * rows[i][each / 2] + rows[j][each % 2]) * channels;
        float* __restrict sums = to;
        if (i && j)
          std::copy(corners[0], corners[0] + channels, sums);
        else if (i || j)
          for (Index c = 0; c < channels; c++) sums[c] = corners[0][c] + corners[3][c];
        else
          for (Index c = 0; c < channels; c++) sums[c] = corners[0][c] + corners[1][c] + corners[2][c] + corners[3][c];
      }
}

// (images, 3, 3, V * N) to those channels of (images, 2, 2, C): m0 + m1 and m0 + m2 along each side.
template <int V, int N>
void narrow(float* to, const float* from, const float* bias, float floor, Index images, Index channels) {
  for (Index image = 0; image < images; image++, from += 9 * V * N)
    for (int i = 1; i < 3; i++)
      for (int j = 1; j < 3; j++, to += channels)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          const auto product = [&](int row, int column) { return load<N>(from + ((3 * row + column) * V + v) * N); };
          const Vector<N> sum = product(0, 0) + product(0, j) + product(i, 0) + product(i, j);
          store<N>(to + v * N, no_less<N>(bias ? sum + load<N>(bias + v * N) : sum, floor));
        }
}

// Along each side of the kernel w1, w2 - w1 and w0 - w1, of N channels of the nine taps, which lie so far apart.
template <int N>
inline void widen_taps(float* to, Index to_step, const float* from, Index from_step) {
  Vector<N> taps[9];
  const auto along = [&](int start, int step) {
    const Vector<N> first = taps[start], middle = taps[start + step], last = taps[start + 2 * step];
    taps[start] = middle, taps[start + step] = last - middle, taps[start + 2 * step] = first - middle;
  };
  for (int tap = 0; tap < 9; tap++) taps[tap] = load<N>(from + tap * from_step);
  for (int j = 0; j < 3; j++) along(j, 3);
  for (int i = 0; i < 3; i++) along(3 * i, 1);
  for (int tap = 0; tap < 9; tap++) store<N>(to + tap * to_step, taps[tap]);
}

// The adjoint of the same; adds to what is there unless ``fresh``.
template <int N>
inline void narrow_taps(float* to, Index to_step, const float* from, Index from_step, bool fresh) {
  Vector<N> taps[9];
  const auto along = [&](int start, int step) {
    const Vector<N> m0 = taps[start], m1 = taps[start + step], m2 = taps[start + 2 * step];
    taps[start] = m2, taps[start + step] = m0 - m1 - m2, taps[start + 2 * step] = m1;
  };
  for (int tap = 0; tap < 9; tap++) taps[tap] = load<N>(from + tap * from_step);
  for (int j = 0; j < 3; j++) along(j, 3);
  for (int i = 0; i < 3; i++) along(3 * i, 1);
  for (int tap = 0; tap < 9; tap++) {
    float* place = to + tap * to_step;
    store<N>(place, fresh ? taps[tap] : load<N>(place) + taps[tap]);
  }
}

// As ``Packing``, of the weights that minimal filtering has.
struct MinimalPacking {
  const float* weight;
  const Sizes& sizes;
  bool up;
  float* rows;  // on the way up, for the weights of VECTORS * LANES channels of the large side

  template <int V, int N>
  void operator()(float* block, Index first) const {
    const Index channels = sizes.small_channels, stride = 9 * channels;
    if (!up) {
      for (Index row = 0; row < sizes.large_channels; row++)
        for (int v = 0; v < V; v++)
          widen_taps<N>(block + row * V * N + v * N, sizes.large_channels * V * N, weight + row * stride + first + v * N, channels);
      return;
    }
    for (Index row = 0; row < V * N; row++)
      over_channels<2>(channels, [&]<int U, int M>(Index channel) {
        for (int u = 0; u < U; u++, channel += M)
          widen_taps<M>(rows + row * stride + channel, channels, weight + (first + row) * stride + channel, channels);
      });
    transpose<V, N>(block, rows, stride, stride);
  }
};

void convolve_member_minimally(float* to, const float* from, const float* weight, const float* bias, float floor, const Sizes& sizes,
                               bool up) {
  const Index into = up ? sizes.large_channels : sizes.small_channels, out_of = up ? sizes.small_channels : sizes.large_channels;
  const Index at_once = std::min(IMAGES, sizes.images);
  const Scratch packed = scratch(sizes.weights()), rows = scratch(up ? VECTORS * LANES * 9 * out_of : 0);
  const Scratch maps = scratch(at_once * 9 * out_of), products = scratch(at_once * 9 * VECTORS * LANES);
  const MinimalPacking pack{weight, sizes, up, rows.get()};
  Taps taps;
  for (Index i = 0; i < 3; i++)
    for (Index j = 0; j < 3; j++) {
      taps.add(3 * i + j, up ? (3 - i) % 3 * 3 + (3 - j) % 3 : 3 * i + j);
      taps.end_position();
    }
  for (Index image = 0; image < sizes.images; image += at_once) {
    const Index images = std::min(at_once, sizes.images - image);
    widen(maps.get(), from + image * 4 * out_of, images, out_of, false);
    over_channels(into, [&]<int V, int N>(Index first) {
      float* block = packed.get() + 9 * out_of * first;
      if (!image) pack.operator()<V, N>(block, first);
      const Task task{products.get(), V * N, 9 * V * N, maps.get(), out_of, 9 * out_of, block, nullptr, -INFINITY};
      convolve_images<V, N>(task, images, taps, 9);
      narrow<V, N>(to + image * 4 * into + first, products.get(), bias ? bias + first : nullptr, floor, images, into);
    });
  }
}

void weight_gradient_minimally(float* to, const float* large, const float* small, const Sizes& sizes) {
  Sizes wide = sizes;
  wide.large_height = wide.large_width = wide.small_height = wide.small_width = 3;
  const Index at_once = images_at_once(wide), channels = sizes.small_channels;
  const Index large_wide = at_once * 9 * sizes.large_channels, small_wide = at_once * 9 * sizes.small_channels;
  const Scratch large_maps = scratch(2 * large_wide), small_maps = scratch(small_wide), small_block = scratch(at_once * 9 * BLOCK);
  Links links{{}, 9, 9, true};
  for (Index tap = 0; tap < 9; tap++) links.runs.push_back({{tap, tap, 0}});
  for (Index image = 0; image < sizes.images; image += at_once) {
    const Index images = wide.images = std::min(at_once, sizes.images - image);
    widen(large_maps.get(), large + image * 4 * sizes.large_channels, images, sizes.large_channels, false);
    widen(small_maps.get(), small + image * 4 * sizes.small_channels, images, sizes.small_channels, true);
    const auto add = [&]<int R, int V, int N>(const float* rows, const float* columns, Index row, Index first) {
      float products[9 * R * V * N];
      for (Index tap = 0; tap < 9; tap++)
        add_to_gradient<R, V, N>(products + tap * R * V * N, V * N, rows, columns, wide, links, links.runs[tap], true);
      for (Index r = 0; r < R; r++)
        for (Index v = 0; v < V; v++)
          narrow_taps<N>(to + (row + r) * 9 * channels + first + v * N, channels, products + (r * V + v) * N, R * V * N, !image);
    };
    add_weight_gradient(large_maps.get(), small_maps.get(), wide, large_maps.get() + large_wide, small_block.get(), add);
  }
}

}  // namespace
}  // namespace harness
