// Scaled dot product attention, fused: scores live in a strip of a few rows and never reach main memory.
//
//   x[l][j] = scale * sum over e of query[l][e] key[j][e]       then, where asked for, softcap * tanh(x / softcap),
//             plus the mask, and -infinity for keys that the query does not see
//   lse[l]  = log(sum over j of exp(x[l][j]))
//   output[l][f] = sum over j of exp(x[l][j] - lse[l]) value[j][f]
//
// query (N, H G, L, E), key (N, H, S, E), value (N, H, S, F), output (N, H G, L, F): G heads of queries share one of keys, and
// count as G L rows here.
//
//          keys of a block, packed                   values of the block, as they lie
//        +--------+--------+-----            +--------+--------+
//        | E x 16 | E x 16 |                 |        |        |
//        +--------+--------+-----        keys|        |        |
//            v        v                      |        |        |
//        +--------+--------+-----            +--------+--------+
//  8 rows| scores | scores |     -> exp2 ->  weights times values, added to the output's 8 rows
//        +--------+--------+-----
//
// A work item is some rows of a head. For each block of keys, it packs the keys with keys in lanes, and takes its rows eight at
// a time: a product gives their scores (queries were multiplied by scale * log2(e)), which are masked, and whose largest are
// found, while they are in registers; a pass over the strip, which lies in the first-level cache, takes powers of two; and a
// second product adds to the output. Both products are `strided_product` of tiles.h. Where rows see different keys, or a
// softcap bends the scores, a pass over the strip masks them. Maxima and sums of eight rows are brought from lanes to rows
// together. Masking in registers, and that, took 64 x 4 windows of 49 x 32 with a bias from 0.89 to 0.79 ms on two threads, 12
// x 197 x 64 from 0.72 to 0.63, 8 x 850 x 32 from 4.19 to 4.09; there the products alone are 80% of the time, at the machine's
// peak. Each row keeps its maximum and the sum of its weights; when a block raises the maximum, the row's output so far is
// scaled down as the product reads it.
//
// The maximum is rounded up to an integer, so that scaling by it is exact: weights depend on their own scores alone, but for a
// power of two that cancels. So neither the division into blocks nor a key that is hidden can change a bit of a row's result,
// and rows, heads and samples may go to any thread.
//
// Up to three rows, as in decoding, share too little of a packed key. Keys and values are read where they lie, once and in
// order, and a work item is a part of 512 keys of a head; `join_parts` adds the parts' outputs in their order, each times a
// power of two. So one head keeps all threads busy, and bits depend neither on threads nor on the number of keys: 16 x 1 x 4096
// x 64 took 0.97 ms, and takes 0.55.
//
// A key whose weight is zero takes no part, whatever its value holds. The products multiply by zero all the same; a block that
// has a value which is not finite (of few rows: whose output is not) goes through a slower loop that leaves such keys out.
#pragma once

#include "scaled_dot_product_attention_parts.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct AttentionCall {
    const AttentionShape& s;
    const HeadTensor &query, &key, &value;
    AttentionMask mask_kind;
    const HeadTensor& mask;
    T *output, *lse, *weights;

    int64_t E, F;           // columns, padded to whole vectors
    Parts tiles;            // of a head's rows
    int64_t chunk;          // tiles of a work item at most
    int64_t block, pitch;   // keys; elements from one row of scores to the next

    // Of few rows, items are parts of a head's keys, whose results are put together in their order. Parts begin at multiples of
    // kPartKeys, whatever the number of keys, so that hidden ones change no bit. With four rows packing pays already.
    static constexpr int64_t kPartKeys = 512;
    bool few_rows() const {
        constexpr int64_t element = sizeof(T);
        return s.G * s.L <= 3 && s.E == E && s.F == F && s.E > 0 && key.stride_bytes[2] == element &&
               value.stride_bytes[2] == element;
    }
    int64_t parts() const { return few_rows() ? larger(1, ceil_div(s.S, kPartKeys)) : 1; }
};

// A row of an item: the keys that it sees, its mask, and how far its softmax has come.
template <class T>
struct AttentionRow {
    KeyRange seen;
    const char* mask;
    int64_t head, query;  // of all heads, for dropout
    T largest, sum;
};

