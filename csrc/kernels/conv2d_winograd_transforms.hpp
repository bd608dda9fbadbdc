// Winograd's transforms of one tile: the points, B' x B on the way in and A' m A on the way out, with channels in lanes, for up to
// six points along either axis, and for phases of three or two pixels between zeros. conv2d_winograd.hpp says how they fit together.
//
// Three pixels between zeros. With the tap before, at and after the output named u, v, w, the three outputs under them are
//
//   y0 = v x0 + w x1     y1 = u x0 + v x1 + w x2     y2 = u x1 + v x2
//
// Sums and differences of what lies opposite, e = u + w, f = u - w, s = x0 + x2, g = x2 - x0, make them
//
//   y2 + y0 = v s + e x1      y2 - y0 = v g + f x1      y1 = v x1 + (e s - f g) / 2
//
// and four products give all the terms, where six points would give more than is asked for with six, and five with five:
//
//   m1, m2 = (f +- a v) (g +- a x1) / 4      y1 = m3 + m4 - m1 - m2
//   m3, m4 = (e +- c v) (s +- c x1) / 4      y2 +- y0 = 2 (m3 - m4) / c,  2 (m1 - m2) / a     if c c = a a + 2
//
// a = 0.85 and c = 1.65 lose least: 1.19 times the error of a direct sum in two dimensions. For four pixels there is no such way with
// five products, only ones whose coefficients grow without bound. Two pixels are Karatsuba's three products:
//
//   y0 = v (x0 + x1) + (w - v) x1     y1 = v (x0 + x1) + (u - v) x0
//
// Coefficients are worked out by the compiler from the points, so that other points are one line to try. Transforms are written as
// adds wherever opposite points allow it: adds run beside multiplications, and each saved multiplication is one rounding less.
#pragma once

#include "../epilogue.h"
#include "../simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int kPoints = 6;

// The finite points; the last of the six is infinity.
constexpr double winograd_point(int i) { return i == 0 ? 0 : i == 1 ? 0.625 : i == 2 ? -0.625 : i == 3 ? 1.5 : -1.5; }
// A tile of r outputs under a window of t taps takes n = r + t - 1 points: infinity, then 5/8, -5/8, 0, 3/2, -3/2. One point, which
// a single tap takes, transforms nothing.
// kWhole + r stands for a phase of r pixels between zeros: three take +-a and +-c where those stand, two (w - v), (u - v) and, last, v,
// which one takes alone.
constexpr int kWhole = kPoints, kLargestPhase = 3;
constexpr bool uses_point(int64_t n, int i) {
    if (n == kWhole + 3) return i >= 1 && i <= 4;
    if (n > kWhole) return i == 5 || (n == kWhole + 2 && (i == 1 || i == 2));
    return i == 5 || n >= (i == 0 ? 4 : i <= 2 ? i + 1 : i + 2);
}
constexpr int count_points(int64_t n) { return n == kWhole + 3 ? 4 : n == kWhole + 2 ? 3 : n == kWhole + 1 ? 1 : int(n); }
// Pixels that a tile of n points reads.
constexpr int inputs_of_points(int n) { return n > kWhole ? n - kWhole : n; }
constexpr double kInner = 0.85, kOuter = 1.65;  // a and c above
// Where point i stands among those of n.
constexpr int rank_of_point(int64_t n, int i) { return i == 0 ? 0 : rank_of_point(n, i - 1) + uses_point(n, i - 1); }

// Coefficient of input k in point i of n: the polynomial over the other finite points of n, times the factors that the weights,
// scaled for all six points, have too many.
constexpr double input_coefficient(int n, int i, int k) {
    double polynomial[kPoints] = {1, 0, 0, 0, 0, 0}, scale = 1;
    int degree = 0;
    for (int q = 0; q < kPoints - 1; q++) {
        if (q == i) continue;
        if (uses_point(n, q)) {
            for (int m = ++degree; m > 0; m--) polynomial[m] = polynomial[m - 1] - winograd_point(q) * polynomial[m];
            polynomial[0] *= -winograd_point(q);
        } else if (i < kPoints - 1) {
            scale *= winograd_point(i) - winograd_point(q);
        }
    }
    return k <= degree ? polynomial[k] * scale : 0;
}
// Coefficient of tap k of `taps` in point i.
constexpr double weight_coefficient(int taps, int i, int k) {
    if (i == kPoints - 1) return k == taps - 1 ? 1 : 0;
    double divisor = 1, power = 1;
    for (int q = 0; q < kPoints - 1; q++)
        if (q != i) divisor *= winograd_point(i) - winograd_point(q);
    for (int m = 0; m < k; m++) power *= winograd_point(i);
    return power / divisor;
}

