// Attention to keys that one block holds, all of which every query of a head sees: tokens of an image, windows with a bias, padded
// text.
//
//       whole vectors of keys, packed       rest of at most kMostRest keys, as they lie
//        +--------+--------+--------+         +---+
//  8     | scores | scores | scores |         | r |      a score of the rest is a dot product
//  rows  +--------+--------+--------+         +---+
//
// A row is done in one go, so nothing about it is remembered, and its weights are divided by their sum as the second product
// ends. Keys are multiplied by scale * log2(e) as they are packed, and queries are read where they lie. Asking for the next head's
// arrays early did not help.
//
// A few keys more than whole vectors are dot products of rows, and their powers of two are taken with rows in lanes. Windows of
// 49 keys take three vectors and one key instead of four vectors.
#pragma once

#include "scaled_dot_product_attention_softmax.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// A thread's scratch.
template <class T>
struct WholeMemory {
    T *queries, *keys, *values, *scores, *bias;
    WholeMemory(const AttentionCall<T>& c, ScratchCut& cut) {
        queries = cut.take<T>(ProductTiles::rows * c.E);
        keys = cut.take<T>(c.block * c.E);
        values = cut.take<T>(c.block * c.F);
        scores = cut.take<T>(ProductTiles::rows * c.pitch);
        bias = cut.take<T>(c.block);
    }
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

// Scores of the keys behind `packed`, with rows in lanes: rest[key][row], and the rows' largest. Queries are whole vectors.
template <class T>
static void scores_of_rest(const WholeHead<T>& h, int64_t key_bytes, int64_t columns, const RowBlock<T>& queries, int64_t rows,
                           const T* const* bias, T scale, T (*rest)[kReducedRows], T* largest) {
    for (int64_t t = 0; t < h.keys - h.packed; t++) {
        row_dots<T>(queries, rows, h.rest + t * key_bytes, columns, scale, rest[t], 1);
        for (int64_t i = 0; i < rows; i++) {
            T& x = rest[t][i];
            if (bias) {
                const T add = bias[i][h.packed + t];
                x = add == -kInfinity<T> ? add : x + add * T(kLog2E);
            }
            largest[i] = x > largest[i] ? x : largest[i];
        }
    }
}

// Their weights, into the strip; adds these to the rows' sums.
template <class T>
FASTCV_NOINLINE void weigh_rest(const WholeHead<T>& h, int64_t rows, T (*rest)[kReducedRows], const T* shift, T* sums, T* scores,
                       int64_t pitch) {
    constexpr int64_t L = kLanes<T>;
    const auto small = [](T x) { return x >= -kLargestShift<T> && x <= kLargestShift<T>; };
    T power[kReducedRows] = {};
    for (int64_t i = 0; i < rows; i++) power[i] = small(shift[i]) ? shift[i] : T(0);
    for (int64_t t = 0; t < h.keys - h.packed; t++) {
        for (int64_t i = 0; i < rows; i++)
            if (!small(shift[i])) rest[t][i] -= shift[i];
        FASTCV_UNROLL for (int64_t i = 0; i < kReducedRows; i += L) {
            const int64_t lanes = kReducedRows - i;
            const Vec<T> weight = exp2_shifted<T>(load_first(rest[t] + i, lanes), load_first(power + i, lanes));
            store_first(rest[t] + i, weight, lanes);
            store_first(sums + i, load_first(sums + i, lanes) + weight, lanes);
        }
        for (int64_t i = 0; i < rows; i++) scores[i * pitch + h.packed + t] = rest[t][i];
    }
}

// Up to eight rows from start to end, the first being number `flat` of the result. `bias` holds a pointer for each, or is null.
template <class T>
static void whole_tile(const AttentionCall<T>& c, const WholeMemory<T>& m, const WholeHead<T>& h,
                       const RowBlock<T>& queries, int64_t rows, const T* const* bias, int64_t flat) {
    constexpr int64_t L = kLanes<T>;
    const AttentionShape& s = c.s;
    const int64_t packed = h.packed, width = round_up(packed, L);
    const Operands<T> products{queries.data, queries.stride, 1, m.keys, c.E * L, L};
    Vec<T> of_lanes[kReducedRows];
    T rest[kMostRest][kReducedRows] = {}, shift[kReducedRows], sums[kReducedRows];
    FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) of_lanes[i] = splat(-kInfinity<T>);
    masked_scores<T>(rows, packed, s.E, products, m.scores, c.pitch, bias, of_lanes);
    reduce_lanes<T>(shift, of_lanes, [](Vec<T> a, Vec<T> b) { return upper(a, b); });
    if (packed < h.keys)
        scores_of_rest<T>(h, c.key.stride_bytes[1], s.E, queries, rows, bias, T(s.scale * kLog2E), rest, shift);
    FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++)
        shift[i] = shift[i] == -kInfinity<T> ? T(0) : round_up_to_integer(shift[i]);
    weigh_rows<T>(m.scores, c.pitch, rows, width, shift, sums);
    if (bias && any_nan(sums, rows)) {
        masked_with_care<T>(rows, packed, s.E, products, m.scores, c.pitch, bias);
        weigh_rows<T>(m.scores, c.pitch, rows, width, shift, sums);
    }
    if (packed < h.keys) weigh_rest<T>(h, rows, rest, shift, sums, m.scores, c.pitch);
    T end[kReducedRows];
    FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) end[i] = sums[i] == 0 ? T(0) : 1 / sums[i];
    T* const out = c.output + flat * s.F;
    if (h.finite)
        multiply<T>(rows, s.F, h.keys, {m.scores, c.pitch, 1, h.values.data, L, h.values.stride}, out, s.F, nullptr, end);
    else
        add_values_with_care<T>(rows, s.F, h.keys, m.scores, c.pitch, h.values, out, nullptr, end);
    for (int64_t i = 0; i < rows && (c.lse || c.weights); i++) {
        if (c.lse) c.lse[flat + i] = log_of_sum<T>(sums[i], sums[i] == 0 ? -kInfinity<T> : shift[i]);
        if (!c.weights) continue;
        T* const weight = c.weights + (flat + i) * s.S;
        for (int64_t j = 0; j < h.keys; j++) weight[j] = m.scores[i * c.pitch + j] * end[i];
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
    for (int64_t t = first; t < last; t++) {
        const int64_t row = c.tiles.begin(t), rows = c.tiles.begin(t + 1) - row;
        const T* bias[ProductTiles::rows];
        RowBlock<T> queries{m.queries, c.E};
        const char *from = query_data + row * query_bytes, *from_mask = mask_data + row * c.mask.stride_bytes[1];
        if (in_place) queries = {reinterpret_cast<const T*>(from), query_bytes / int64_t(sizeof(T))};
        for (int64_t i = 0; i < rows; i++) {
            if (s.G > 1) {
                from = query_row(s, c.query, n, head, row + i);
                if (mask.any()) from_mask = query_row(s, c.mask, n, head, row + i);
            }
            if (!in_place) copy_padded<T>(m.queries + i * c.E, from, c.query.stride_bytes[2], s.E);
            if (mask.any()) bias[i] = mask.row(from_mask, 0, h.keys);
            from += query_bytes;
            from_mask += c.mask.stride_bytes[1];
        }
        whole_tile<T>(c, m, h, queries, rows, mask.any() ? bias : nullptr, flat + row);
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
