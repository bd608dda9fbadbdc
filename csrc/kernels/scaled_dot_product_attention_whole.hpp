// Attention to keys that one block holds, all of which every query of a head sees: tokens of an image, windows with a bias, padded
// text.
//
//       whole vectors of keys, packed       rest of at most kMostRest keys, as they lie
//        +--------+--------+--------+         +---+
//  8     | scores | scores | scores |         | r |      a score of the rest is a dot product
//  rows  +--------+--------+--------+         +---+
//
// A row sees all its keys at once, so nothing about it is remembered, and its weights are divided by their sum as the second
// product ends. Keys are multiplied by scale * log2(e) as they are packed, and queries are read where they lie. Asking for the
// next head's arrays early did not help.
//
// As many rows as have their scores in the first-level cache, 64 at most, take each step together:
//
//   scores and their largest, tile by tile -> shifts -> weights and their sums -> inverses -> outputs, tile by tile
//
// What a row has one of lies with rows in lanes then, and no tile waits for the end of its own chain of largest, power, sum and
// inverse: 64 x 3 windows of 49 x 32 went from 0.449 to 0.430 ms on two threads, 8 x 6 x 197 x 64 from 2.10 to 2.02.
//
// A few keys more than whole vectors are dot products of rows, and their powers of two are taken with rows in lanes. Windows of
// 49 keys take three vectors and one key instead of four vectors.
#pragma once

#include "scaled_dot_product_attention_softmax.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kMostRowsAtOnce = 64, kRowsAtOnceBytes = 20 * 1024;
template <class T>
static int64_t tiles_at_once(const AttentionCall<T>& c) {
    constexpr int64_t rows = ProductTiles::rows;
    return larger(1, smaller(kMostRowsAtOnce, kRowsAtOnceBytes / (c.pitch * int64_t(sizeof(T)))) / rows);
}

// A thread's scratch.
template <class T>
struct WholeMemory {
    T *queries, *keys, *values, *scores, *bias;
    WholeMemory(const AttentionCall<T>& c, ScratchCut& cut) {
        const int64_t rows = tiles_at_once(c) * ProductTiles::rows;
        queries = cut.take<T>(rows * c.E);
        keys = cut.take<T>(c.block * c.E);
        values = cut.take<T>(c.block * c.F);
        scores = cut.take<T>(rows * c.pitch);
        bias = cut.take<T>(c.block);
    }
};

// Rows that take each step together. `bias` holds a pointer for each, where there is a mask. Sums over lanes come eight at a
// time.
template <class T>
struct WholeRows {
    int64_t number;
    RowBlock<T> queries;
    bool masked;
    const T* bias[kMostRowsAtOnce];
    alignas(64) T shift[kMostRowsAtOnce + kReducedRows], sums[kMostRowsAtOnce + kReducedRows], inverse[kMostRowsAtOnce];
    alignas(64) T rest[kMostRest][kMostRowsAtOnce];
};

// A head's keys and values as its rows meet them.
template <class T>
struct WholeHead {
    int64_t keys, packed;    // how many there are, and how many of them in whole vectors
    const char* rest;        // the others
    RowBlock<T> values;
    bool finite;             // the values are
};

template <class T>
static bool is_whole(const AttentionCall<T>& c) {
    const AttentionShape& s = c.s;
    const bool one_mask_row = c.mask.stride_bytes[1] == 0 && (s.G == 1 || c.mask.stride_bytes[0] == 0);
    const bool in_place = c.mask_kind == AttentionMask::additive && c.mask.stride_bytes[2] == int64_t(sizeof(T));
    return s.S <= c.block && s.left < 0 && s.right < 0 && s.softcap <= 0 && s.dropout <= 0 &&
           (c.mask_kind == AttentionMask::none || in_place || one_mask_row);
}

// Scores of the keys behind `packed`, and the rows' largest. Queries are whole vectors.
template <class T>
static void scores_of_rest(const WholeHead<T>& h, int64_t key_bytes, int64_t columns, T scale, WholeRows<T>& r) {
    constexpr int64_t L = kLanes<T>;
    alignas(64) T added[kMostRowsAtOnce];
    for (int64_t t = 0; t < h.keys - h.packed; t++) {
        row_dots<T>(r.queries, r.number, h.rest + t * key_bytes, columns, scale, r.rest[t], 1);
        for (int64_t i = 0; i < r.number && r.masked; i++) added[i] = r.bias[i][h.packed + t];
        for (int64_t i = 0; i < r.number; i += L) {
            const int64_t lanes = r.number - i;
            Vec<T> x = load_first(r.rest[t] + i, lanes);
            if (r.masked) {
                const Vec<T> add = load_first(added + i, lanes);
                x = add == splat(-kInfinity<T>) ? add : fma(add, splat(T(kLog2E)), x);
                store_first(r.rest[t] + i, x, lanes);
            }
            store_first(r.shift + i, upper(x, load_first(r.shift + i, lanes)), lanes);
        }
    }
}

