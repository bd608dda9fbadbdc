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
// a time: a product gives their scores (queries were multiplied by scale * log2(e)), passes over each row of the strip, which
// lies in the first-level cache, mask it and take its maximum and powers of two, and a second product adds to the output. Both
// products are `strided_product` of tiles.h. Each row keeps its maximum and the sum of its weights; when a block raises
// the maximum, the row's output so far is scaled down as the product reads it.
//
// The maximum is rounded up to an integer, so that scaling by it is exact: weights depend on their own scores alone, but for a
// power of two that cancels. So neither the division into blocks nor a key that is hidden can change a bit of a row's result, and
// rows, heads and samples may go to any thread.
//
// A key whose weight is zero takes no part, whatever its value holds. The products multiply by zero all the same; a block that
// has a value which is not finite goes through a slower loop that leaves such keys out.
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

    // With four rows packing pays already.
    bool few_rows() const { return s.G * s.L <= 3 && s.E == E && s.E > 0 && key.stride_bytes[2] == int64_t(sizeof(T)); }
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
        keys = cut.take<T>(c.block * c.E);
        values = cut.take<T>(c.block * c.F);
        scores = cut.take<T>(ProductTiles::rows * c.pitch);
        bias = cut.take<T>(c.block);
        kept = cut.take<T>(c.block);
        rows = cut.take<AttentionRow<T>>(most);
        begun = cut.take<uint8_t>(c.chunk);
    }
};

// A row's scores, masked, in place; returns the largest. A NaN is not noticed here: it makes the sum of weights NaN.
template <class T>
static T largest_score(T* x, int64_t width, const T* bias, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    const Vec<T> hidden = splat(-kInfinity<T>), log2e = splat(T(kLog2E));
    Vec<T> largest = hidden;
    if (!bias) {
        for (int64_t i = 0; i < width; i += L) {
            const Vec<T> score = load(x + i);
            largest = score > largest ? score : largest;
        }
        return lanes_largest<T>(largest);
    }
    for (int64_t i = 0; i < keys; i += L) {
        const Vec<T> add = i + L <= keys ? load(bias + i) : load_first(bias + i, keys - i);
        Vec<T> score = fma(add, log2e, load(x + i));
        score = add == hidden ? hidden : score;
        store(x + i, score);
        largest = score > largest ? score : largest;
    }
    return lanes_largest<T>(largest);
}

// Scores become weights 2^(x - shift); returns their sum.
template <class T>
static T weigh(T* x, int64_t width, T shift) {
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
    return lanes_sum<T>(sum);
}
static inline float round_up_to_integer(float x) { return __builtin_ceilf(x); }
static inline double round_up_to_integer(double x) { return __builtin_ceil(x); }

// 2^-n, the factor by which a maximum raised by an integer n lowers what has been summed; n may be infinite.
template <class T>
static T power_of_minus(T n) {
    return n < 120 ? T(1) / T(int64_t(1) << int64_t(n < 60 ? n : T(60))) / T(int64_t(1) << int64_t(n < 60 ? T(0) : n - 60)) : T(0);
}

// Scores of a few rows, keys read where they lie: with so few, packing keys costs more than the sums over lanes that it saves.
// Needs whole vectors of columns.
template <class T>
static void dot_scores(T* scores, int64_t pitch, const T* queries, int64_t columns, int64_t rows, const char* key, int64_t key_bytes,
                       int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t j = 0; j < keys; j += L)
        for (int64_t i = 0; i < rows; i++) {
            Vec<T> sums[L];
            FASTCV_UNROLL for (int64_t k = 0; k < L; k++) sums[k] = zero<T>();
            // Behind the last key, the last one is read again: what it gives is hidden.
            const char* from[L];
            FASTCV_UNROLL for (int64_t k = 0; k < L; k++) from[k] = key + smaller(j + k, keys - 1) * key_bytes;
            for (int64_t e = 0; e < columns; e += L) {
                const Vec<T> q = load(queries + i * columns + e);
                FASTCV_UNROLL for (int64_t k = 0; k < L; k++)
                    sums[k] = fma(load(reinterpret_cast<const T*>(from[k]) + e), q, sums[k]);
            }
            transpose<T>(sums);
            FASTCV_UNROLL for (int64_t width = L / 2; width > 0; width /= 2)
                FASTCV_UNROLL for (int64_t k = 0; k < width; k++) sums[k] += sums[k + width];
            store(scores + i * pitch + j, sums[0]);
        }
}