// A thread's scratch.
template <class T>
struct AttentionMemory {
    T *queries, *keys, *values, *scores, *bias, *kept;
    AttentionRow<T>* rows;
    uint8_t* begun;          // of each tile: its output has been written
    AttentionMemory(const AttentionCall<T>& c, ScratchCut& cut) {
        const int64_t most = c.chunk * ProductTiles::rows;
        queries = cut.take<T>(most * c.E);
        keys = cut.take<T>(c.few_rows() ? 0 : c.block * c.E);
        values = cut.take<T>(c.few_rows() ? 0 : c.block * c.F);
        scores = cut.take<T>(ProductTiles::rows * c.pitch);
        bias = cut.take<T>(c.block);
        kept = cut.take<T>(c.block);
        rows = cut.take<AttentionRow<T>>(most);
        begun = cut.take<uint8_t>(c.chunk);
    }
};

// A row's scores, masked, in place; returns the largest of each lane. A NaN is not noticed here: it makes the sum of weights NaN.
template <class T>
FASTCV_INLINE Vec<T> largest_scores(T* x, int64_t width, const T* bias, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    const Vec<T> hidden = splat(-kInfinity<T>), log2e = splat(T(kLog2E));
    Vec<T> largest = hidden;
    if (!bias) {
        for (int64_t i = 0; i < width; i += L) largest = upper(load(x + i), largest);
        return largest;
    }
    for (int64_t i = 0; i < keys; i += L) {
        const Vec<T> add = i + L <= keys ? load(bias + i) : load_first(bias + i, keys - i);
        Vec<T> score = fma(add, log2e, load(x + i));
        score = add == hidden ? hidden : score;
        store(x + i, score);
        largest = upper(score, largest);
    }
    return largest;
}

// Scores of a tile whose rows see all `keys` keys, with an additive mask or none: masked, and their largest found, while they are
// in registers. The lanes behind the last key become -infinity.
template <class T, int MT, int NV>
FASTCV_NOINLINE void score_tile(const Operands<T>& o, int64_t depth, T* out, int64_t out_stride, const T* const* bias,
                                int64_t bias_offset, int64_t keys, Vec<T>* largest) {
    constexpr int L = kLanes<T>;
    const Vec<T> hidden = splat(-kInfinity<T>), log2e = splat(T(kLog2E));
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    strided_product<T, MT, NV>(acc, depth, o);
    if (bias)
        FASTCV_UNROLL for (int i = 0; i < MT; i++) FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            const Vec<T> add = load_first(bias[i] + bias_offset + j * L, keys - j * L);
            acc[i][j] = add == hidden ? hidden : fma(add, log2e, acc[i][j]);
        }
    const int64_t last = keys - (NV - 1) * L;
    if (last < L)
        FASTCV_UNROLL for (int i = 0; i < MT; i++) acc[i][NV - 1] = lane_numbers<T>() >= T(last) ? hidden : acc[i][NV - 1];
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        Vec<T> most = largest[i];
        FASTCV_UNROLL for (int j = 0; j < NV; j++) {
            store(out + i * out_stride + j * L, acc[i][j]);
            most = upper(acc[i][j], most);
        }
        largest[i] = most;
    }
}
template <class T>
struct ScoreTile {
    template <int MT, int NV>
    static constexpr auto tile = &score_tile<T, MT, NV>;
};
template <class T>
static void masked_scores(int64_t rows, int64_t keys, int64_t depth, const Operands<T>& o, T* out, int64_t out_stride,
                          const T* const* bias, Vec<T>* largest) {
    constexpr int64_t L = kLanes<T>;
    const Parts passes(ceil_div(keys, L), ProductTiles::vectors);
    for (int64_t p = 0; p < passes.number; p++) {
        const int64_t v = passes.begin(p), n = passes.begin(p + 1) - v;
        const Operands<T> tile{o.rows, o.row_stride, o.row_step, o.columns + v * o.vector_stride, o.vector_stride, o.column_step};
        find_tile<ScoreTile<T>>(rows, n)(tile, depth, out + v * L, out_stride, bias, v * L, keys - v * L, largest);
    }
}