// Their weights, into the strip; adds these to the rows' sums.
template <class T>
static void weigh_rest(const WholeHead<T>& h, WholeRows<T>& r, T* scores, int64_t pitch) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t t = 0; t < h.keys - h.packed; t++) {
        for (int64_t i = 0; i < r.number; i += L) {
            const int64_t lanes = r.number - i;
            const Vec<T> shift = load_first(r.shift + i, lanes), x = load_first(r.rest[t] + i, lanes);
            const auto small = (shift >= -kLargestShift<T>) & (shift <= kLargestShift<T>);
            const Vec<T> weight = exp2_shifted<T>(small ? x : x - shift, small ? shift : zero<T>());
            store_first(r.rest[t] + i, weight, lanes);
            store_first(r.sums + i, load_first(r.sums + i, lanes) + weight, lanes);
        }
        for (int64_t i = 0; i < r.number; i++) scores[i * pitch + h.packed + t] = r.rest[t][i];
    }
}

// Rows of tiles first .. last - 1, the first row being number `flat` of the result.
template <class T>
static void whole_rows(const AttentionCall<T>& c, const WholeMemory<T>& m, const WholeHead<T>& h, WholeRows<T>& r, int64_t first,
                       int64_t last, int64_t flat) {
    constexpr int64_t L = kLanes<T>;
    const AttentionShape& s = c.s;
    const int64_t packed = h.packed, width = round_up(packed, L), begin = c.tiles.begin(first);
    // operation(row, rows) for each tile.
    const auto each_tile = [&](auto operation) __attribute__((always_inline)) {
        for (int64_t t = first, row = 0; t < last; t++) {
            const int64_t end = c.tiles.begin(t + 1) - begin;
            operation(row, end - row);
            row = end;
        }
    };
    const auto products = [&](int64_t row) {
        return Operands<T>{r.queries.data + row * r.queries.stride, r.queries.stride, 1, m.keys, c.E * L, L};
    };
    each_tile([&](int64_t row, int64_t rows) {
        Vec<T> of_lanes[kReducedRows];
        FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) of_lanes[i] = splat(-kInfinity<T>);
        masked_scores<T>(rows, packed, s.E, products(row), m.scores + row * c.pitch, c.pitch, r.masked ? r.bias + row : nullptr,
                         of_lanes);
        reduce_lanes<T>(r.shift + row, of_lanes, [](Vec<T> a, Vec<T> b) { return upper(a, b); });
    });
    if (packed < h.keys) scores_of_rest<T>(h, c.key.stride_bytes[1], s.E, T(s.scale * kLog2E), r);
    for (int64_t i = 0; i < r.number; i++) r.shift[i] = r.shift[i] == -kInfinity<T> ? T(0) : round_up_to_integer(r.shift[i]);
    weigh_rows<T>(m.scores, c.pitch, r.number, width, r.shift, r.sums);
    if (r.masked && any_nan(r.sums, r.number)) {
        each_tile([&](int64_t row, int64_t rows) {
            masked_with_care<T>(rows, packed, s.E, products(row), m.scores + row * c.pitch, c.pitch, r.bias + row);
        });
        weigh_rows<T>(m.scores, c.pitch, r.number, width, r.shift, r.sums);
    }
    if (packed < h.keys) weigh_rest<T>(h, r, m.scores, c.pitch);
    for (int64_t i = 0; i < r.number; i += L) {
        const Vec<T> sum = load_first(r.sums + i, r.number - i);
        store_first(r.inverse + i, sum == 0 ? zero<T>() : T(1) / sum, r.number - i);
    }
    each_tile([&](int64_t row, int64_t rows) {
        T *const out = c.output + (flat + row) * s.F, *const scores = m.scores + row * c.pitch;
        if (h.finite)
            multiply<T>(rows, s.F, h.keys, {scores, c.pitch, 1, h.values.data, L, h.values.stride}, out, s.F, nullptr,
                        r.inverse + row);
        else
            add_values_with_care<T>(rows, s.F, h.keys, scores, c.pitch, h.values, out, nullptr, r.inverse + row);
    });
    for (int64_t i = 0; i < r.number && (c.lse || c.weights); i++) {
        if (c.lse) c.lse[flat + i] = log_of_sum<T>(r.sums[i], r.sums[i] == 0 ? -kInfinity<T> : r.shift[i]);
        if (!c.weights) continue;
        T* const weight = c.weights + (flat + i) * s.S;
        for (int64_t j = 0; j < h.keys; j++) weight[j] = m.scores[i * c.pitch + j] * r.inverse[i];
        for (int64_t j = h.keys; j < s.S; j++) weight[j] = 0;
    }
}

