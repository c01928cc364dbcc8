// Vectors of as many numbers as this processor takes at once, and channels cut into blocks of them.

#pragma once

#include <cstdint>
#include <utility>

namespace harness {

using Index = std::int64_t;

// LANES: numbers in a vector. VECTORS and ROWS: of those, and of rows, that are summed at once, and SUMS: how many sums stay in
// registers then.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4, ROWS = 8, SUMS = 24;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, ROWS = 6, SUMS = 12;
#else
constexpr int LANES = 4, VECTORS = 4, ROWS = 4, SUMS = 12;
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

// What is below the floor becomes it, and what is not a number stays so.
template <int N>
inline Vector<N> no_less(Vector<N> values, float floor) {
  const Vector<N> floors = Vector<N>{} + floor;
  return floors > values ? floors : values;
}

// Numbers of two vectors, by their places in the one and, from N on, in the other.
template <int N, int... PLACES>
inline Vector<N> picked(Vector<N> first, Vector<N> second, std::integer_sequence<int, PLACES...>) {
#if defined(__clang__)
  return __builtin_shufflevector(first, second, PLACES...);
#else
  typedef int Places __attribute__((vector_size(N * sizeof(int))));
  return __builtin_shuffle(first, second, Places{PLACES...});
#endif
}

// The numbers of two vectors in turn, from place FROM of each on.
template <int N, int FROM, int... EACH>
inline Vector<N> interleaved(Vector<N> first, Vector<N> second, std::integer_sequence<int, EACH...>) {
  return picked<N>(first, second, std::integer_sequence<int, (FROM + EACH / 2 + EACH % 2 * N)...>{});
}

// N vectors of N numbers, in place: a perfect shuffle of all N * N, as often as N can be halved.
template <int N>
inline void transpose_square(Vector<N> (&rows)[N]) {
#pragma GCC unroll 4
  for (int times = N; times > 1; times /= 2) {
    Vector<N> before[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; n++) before[n] = rows[n];
#pragma GCC unroll 8
    for (int n = 0; n < N / 2; n++) {
      rows[2 * n] = interleaved<N, 0>(before[n], before[n + N / 2], std::make_integer_sequence<int, N>{});
      rows[2 * n + 1] = interleaved<N, N / 2>(before[n], before[n + N / 2], std::make_integer_sequence<int, N>{});
    }
  }
}

// V * N rows of so many numbers, each ``stride`` after the one before, to (numbers, V * N).
template <int V, int N>
void transpose(float* to, const float* from, Index stride, Index numbers) {
  constexpr Index WIDTH = V * N;
  Index number = 0;
  if constexpr (N > 1)
    for (; number + N <= numbers; number += N)
      for (int v = 0; v < V; v++) {
        Vector<N> rows[N];
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) rows[n] = load<N>(from + (v * N + n) * stride + number);
        transpose_square<N>(rows);
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) store<N>(to + (number + n) * WIDTH + v * N, rows[n]);
      }
  for (; number < numbers; number++)
    for (Index row = 0; row < WIDTH; row++) to[number * WIDTH + row] = from[row * stride + number];
}

// The other way round: (numbers, N) to N rows of so many numbers, each ``stride`` after the one before.
template <int N>
void transpose_back(float* to, Index stride, const float* from, Index numbers) {
  Index number = 0;
  if constexpr (N > 1)
    for (; number + N <= numbers; number += N) {
      Vector<N> rows[N];
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) rows[n] = load<N>(from + (number + n) * N);
      transpose_square<N>(rows);
#pragma GCC unroll 16
      for (int n = 0; n < N; n++) store<N>(to + n * stride + number, rows[n]);
    }
  for (; number < numbers; number++)
    for (Index row = 0; row < N; row++) to[row * stride + number] = from[number * N + row];
}

// Calls f.operator()<V, N>(first) for blocks of V vectors of N channels, the widest first.
template <int WIDEST = VECTORS, typename F>
void over_channels(Index channels, F f) {
  Index first = 0;
  const auto take = [&]<int V, int N>() {
    for (; channels - first >= V * N; first += V * N) f.template operator()<V, N>(first);
  };
  if constexpr (WIDEST > 2) take.template operator()<WIDEST, LANES>();
  if constexpr (WIDEST > 1) take.template operator()<2, LANES>();
  take.template operator()<1, LANES>();
  if constexpr (LANES > 8) take.template operator()<1, 8>();
  if constexpr (LANES > 4) take.template operator()<1, 4>();
  take.template operator()<1, 1>();
}

// Calls f.operator()<SIZE>(first) for blocks of so many, as many as fit of each size in turn.
template <int... SIZES, typename F>
void in_blocks(Index count, F f) {
  Index first = 0;
  const auto take = [&]<int SIZE>() {
    for (; count - first >= SIZE; first += SIZE) f.template operator()<SIZE>(first);
  };
  (take.template operator()<SIZES>(), ...);
}

// Calls f.operator()<R>(first) for blocks of R rows.
template <typename F>
void over_rows(Index rows, F f) {
  in_blocks<ROWS, 4, 2, 1>(rows, f);
}

}  // namespace harness