// Scores become weights 2^(x - shift); returns the sum of each lane.
template <class T>
FASTCV_INLINE Vec<T> weigh(T* x, int64_t width, T shift) {
    constexpr int64_t L = kLanes<T>;
    if (!(shift >= -kLargestShift<T> && shift <= kLargestShift<T>)) {
        // A shift too large to be kept apart is subtracted first: the scores are as coarse there.
        for (int64_t i = 0; i < width; i += L) store(x + i, load(x + i) - shift);
        shift = 0;
    }
    const Vec<T> power = splat(shift);
    Vec<T> sum = zero<T>();
    for (int64_t i = 0; i < width; i += L) {
        const Vec<T> weight = exp2_shifted<T>(load(x + i), power);
        store(x + i, weight);
        sum += weight;
    }
    return sum;
}
static inline float round_up_to_integer(float x) { return __builtin_ceilf(x); }
static inline double round_up_to_integer(double x) { return __builtin_ceil(x); }

// 2^-n, the factor by which a maximum raised by an integer n lowers what has been summed; n may be infinite.
template <class T>
static T power_of_minus(T n) {
    return n < 120 ? T(1) / T(int64_t(1) << int64_t(n < 60 ? n : T(60))) / T(int64_t(1) << int64_t(n < 60 ? T(0) : n - 60)) : T(0);
}

// A few rows against keys that are read where they lie: packing them would cost more than the sums over lanes that it saves.
// Keys are read in the order of memory, four at a time, and asked for kAhead keys early. Needs whole vectors of columns.
constexpr int64_t kAhead = 16;
template <class T>
static void dot_scores(T* scores, int64_t pitch, const T* queries, int64_t columns, int64_t rows, const char* key,
                       int64_t key_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>, kTogether = L < 4 ? L : 4;
    for (int64_t j = 0; j < keys; j += L)
        for (int64_t i = 0; i < rows; i++) {
            Vec<T> sums[L];
            FASTCV_UNROLL for (int64_t k = 0; k < L; k += kTogether) {
                // Behind the last key, the last one is read again: what it gives is hidden.
                const T* from[kTogether];
                FASTCV_UNROLL for (int64_t g = 0; g < kTogether; g++) {
                    from[g] = reinterpret_cast<const T*>(key + smaller(j + k + g, keys - 1) * key_bytes);
                    sums[k + g] = zero<T>();
                }
                for (int64_t e = 0; e < columns; e += L) {
                    const Vec<T> q = load(queries + i * columns + e);
                    FASTCV_UNROLL for (int64_t g = 0; g < kTogether; g++) {
                        __builtin_prefetch(reinterpret_cast<const char*>(from[g] + e) + kAhead * key_bytes);
                        sums[k + g] = fma(load(from[g] + e), q, sums[k + g]);
                    }
                }
            }
            transpose<T>(sums);
            FASTCV_UNROLL for (int64_t width = L / 2; width > 0; width /= 2)
                FASTCV_UNROLL for (int64_t k = 0; k < width; k++) sums[k] += sums[k + width];
            store(scores + i * pitch + j, sums[0]);
        }
}
// out[..] = the sum over keys of weights[j] value[j][..] for a few vectors of columns, values read where they lie: four sums of
// every fourth key, so that none waits for itself.
constexpr int kKeySums = 4;
template <class T, int NV, bool kCare>
static void weighted_values(T* out, const T* weights, const char* value, int64_t value_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    Vec<T> sums[kKeySums][NV];
    clear_tile<T, kKeySums, NV>(sums);
    const auto add = [&](int64_t j, Vec<T>(&sum)[NV]) {
        if (kCare && weights[j] == 0) return;
        const T* row = reinterpret_cast<const T*>(value + j * value_bytes);
        const Vec<T> weight = splat(weights[j]);
        FASTCV_UNROLL for (int v = 0; v < NV; v++) {
            __builtin_prefetch(reinterpret_cast<const char*>(row + v * L) + kAhead * value_bytes);
            sum[v] = fma(load(row + v * L), weight, sum[v]);
        }
    };
    int64_t j = 0;
    for (; j + kKeySums <= keys; j += kKeySums) FASTCV_UNROLL for (int k = 0; k < kKeySums; k++) add(j + k, sums[k]);
    FASTCV_UNROLL for (int k = 0; k < kKeySums - 1; k++)
        if (j + k < keys) add(j + k, sums[k]);
    FASTCV_UNROLL for (int v = 0; v < NV; v++) store(out + v * L, (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]));
}
// The same for whole rows; with care, values whose weight is zero are left out. Returns whether all is finite.
template <class T, bool kCare>
static bool few_rows_of_values(T* out, int64_t columns, int64_t rows, const T* weights, int64_t pitch, const char* value,
                               int64_t value_bytes, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    constexpr int NV = kManyRegisters ? 4 : 2;
    Vec<T> seen = zero<T>();
    for (int64_t i = 0; i < rows; i++) {
        T* to = out + i * columns;
        int64_t f = 0;
        for (; f + NV * L <= columns; f += NV * L)
            weighted_values<T, NV, kCare>(to + f, weights + i * pitch, value + f * int64_t(sizeof(T)), value_bytes, keys);
        for (; f < columns; f += L)
            weighted_values<T, 1, kCare>(to + f, weights + i * pitch, value + f * int64_t(sizeof(T)), value_bytes, keys);
        for (f = 0; f < columns; f += L) seen = fma(load(to + f), zero<T>(), seen);
    }
    const T sum = lanes_sum<T>(seen);
    return sum == sum;
}

