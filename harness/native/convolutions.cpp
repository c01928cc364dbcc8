// Convolutions of K networks at once, on one core of a CPU.
//
// Maps are (K, B, H, W, C) and weights (K, L, kernel height, kernel width, S), contiguous float32, with S channels on the small
// side of a convolution and L on the large one. Every sum has one order, whatever the width of the vectors.

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "vectors.hpp"

namespace harness {
namespace {

// Images at a time, so that their maps stay in the cache while all channels are gone through.
constexpr Index IMAGES = 24;

// Numbers that stay in the nearest cache.
constexpr Index NEAR = 8192;

// So few images at a time are gone through one by one, more of them position by position: their sums then run over all images.
constexpr Index FEW_IMAGES = 3;

// So few on the large side, as images have, do not fill a vector.
constexpr Index FEW_CHANNELS = 3;

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

// Along one side: where a tap of a position of the result falls onto a map of so many positions; -1 where beside it.
Index source(Index position, Index tap, Index stride, Index padding, Index positions, bool up) {
  const Index at = up ? position + padding - tap : position * stride + tap - padding;
  if (at < 0 || (up && at % stride)) return -1;
  const Index found = up ? at / stride : at;
  return found < positions ? found : -1;
}

// From the large map to the small one, or back where ``up``.
Taps taps_of(const Sizes& sizes, bool up) {
  const Index height = up ? sizes.large_height : sizes.small_height, width = up ? sizes.large_width : sizes.small_width;
  const Index from_height = up ? sizes.small_height : sizes.large_height, from_width = up ? sizes.small_width : sizes.large_width;
  Taps found;
  for (Index y = 0; y < height; y++)
    for (Index x = 0; x < width; x++) {
      for (Index i = 0; i < sizes.kernel_height; i++)
        for (Index j = 0; j < sizes.kernel_width; j++) {
          const Index row = source(y, i, sizes.stride_height, sizes.padding_height, from_height, up);
          const Index column = source(x, j, sizes.stride_width, sizes.padding_width, from_width, up);
          if (row >= 0 && column >= 0) found.add(row * from_width + column, i * sizes.kernel_width + j);
        }
      found.end_position();
    }
  return found;
}

// Some channels of the results of a convolution, and what they are made of.
struct Task {
  float* to;
  Index to_channels, to_stride;  // the latter from image to image
  const float* from;
  Index from_channels, from_stride;
  const float* weight;  // (taps, channels of the source, channels of this task)
  const float* bias;    // or null
};

// One position of P images, V vectors of N channels.
template <int P, int V, int N>
inline void convolve_position(const Task& task, float* to, const float* from, const Tap* taps, const Tap* end) {
  Vector<N> sums[P][V];
  for (int v = 0; v < V; v++)
    for (int p = 0; p < P; p++) sums[p][v] = task.bias ? load<N>(task.bias + v * N) : Vector<N>{};
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
  for (int p = 0; p < P; p++)
    for (int v = 0; v < V; v++) store<N>(to + p * task.to_stride + v * N, sums[p][v]);
}

template <int P, int V, int N>
void convolve_at_once(const Task& task, Index first, const Taps& taps, Index positions) {
  float* to = task.to + first * task.to_stride;
  const float* from = task.from + first * task.from_stride;
  for (Index position = 0; position < positions; position++, to += task.to_channels)
    convolve_position<P, V, N>(task, to, from, taps.of(position), taps.end(position));
}

template <int V, int N>
void convolve_images(const Task& task, Index images, const Taps& taps, Index positions) {
  Index first = 0;
  const auto take = [&]<int P>() {
    for (; images - first >= P; first += P) convolve_at_once<P, V, N>(task, first, taps, positions);
  };
  if constexpr (V == 1) take.template operator()<12>();
  take.template operator()<6>();
  take.template operator()<4>();
  take.template operator()<2>();
  take.template operator()<1>();
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

// The way to few channels, such as those of images: first what every small position gives to all its taps, with the taps as
// channels, then their sums.
void convolve_up_to_few(float* to, const float* from, const float* weight, const float* bias, const Sizes& sizes, const Taps& taps) {
  const Index channels = sizes.large_channels, wide = sizes.taps() * channels, small = sizes.small_channels;
  const Index width = (wide + LANES - 1) / LANES * LANES;
  Taps itself;
  itself.add(0, 0);
  itself.end_position();
  const Scratch packed = scratch(small * width), given = scratch(sizes.small() * width);
  over_channels(width, [&, block = packed.get()]<int V, int N>(Index first) mutable {
    for (Index i = 0; i < small; i++)
      for (Index each = first; each < first + V * N; each++)
        *block++ = each < wide ? weight[(each % channels * sizes.taps() + each / channels) * small + i] : 0;
  });
  for (Index image = 0; image < sizes.images; image++, from += sizes.small() * small) {
    over_channels(width, [&]<int V, int N>(Index first) {
      const Task task{given.get() + first, width, width, from, small, small, packed.get() + first * small, nullptr};
      convolve_images<V, N>(task, sizes.small(), itself, 1);
    });
    for (Index position = 0; position < sizes.large(); position++)
      for (Index channel = 0; channel < channels; channel++) {
        float sum = bias ? bias[channel] : 0;
        for (const Tap* tap = taps.of(position); tap < taps.end(position); tap++)
          for (Index each = 0; each < tap->count; each++)
            sum += given[(tap->from + each) * width + (tap->number + each) * channels + channel];
        *to++ = sum;
      }
  }
}

void convolve_member(float* to, const float* from, const float* weight, const float* bias, const Sizes& sizes, bool up, const Taps& taps) {
  const Index small = sizes.small() * sizes.small_channels, large = sizes.large() * sizes.large_channels;
  Task task{};
  task.to_channels = up ? sizes.large_channels : sizes.small_channels;
  task.to_stride = up ? large : small;
  task.from_channels = up ? sizes.small_channels : sizes.large_channels;
  task.from_stride = up ? small : large;
  const Index rows = sizes.taps() * task.from_channels;
  const Scratch packed = scratch(rows * task.to_channels);
  const Packing pack{weight, sizes, up};
  for (Index image = 0; image < sizes.images; image += IMAGES)
    over_channels(task.to_channels, [&]<int V, int N>(Index first) {
      float* block = packed.get() + rows * first;
      if (!image) pack.operator()<V, N>(block, first);
      task.to = to + image * task.to_stride + first;
      task.from = from + image * task.from_stride;
      task.weight = block;
      task.bias = bias ? bias + first : nullptr;
      convolve_images<V, N>(task, std::min(IMAGES, sizes.images - image), taps, up ? sizes.large() : sizes.small());
    });
}

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

Links links_of(const Taps& taps, const Sizes& sizes) {
  Links links{std::vector<std::vector<Run>>(sizes.taps()), sizes.stride_width, 1, false};
  for (Index position = 0; position < sizes.small(); position++)
    for (const Tap* tap = taps.of(position); tap < taps.end(position); tap++)
      for (Index each = 0; each < tap->count; each++) {
        std::vector<Run>& runs = links.runs[tap->number + each];
        const Index from = tap->from + each;
        const Run last = runs.empty() ? Run{} : runs.back();
        if (last.count && last.large + last.count * links.large_step == from && last.small + last.count == position)
          runs.back().count++;
        else
          runs.push_back({from, position, 1});
      }
  return links;
}

// Likewise, with runs over all images.
Links links_over_images(const Taps& taps, const Sizes& sizes) {
  Links links{std::vector<std::vector<Run>>(sizes.taps()), sizes.large(), sizes.small(), true};
  for (Index position = 0; position < sizes.small(); position++)
    for (const Tap* tap = taps.of(position); tap < taps.end(position); tap++)
      for (Index each = 0; each < tap->count; each++)
        links.runs[tap->number + each].push_back({tap->from + each, position, 0});
  return links;
}

// Some channels of all positions, side by side: (positions, WIDTH).
template <int WIDTH>
void gather_channels(float* to, const float* from, Index positions, Index channels) {
  for (Index position = 0; position < positions; position++, to += WIDTH, from += channels)
    std::memcpy(to, from, WIDTH * sizeof(float));
}

// R rows of one tap's gradient, V vectors of N channels, of maps with these channels alone; adds to what is there unless ``fresh``.
// A single row has U sums, one after the other, not to wait for one of them.
template <int R, int V, int N>
void add_to_gradient(float* to, Index to_stride, const float* large, const float* small, const Sizes& sizes, const Links& links,
                     const std::vector<Run>& runs, bool fresh) {
  constexpr int U = R == 1 ? 4 : 1;
  const Index large_step = links.large_step * R, small_step = links.small_step * V * N;
  Vector<N> sums[U][R][V]{};
  const auto add = [&]<int M>(const float* left, const float* right) {
#pragma GCC unroll 4
    for (int u = 0; u < M; u++)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sums[u][r][v] += left[u * large_step + r] * load<N>(right + u * small_step + v * N);
  };
  const Index times = links.over_images ? 1 : sizes.images;
  for (Index image = 0; image < times; image++, large += sizes.large() * R, small += sizes.small() * V * N)
    for (const Run& run : runs) {
      const Index count = links.over_images ? sizes.images : run.count;
      const float* left = large + run.large * R;
      const float* right = small + run.small * V * N;
      Index each = 0;
      for (; each + U <= count; each += U, left += U * large_step, right += U * small_step) add.template operator()<U>(left, right);
      for (; each < count; each++, left += large_step, right += small_step) add.template operator()<1>(left, right);
    }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) {
      Vector<N> sum = sums[0][r][v];
      for (int u = 1; u < U; u++) sum += sums[u][r][v];
      if (!fresh) sum += load<N>(to + r * to_stride + v * N);
      store<N>(to + r * to_stride + v * N, sum);
    }
}

// Images at a time, so that those channels of their maps that are multiplied at once stay near; by the widest blocks that there
// are, as every sum has one order.
Index images_at_once(const Sizes& sizes) {
  return std::clamp<Index>(NEAR / (8 * sizes.large() + 32 * sizes.small()), 1, std::max<Index>(1, sizes.images));
}

// The gradient of R rows and V * N channels as it is.
struct Plainly {
  float* to;
  const Sizes& sizes;
  bool fresh;