template <int N>
struct InputCoefficients {
    double of[kPoints][kPoints];
    constexpr InputCoefficients() : of() {
        for (int i = 0; i < kPoints; i++)
            for (int k = 0; k < kPoints; k++) of[i][k] = input_coefficient(N, i, k);
    }
};

// Points come in pairs that share work: (+a, -a), (+b, -b), (0, infinity). One pair of B' d, for N points.
constexpr int kPair[3][2] = {{1, 2}, {3, 4}, {0, 5}};

template <class T, int N, int Pair>
FASTCV_INLINE void input_pair(const Vec<T> (&d)[inputs_of_points(N)], Vec<T>& first, Vec<T>& second) {
    constexpr double a = winograd_point(1), b = winograd_point(3);
    if constexpr (N == kWhole + 3) {
        const Vec<T> outer = Pair == 0 ? d[2] - d[0] : d[0] + d[2], middle = splat(T(Pair == 0 ? kInner : kOuter)) * d[1];
        first = outer + middle;
        second = outer - middle;
    } else if constexpr (N == kWhole + 2) {
        first = d[1];
        second = Pair == 0 ? d[0] : d[0] + d[1];
    } else if constexpr (N == kWhole + 1) {
        second = d[0];
    } else if constexpr (N == 6 && Pair < 2) {
        // (x^2 - other^2) x (x +- own): even and odd parts once, then their sum and difference.
        constexpr double own = Pair == 0 ? a : b, other = Pair == 0 ? b : a;
        const Vec<T> other2 = splat(T(-other * other));
        const Vec<T> even_part = fma(other2, d[2], d[4]);
        const Vec<T> odd_part = splat(T(own)) * fma(other2, d[1], d[3]);
        first = even_part + odd_part;
        second = even_part - odd_part;
    } else if constexpr (N == 6) {
        const Vec<T> product = splat(T(a * a * b * b)), sum = splat(T(-(a * a + b * b)));
        first = fma(product, d[0], fma(sum, d[2], d[4]));
        second = fma(product, d[1], fma(sum, d[3], d[5]));
    } else {
        static constexpr InputCoefficients<N> c;
        FASTCV_UNROLL for (int side = 0; side < 2; side++) {
            const int i = kPair[Pair][side];
            if (!uses_point(N, i)) continue;
            Vec<T> sum = zero<T>();
            bool begun = false;
            FASTCV_UNROLL for (int k = 0; k < N; k++) {
                if (c.of[i][k] == 0) continue;
                sum = begun ? fma(splat(T(c.of[i][k])), d[k], sum) : splat(T(c.of[i][k])) * d[k];
                begun = true;
            }
            (side ? second : first) = sum;
        }
    }
}

// One row of B' d over all points, stored to v + offset[j].
template <class T, int N>
FASTCV_INLINE void input_row(const Vec<T> (&d)[inputs_of_points(N)], T* v, const int64_t* offset) {
    Vec<T> first, second;
    if constexpr (uses_point(N, 1)) {
        input_pair<T, N, 0>(d, first, second);
        store(v + offset[1], first);
        if constexpr (uses_point(N, 2)) store(v + offset[2], second);
    }
    if constexpr (uses_point(N, 3)) {
        input_pair<T, N, 1>(d, first, second);
        store(v + offset[3], first);
        if constexpr (uses_point(N, 4)) store(v + offset[4], second);
    }
    if constexpr (uses_point(N, 5)) {
        input_pair<T, N, 2>(d, first, second);
        if constexpr (uses_point(N, 0)) store(v + offset[0], first);
        store(v + offset[5], second);
    }
}

// Three passes of two rows of points keep everything in registers (36 values at once would not).
template <class T, int NR, int NQ, int Pair>
FASTCV_INLINE void input_pass(const T* x, int64_t row, int64_t column, T* v, const int64_t* offset) {
    constexpr int rows = inputs_of_points(NR), columns = inputs_of_points(NQ);
    Vec<T> z[2][columns];
    FASTCV_UNROLL for (int j = 0; j < columns; j++) {
        Vec<T> d[rows];
        FASTCV_UNROLL for (int i = 0; i < rows; i++) d[i] = load(x + i * row + j * column);
        input_pair<T, NR, Pair>(d, z[0][j], z[1][j]);
    }
    constexpr int first = kPair[Pair][0], second = kPair[Pair][1];
    if constexpr (uses_point(NR, first)) input_row<T, NQ>(z[0], v, offset + first * kPoints);
    if constexpr (uses_point(NR, second)) input_row<T, NQ>(z[1], v, offset + second * kPoints);
}

