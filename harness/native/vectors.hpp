// Vectors of as many numbers as this processor takes at once, and channels cut into blocks of them.

#pragma once

#include <cstdint>

namespace harness {

using Index = std::int64_t;

// LANES: numbers in a vector. VECTORS and ROWS: of those, and of rows, that are summed at once, so that all sums stay in registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4, ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, ROWS = 6;
#else
constexpr int LANES = 4, VECTORS = 4, ROWS = 4;
#endif

template <int N>
struct Lanes {
  typedef float Vector __attribute__((vector_size(N * sizeof(float)), aligned(4), may_alias));
};

template <int N>
using Vector = typename Lanes<N>::Vector;

template <int N>
inline Vector<N> load(const float* from) {
  return *reinterpret_cast<const Vector<N>*>(from);
}

template <int N>
inline void store(float* to, Vector<N> values) {
  *reinterpret_cast<Vector<N>*>(to) = values;
}

// Calls f.operator()<V, N>(first) for blocks of V vectors of N channels, the widest first.
template <int WIDEST = VECTORS, typename F>
void over_channels(Index channels, F f) {
  Index first = 0;
  const auto take = [&]<int V, int N>() {
    for (; channels - first >= V * N; first += V * N) f.template operator()<V, N>(first);
  };
  if constexpr (WIDEST > 2) take.template operator()<WIDEST, LANES>();
  take.template operator()<2, LANES>();
  take.template operator()<1, LANES>();
  if constexpr (LANES > 8) take.template operator()<1, 8>();
  if constexpr (LANES > 4) take.template operator()<1, 4>();
  take.template operator()<1, 1>();
}

// Calls f.operator()<R>(first) for blocks of R rows.
template <typename F>
void over_rows(Index rows, F f) {
  Index first = 0;
  const auto take = [&]<int R>() {
    for (; rows - first >= R; first += R) f.template operator()<R>(first);
  };
  if constexpr (ROWS > 4) take.template operator()<ROWS>();
  take.template operator()<4>();
  take.template operator()<2>();
  take.template operator()<1>();
}

}  // namespace harness