  template <int R, int V, int N>
  void operator()(const float* large, const float* small, const Sizes& part, const Links& links, Index row, Index first) const {
    const Index channels = sizes.small_channels, stride = sizes.taps() * channels;
    for (Index tap = 0; tap < sizes.taps(); tap++)
      add_to_gradient<R, V, N>(to + row * stride + tap * channels + first, stride, large, small, part, links, links.runs[tap], fresh);
  }
};

// Of some images, whose maps are laid out anew in the blocks, of the same size: the channels of a block side by side.
template <typename F>
void add_weight_gradient(const float* large, const float* small, const Sizes& sizes, const Links& links, float* large_blocks,
                         float* small_blocks, F add) {
  const Index large_positions = sizes.images * sizes.large(), small_positions = sizes.images * sizes.small();
  over_rows(sizes.large_channels, [&]<int R>(Index row) {
    gather_channels<R>(large_blocks + row * large_positions, large + row, large_positions, sizes.large_channels);
  });
  over_channels<2>(sizes.small_channels, [&]<int V, int N>(Index first) {
    gather_channels<V * N>(small_blocks + first * small_positions, small + first, small_positions, sizes.small_channels);
  });
  over_channels<2>(sizes.small_channels, [&]<int V, int N>(Index first) {
    over_rows(sizes.large_channels, [&]<int R>(Index row) {
      add.template operator()<R, V, N>(large_blocks + row * large_positions, small_blocks + first * small_positions, sizes, links, row, first);
    });
  });
}

void weight_gradient_of_member(float* to, const float* large, const float* small, const Sizes& sizes, const Links& links) {
  const Index large_stride = sizes.large() * sizes.large_channels, small_stride = sizes.small() * sizes.small_channels;
  const Index at_once = images_at_once(sizes);
  const Scratch large_blocks = scratch(at_once * large_stride), small_blocks = scratch(at_once * small_stride);
  Sizes part = sizes;
  for (Index image = 0; image < sizes.images; image += at_once) {
    part.images = std::min(at_once, sizes.images - image);
    add_weight_gradient(large + image * large_stride, small + image * small_stride, part, links, large_blocks.get(), small_blocks.get(),
                        Plainly{to, sizes, !image});
  }
}

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
void narrow(float* to, const float* from, const float* bias, Index images, Index channels) {
  for (Index image = 0; image < images; image++, from += 9 * V * N)
    for (int i = 1; i < 3; i++)
      for (int j = 1; j < 3; j++, to += channels)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          const auto product = [&](int row, int column) { return load<N>(from + ((3 * row + column) * V + v) * N); };
          const Vector<N> sum = product(0, 0) + product(0, j) + product(i, 0) + product(i, j);
          store<N>(to + v * N, bias ? sum + load<N>(bias + v * N) : sum);
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

void convolve_member_minimally(float* to, const float* from, const float* weight, const float* bias, const Sizes& sizes, bool up) {
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
      const Task task{products.get(), V * N, 9 * V * N, maps.get(), out_of, 9 * out_of, block, nullptr};
      convolve_images<V, N>(task, images, taps, 9);
      narrow<V, N>(to + image * 4 * into + first, products.get(), bias ? bias + first : nullptr, images, into);
    });
  }
}

