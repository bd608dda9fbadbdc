// The gradients of scaled dot product attention, with scores and weights recomputed block by block.
//
//   P[l][j]  = exp(x[l][j] - lse[l])             K[l][j] = the factor that dropout put on it, 1 without
//   delta[l] = sum over f of grad_output[l][f] output[l][f]
//   D[l][j]  = P[l][j] (K[l][j] sum over f of grad_output[l][f] value[j][f] - delta[l])     the gradient of mask and score
//   grad_value[j] = sum over l of K[l][j] P[l][j] grad_output[l]
//   grad_query[l] = scale * sum over j of D[l][j] key[j]       grad_key[j] = scale * sum over l of D[l][j] query[l]
//
//                 keys of a block
//              +------------------+
//     128 rows |  P      and   D  |   five products: scores and grad_output values' into the two strips, and from them
//              +------------------+   into 128 rows of grad_query and the block's rows of grad_key and grad_value
//
// A work item is a block of keys of one head, and goes through all the head's rows, 128 at a time. So rows of grad_key and
// grad_value have one writer. Rows of grad_query, and elements of the mask's gradient that broadcasting shares, have several:
// these add in the order of the items, each chunk of rows as soon as the item before has done with it. Items are handed out in
// that order, so the one that is waited for is at work already. Sums have one order whatever the number of threads, one head
// keeps all threads busy, and no partial sums are stored.
//
// 64 rows at a time, whose products load and store sums twice as often, took 0.4 to 3% more: 2304 x 512 121.4 and 117.9 ms.
//
// Two threads on neighbouring blocks of a head go through its rows side by side, so blocks are of equal size: 8 x 850 x 32 took
// 11.7 ms in blocks of 256 keys and a rest of 82, and takes 10.0; 16 x 257 x 64 took 3.83 (192 and 65), and takes 2.82.
//
// Up to three rows, as in decoding, share too little of a packed key: keys and values are read where they lie, in blocks of 256
// keys whatever their number, and a product of one row by a block is four sums that are added up at its end. 16 x 1 x 2048 x 64
// took 2.11 ms on two threads, and takes 1.13; 16 x 1 x 4096 x 128 13.7, and 8.1. Packing was half of it.
//
// Where samples share the mask, as windows do, an item is a run of four of them instead, whose part of the mask's gradient is
// added up apart, and then to the others' in the order of runs. There its rows are padded to whole vectors.
//
// Sums over keys and over rows run on one after the other from block to block, so the sizes of blocks change no bit either, but
// where few rows are read in place.
#pragma once

#include <sched.h>

#include "scaled_dot_product_attention_few.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

template <class T>
struct AttentionGradCall {
    const AttentionGradArrays& a;
    const AttentionShape& s;
    T *grad_query, *grad_key, *grad_value;
    int64_t E, F;            // columns, padded to whole vectors
    int64_t block, blocks, pitch;
    int64_t chunks;          // of a head's rows, G times those of L
    int32_t* done;           // chunks that each item has done with, or whether a run is
    int64_t run;             // samples of a run; 1: items instead
    static constexpr int64_t kRows = 128, kFewRows = 3, kFewRowsKeys = 256;

    int64_t mask_pitch() const { return round_up(s.S, kLanes<T>); }  // of a run's memory
    // Whether keys and values can be read where they lie, in whole vectors.
    bool in_place() const {
        constexpr int64_t element = sizeof(T);
        return s.E == E && s.F == F && a.key.stride_bytes[2] == element && a.value.stride_bytes[2] == element;
    }
    bool few_rows() const { return s.L <= kFewRows && s.E > 0 && s.F > 0 && in_place(); }

    int64_t chunks_of_query_head() const { return ceil_div(s.L, kRows); }
};