// Rows of tiles first .. last - 1 of a head.
template <class T>
static void whole_item(const AttentionCall<T>& c, const WholeMemory<T>& m, int64_t n, int64_t head, int64_t first, int64_t last) {
    const AttentionShape& s = c.s;
    const int64_t flat = (n * s.H + head) * s.G * s.L, key_bytes = c.key.stride_bytes[1];
    const KeyRange seen = visible_keys(s, n, 0);
    WholeHead<T> h{};
    h.keys = seen.last;
    const bool dots = s.E == c.E && c.key.stride_bytes[2] == int64_t(sizeof(T));
    h.packed = h.keys - (dots ? rest_of_keys<T>(h.keys, s.E, 1) : 0);
    const char* const key_data = key_row(s, c.key, n, head, 0);
    h.rest = key_data + h.packed * key_bytes;
    pack_lanes<T>(m.keys, key_data, c.key, h.packed, s.E, T(s.scale * kLog2E));
    h.values = row_block<T>(m.values, key_row(s, c.value, n, head, 0), c.value, h.keys, s.F);
    h.finite = rows_finite<T>(h.values, h.keys, s.F);

    const int64_t query_bytes = c.query.stride_bytes[1];
    const bool in_place = c.queries_in_place();
    MaskRows<T> mask(c.mask_kind, c.mask, m.bias);
    const char* const query_data = query_base(s, c.query, n, head);
    const char* const mask_data = mask.any() ? query_base(s, c.mask, n, head) : nullptr;
    WholeRows<T> r;
    r.masked = mask.any();
    const int64_t step = tiles_at_once(c);
    for (int64_t t = first, end; t < last; t = end) {
        end = smaller(last, t + step);
        const int64_t row = c.tiles.begin(t);
        r.number = c.tiles.begin(end) - row;
        r.queries = {m.queries, c.E};
        const char *from = query_data + row * query_bytes, *from_mask = mask_data + row * c.mask.stride_bytes[1];
        if (in_place) r.queries = {reinterpret_cast<const T*>(from), query_bytes / int64_t(sizeof(T))};
        for (int64_t i = 0; i < r.number; i++) {
            if (s.G > 1) {
                from = query_row(s, c.query, n, head, row + i);
                if (r.masked) from_mask = query_row(s, c.mask, n, head, row + i);
            }
            if (!in_place) copy_padded<T>(m.queries + i * c.E, from, c.query.stride_bytes[2], s.E);
            if (r.masked) r.bias[i] = mask.row(from_mask, 0, h.keys);
            from += query_bytes;
            from_mask += c.mask.stride_bytes[1];
        }
        whole_rows<T>(c, m, h, r, t, end, flat + row);
    }
}

// All heads, `chunks` parts of the rows of each. Where samples share a mask, the same head of all of them comes first, so that
// its mask stays in the cache: 16 x 24 x 144 x 32 took 7.8 ms on two threads, and takes 7.6.
template <class T>
static Status whole_attention(const AttentionCall<T>& c, int64_t chunks, int threads) {
    const AttentionShape& s = c.s;
    bool shared_mask = c.mask_kind != AttentionMask::none;
    for (int axis = 0; axis < s.batch_axes; axis++) shared_mask = shared_mask && c.mask.batch_stride_bytes[axis] == 0;
    ScratchCut size(nullptr);
    WholeMemory<T>(c, size);
    const Scratch scratch(size.bytes() * threads);
    if (!scratch.data()) return Status::out_of_memory;
    int64_t next = 0;
    parallel(threads, [&](const Team& team) {
        ScratchCut cut(scratch.data() + team.id * size.bytes());
        const WholeMemory<T> m(c, cut);
        take_items(next, s.N * s.H * chunks, [&](int64_t item) {
            const int64_t i = item / chunks, chunk = item % chunks;
            const int64_t n = shared_mask ? i % s.N : i / s.H, head = shared_mask ? i / s.N : i % s.H;
            whole_item<T>(c, m, n, head, c.tiles.number * chunk / chunks, c.tiles.number * (chunk + 1) / chunks);
        });
    });
    return Status::ok;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