// As ``Plainly``, from the nine products.
struct Minimally {
  float* to;
  const Sizes& sizes;
  bool fresh;

  template <int R, int V, int N>
  void operator()(const float* large, const float* small, const Sizes& part, const Links& links, Index row, Index first) const {
    const Index channels = sizes.small_channels, stride = 9 * channels;
    float products[9 * R * V * N];
    for (Index tap = 0; tap < 9; tap++)
      add_to_gradient<R, V, N>(products + tap * R * V * N, V * N, large, small, part, links, links.runs[tap], true);
    for (Index r = 0; r < R; r++)
      for (Index v = 0; v < V; v++)
        narrow_taps<N>(to + (row + r) * stride + first + v * N, channels, products + (r * V + v) * N, R * V * N, fresh);
  }
};

void weight_gradient_minimally(float* to, const float* large, const float* small, const Sizes& sizes) {
  Sizes wide = sizes;
  wide.large_height = wide.large_width = wide.small_height = wide.small_width = 3;
  const Index at_once = images_at_once(wide);
  const Index large_wide = at_once * 9 * sizes.large_channels, small_wide = at_once * 9 * sizes.small_channels;
  const Scratch large_maps = scratch(2 * large_wide), small_maps = scratch(2 * small_wide);
  Links links{{}, 9, 9, true};
  for (Index tap = 0; tap < 9; tap++) links.runs.push_back({{tap, tap, 0}});
  for (Index image = 0; image < sizes.images; image += at_once) {
    const Index images = wide.images = std::min(at_once, sizes.images - image);
    widen(large_maps.get(), large + image * 4 * sizes.large_channels, images, sizes.large_channels, false);
    widen(small_maps.get(), small + image * 4 * sizes.small_channels, images, sizes.small_channels, true);
    add_weight_gradient(large_maps.get(), small_maps.get(), wide, links, large_maps.get() + large_wide,
                        small_maps.get() + small_wide, Minimally{to, sizes, !image});
  }
}