template <class T>
struct AttentionGradMemory {
    T *queries, *grads, *outputs;                     // rows of a chunk, where they cannot be read in place
    T *delta, *lse;
    T *key_lanes, *value_lanes, *keys;                // a block
    T *weights, *slopes;                              // strips P and D
    T *bias, *kept, *mask_row, *ones;
    T* mask_sums;                                     // of a run
    T* few;                                           // of few rows: a block's part of grad_query
    AttentionGradMemory(const AttentionGradCall<T>& c, ScratchCut& cut) {
        constexpr int64_t rows = AttentionGradCall<T>::kRows;
        queries = cut.take<T>(rows * c.E);
        grads = cut.take<T>(rows * c.F);
        outputs = cut.take<T>(c.F);
        delta = cut.take<T>(rows);
        lse = cut.take<T>(rows);
        key_lanes = cut.take<T>(c.few_rows() ? 0 : c.block * c.E);
        value_lanes = cut.take<T>(c.few_rows() ? 0 : c.block * c.F);
        keys = cut.take<T>(c.few_rows() ? 0 : c.block * c.E);
        weights = cut.take<T>(rows * c.pitch);
        slopes = cut.take<T>(rows * c.pitch);
        bias = cut.take<T>(c.pitch);
        kept = cut.take<T>(c.pitch);
        mask_row = cut.take<T>(c.pitch);
        ones = cut.take<T>(larger(c.block, rows));
        mask_sums = cut.take<T>(c.run > 1 ? c.s.L * c.mask_pitch() : 0);
        few = cut.take<T>(AttentionGradCall<T>::kFewRows * c.E);
    }
};

// Waits until `done` is at least `wanted`. The one that raises it is at work, but may have lost its core to another program.
static inline void wait_for(const int32_t* done, int64_t wanted) {
    for (int spins = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) < wanted; spins++)
        if (spins > 2000) sched_yield();
}

// Which item adds to the same elements of the mask's gradient before this one does: of the previous head that shares them. -1:
// none. Heads count through all samples.
static inline int64_t head_before(const AttentionShape& s, const HeadTensor& mask, int64_t head) {
    int64_t unit = 1, before = head;
    bool shared = false;
    const auto step = [&](int64_t size, bool broadcast) {
        const int64_t index = head / unit % size;
        if (broadcast && !shared && size > 1) {
            if (index > 0) {
                before -= unit;
                shared = true;
            } else {
                before += (size - 1) * unit;  // if an outer axis steps back, this one is at its end
            }
        }
        unit *= size;
    };
    step(s.H, mask.stride_bytes[0] == 0);
    for (int axis = s.batch_axes - 1; axis >= 0; axis--) step(s.batch[axis], mask.batch_stride_bytes[axis] == 0);
    return shared ? before : -1;
}

