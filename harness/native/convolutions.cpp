// Convolutions of K networks at once, on one core of a CPU.

#include <new>

#include "few.hpp"
#include "minimal.hpp"

namespace harness {
namespace {

void convolve_member(float* to, const float* from, const float* weight, const float* bias, float floor, const Sizes& sizes, bool up,
                     const Taps& taps) {
  const Index small = sizes.small() * sizes.small_channels, large = sizes.large() * sizes.large_channels;
  Task task{};
  task.to_channels = up ? sizes.large_channels : sizes.small_channels;
  task.to_stride = up ? large : small;
  task.from_channels = up ? sizes.small_channels : sizes.large_channels;
  task.from_stride = up ? small : large;
  task.floor = floor;
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

void weight_gradient_of_member(float* to, const float* large, const float* small, const Sizes& sizes, const Links& links) {
  const Index large_stride = sizes.large() * sizes.large_channels, small_stride = sizes.small() * sizes.small_channels;
  const Index at_once = images_at_once(sizes), channels = sizes.small_channels, stride = sizes.taps() * channels;
  const Scratch large_blocks = scratch(at_once * large_stride), small_block = scratch(at_once * sizes.small() * BLOCK);
  Sizes part = sizes;
  for (Index image = 0; image < sizes.images; image += at_once) {
    part.images = std::min(at_once, sizes.images - image);
    const auto add = [&]<int R, int V, int N>(const float* rows, const float* columns, Index row, Index first) {
      float* place = to + row * stride + first;
      for (Index tap = 0; tap < sizes.taps(); tap++, place += channels)
        add_to_gradient<R, V, N>(place, stride, rows, columns, part, links, links.runs[tap], !image);
    };
    add_weight_gradient(large + image * large_stride, small + image * small_stride, part, large_blocks.get(), small_block.get(), add);
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

// From large maps to small ones, or back where ``up``; ``bias`` is (K, channels of the result), or null. No result is less than
// ``floor``: 0 for a ReLU. Gives ``code_of``.
int harness_convolve(float* to, const float* from, const float* weight, const float* bias, float floor, const Sizes* sizes, int up) {
  return code_of([=]() mutable {
    const Taps taps = taps_of(*sizes, up);
    const Index small = sizes->images * sizes->small() * sizes->small_channels;
    const Index large = sizes->images * sizes->large() * sizes->large_channels;
    const Index channels = up ? sizes->large_channels : sizes->small_channels;
    for (Index member = 0; member < sizes->members; member++) {
      if (sizes->allow_minimal_filtering())
        convolve_member_minimally(to, from, weight, bias, floor, *sizes, up);
      else if (up && channels <= FEW_CHANNELS)
        convolve_up_to_few(to, from, weight, bias, floor, *sizes, taps);
      else
        convolve_member(to, from, weight, bias, floor, *sizes, up, taps);
      to += up ? large : small, from += up ? small : large, weight += sizes->weights();
      if (bias) bias += channels;
    }
  });
}

// The gradient of the weights, from that of the result and the maps, or from the maps and that of the result on the way up. Gives
// ``code_of``.
int harness_weight_gradient(float* to, const float* large, const float* small, const Sizes* sizes) {
  return code_of([=]() mutable {
    const auto over_members = [&](auto f) {
      for (Index member = 0; member < sizes->members; member++) {
        f();
        to += sizes->weights();
        large += sizes->images * sizes->large() * sizes->large_channels, small += sizes->images * sizes->small() * sizes->small_channels;
      }
    };
    if (!sizes->images) return over_members([&] { std::fill(to, to + sizes->weights(), 0.0f); });
    if (sizes->allow_minimal_filtering()) return over_members([&] { weight_gradient_minimally(to, large, small, *sizes); });
    if (sizes->large_channels <= FEW_CHANNELS) return over_members([&] { weight_gradient_of_few(to, large, small, *sizes); });
    const Links links = links_of(*sizes);
    over_members([&] { weight_gradient_of_member(to, large, small, *sizes, links); });
  });
}
}