struct TilePlace {
    int64_t input, output;  // elements into X and Z
};

// Input of `count` tiles of NR x NQ points, `row` and `column` elements from one pixel of a tile to the next.
template <class T, int NR, int NQ>
FASTCV_NOINLINE void input_tiles(const T* x, const TilePlace* tiles, int64_t count, int64_t row, int64_t column, T* v,
                                 const int64_t* offset) {
    for (int64_t t = 0; t < count; t++, v += kLanes<T>) {
        const T* tile = x + tiles[t].input;
        if constexpr (uses_point(NR, 1)) input_pass<T, NR, NQ, 0>(tile, row, column, v, offset);
        if constexpr (uses_point(NR, 3)) input_pass<T, NR, NQ, 1>(tile, row, column, v, offset);
        if constexpr (uses_point(NR, 5)) input_pass<T, NR, NQ, 2>(tile, row, column, v, offset);
    }
}

// A' m in one dimension: m at N points, y the R outputs.
template <class T, int N, int R>
FASTCV_INLINE void output_points(const Vec<T> (&m)[kPoints], Vec<T>* y) {
    if constexpr (N == 1 || N == kWhole + 1) {
        y[0] = m[5];
        return;
    }
    if constexpr (N == kWhole + 2) {
        y[0] = m[5] + m[1];
        y[1] = m[5] + m[2];
        return;
    }
    if constexpr (N == kWhole + 3) {
        const Vec<T> sum = splat(T(1 / kOuter)) * (m[3] - m[4]), difference = splat(T(1 / kInner)) * (m[1] - m[2]);
        y[0] = sum - difference;
        y[1] = (m[3] + m[4]) - (m[1] + m[2]);
        y[2] = sum + difference;
        return;
    }
    // Powers of opposite points differ in sign at odd k only.
    const Vec<T> s = N >= 3 ? m[1] + m[2] : m[1], d = N >= 3 ? m[1] - m[2] : m[1];
    const Vec<T> t = N >= 6 ? m[3] + m[4] : m[3], e = N >= 6 ? m[3] - m[4] : m[3];
    T a = 1, b = 1;
    FASTCV_UNROLL for (int k = 0; k < R; k++, a *= T(winograd_point(1)), b *= T(winograd_point(3))) {
        const Vec<T>&first = k % 2 ? d : s, &second = k % 2 ? e : t;
        Vec<T> sum = N >= 5 ? (k ? splat(b) * second : second) : zero<T>();
        if (k == R - 1) sum = N >= 5 ? (k ? fma(splat(b), second, m[5]) : second + m[5]) : m[5];
        const bool plain = N < 5 && k != R - 1;
        sum = plain ? (k ? splat(a) * first : first) : (k ? fma(splat(a), first, sum) : first + sum);
        y[k] = k == 0 && N >= 4 ? m[0] + sum : sum;
    }
}

template <class T>
struct TileEpilogue {
    Vec<T> bias;
    Activation activation;
    T slope;
};

// Outputs of `count` tiles: R x Q of them from NR x NQ points.
template <class T, int NR, int R, int NQ, int Q>
FASTCV_NOINLINE void output_tiles(const T* m, int64_t m_tile, const int64_t* offset, T* z, const TilePlace* tiles,
                                  int64_t count, int64_t row, int64_t column, const TileEpilogue<T>& epilogue) {
    for (int64_t t = 0; t < count; t++, m += m_tile) {
        Vec<T> half[R][kPoints];
        FASTCV_UNROLL for (int j = 0; j < kPoints; j++) {
            if (!uses_point(NQ, j)) continue;
            Vec<T> points[kPoints], outputs[R];
            FASTCV_UNROLL for (int i = 0; i < kPoints; i++)
                if (uses_point(NR, i)) points[i] = load(m + offset[i * kPoints + j]);
            output_points<T, NR, R>(points, outputs);
            FASTCV_UNROLL for (int i = 0; i < R; i++) half[i][j] = outputs[i];
        }
        T* to = z + tiles[t].output;
        FASTCV_UNROLL for (int i = 0; i < R; i++) {
            Vec<T> outputs[Q];
            output_points<T, NQ, Q>(half[i], outputs);
            FASTCV_UNROLL for (int j = 0; j < Q; j++)
                store(to + i * row + j * column,
                      activate<T>(outputs[j] + epilogue.bias, epilogue.activation, epilogue.slope));
        }
    }
}

