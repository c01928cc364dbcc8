// Batch norm of K networks at once, in training, on one core of a CPU.
//
// Rows are (K, N, C), weights, means and variances (K, C), contiguous float32. Every sum has one order, whatever the width of the
// vectors.

#include <algorithm>
#include <cmath>

#include "vectors.hpp"

namespace harness {
namespace {

// Rows that are summed in float32; the sums of blocks are float64.
constexpr Index BLOCK = 256;

// Sums over rows of V vectors of N channels, S sums at once: in blocks, so that a long sum loses no more digits than a short one,
// and U rows at a time, not to wait for one of them. f(row, sums) adds what a row gives.
template <int S, int V, int N, typename F>
void sum_rows(Index count, double* const (&totals)[S], F f) {
  constexpr int U = 4 / S;
  for (double* total : totals) std::fill(total, total + V * N, 0.0);
  for (Index start = 0; start < count; start += BLOCK) {
    const Index end = std::min(start + BLOCK, count);
    Vector<N> sums[U][S][V]{};
    Index row = start;
    for (; row + U <= end; row += U)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) f(row + u, sums[u]);
    for (; row < end; row++) f(row, sums[0]);
    for (int s = 0; s < S; s++)
      for (int v = 0; v < V; v++) {
        Vector<N> sum = sums[0][s][v];
        for (int u = 1; u < U; u++) sum += sums[u][s][v];
        for (int n = 0; n < N; n++) totals[s][v * N + n] += sum[n];
      }
  }
}

// What a batch norm makes of V vectors of N channels of a row, before the ReLU.
template <int V, int N>
struct Norm {
  Vector<N> means[V], scales[V], shifts[V];

  Norm(const float* weight, const float* bias, const float* mean, const float* variance, float eps) {
    for (int v = 0; v < V; v++) means[v] = load<N>(mean + v * N), shifts[v] = load<N>(bias + v * N);
    for (int c = 0; c < V * N; c++) scales[c / N][c % N] = weight[c] / std::sqrt(variance[c] + eps);
  }

  Vector<N> operator()(const float* row, int v) const { return (load<N>(row + v * N) - means[v]) * scales[v] + shifts[v]; }
};

// Some channels of the rows of a batch norm: V vectors of N of them.
template <bool RECTIFIED, int V, int N>
void normalize_channels(float* to, float* mean, float* variance, const float* rows, const float* weight, const float* bias, float eps,
                        Index count, Index channels) {
  double total[V * N];
  Vector<N> means[V];
  sum_rows<1, V, N>(count, {total}, [&](Index row, Vector<N>(&sums)[1][V]) {
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) sums[0][v] += load<N>(rows + row * channels + v * N);
  });
  for (int c = 0; c < V * N; c++) mean[c] = static_cast<float>(total[c] / count);
  for (int v = 0; v < V; v++) means[v] = load<N>(mean + v * N);
  sum_rows<1, V, N>(count, {total}, [&](Index row, Vector<N>(&sums)[1][V]) {
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const Vector<N> apart = load<N>(rows + row * channels + v * N) - means[v];
      sums[0][v] += apart * apart;
    }
  });
  for (int c = 0; c < V * N; c++) variance[c] = static_cast<float>(total[c] / count);
  const Norm<V, N> norm(weight, bias, mean, variance, eps);
  for (Index at = 0; at < count * channels; at += channels)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const Vector<N> value = norm(rows + at, v);
      store<N>(to + at + v * N, RECTIFIED ? value < 0 ? Vector<N>{} : value : value);  // NaN stays what it is
    }
}

// The gradients of the same. What its ReLU lets through follows from the rows, which are read anyway: what came out of it need not be.
template <bool RECTIFIED, int V, int N>
void gradients_of_channels(float* to_rows, float* to_weight, float* to_bias, const float* gradient, const float* rows, const float* weight,
                           const float* bias, const float* mean, const float* variance, float eps, Index count, Index channels) {
  const Norm<V, N> norm(weight, bias, mean, variance, eps);
  const auto let_through = [&](Index at, int v) {
    const Vector<N> whole = load<N>(gradient + at + v * N);
    if constexpr (RECTIFIED) return norm(rows + at, v) <= 0 ? Vector<N>{} : whole;
    return whole;
  };
  double plain[V * N], times_rows[V * N];
  sum_rows<2, V, N>(count, {plain, times_rows}, [&](Index row, Vector<N>(&sums)[2][V]) {
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const Vector<N> own = let_through(row * channels, v);
      sums[0][v] += own;
      sums[1][v] += own * (load<N>(rows + row * channels + v * N) - norm.means[v]);
    }
  });
  Vector<N> scales[V], shifts[V], slopes[V];
  for (int c = 0; c < V * N; c++) {
    const double inverse = 1 / std::sqrt(static_cast<double>(variance[c]) + eps), scale = weight[c] * inverse;
    to_bias[c] = static_cast<float>(plain[c]);
    to_weight[c] = static_cast<float>(times_rows[c] * inverse);
    scales[c / N][c % N] = static_cast<float>(scale);
    shifts[c / N][c % N] = static_cast<float>(scale * plain[c] / count);
    slopes[c / N][c % N] = static_cast<float>(scale * inverse * inverse * times_rows[c] / count);
  }
  for (Index at = 0; at < count * channels; at += channels)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const Vector<N> own = let_through(at, v), apart = load<N>(rows + at + v * N) - norm.means[v];
      store<N>(to_rows + at + v * N, own * scales[v] - shifts[v] - apart * slopes[v]);
    }
}

}  // namespace
}  // namespace harness

using namespace harness;

extern "C" {

// Batch norm of rows (K, N, C) in training, and ReLU after it where ``rectified``; mean and biased variance are (K, C).
void harness_normalize(float* to, float* mean, float* variance, const float* rows, const float* weight, const float* bias, float eps,
                       Index members, Index count, Index channels, int rectified) {
  for (Index member = 0; member < members; member++) {
    over_channels(channels, [&]<int V, int N>(Index first) {
      const auto normalize = rectified ? normalize_channels<true, V, N> : normalize_channels<false, V, N>;
      normalize(to + first, mean + first, variance + first, rows + first, weight + first, bias + first, eps, count, channels);
    });
    to += count * channels, rows += count * channels;
    mean += channels, variance += channels, weight += channels, bias += channels;
  }
}

// The gradients of the same.
void harness_normalize_gradients(float* to_rows, float* to_weight, float* to_bias, const float* gradient, const float* rows,
                                 const float* weight, const float* bias, const float* mean, const float* variance, float eps,
                                 Index members, Index count, Index channels, int rectified) {
  for (Index member = 0; member < members; member++) {
    over_channels(channels, [&]<int V, int N>(Index first) {
      const auto differentiate = rectified ? gradients_of_channels<true, V, N> : gradients_of_channels<false, V, N>;
      differentiate(to_rows + first, to_weight + first, to_bias + first, gradient + first, rows + first, weight + first, bias + first,
                    mean + first, variance + first, eps, count, channels);
    });
    to_rows += count * channels, gradient += count * channels, rows += count * channels;
    to_weight += channels, to_bias += channels, weight += channels, bias += channels, mean += channels, variance += channels;
  }
}
}