// What a row of D depends on beside the two products.
template <class T>
struct SlopeRow {
    KeyRange seen;
    T lse, delta;
    const T* bias;       // the mask's numbers of its keys, or null
    const T* kept;       // dropout's factors, or null
    T* mask_sums;        // where D is added for the mask's gradient, or null
    bool padded;         // there to whole vectors
};
// Products of a query and keys, and of grad_output and values, become K P and scale D of a row, zero where a key is not seen. One
// pass does all of it: 64 x 4 windows of 49 spent a quarter of their time on one for each.
template <class T, bool kPlain>
static void slope_row(const AttentionShape& s, T* weight, T* slope, int64_t width, int64_t keys, const SlopeRow<T>& row) {
    constexpr int64_t L = kLanes<T>;
    const T infinity = kInfinity<T>;
    if (row.lse == -infinity || row.seen.first == row.seen.last) {  // nothing was seen
        for (int64_t i = 0; i < width; i++) weight[i] = slope[i] = 0;
        return;
    }
    const Vec<T> minus_lse = splat(T(-double(row.lse) * kLog2E)), log2e = splat(T(kLog2E)), hidden = splat(-infinity);
    const Vec<T> factor = splat(T(!kPlain && s.softcap > 0 ? s.scale / s.softcap : s.scale * kLog2E));
    const Vec<T> none = zero<T>(), mean = splat(row.delta), scale = splat(T(s.scale)), capped = splat(T(s.softcap * kLog2E));
    for (int64_t i = 0; i < width; i += L) {
        Vec<T> x = load(weight + i), bent = none;
        if (!kPlain && s.softcap > 0) {
            bent = hyperbolic_tangent(x * factor);
            x = fma(capped, bent, minus_lse);
        } else {
            x = fma(x, factor, minus_lse);
        }
        if (row.bias) {
            const Vec<T> add = i + L <= keys ? load(row.bias + i) : load_first(row.bias + i, keys - i);
            x = add == hidden ? hidden : fma(add, log2e, x);
        }
        // An `lse` that is not the forward's may ask for weights of any size; beyond this they have no exponent.
        x = x > kLargestExponent<T> ? splat(kLargestExponent<T>) : x;
        Vec<T> p = exp2_shifted<T>(x, none);
        if (i < row.seen.first || i + L > row.seen.last)
            p = choose(lanes_between<T>(row.seen.first - i, row.seen.last - i), p, none);
        Vec<T> grad = load(slope + i), used = p;
        if (!kPlain && row.kept) {
            const Vec<T> keep = load(row.kept + i);
            grad *= keep;
            used *= keep;
        }
        Vec<T> d = p == 0 ? none : p * (grad - mean);
        if (row.mask_sums) {
            // Masked stores to a row would keep loads of the next row waiting, where there is no space between them.
            T* const to = row.mask_sums + i;
            if (row.padded || i + L <= keys) store(to, load(to) + d);
            else store_first(to, load_first(to, keys - i) + d, keys - i);
        }
        store(weight + i, used);
        d *= scale;
        if (!kPlain && s.softcap > 0) d = d == 0 ? d : d * (1 - bent * bent);  // the factor of a hidden key may be anything
        store(slope + i, d);
    }
}

// Until all that adds to the mask's gradient before this chunk of a head's block has done so.
template <class T>
static void wait_to_add_to_mask(const AttentionGradCall<T>& c, int64_t head, int64_t block, int64_t chunk) {
    if (!c.a.grad_mask) return;
    // Elements that a later row, key or query head adds to again are shared with all of the item before.
    const HeadTensor& mask = *c.a.grad_mask;
    const bool whole = c.s.G > 1 || (mask.stride_bytes[1] == 0 && c.s.L > 1), along_keys = mask.stride_bytes[2] == 0;
    const int64_t wanted = whole ? c.chunks : chunk + 1, before = head_before(c.s, mask, head);
    if (along_keys && block > 0) wait_for(c.done + head * c.blocks + block - 1, wanted);
    else if (before >= 0) wait_for(c.done + before * c.blocks + (along_keys ? c.blocks - 1 : block), wanted);
}

template <class T>
static void clear_keys(const AttentionGradCall<T>& c, int64_t n, int64_t head, int64_t key, int64_t keys) {
    const int64_t row = (n * c.s.H + head) * c.s.S + key;
    for (int64_t i = 0; i < keys * c.s.E; i++) c.grad_key[row * c.s.E + i] = 0;
    for (int64_t i = 0; i < keys * c.s.F; i++) c.grad_value[row * c.s.F + i] = 0;
}

// delta of a chunk's rows.
template <class T>
static void deltas(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, const char* output, const RowBlock<T>& grads,
                   int64_t rows) {
    constexpr int64_t L = kLanes<T>;
    const bool in_place = c.a.output.stride_bytes[2] == int64_t(sizeof(T));
    for (int64_t i = 0; i < rows; i += kReducedRows) {
        Vec<T> sums[kReducedRows];
        FASTCV_UNROLL for (int64_t k = 0; k < kReducedRows; k++) sums[k] = zero<T>();
        for (int64_t k = 0; k < kReducedRows && i + k < rows; k++) {
            const char* from = output + (i + k) * c.a.output.stride_bytes[1];
            if (!in_place) copy_padded<T>(m.outputs, from, c.a.output.stride_bytes[2], c.s.F);
            const T *row = in_place ? reinterpret_cast<const T*>(from) : m.outputs, *grad = grads.data + (i + k) * grads.stride;
            Vec<T> sum = zero<T>();
            for (int64_t f = 0; f < c.s.F; f += L) sum = fma(load_first(row + f, c.s.F - f), load(grad + f), sum);
            sums[k] = sum;
        }
        reduce_lanes<T>(m.delta + i, sums, [](Vec<T> a, Vec<T> b) { return a + b; });
    }
}