// A block of keys and values as an item works on it.
template <class T>
struct AttentionBlock {
    int64_t key, keys;
    RowBlock<T> values;
    const char *in_place, *values_in_place;  // where few rows read them, or null: keys have been packed
    bool finite;  // the values are
    bool whole;   // it holds all keys that the item's rows see
};

// Values of keys whose weight is zero left out.
template <class T>
static void add_values_with_care(int64_t rows, int64_t columns, int64_t keys, const T* weights, int64_t pitch,
                                 const RowBlock<T>& values, T* out, const T* start, const T* end) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t i = 0; i < rows; i++) {
        T* to = out + i * columns;
        for (int64_t f = 0; f < columns; f++) to[f] = start ? to[f] * start[i] : T(0);
        for (int64_t j = 0; j < keys; j++) {
            const T weight = weights[i * pitch + j];
            if (weight == 0) continue;
            const T* from = values.data + j * values.stride;
            for (int64_t f = 0; f < columns; f += L) {
                const int64_t lanes = columns - f;
                store_first(to + f, fma(splat(weight), load(from + f), load_first(to + f, lanes)), lanes);
            }
        }
        for (int64_t f = 0; f < columns; f++) to[f] *= end ? end[i] : T(1);
    }
}

// One tile of rows against one block of keys.
template <class T>
static void attention_tile(const AttentionCall<T>& c, const AttentionMemory<T>& m, MaskRows<T>& mask, const Dropout<T>& dropout,
                           int64_t n, int64_t head, int64_t first_tile, int64_t tile, const AttentionBlock<T>& b, T* item_output) {
    constexpr int64_t L = kLanes<T>, kAligned = L > kKeySums ? L : kKeySums;
    const AttentionShape& s = c.s;
    const int64_t row = c.tiles.begin(tile), rows = c.tiles.begin(tile + 1) - row;
    const int64_t local = row - c.tiles.begin(first_tile), key_end = b.key + b.keys;
    uint8_t& begun = m.begun[tile - first_tile];
    AttentionRow<T>* const state = m.rows + local;
    int64_t first = key_end, last = b.key;
    for (int64_t i = 0; i < rows; i++) {
        const KeyRange seen = clipped(state[i].seen, b.key, key_end);
        if (seen.first == seen.last) continue;
        first = smaller(first, seen.first);
        last = larger(last, seen.last);
    }
    if (first >= last) return;
    first = b.key + (first - b.key) / kAligned * kAligned;
    const int64_t depth = last - first, width = round_up(depth, L), offset = first - b.key;

    bool plain = s.softcap <= 0 && !b.in_place && mask.in_place();
    for (int64_t i = 0; i < rows; i++) plain = plain && state[i].seen.first <= first && state[i].seen.last >= last;
    Vec<T> of_lanes[kReducedRows];
    FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) of_lanes[i] = splat(-kInfinity<T>);
    const Operands<T> products{m.queries + local * c.E, c.E, 1, m.keys + offset * c.E, c.E * L, L};
    if (plain) {
        const T* bias[ProductTiles::rows];
        if (mask.any())
            for (int64_t i = 0; i < rows; i++) bias[i] = mask.row(state[i].mask, first, depth);
        masked_scores<T>(rows, depth, s.E, products, m.scores, c.pitch, mask.any() ? bias : nullptr, of_lanes);
    } else if (b.in_place) {
        dot_scores<T>(m.scores, c.pitch, m.queries + local * c.E, c.E, rows, b.in_place + offset * c.key.stride_bytes[1],
                      c.key.stride_bytes[1], depth);
    } else {
        multiply<T>(rows, width, s.E, products, m.scores, c.pitch, nullptr);
    }
    const int64_t flat = (n * s.H + head) * s.G * s.L + row;
    T start[ProductTiles::rows], end[ProductTiles::rows], found[kReducedRows];
    static_assert(ProductTiles::rows <= kReducedRows);
    for (int64_t i = 0; i < rows && !plain; i++) {
        T* x = m.scores + i * c.pitch;
        if (s.softcap > 0) cap_scores<T>(x, width, T(s.softcap * kLog2E));
        const KeyRange seen = clipped(state[i].seen, first, last);
        if (seen.first > first || seen.last < first + width)
            fill_outside<T>(x, seen.first - first, seen.last - first, width, -kInfinity<T>);
        of_lanes[i] = largest_scores<T>(x, width, mask.any() ? mask.row(state[i].mask, first, depth) : nullptr, depth);
    }
    reduce_lanes<T>(found, of_lanes, [](Vec<T> a, Vec<T> b) { return upper(a, b); });
    for (int64_t i = 0; i < rows; i++) {
        AttentionRow<T>& r = state[i];
        const T largest = round_up_to_integer(found[i]);
        start[i] = largest > r.largest ? power_of_minus<T>(largest - r.largest) : T(1);
        r.largest = largest > r.largest ? largest : r.largest;
    }
    FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) of_lanes[i] = zero<T>();
    for (int64_t i = 0; i < rows; i++) {
        T* x = m.scores + i * c.pitch;
        if (c.weights) {
            T* to = c.weights + (flat + i) * s.S + first;
            for (int64_t j = 0; j < depth; j += L) store_first(to + j, load(x + j), depth - j);
        }
        of_lanes[i] = weigh<T>(x, width, state[i].largest == -kInfinity<T> ? T(0) : state[i].largest);
    }
    reduce_lanes<T>(found, of_lanes, [](Vec<T> a, Vec<T> b) { return a + b; });
    for (int64_t i = 0; i < rows; i++) {
        AttentionRow<T>& r = state[i];
        r.sum = r.sum * start[i] + found[i];
        end[i] = r.sum == 0 ? T(0) : 1 / r.sum;
        if (dropout.drops()) {
            T* x = m.scores + i * c.pitch;
            dropout.factors(m.kept, r.head, r.query, first, depth);
            for (int64_t j = 0; j < depth; j++) x[j] *= m.kept[j];
        }
    }
    T* out = item_output + local * s.F;
    const T *const before = begun ? start : nullptr, *const after = b.whole ? end : nullptr;
    if (b.in_place) {
        const int64_t value_bytes = c.value.stride_bytes[1];
        const char* const value = b.values_in_place + offset * value_bytes;
        if (!few_rows_of_values<T, false>(out, s.F, rows, m.scores, c.pitch, value, value_bytes, depth))
            few_rows_of_values<T, true>(out, s.F, rows, m.scores, c.pitch, value, value_bytes, depth);
    } else {
        const RowBlock<T> values{b.values.data + offset * b.values.stride, b.values.stride};
        if (b.finite)
            multiply<T>(rows, s.F, depth, {m.scores, c.pitch, 1, values.data, L, values.stride}, out, s.F, before, after);
        else
            add_values_with_care<T>(rows, s.F, depth, m.scores, c.pitch, values, out, before, after);
    }
    begun = 1;
}