// A block of keys and values as an item works on it.
template <class T>
struct AttentionBlock {
    int64_t key, keys;
    RowBlock<T> values;
    const char* in_place;  // keys that are read where they lie, or null: they have been packed
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
            for (int64_t f = 0; f < columns; f += L) {
                const int64_t lanes = columns - f;
                store_first(to + f, fma(splat(weight), load(values.data + j * values.stride + f), load_first(to + f, lanes)), lanes);
            }
        }
        for (int64_t f = 0; f < columns; f++) to[f] *= end ? end[i] : T(1);
    }
}

// One tile of rows against one block of keys.
template <class T>
static void attention_tile(const AttentionCall<T>& c, const AttentionMemory<T>& m, MaskRows<T>& mask, const Dropout<T>& dropout,
                           int64_t n, int64_t head, int64_t first_tile, int64_t tile, const AttentionBlock<T>& b) {
    constexpr int64_t L = kLanes<T>;
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
    first = b.key + (first - b.key) / L * L;
    const int64_t depth = last - first, width = round_up(depth, L), offset = first - b.key;

    if (b.in_place)
        dot_scores<T>(m.scores, c.pitch, m.queries + local * c.E, c.E, rows, b.in_place + offset * c.key.stride_bytes[1],
                      c.key.stride_bytes[1], depth);
    else
        multiply<T>(rows, width, s.E, {m.queries + local * c.E, c.E, 1, m.keys + offset * c.E, c.E * L, L}, m.scores, c.pitch,
                    nullptr);
    const int64_t flat = (n * s.H + head) * s.G * s.L + row;
    // Two loops, so that one row's arithmetic does not wait for another's maximum.
    T start[ProductTiles::rows], end[ProductTiles::rows];
    for (int64_t i = 0; i < rows; i++) {
        T* x = m.scores + i * c.pitch;
        AttentionRow<T>& r = state[i];
        if (s.softcap > 0) cap_scores<T>(x, width, T(s.softcap * kLog2E));
        const KeyRange seen = clipped(r.seen, first, last);
        fill_outside<T>(x, seen.first - first, seen.last - first, width, -kInfinity<T>);
        const T* bias = mask.any() ? mask.row(r.mask, first, depth) : nullptr;
        const T upper = round_up_to_integer(largest_score<T>(x, width, bias, depth));
        start[i] = upper > r.largest ? power_of_minus<T>(upper - r.largest) : T(1);
        r.largest = upper > r.largest ? upper : r.largest;
    }
    for (int64_t i = 0; i < rows; i++) {
        T* x = m.scores + i * c.pitch;
        AttentionRow<T>& r = state[i];
        if (c.weights) {
            T* to = c.weights + (flat + i) * s.S + first;
            for (int64_t j = 0; j < depth; j += L) store_first(to + j, load(x + j), depth - j);
        }
        r.sum = r.sum * start[i] + weigh<T>(x, width, r.largest == -kInfinity<T> ? T(0) : r.largest);
        end[i] = r.sum == 0 ? T(0) : 1 / r.sum;
        if (dropout.drops()) {
            dropout.factors(m.kept, r.head, r.query, first, depth);
            for (int64_t j = 0; j < depth; j++) x[j] *= m.kept[j];
        }
    }
    T* out = c.output + flat * s.F;
    const RowBlock<T> values{b.values.data + offset * b.values.stride, b.values.stride};
    const T *const before = begun ? start : nullptr, *const after = b.whole ? end : nullptr;
    if (b.finite) multiply<T>(rows, s.F, depth, {m.scores, c.pitch, 1, values.data, L, values.stride}, out, s.F, before, after);
    else add_values_with_care<T>(rows, s.F, depth, m.scores, c.pitch, values, out, before, after);
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

// Rows of tiles first .. last - 1 of a head.
template <class T>
static void attention_item(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, int64_t first,
                           int64_t last) {
    const AttentionShape& s = c.s;
    const Dropout<T> dropout(s);
    const int64_t row = c.tiles.begin(first), rows = c.tiles.begin(last) - row;
    KeyRange range{s.S, 0};
    const char* const query_data = query_base(s, c.query, n, head);
    const char* const mask_data = c.mask_kind == AttentionMask::none ? nullptr : query_base(s, c.mask, n, head);
    int64_t group = row / s.L, query = row % s.L;
    for (int64_t i = 0; i < rows; i++) {
        AttentionRow<T>& r = m.rows[i];
        copy_padded<T>(m.queries + i * c.E, query_data + group * c.query.stride_bytes[0] + query * c.query.stride_bytes[1],
                    c.query.stride_bytes[2], s.E, T(s.scale * kLog2E));
        r.seen = visible_keys(s, n, query);
        if (r.seen.first < r.seen.last) range = {smaller(range.first, r.seen.first), larger(range.last, r.seen.last)};
        if (mask_data) r.mask = mask_data + group * c.mask.stride_bytes[0] + query * c.mask.stride_bytes[1];
        r.head = (n * s.H + head) * s.G + group, r.query = query;
        r.largest = -kInfinity<T>, r.sum = 0;
        if (++query == s.L) query = 0, group++;
        if (!c.weights) continue;
        T* weight = c.weights + ((n * s.H + head) * s.G * s.L + row + i) * s.S;
        for (int64_t j = 0; j < s.S; j++) weight[j] = -kInfinity<T>;
    }
    for (int64_t t = first; t < last; t++) m.begun[t - first] = 0;

    AttentionBlock<T> b{};
    MaskRows<T> mask(c.mask_kind, c.mask, m.bias);
    for (b.key = range.first / c.block * c.block; b.key < range.last; b.key += c.block) {
        b.keys = smaller(c.block, range.last - b.key);
        b.whole = range.first >= b.key && range.last == b.key + b.keys;
        const char* const keys = key_row(s, c.key, n, head, b.key);
        b.in_place = c.few_rows() ? keys : nullptr;
        if (!b.in_place) pack_lanes<T>(m.keys, keys, c.key, b.keys, s.E);
        b.values = row_block<T>(m.values, key_row(s, c.value, n, head, b.key), c.value, b.keys, s.F);
        b.finite = rows_finite<T>(b.values, b.keys, s.F);
        for (int64_t t = first; t < last; t++) attention_tile<T>(c, m, mask, dropout, n, head, first, t, b);
    }
    const bool divided = range.last <= range.first / c.block * c.block + c.block;
    for (int64_t t = first; t < last; t++) finish_tile<T>(c, m, dropout, n, head, first, t, divided);
}

template <class T>
static Status attention_of(const AttentionShape& s, const HeadTensor& query, const HeadTensor& key, const HeadTensor& value,
                           AttentionMask mask_kind, const HeadTensor& mask, T* output, T* lse, T* weights) {
    constexpr int64_t L = kLanes<T>, kItemBytes = 256 << 10, kBlockBytes = 512 << 10;
    AttentionCall<T> c{s, query, key, value, mask_kind, mask, output, lse, weights, round_up(s.E, L), round_up(s.F, L), Parts(s.G * s.L, ProductTiles::rows),
                       0, 0, 0};
    const int64_t heads = s.N * s.H, rows = s.G * s.L;
    if (heads == 0 || rows == 0) return Status::ok;
    const int threads = threads_for(2.0 * double(heads) * double(rows) * double(s.S) * double(s.E + s.F));
    c.block = keys_per_block<T>(s, kBlockBytes, 512);
    c.pitch = c.block + L;  // so that rows do not all start in one set of the cache
    // Items of at most 256 rows, of fewer where rows are long or threads many. Each packs its keys anew.
    const int64_t most = larger(8, smaller(32, kItemBytes / int64_t(sizeof(T)) / larger(1, c.E + c.F) / ProductTiles::rows));
    const int64_t chunks = larger(ceil_div(c.tiles.number, most), smaller(ceil_div(4 * threads, heads), ceil_div(c.tiles.number, 8)));
    c.chunk = ceil_div(c.tiles.number, chunks);
    const int64_t items = heads * chunks;

    ScratchCut size(nullptr);
    AttentionMemory<T>(c, size);
    const Scratch scratch(size.bytes() * threads);
    if (!scratch.data()) return Status::out_of_memory;
    int64_t next = 0;
    parallel(threads, [&](const Team& team) {
        ScratchCut cut(scratch.data() + team.id * size.bytes());
        const AttentionMemory<T> m(c, cut);
        for (;;) {
            const int64_t item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (item >= items) break;
            const int64_t head = item / chunks, chunk = item % chunks;
            attention_item<T>(c, m, head / s.H, head % s.H, c.tiles.number * chunk / chunks, c.tiles.number * (chunk + 1) / chunks);
        }
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