// A block of keys, `packed` of which are in lanes; the few behind those are read where they lie.
template <class T>
struct GradBlock {
    int64_t key, keys, packed;
    RowBlock<T> rows;
};
// Where D of a head is added up for the mask's gradient: in place, or in a run's own memory.
struct MaskSums {
    char* data;
    int64_t row_bytes, column_bytes;
};

// Rows begin .. end - 1 of query head `group` against a block of keys.
template <class T>
static void attention_grad_chunk(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, MaskRows<T>& mask, int64_t n,
                                 int64_t head, int64_t item, int64_t group, int64_t begin, int64_t end, const GradBlock<T>& b,
                                 const MaskSums& run, bool& begun) {
    constexpr int64_t L = kLanes<T>;
    const AttentionShape& s = c.s;
    const AttentionGradArrays& a = c.a;
    const Dropout<T> dropout(s);
    const int64_t rows = end - begin, block = item % c.blocks, row = group * s.L + begin;
    const int64_t chunk = group * c.chunks_of_query_head() + begin / AttentionGradCall<T>::kRows;
    T* grad_query = c.grad_query + ((n * s.H + head) * s.G * s.L + row) * s.E;
    const int64_t key = b.key, keys = b.keys;
    KeyRange seen[AttentionGradCall<T>::kRows];
    int64_t first = key + keys, last = key;
    for (int64_t i = 0; i < rows; i++) {
        seen[i] = clipped(visible_keys(s, n, begin + i), key, key + keys);
        if (seen[i].first == seen[i].last) continue;
        first = smaller(first, seen[i].first);
        last = larger(last, seen[i].last);
    }
    if (first >= last) {
        // Who waits for this item relies on those before it as well.
        if (!run.data) wait_to_add_to_mask(c, n * s.H + head, block, chunk);
        if (block > 0) wait_for(c.done + item - 1, chunk + 1);
        else for (int64_t i = 0; i < rows * s.E; i++) grad_query[i] = 0;
        return;
    }
    first = key + (first - key) / L * L;
    const int64_t depth = last - first, width = round_up(depth, L), offset = first - key;

    const RowBlock<T> queries = row_block<T>(m.queries, query_row(s, a.query, n, head, row), a.query, rows, s.E);
    const RowBlock<T> grads = row_block<T>(m.grads, query_row(s, a.grad_output, n, head, row), a.grad_output, rows, s.F);
    const char* const lse = query_row(s, a.lse, n, head, row);
    deltas<T>(c, m, query_row(s, a.output, n, head, row), grads, rows);
    const int64_t packed_width = larger(0, smaller(width, b.packed - offset));
    const char* const keys_in_place = key_row(s, a.key, n, head, first);
    const char* const values_in_place = key_row(s, a.value, n, head, first);
    const int64_t key_bytes = a.key.stride_bytes[1], value_bytes = a.value.stride_bytes[1];
    if (c.few_rows()) {
        dot_scores<T>(m.weights, c.pitch, queries.data, s.E, rows, keys_in_place, key_bytes, depth);
        dot_scores<T>(m.slopes, c.pitch, grads.data, s.F, rows, values_in_place, value_bytes, depth);
    }
    multiply<T>(rows, packed_width, s.E, {queries.data, queries.stride, 1, m.key_lanes + offset * c.E, c.E * L, L}, m.weights,
                c.pitch, nullptr);
    multiply<T>(rows, packed_width, s.F, {grads.data, grads.stride, 1, m.value_lanes + offset * c.F, c.F * L, L}, m.slopes,
                c.pitch, nullptr);
    for (int64_t j = packed_width; j < depth && !c.few_rows(); j++) {
        row_dots<T>(queries, rows, keys_in_place + j * key_bytes, s.E, T(1), m.weights + j, c.pitch);
        row_dots<T>(grads, rows, values_in_place + j * value_bytes, s.F, T(1), m.slopes + j, c.pitch);
    }
    MaskSums sums = run;
    if (a.grad_mask && !run.data) {
        wait_to_add_to_mask(c, n * s.H + head, block, chunk);
        const HeadTensor& g = *a.grad_mask;
        sums = {const_cast<char*>(query_row(s, g, n, head, group * s.L)), g.stride_bytes[1], g.stride_bytes[2]};
    }
    const char* const mask_row = mask.any() ? query_row(s, a.mask, n, head, row) : nullptr;
    for (int64_t i = 0; i < rows; i++) {
        const KeyRange inside = clipped(seen[i], first, last);
        SlopeRow<T> r{{inside.first - first, inside.last - first}, load_scalar<T>(lse + i * a.lse.stride_bytes[1]), m.delta[i],
                      nullptr, nullptr, nullptr, true};
        if (mask.any()) r.bias = mask.row(mask_row + i * a.mask.stride_bytes[1], first, depth);
        if (dropout.drops()) {
            dropout.factors(m.kept, (n * s.H + head) * s.G + group, begin + i, first, width);
            r.kept = m.kept;
        }
        char* to_mask = nullptr;
        if (sums.data) {
            to_mask = sums.data + (begin + i) * sums.row_bytes + first * sums.column_bytes;
            r.mask_sums = sums.column_bytes == int64_t(sizeof(T)) ? reinterpret_cast<T*>(to_mask) : m.mask_row;
            r.padded = run.data || r.mask_sums == m.mask_row;
            if (r.mask_sums == m.mask_row)
                for (int64_t j = 0; j < width; j++) m.mask_row[j] = 0;
        }
        T *weight = m.weights + i * c.pitch, *slope = m.slopes + i * c.pitch;
        if (s.softcap > 0 || r.kept) slope_row<T, false>(s, weight, slope, width, depth, r);
        else slope_row<T, true>(s, weight, slope, width, depth, r);
        if (r.mask_sums == m.mask_row && to_mask)
            for (int64_t j = 0; j < depth; j++) {
                char* const to = to_mask + j * sums.column_bytes;
                store_scalar(to, load_scalar<T>(to) + m.mask_row[j]);
            }
    }
    // The first product of all writes; a first one that leaves keys out finds zeros instead.
    if (!begun && depth < keys) clear_keys<T>(c, n, head, key, keys), begun = true;
    const T* const add = begun ? m.ones : nullptr;
    const int64_t key_row = (n * s.H + head) * s.S + first;
    multiply<T>(depth, s.F, rows, {m.weights, 1, c.pitch, grads.data, L, grads.stride}, c.grad_value + key_row * s.F, s.F, add);
    multiply<T>(depth, s.E, rows, {m.slopes, 1, c.pitch, queries.data, L, queries.stride}, c.grad_key + key_row * s.E, s.E, add);
    begun = true;
    if (c.few_rows()) {
        // One row's sum would wait for itself: four sums, of every fourth key, put together block by block.
        few_rows_of_values<T, false>(m.few, s.E, rows, m.slopes, c.pitch, keys_in_place, key_bytes, depth);
        if (block > 0) wait_for(c.done + item - 1, chunk + 1);
        for (int64_t i = 0; i < rows * s.E; i++) grad_query[i] = block > 0 ? grad_query[i] + m.few[i] : m.few[i];
        return;
    }
    if (block > 0) wait_for(c.done + item - 1, chunk + 1);
    multiply<T>(rows, s.E, depth, {m.slopes, c.pitch, 1, b.rows.data + offset * b.rows.stride, L, b.rows.stride}, grad_query,
                s.E, block > 0 ? m.ones : nullptr);
}