// Divides by the sums, unless the last block has done so, and writes what else was asked for.
template <class T>
static void finish_tile(const AttentionCall<T>& c, const AttentionMemory<T>& m, const Dropout<T>& dropout, int64_t n, int64_t head,
                        int64_t first_tile, int64_t tile, bool divided) {
    constexpr int64_t L = kLanes<T>;
    const AttentionShape& s = c.s;
    const int64_t row = c.tiles.begin(tile), rows = c.tiles.begin(tile + 1) - row, local = row - c.tiles.begin(first_tile);
    const bool begun = m.begun[tile - first_tile];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t flat = (n * s.H + head) * s.G * s.L + row + i;
        const T sum = m.rows[local + i].sum, largest = m.rows[local + i].largest, inverse = sum == 0 ? T(0) : 1 / sum;
        T* out = c.output + flat * s.F;
        if (!begun)
            for (int64_t f = 0; f < s.F; f++) out[f] = 0;
        else if (!divided)
            for (int64_t f = 0; f < s.F; f += L) store_first(out + f, load_first(out + f, s.F - f) * inverse, s.F - f);
        if (c.lse) {
            // The sum's own power of two joins the maximum's, so that the result does not depend on the maximum.
            int exponent = 0;
            const double fraction = frexp(double(sum), &exponent);
            c.lse[flat] = sum == 0 ? -kInfinity<T> : T((double(largest) + exponent) * kLn2 + log(fraction));
        }
        if (!c.weights) continue;
        T* weight = c.weights + flat * s.S;
        for (int64_t j = 0; j < s.S; j += c.block) {
            const int64_t keys = smaller(c.block, s.S - j);
            for (int64_t k = 0; k < keys; k += L) store(m.scores + k, load_first(weight + j + k, keys - k));
            weigh<T>(m.scores, round_up(keys, L), largest == -kInfinity<T> ? T(0) : largest);
            if (dropout.drops()) dropout.factors(m.kept, flat / s.L, flat % s.L, j, keys);
            for (int64_t k = 0; k < keys; k++) weight[j + k] = m.scores[k] * inverse * (dropout.drops() ? m.kept[k] : T(1));
        }
    }
}

