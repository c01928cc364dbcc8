// Convolutions whose large side has few channels, such as those of images.

#pragma once

#include "products.hpp"

namespace harness {
namespace {

// So few on the large side, as images have, do not fill a vector.
constexpr Index FEW_CHANNELS = 3;

// T sums of products, (T, N), of a position of N images, (S, N), and weights, (S, T) with so many from row to row.
template <int T, int N>
inline void multiply_by_taps(float* to, const float* maps, const float* weight, Index channels, Index stride) {
  Vector<N> sums[T]{};
  for (Index i = 0; i < channels; i++, maps += N, weight += stride)
#pragma GCC unroll 16
    for (int t = 0; t < T; t++) sums[t] += load<N>(maps) * weight[t];
#pragma GCC unroll 16
  for (int t = 0; t < T; t++) store<N>(to + t * N, sums[t]);
}

// The way to few channels, with N images as the lanes of vectors. ``weight`` is (S, taps, L).
struct Lane {
  const Sizes& sizes;
  const Taps& taps;
  const float* weight;
  const float* bias;
  float floor;
  float *maps, *given, *sums;  // of a position, of all positions to all taps, and the result

  // What every small position gives to all its taps: (positions, taps, L, N).
  template <int N>
  void give(const float* from) const {
    const Index channels = sizes.small_channels, wide = sizes.taps() * sizes.large_channels;
    for (Index position = 0; position < sizes.small(); position++) {
      transpose<1, N>(maps, from + position * channels, sizes.small() * channels, channels);
      in_blocks<9, 3, 1>(wide, [&]<int T>(Index first) {
        multiply_by_taps<T, N>(given + (position * wide + first) * N, maps, weight + first, channels, wide);
      });
    }
  }

  // The sums of that at every large position: (positions, L, N).
  template <int N>
  void add() const {
    const Index channels = sizes.large_channels, wide = sizes.taps() * channels;
    float* to = sums;
    for (Index position = 0; position < sizes.large(); position++)
      for (Index channel = 0; channel < channels; channel++, to += N) {
        Vector<N> sum = Vector<N>{} + (bias ? bias[channel] : 0);
        for (const Tap* tap = taps.of(position); tap < taps.end(position); tap++)
          for (Index each = 0; each < tap->count; each++)
            sum += load<N>(given + ((tap->from + each) * wide + (tap->number + each) * channels + channel) * N);
        store<N>(to, no_less<N>(sum, floor));
      }
  }
};

// All images of a member, as many at a time as a vector has lanes.
void convolve_up_to_few(float* to, const float* from, const float* weight, const float* bias, float floor, const Sizes& sizes,
                        const Taps& taps) {
  const Index channels = sizes.large_channels, wide = sizes.taps() * channels, small = sizes.small_channels;
  const Index from_stride = sizes.small() * small, to_stride = sizes.large() * channels;
  const Scratch packed = scratch(small * wide), maps = scratch(small * LANES), given = scratch(sizes.small() * wide * LANES);
  const Scratch sums = scratch(to_stride * LANES);
  for (Index i = 0; i < small; i++)
    for (Index each = 0; each < wide; each++)
      packed[i * wide + each] = weight[(each % channels * sizes.taps() + each / channels) * small + i];
  const Lane lane{sizes, taps, packed.get(), bias, floor, maps.get(), given.get(), sums.get()};
  over_channels<1>(sizes.images, [&]<int, int N>(Index first) {
    lane.give<N>(from + first * from_stride);
    lane.add<N>();
    transpose_back<N>(to + first * to_stride, to_stride, sums.get(), to_stride);
  });
}

// Large maps with the padding that the kernel goes over, of one image at a time.
struct Padded {
  const Sizes& sizes;
  Index height = (sizes.small_height - 1) * sizes.stride_height + sizes.kernel_height;
  Index width = (sizes.small_width - 1) * sizes.stride_width + sizes.kernel_width;
  Index channels = sizes.large_channels;
  Scratch maps = scratch(height * width * channels);

  explicit Padded(const Sizes& sizes) : sizes(sizes) { std::fill(maps.get(), maps.get() + height * width * channels, 0.0f); }

  // Nothing where the kernel misses the map.
  void lay(const float* from) const {
    const Index rows = std::min(sizes.large_height, height - sizes.padding_height);
    const Index columns = std::max<Index>(0, std::min(sizes.large_width, width - sizes.padding_width));
    float* to = maps.get() + (sizes.padding_height * width + sizes.padding_width) * channels;
    for (Index y = 0; y < rows; y++, to += width * channels, from += sizes.large_width * channels)
      std::memcpy(to, from, columns * channels * sizeof(float));
  }

  // What each row of the kernel connects, in numbers of the large maps and positions of the small ones.
  Links links() const {
    Links links{std::vector<std::vector<Run>>(sizes.kernel_height), sizes.stride_width * channels, 1, false};
    for (Index row = 0; row < sizes.kernel_height; row++)
      for (Index y = 0; y < sizes.small_height; y++)
        links.runs[row].push_back({(y * sizes.stride_height + row) * width * channels, y * sizes.small_width, sizes.small_width});
    return links;
  }
};

// The gradient of weights with few channels on the large side: of each row of the kernel at once.
void weight_gradient_of_few(float* to, const float* large, const float* small, const Sizes& sizes) {
  const Index few = sizes.large_channels, channels = sizes.small_channels, kernel_row = sizes.kernel_width * few;
  const Scratch block = scratch(sizes.small() * BLOCK), sums = scratch(sizes.taps() * few * channels);
  const Padded padded(sizes);
  const Links links = padded.links();
  Sizes one = sizes;
  one.images = 1;
  for (Index image = 0; image < sizes.images; image++, large += sizes.large() * few, small += sizes.small() * channels) {
    padded.lay(large);
    over_channels<2>(channels, [&]<int V, int N>(Index first) {
      const float* own = side_by_side<V * N>(block.get(), small + first, sizes.small(), channels);
      for (Index row = 0; row < sizes.kernel_height; row++)
        in_blocks<3, 1>(kernel_row, [&]<int R>(Index number) {
          float* place = sums.get() + (row * kernel_row + number) * channels + first;
          const float* maps = padded.maps.get() + number;
          add_to_gradient<R, V, N, 1>(place, channels, maps, own, one, links, links.runs[row], !image);
        });
    });
  }
  for (Index tap = 0; tap < sizes.taps(); tap++)
    for (Index channel = 0; channel < few; channel++) {
      const float* sum = sums.get() + (tap * few + channel) * channels;
      std::copy(sum, sum + channels, to + (channel * sizes.taps() + tap) * channels);
    }
}

}  // namespace
}  // namespace harness