template <class T>
static void attention_grad_item(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, int64_t item,
                                const MaskSums& run = {}) {
    const AttentionShape& s = c.s;
    const AttentionGradArrays& a = c.a;
    const int64_t n = item / c.blocks / s.H, head = item / c.blocks % s.H;
    const int64_t key = item % c.blocks * c.block, keys = smaller(c.block, s.S - key);
    // Keys beyond a sample's length are not read.
    const int64_t real = larger(0, smaller(keys, (s.kv_lengths ? s.kv_lengths[n] : s.S) - key));
    GradBlock<T> b{key, keys, c.few_rows() ? 0 : real - (c.in_place() ? rest_of_keys<T>(real, s.E + s.F, 2) : 0), {}};
    pack_lanes<T>(m.key_lanes, key_row(s, a.key, n, head, key), a.key, b.packed, s.E);
    pack_lanes<T>(m.value_lanes, key_row(s, a.value, n, head, key), a.value, b.packed, s.F);
    if (!c.few_rows()) b.rows = row_block<T>(m.keys, key_row(s, a.key, n, head, key), a.key, real, s.E);
    MaskRows<T> mask(a.mask_kind, a.mask, m.bias);
    int32_t done = 0;
    bool begun = false;  // rows of grad_key and grad_value have been written
    for (int64_t group = 0; group < s.G; group++)
        for (int64_t begin = 0; begin < s.L; begin += AttentionGradCall<T>::kRows) {
            attention_grad_chunk<T>(c, m, mask, n, head, item, group, begin, smaller(s.L, begin + AttentionGradCall<T>::kRows), b,
                                    run, begun);
            if (!run.data) __atomic_store_n(c.done + item, ++done, __ATOMIC_RELEASE);
        }
    if (!begun) clear_keys<T>(c, n, head, key, keys);
}