// 1 where the memory does not do, else 0.
template <typename F>
int code_of(F f) {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace
}  // namespace harness

using namespace harness;

extern "C" {

// From large maps to small ones, or back where ``up``; ``bias`` is (K, channels of the result), or null. Gives ``code_of``.
int harness_convolve(float* to, const float* from, const float* weight, const float* bias, const Sizes* sizes, int up) {
  return code_of([=]() mutable {
    const Taps taps = taps_of(*sizes, up);
    const Index small = sizes->images * sizes->small() * sizes->small_channels;
    const Index large = sizes->images * sizes->large() * sizes->large_channels;
    const Index channels = up ? sizes->large_channels : sizes->small_channels;
    for (Index member = 0; member < sizes->members; member++) {
      if (sizes->allow_minimal_filtering())
        convolve_member_minimally(to, from, weight, bias, *sizes, up);
      else if (up && channels <= FEW_CHANNELS)
        convolve_up_to_few(to, from, weight, bias, *sizes, taps);
      else
        convolve_member(to, from, weight, bias, *sizes, up, taps);
      to += up ? large : small, from += up ? small : large, weight += sizes->weights();
      if (bias) bias += channels;
    }
  });
}

// The gradient of the weights, from that of the result and the maps, or from the maps and that of the result on the way up. Gives
// ``code_of``.
int harness_weight_gradient(float* to, const float* large, const float* small, const Sizes* sizes) {
  return code_of([=]() mutable {
    const Index large_stride = sizes->images * sizes->large() * sizes->large_channels;
    const Index small_stride = sizes->images * sizes->small() * sizes->small_channels;
    const Taps taps = taps_of(*sizes, false);
    const Links links = images_at_once(*sizes) <= FEW_IMAGES ? links_of(taps, *sizes) : links_over_images(taps, *sizes);
    if (!sizes->images) std::fill(to, to + sizes->members * sizes->weights(), 0.0f);
    for (Index member = 0; member < sizes->members; member++) {
      if (sizes->allow_minimal_filtering())
        weight_gradient_minimally(to, large, small, *sizes);
      else
        weight_gradient_of_member(to, large, small, *sizes, links);
      to += sizes->weights(), large += large_stride, small += small_stride;
    }
  });
}
}