// Rows of tiles first .. last - 1 of a head get ready for `keys`; returns those of them that any row sees.
template <class T>
static KeyRange begin_rows(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, int64_t first,
                           int64_t last, KeyRange keys) {
    const AttentionShape& s = c.s;
    const int64_t row = c.tiles.begin(first), rows = c.tiles.begin(last) - row;
    KeyRange range{keys.last, keys.first};
    const bool bounded = s.left >= 0 || s.right >= 0;
    const KeyRange all = clipped(visible_keys(s, n, 0), keys.first, keys.last);
    const char* query_data = query_row(s, c.query, n, head, row);
    const char* mask_data = c.mask_kind == AttentionMask::none ? nullptr : query_row(s, c.mask, n, head, row);
    int64_t group = row / s.L, query = row % s.L;
    for (int64_t i = 0; i < rows; i++) {
        AttentionRow<T>& r = m.rows[i];
        copy_padded<T>(m.queries + i * c.E, query_data, c.query.stride_bytes[2], s.E, T(s.scale * kLog2E));
        r.seen = bounded ? clipped(visible_keys(s, n, query), keys.first, keys.last) : all;
        if (r.seen.first < r.seen.last) range = {smaller(range.first, r.seen.first), larger(range.last, r.seen.last)};
        r.mask = mask_data;
        r.head = (n * s.H + head) * s.G + group, r.query = query;
        r.largest = -kInfinity<T>, r.sum = 0;
        query_data += c.query.stride_bytes[1];
        if (mask_data) mask_data += c.mask.stride_bytes[1];
        if (++query == s.L && i + 1 < rows) {
            query = 0, group++;
            query_data = query_row(s, c.query, n, head, row + i + 1);
            if (mask_data) mask_data = query_row(s, c.mask, n, head, row + i + 1);
        }
    }
    if (c.weights)
        for (int64_t i = 0; i < rows; i++) {
            T* weight = c.weights + ((n * s.H + head) * s.G * s.L + row + i) * s.S;
            for (int64_t j = keys.first; j < keys.last; j++) weight[j] = -kInfinity<T>;
        }
    for (int64_t t = first; t < last; t++) m.begun[t - first] = 0;
    return range;
}