// Samples `first` .. of one head, whose mask's gradient is added up apart and then, in the order of the runs, to that of all.
template <class T>
static void attention_grad_run(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, int64_t run) {
    const AttentionShape& s = c.s;
    const HeadTensor& g = *c.a.grad_mask;
    const int64_t first = run / s.H * c.run, head = run % s.H, row_bytes = c.mask_pitch() * int64_t(sizeof(T));
    for (int64_t i = 0; i < s.L * c.mask_pitch(); i++) m.mask_sums[i] = 0;
    for (int64_t n = first; n < smaller(s.N, first + c.run); n++)
        attention_grad_item<T>(c, m, n * s.H + head, {reinterpret_cast<char*>(m.mask_sums), row_bytes, sizeof(T)});
    const int64_t before = run - (g.stride_bytes[0] == 0 ? 1 : s.H);
    if (before >= 0) wait_for(c.done + before, 1);
    char* const to = const_cast<char*>(query_base(s, g, first, head));
    for (int64_t l = 0; l < s.L; l++)
        for (int64_t j = 0; j < s.S; j += kLanes<T>) {
            T* const sum = reinterpret_cast<T*>(to + l * g.stride_bytes[1]) + j;
            const int64_t lanes = s.S - j;
            store_first(sum, load_first(sum, lanes) + load(m.mask_sums + l * c.mask_pitch() + j), lanes);
        }
    __atomic_store_n(c.done + run, 1, __ATOMIC_RELEASE);
}

// How many samples a run has: elements of a mask's gradient that windows share would go from one core's cache to the other's and
// back with each window. The number depends on shapes alone, for the gradient's sum is one of runs.
template <class T>
static int64_t samples_of_run(const AttentionGradCall<T>& c, int64_t fewest_blocks) {
    const AttentionShape& s = c.s;
    const HeadTensor* const g = c.a.grad_mask;
    if (!g || s.N < 4 || s.N * s.H < 32 || s.G > 1 || fewest_blocks > 1 || s.L * s.S > 64 << 10) return 1;
    if (g->stride_bytes[2] != int64_t(sizeof(T)) || (g->stride_bytes[1] == 0 && s.L > 1)) return 1;
    for (int axis = 0; axis < s.batch_axes; axis++)
        if (g->batch_stride_bytes[axis] != 0 && s.batch[axis] > 1) return 1;
    return 4;
}