// Along an axis there are two to five taps, or one. With several along both, they are equally many.
template <class T>
using InputTiles = void (*)(const T*, const TilePlace*, int64_t, int64_t, int64_t, T*, const int64_t*);
template <class T, int NR>
static InputTiles<T> find_input_tiles(int64_t nq) {
    if constexpr (NR > 1)
        if (nq == 1) return input_tiles<T, NR, 1>;
    return nq == 6   ? input_tiles<T, NR, 6>
           : nq == 5 ? input_tiles<T, NR, 5>
           : nq == 4 ? input_tiles<T, NR, 4>
           : nq == 3 ? input_tiles<T, NR, 3>
                     : input_tiles<T, NR, 2>;
}
// Phases of three along both axes, or of two and one.
template <class T>
static InputTiles<T> find_input_phases(int64_t r, int64_t q) {
    return r == 3   ? input_tiles<T, kWhole + 3, kWhole + 3>
           : r == 2 ? (q == 2 ? input_tiles<T, kWhole + 2, kWhole + 2> : input_tiles<T, kWhole + 2, kWhole + 1>)
                    : (q == 2 ? input_tiles<T, kWhole + 1, kWhole + 2> : input_tiles<T, kWhole + 1, kWhole + 1>);
}
template <class T>
static InputTiles<T> find_input_tiles(int64_t nr, int64_t nq) {
    if (nr > kWhole) return find_input_phases<T>(nr - kWhole, nq - kWhole);
    return nr == 6   ? find_input_tiles<T, 6>(nq)
           : nr == 5 ? find_input_tiles<T, 5>(nq)
           : nr == 4 ? find_input_tiles<T, 4>(nq)
           : nr == 3 ? find_input_tiles<T, 3>(nq)
           : nr == 2 ? find_input_tiles<T, 2>(nq)
                     : find_input_tiles<T, 1>(nq);
}

template <class T>
using OutputTiles = void (*)(const T*, int64_t, const int64_t*, T*, const TilePlace*, int64_t, int64_t, int64_t,
                             const TileEpilogue<T>&);
// Tiles of five outputs under two taps would be 2 to 8% faster than those of four, and have three times the error of a plain sum.
constexpr int largest_tile(int64_t taps) { return taps == 1 ? 1 : taps == 2 ? 4 : int(kPoints + 1 - taps); }
template <class T, int TR, int R, int TQ, int Q = largest_tile(TQ)>
static OutputTiles<T> find_output_tiles(int64_t q) {
    if constexpr (Q > 1)
        if (q < Q) return find_output_tiles<T, TR, R, TQ, Q - 1>(q);
    return output_tiles<T, R + TR - 1, R, Q + TQ - 1, Q>;
}
template <class T, int TR, int TQ, int R = largest_tile(TR)>
static OutputTiles<T> find_output_tiles_of_window(int64_t r, int64_t q) {
    if constexpr (R > 1)
        if (r < R) return find_output_tiles_of_window<T, TR, TQ, R - 1>(r, q);
    return find_output_tiles<T, TR, R, TQ>(q);
}
template <class T, int Taps>
static OutputTiles<T> find_output_tiles(int64_t taps_y, int64_t r, int64_t taps_x, int64_t q) {
    return taps_y == 1   ? find_output_tiles_of_window<T, 1, Taps>(r, q)
           : taps_x == 1 ? find_output_tiles_of_window<T, Taps, 1>(r, q)
                         : find_output_tiles_of_window<T, Taps, Taps>(r, q);
}
template <class T>
static OutputTiles<T> find_output_phases(int64_t r, int64_t q) {
    return r == 3   ? output_tiles<T, kWhole + 3, 3, kWhole + 3, 3>
           : r == 2 ? (q == 2 ? output_tiles<T, kWhole + 2, 2, kWhole + 2, 2> : output_tiles<T, kWhole + 2, 2, kWhole + 1, 1>)
                    : (q == 2 ? output_tiles<T, kWhole + 1, 1, kWhole + 2, 2> : output_tiles<T, kWhole + 1, 1, kWhole + 1, 1>);
}
template <class T>
static OutputTiles<T> find_output_tiles(int64_t taps_y, int64_t r, int64_t taps_x, int64_t q) {
    const int64_t taps = taps_y == 1 ? taps_x : taps_y;
    return taps == 5   ? find_output_tiles<T, 5>(taps_y, r, taps_x, q)
           : taps == 4 ? find_output_tiles<T, 4>(taps_y, r, taps_x, q)
           : taps == 3 ? find_output_tiles<T, 3>(taps_y, r, taps_x, q)
                       : find_output_tiles<T, 2>(taps_y, r, taps_x, q);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