// Rows of tiles first .. last - 1 of a head.
template <class T>
static void attention_item(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, int64_t first,
                           int64_t last) {
    const AttentionShape& s = c.s;
    const Dropout<T> dropout(s);
    const KeyRange range = begin_rows<T>(c, m, n, head, first, last, {0, s.S});
    T* const output = c.output + ((n * s.H + head) * s.G * s.L + c.tiles.begin(first)) * s.F;
    AttentionBlock<T> b{};
    MaskRows<T> mask(c.mask_kind, c.mask, m.bias);
    for (b.key = range.first / c.block * c.block; b.key < range.last; b.key += c.block) {
        b.keys = smaller(c.block, range.last - b.key);
        b.whole = range.first >= b.key && range.last == b.key + b.keys;
        pack_lanes<T>(m.keys, key_row(s, c.key, n, head, b.key), c.key, b.keys, s.E);
        b.values = row_block<T>(m.values, key_row(s, c.value, n, head, b.key), c.value, b.keys, s.F);
        b.finite = rows_finite<T>(b.values, b.keys, s.F);
        for (int64_t t = first; t < last; t++) attention_tile<T>(c, m, mask, dropout, n, head, first, t, b, output);
    }
    const bool divided = range.last <= range.first / c.block * c.block + c.block;
    for (int64_t t = first; t < last; t++) finish_tile<T>(c, m, dropout, n, head, first, t, divided);
}

// What a part of the keys gives to few rows: the output before division, then for each row its maximum and its sum.
template <class T>
static T* part_result(const AttentionCall<T>& c, T* parts, int64_t head, int64_t part) {
    return parts + (head * c.parts() + part) * c.tiles.size * (c.F + 2);
}
template <class T>
static void attention_part(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, int64_t part,
                           T* output) {
    const AttentionShape& s = c.s;
    const int64_t rows = c.tiles.size, first = part * c.kPartKeys, last = smaller(s.S, first + c.kPartKeys);
    const KeyRange range = begin_rows<T>(c, m, n, head, 0, 1, {first, last});
    for (int64_t i = 0; i < rows * c.F; i++) output[i] = 0;
    if (range.first < range.last) {
        AttentionBlock<T> b{};
        MaskRows<T> mask(c.mask_kind, c.mask, m.bias);
        b.key = first, b.keys = range.last - first;
        b.in_place = key_row(s, c.key, n, head, first), b.values_in_place = key_row(s, c.value, n, head, first);
        attention_tile<T>(c, m, mask, Dropout<T>(s), n, head, 0, 0, b, output);
    }
    for (int64_t i = 0; i < rows; i++) {
        output[rows * c.F + 2 * i] = m.rows[i].largest;
        output[rows * c.F + 2 * i + 1] = m.rows[i].sum;
    }
}
// Puts the parts of a head together, in their order.
template <class T>
static void join_parts(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, T* parts) {
    const AttentionShape& s = c.s;
    const int64_t rows = c.tiles.size, state = rows * c.F;
    for (int64_t i = 0; i < rows; i++) {
        T* const out = c.output + ((n * s.H + head) * rows + i) * s.F;
        T largest = -kInfinity<T>, sum = 0;
        for (int64_t p = 0; p < c.parts(); p++) {
            const T own = part_result<T>(c, parts, n * s.H + head, p)[state + 2 * i];
            largest = own > largest ? own : largest;
        }
        for (int64_t f = 0; f < s.F; f++) out[f] = 0;
        for (int64_t p = 0; p < c.parts(); p++) {
            const T* from = part_result<T>(c, parts, n * s.H + head, p);
            const T factor = power_of_minus<T>(largest == from[state + 2 * i] ? T(0) : largest - from[state + 2 * i]);
            sum += factor * from[state + 2 * i + 1];
            for (int64_t f = 0; f < s.F; f++) out[f] += factor * from[i * c.F + f];
        }
        m.rows[i].largest = largest, m.rows[i].sum = sum;
    }
    m.begun[0] = 1;
    finish_tile<T>(c, m, Dropout<T>(s), n, head, 0, 0, false);
}

