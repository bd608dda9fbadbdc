// Winograd's transforms of one tile: the points, B' x B on the way in and A' m A on the way out, for tiles of r x q outputs, r and
// q from 1 to 4, with channels in lanes. conv2d_winograd.hpp says how they fit together.
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
// The smallest tile that uses point i.
constexpr int smallest_tile(int i) { return i == 0 ? 2 : i == 3 ? 3 : i == 4 ? 4 : 1; }
constexpr int points_of_tile(int tile) { return tile + 2; }
// Where point i stands among those that tiles of up to `tile` outputs use.
constexpr int rank_of_point(int tile, int i) {
    int rank = 0;
    for (int j = 0; j < i; j++) rank += smallest_tile(j) <= tile;
    return rank;
}

// Coefficient of input k in point i of a tile of `tile` outputs: the polynomial over the tile's other finite points, times
// the factors that U, scaled for all of F(4)'s points, has too many.
constexpr double input_coefficient(int tile, int i, int k) {
    double polynomial[kPoints] = {1, 0, 0, 0, 0, 0}, scale = 1;
    int degree = 0;
    for (int q = 0; q < kPoints - 1; q++) {
        if (q == i) continue;
        if (smallest_tile(q) <= tile) {
            for (int m = ++degree; m > 0; m--) polynomial[m] = polynomial[m - 1] - winograd_point(q) * polynomial[m];
            polynomial[0] *= -winograd_point(q);
        } else if (i < kPoints - 1) {
            scale *= winograd_point(i) - winograd_point(q);
        }
    }
    return k <= degree ? polynomial[k] * scale : 0;
}
// Coefficient of tap k in point i.
static inline double weight_coefficient(int i, int k) {
    if (i == kPoints - 1) return k == 2 ? 1 : 0;
    double divisor = 1, power = 1;
    for (int q = 0; q < kPoints - 1; q++)
        if (q != i) divisor *= winograd_point(i) - winograd_point(q);
    for (int m = 0; m < k; m++) power *= winograd_point(i);
    return power / divisor;
}

template <int Tile>
struct InputCoefficients {
    double of[kPoints][kPoints];
    constexpr InputCoefficients() : of() {
        for (int i = 0; i < kPoints; i++)
            for (int k = 0; k < kPoints; k++) of[i][k] = input_coefficient(Tile, i, k);
    }
};

// Points come in pairs that share work: (+a, -a), (+b, -b), (0, infinity). One pair of B' d, for a tile of R outputs.
constexpr int kPair[3][2] = {{1, 2}, {3, 4}, {0, 5}};

template <class T, int R, int Pair>
FASTCV_INLINE void input_pair(const Vec<T> (&d)[R + 2], Vec<T>& first, Vec<T>& second) {
    constexpr double a = winograd_point(1), b = winograd_point(3);
    if constexpr (R == 4 && Pair < 2) {
        // (x^2 - other^2) x (x +- own): even and odd parts once, then their sum and difference.
        constexpr double own = Pair == 0 ? a : b, other = Pair == 0 ? b : a;
        const Vec<T> other2 = splat(T(-other * other));
        const Vec<T> even_part = fma(other2, d[2], d[4]);
        const Vec<T> odd_part = splat(T(own)) * fma(other2, d[1], d[3]);
        first = even_part + odd_part;
        second = even_part - odd_part;
    } else if constexpr (R == 4) {
        const Vec<T> product = splat(T(a * a * b * b)), sum = splat(T(-(a * a + b * b)));
        first = fma(product, d[0], fma(sum, d[2], d[4]));
        second = fma(product, d[1], fma(sum, d[3], d[5]));
    } else {
        static constexpr InputCoefficients<R> c;
        FASTCV_UNROLL for (int side = 0; side < 2; side++) {
            const int i = kPair[Pair][side];
            if (smallest_tile(i) > R) continue;
            Vec<T> sum = zero<T>();
            bool begun = false;
            FASTCV_UNROLL for (int k = 0; k < R + 2; k++) {
                if (c.of[i][k] == 0) continue;
                sum = begun ? fma(splat(T(c.of[i][k])), d[k], sum) : splat(T(c.of[i][k])) * d[k];
                begun = true;
            }
            (side ? second : first) = sum;
        }
    }
}

// One row of B' d over all points, stored to v + offset[j].
template <class T, int Q>
FASTCV_INLINE void input_row(const Vec<T> (&d)[Q + 2], T* v, const int64_t* offset) {
    Vec<T> first, second;
    input_pair<T, Q, 0>(d, first, second);
    store(v + offset[1], first);
    store(v + offset[2], second);
    if constexpr (Q >= 3) {
        input_pair<T, Q, 1>(d, first, second);
        store(v + offset[3], first);
        if constexpr (Q >= 4) store(v + offset[4], second);
    }
    input_pair<T, Q, 2>(d, first, second);
    if constexpr (Q >= 2) store(v + offset[0], first);
    store(v + offset[5], second);
}

// Three passes of two rows of points keep everything in registers (36 values at once would not).
template <class T, int R, int Q, int Pair>
FASTCV_INLINE void input_pass(const T* x, int64_t row, int64_t column, T* v, const int64_t* offset) {
    Vec<T> z[2][Q + 2];
    FASTCV_UNROLL for (int j = 0; j < Q + 2; j++) {
        Vec<T> d[R + 2];
        FASTCV_UNROLL for (int i = 0; i < R + 2; i++) d[i] = load(x + i * row + j * column);
        input_pair<T, R, Pair>(d, z[0][j], z[1][j]);
    }
    constexpr int first = kPair[Pair][0], second = kPair[Pair][1];
    if constexpr (smallest_tile(first) <= R) input_row<T, Q>(z[0], v, offset + first * kPoints);
    if constexpr (smallest_tile(second) <= R) input_row<T, Q>(z[1], v, offset + second * kPoints);
}

