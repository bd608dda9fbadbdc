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
// a time: a product gives their scores (keys were multiplied by scale * log2(e)), which are masked, and whose largest are
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
// scaled_dot_product_attention_whole.hpp has the shorter way of rows that see all keys of a single block.
//
// A key whose weight is zero takes no part, whatever its value holds. The products multiply by zero all the same; a block that
// has a value which is not finite (of few rows: whose output is not) goes through a slower loop that leaves such keys out.
#pragma once

#include "scaled_dot_product_attention_few.hpp"
#include "scaled_dot_product_attention_whole.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

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
        queries = cut.take<T>(c.queries_in_place() && !c.few_rows() ? 0 : most * c.E);
        keys = cut.take<T>(c.few_rows() ? 0 : c.block * c.E);
        values = cut.take<T>(c.few_rows() ? 0 : c.block * c.F);
        scores = cut.take<T>(ProductTiles::rows * c.pitch);
        bias = cut.take<T>(c.block);
        kept = cut.take<T>(c.block);
        rows = cut.take<AttentionRow<T>>(most);
        begun = cut.take<uint8_t>(c.chunk);
    }
};

// A block of keys and values as an item works on it.
template <class T>
struct AttentionBlock {
    int64_t key, keys;
    RowBlock<T> values;
    RowBlock<T> queries;
    const char *in_place, *values_in_place;  // where few rows read them, or null: keys have been packed
    bool finite;  // the values are
    bool whole;   // it holds all keys that the item's rows see
};

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
    const Operands<T> products{b.queries.data + local * b.queries.stride, b.queries.stride, 1, m.keys + offset * c.E, c.E * L, L};
    const T* bias[ProductTiles::rows];
    if (plain) {
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
    const auto weigh_all = [&] {
        for (int64_t i = 0; i < rows; i++) {
            T* x = m.scores + i * c.pitch;
            if (c.weights) {
                T* to = c.weights + (flat + i) * s.S + first;
                for (int64_t j = 0; j < depth; j += L) store_first(to + j, load(x + j), depth - j);
            }
            of_lanes[i] = weigh<T>(x, width, state[i].largest == -kInfinity<T> ? T(0) : state[i].largest);
        }
        reduce_lanes<T>(found, of_lanes, [](Vec<T> a, Vec<T> b) { return a + b; });
    };
    weigh_all();
    if (plain && mask.any() && any_nan(found, rows)) {
        masked_with_care<T>(rows, depth, s.E, products, m.scores, c.pitch, bias);
        for (int64_t i = rows; i < kReducedRows; i++) of_lanes[i] = zero<T>();
        weigh_all();
    }
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
        if (c.lse) c.lse[flat] = log_of_sum<T>(sum, largest);
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

// Rows of tiles first .. last - 1 of a head get ready for `keys`; returns those of them that any row sees. Queries that are not
// read in place are copied, times `factor`.
template <class T>
static KeyRange begin_rows(const AttentionCall<T>& c, const AttentionMemory<T>& m, int64_t n, int64_t head, int64_t first,
                           int64_t last, KeyRange keys, bool in_place, T factor) {
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
        if (!in_place) copy_padded<T>(m.queries + i * c.E, query_data, c.query.stride_bytes[2], s.E, factor);
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
    const KeyRange range = begin_rows<T>(c, m, n, head, first, last, {0, s.S}, c.queries_in_place(), T(1));
    T* const output = c.output + ((n * s.H + head) * s.G * s.L + c.tiles.begin(first)) * s.F;
    AttentionBlock<T> b{};
    b.queries = {m.queries, c.E};
    if (c.queries_in_place())
        b.queries = {reinterpret_cast<const T*>(query_row(s, c.query, n, head, c.tiles.begin(first))),
                     c.query.stride_bytes[1] / int64_t(sizeof(T))};
    MaskRows<T> mask(c.mask_kind, c.mask, m.bias);
    for (b.key = range.first / c.block * c.block; b.key < range.last; b.key += c.block) {
        b.keys = smaller(c.block, range.last - b.key);
        b.whole = range.first >= b.key && range.last == b.key + b.keys;
        pack_lanes<T>(m.keys, key_row(s, c.key, n, head, b.key), c.key, b.keys, s.E, T(s.scale * kLog2E));
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
    const KeyRange range = begin_rows<T>(c, m, n, head, 0, 1, {first, last}, false, T(s.scale * kLog2E));
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
    constexpr int64_t L = kLanes<T>, kItemBytes = 1 << 20, kBlockBytes = 512 << 10;
    AttentionCall<T> c{s,      query, key,     value,
                       mask_kind, mask,  output,  lse,
                       weights,   round_up(s.E, L), round_up(s.F, L), Parts(s.G * s.L, ProductTiles::rows),
                       0,         0,     0};
    const int64_t heads = s.N * s.H, rows = s.G * s.L;
    if (heads == 0 || rows == 0) return Status::ok;
    // For few rows, reading a key and its value counts, which takes as long as some ten rows' sums.
    const int threads = threads_for(2.0 * double(heads) * double(larger(rows, 8)) * double(s.S) * double(s.E + s.F));
    const bool few = c.few_rows();
    c.block = few ? c.kPartKeys : keys_per_block<T>(s, kBlockBytes, 512);
    c.pitch = c.block + L;  // so that rows do not all start in one set of the cache
    // Each item packs its keys anew, so it takes up to 1024 rows, fewer where rows are long or threads many; where the last rows
    // see more keys than the first ones, 256. Packing for 64 rows of 512 + 512 columns at a time took 18% of the time.
    const int64_t fit = kItemBytes / int64_t(sizeof(T)) / larger(1, c.E + c.F) / ProductTiles::rows;
    const int64_t most = larger(8, smaller(s.right >= 0 ? 32 : 128, fit));
    int64_t chunks = larger(ceil_div(c.tiles.number, most), smaller(ceil_div(4 * threads, heads), ceil_div(c.tiles.number, 8)));
    while (heads * chunks < 8 * threads && heads * chunks % threads != 0 && chunks < c.tiles.number) chunks++;
    c.chunk = ceil_div(c.tiles.number, chunks);
    const int64_t items = heads * (few ? c.parts() : chunks);

    if (!few && is_whole<T>(c)) return whole_attention<T>(c, chunks, threads);
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