template <class T>
static Status attention_of(const AttentionShape& s, const HeadTensor& query, const HeadTensor& key, const HeadTensor& value,
                           AttentionMask mask_kind, const HeadTensor& mask, T* output, T* lse, T* weights) {
    constexpr int64_t L = kLanes<T>, kItemBytes = 256 << 10, kBlockBytes = 512 << 10;
    AttentionCall<T> c{s, query, key, value, mask_kind, mask, output, lse, weights, round_up(s.E, L), round_up(s.F, L), Parts(s.G * s.L, ProductTiles::rows),
                       0, 0, 0};
    const int64_t heads = s.N * s.H, rows = s.G * s.L;
    if (heads == 0 || rows == 0) return Status::ok;
    // For few rows, reading a key and its value counts, which takes as long as some ten rows' sums.
    const int threads = threads_for(2.0 * double(heads) * double(larger(rows, 8)) * double(s.S) * double(s.E + s.F));
    const bool few = c.few_rows();
    c.block = few ? c.kPartKeys : keys_per_block<T>(s, kBlockBytes, 512);
    c.pitch = c.block + L;  // so that rows do not all start in one set of the cache
    // Items of at most 256 rows, of fewer where rows are long or threads many. Each packs its keys anew.
    const int64_t most = larger(8, smaller(32, kItemBytes / int64_t(sizeof(T)) / larger(1, c.E + c.F) / ProductTiles::rows));
    const int64_t chunks = larger(ceil_div(c.tiles.number, most), smaller(ceil_div(4 * threads, heads), ceil_div(c.tiles.number, 8)));
    c.chunk = ceil_div(c.tiles.number, chunks);
    const int64_t items = heads * (few ? c.parts() : chunks);

    ScratchCut size(nullptr), shared(nullptr);
    AttentionMemory<T>(c, size);
    if (few) shared.take<T>(items * rows * (c.F + 2));
    const Scratch scratch(shared.bytes() + size.bytes() * threads);
    if (!scratch.data()) return Status::out_of_memory;
    T* const parts = reinterpret_cast<T*>(scratch.data());
    int64_t next = 0, next_joined = 0;
    parallel(threads, [&](const Team& team) {
        ScratchCut cut(scratch.data() + shared.bytes() + team.id * size.bytes());
        const AttentionMemory<T> m(c, cut);
        if (few) {
            take_items(next, items, [&](int64_t item) {
                const int64_t head = item / c.parts(), part = item % c.parts();
                attention_part<T>(c, m, head / s.H, head % s.H, part, part_result<T>(c, parts, head, part));
            });
            team.wait_for_all();
            take_items(next_joined, heads, [&](int64_t head) { join_parts<T>(c, m, head / s.H, head % s.H, parts); });
            return;
        }
        take_items(next, items, [&](int64_t item) {
            const int64_t head = item / chunks, chunk = item % chunks;
            attention_item<T>(c, m, head / s.H, head % s.H, c.tiles.number * chunk / chunks, c.tiles.number * (chunk + 1) / chunks);
        });
    });
    return Status::ok;
}

static Status attention(const AttentionShape& s, int itemsize, const HeadTensor& query, const HeadTensor& key,
                        const HeadTensor& value, AttentionMask mask_kind, const HeadTensor& mask, void* output, void* lse,
                        void* weights) {
    if (itemsize == 4)
        return attention_of<float>(s, query, key, value, mask_kind, mask, static_cast<float*>(output), static_cast<float*>(lse),
                                   static_cast<float*>(weights));
    return attention_of<double>(s, query, key, value, mask_kind, mask, static_cast<double*>(output), static_cast<double*>(lse),
                                static_cast<double*>(weights));
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