template <class T>
static Status attention_grad_of(const AttentionShape& s, const AttentionGradArrays& a) {
    constexpr int64_t L = kLanes<T>, kBlockBytes = 512 << 10;
    AttentionGradCall<T> c{a,
                           s,
                           static_cast<T*>(a.grad_query),
                           static_cast<T*>(a.grad_key),
                           static_cast<T*>(a.grad_value),
                           round_up(s.E, L),
                           round_up(s.F, L),
                           0,
                           0,
                           0,
                           0,
                           nullptr,
                           1};
    const int64_t heads = s.N * s.H;
    if (heads == 0) return Status::ok;
    const int threads = threads_for(5.0 * double(heads * s.G) * double(s.L) * double(s.S) * double(s.E + s.F));
    // Blocks of up to 256 keys, as equal as whole vectors allow: a thread that has a smaller one waits for the block before. More
    // blocks than these where that leaves less of the threads' time unused at the end.
    const bool few = c.few_rows();
    const int64_t fewest = ceil_div(larger(1, s.S), few ? c.kFewRowsKeys : keys_per_block<T>(s, kBlockBytes, 256));
    const auto unused = [&](int64_t blocks) {
        const int64_t items = heads * blocks;
        return double(ceil_div(items, threads) * threads - items) / double(items);
    };
    // A mask's gradient that is summed over keys takes them block by block: there blocks may not depend on threads.
    // So they may not where runs of samples are summed, whose blocks hold all keys.
    c.run = samples_of_run<T>(c, fewest);
    const bool fixed = few || c.run > 1 || (a.grad_mask && a.grad_mask->stride_bytes[2] == 0);
    c.blocks = fewest;
    for (int64_t blocks = fewest + 1; !fixed && blocks <= smaller(ceil_div(s.S, 64), fewest + 4 * threads); blocks++)
        if (unused(c.blocks) > 0.05 && unused(blocks) < unused(c.blocks)) c.blocks = blocks;
    c.block = few ? c.kFewRowsKeys : round_up(larger(1, ceil_div(s.S, c.blocks)), L);
    c.blocks = larger(1, ceil_div(s.S, c.block));
    c.pitch = c.block + L;
    c.chunks = s.G * c.chunks_of_query_head();
    const int64_t items = c.run > 1 ? s.H * ceil_div(s.N, c.run) : heads * c.blocks;

    ScratchCut size(nullptr), shared(nullptr);
    AttentionGradMemory<T>(c, size);
    shared.take<int32_t>(items);
    const Scratch scratch(shared.bytes() + size.bytes() * threads);
    if (!scratch.data()) return Status::out_of_memory;
    c.done = reinterpret_cast<int32_t*>(scratch.data());
    for (int64_t i = 0; i < items; i++) c.done[i] = 0;
    int64_t next = 0;
    parallel(threads, [&](const Team& team) {
        ScratchCut cut(scratch.data() + shared.bytes() + team.id * size.bytes());
        const AttentionGradMemory<T> m(c, cut);
        for (int64_t i = 0; i < larger(c.block, AttentionGradCall<T>::kRows); i++) m.ones[i] = 1;
        take_items(next, items, [&](int64_t item) {
            if (c.run > 1) attention_grad_run<T>(c, m, item);
            else attention_grad_item<T>(c, m, item);
        });
    });
    return Status::ok;
}

static Status attention_grad(const AttentionShape& s, int itemsize, const AttentionGradArrays& a) {
    return itemsize == 4 ? attention_grad_of<float>(s, a) : attention_grad_of<double>(s, a);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