struct TilePlace {
    int64_t input, output;  // elements into X and Z
};

template <class T, int R, int Q>
FASTCV_NOINLINE void input_tiles(const T* x, const TilePlace* tiles, int64_t count, int64_t row, int64_t column, T* v,
                                 const int64_t* offset) {
    for (int64_t t = 0; t < count; t++, v += kLanes<T>) {
        const T* tile = x + tiles[t].input;
        input_pass<T, R, Q, 0>(tile, row, column, v, offset);
        if constexpr (R >= 3) input_pass<T, R, Q, 1>(tile, row, column, v, offset);
        input_pass<T, R, Q, 2>(tile, row, column, v, offset);
    }
}

// A' m in one dimension: m at the points of a tile of R, y its outputs.
template <class T, int R>
FASTCV_INLINE void output_points(const Vec<T> (&m)[kPoints], Vec<T>* y) {
    constexpr double a = winograd_point(1), b = winograd_point(3);
    const Vec<T> s = m[1] + m[2], d = m[1] - m[2];
    if constexpr (R == 4) {
        const Vec<T> t = m[3] + m[4], e = m[3] - m[4];
        y[0] = m[0] + (s + t);
        y[1] = fma(splat(T(a)), d, splat(T(b)) * e);
        y[2] = fma(splat(T(a * a)), s, splat(T(b * b)) * t);
        y[3] = fma(splat(T(a * a * a)), d, fma(splat(T(b * b * b)), e, m[5]));
    } else if constexpr (R == 3) {
        y[0] = m[0] + (s + m[3]);
        y[1] = fma(splat(T(a)), d, splat(T(b)) * m[3]);
        y[2] = fma(splat(T(a * a)), s, fma(splat(T(b * b)), m[3], m[5]));
    } else if constexpr (R == 2) {
        y[0] = m[0] + s;
        y[1] = fma(splat(T(a)), d, m[5]);
    } else {
        y[0] = s + m[5];
    }
}

template <class T>
struct TileEpilogue {
    Vec<T> bias;
    Activation activation;
    T slope;
};

template <class T, int R, int Q>
FASTCV_NOINLINE void output_tiles(const T* m, int64_t m_tile, const int64_t* offset, T* z, const TilePlace* tiles,
                                  int64_t count, int64_t row, int64_t column, const TileEpilogue<T>& epilogue) {
    for (int64_t t = 0; t < count; t++, m += m_tile) {
        Vec<T> half[R][kPoints];
        FASTCV_UNROLL for (int j = 0; j < kPoints; j++) {
            if (smallest_tile(j) > Q) continue;
            Vec<T> points[kPoints], outputs[R];
            FASTCV_UNROLL for (int i = 0; i < kPoints; i++)
                if (smallest_tile(i) <= R) points[i] = load(m + offset[i * kPoints + j]);
            output_points<T, R>(points, outputs);
            FASTCV_UNROLL for (int i = 0; i < R; i++) half[i][j] = outputs[i];
        }
        T* to = z + tiles[t].output;
        FASTCV_UNROLL for (int i = 0; i < R; i++) {
            Vec<T> outputs[Q];
            output_points<T, Q>(half[i], outputs);
            FASTCV_UNROLL for (int j = 0; j < Q; j++)
                store(to + i * row + j * column,
                      activate<T>(outputs[j] + epilogue.bias, epilogue.activation, epilogue.slope));
        }
    }
}

template <class T>
using InputTiles = void (*)(const T*, const TilePlace*, int64_t, int64_t, int64_t, T*, const int64_t*);
template <class T>
using OutputTiles = void (*)(const T*, int64_t, const int64_t*, T*, const TilePlace*, int64_t, int64_t, int64_t,
                             const TileEpilogue<T>&);
template <class T, int R>
static InputTiles<T> find_input_tiles(int64_t q) {
    return q == 4 ? input_tiles<T, R, 4> : q == 3 ? input_tiles<T, R, 3> : q == 2 ? input_tiles<T, R, 2> : input_tiles<T, R, 1>;
}
template <class T>
static InputTiles<T> find_input_tiles(int64_t r, int64_t q) {
    return r == 4   ? find_input_tiles<T, 4>(q)
           : r == 3 ? find_input_tiles<T, 3>(q)
           : r == 2 ? find_input_tiles<T, 2>(q)
                    : find_input_tiles<T, 1>(q);
}
template <class T, int R>
static OutputTiles<T> find_output_tiles(int64_t q) {
    return q == 4 ? output_tiles<T, R, 4> : q == 3 ? output_tiles<T, R, 3> : q == 2 ? output_tiles<T, R, 2> : output_tiles<T, R, 1>;
}
template <class T>
static OutputTiles<T> find_output_tiles(int64_t r, int64_t q) {
    return r == 4   ? find_output_tiles<T, 4>(q)
           : r == 3 ? find_output_tiles<T, 3>(q)
           : r == 2 ? find_output_tiles<T, 2>(q)
                    : find_output_tiles<T, 1>(q);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
