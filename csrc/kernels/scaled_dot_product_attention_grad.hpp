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
//      64 rows |  P      and   D  |   five products: scores and grad_output values' into the two strips, and from them
//              +------------------+   into 64 rows of grad_query and the block's rows of grad_key and grad_value
//
// A work item is a block of keys of one head, and goes through all the head's rows, 64 at a time. So rows of grad_key and
// grad_value have one writer. Rows of grad_query, and elements of the mask's gradient that broadcasting shares, have several:
// these add in the order of the items, each chunk of rows as soon as the item before has done with it. Items are handed out in
// that order, so the one that is waited for is at work already. Sums have one order whatever the number of threads, one head
// keeps all threads busy, and no partial sums are stored.
//
// Two threads on neighbouring blocks of a head go through its rows side by side, so blocks are of equal size: 8 x 850 x 32 took
// 11.7 ms in blocks of 256 keys and a rest of 82, and takes 10.0; 16 x 257 x 64 took 3.83 (192 and 65), and takes 2.82.
//
// Sums over keys and over rows run on one after the other from block to block, so the sizes of blocks change no bit either.
#pragma once

#include <sched.h>

#include "scaled_dot_product_attention_parts.hpp"

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
    int32_t* done;           // chunks that each item has done with
    static constexpr int64_t kRows = 64;

    int64_t chunks_of_query_head() const { return ceil_div(s.L, kRows); }
};

template <class T>
struct AttentionGradMemory {
    T *queries, *grads, *outputs;                     // rows of a chunk, where they cannot be read in place
    T *delta, *lse;
    T *key_lanes, *value_lanes, *keys;                // a block
    T *weights, *slopes;                              // strips P and D
    T *bias, *kept, *cap_slope, *ones;
    AttentionGradMemory(const AttentionGradCall<T>& c, ScratchCut& cut) {
        constexpr int64_t rows = AttentionGradCall<T>::kRows;
        queries = cut.take<T>(rows * c.E);
        grads = cut.take<T>(rows * c.F);
        outputs = cut.take<T>(c.F);
        delta = cut.take<T>(rows);
        lse = cut.take<T>(rows);
        key_lanes = cut.take<T>(c.block * c.E);
        value_lanes = cut.take<T>(c.block * c.F);
        keys = cut.take<T>(c.block * c.E);
        weights = cut.take<T>(rows * c.pitch);
        slopes = cut.take<T>(rows * c.pitch);
        bias = cut.take<T>(c.pitch);
        kept = cut.take<T>(c.pitch);
        cap_slope = cut.take<T>(c.pitch);
        ones = cut.take<T>(larger(c.block, rows));
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

// Scores and grad_output times values of a row become P and D, zero where a key is not seen.
template <class T>
static void slope_row(const AttentionShape& s, T* weight, T* slope, int64_t width, KeyRange seen, T lse, T delta, const T* bias,
                      int64_t keys, const T* kept, T* cap_slope) {
    constexpr int64_t L = kLanes<T>;
    const T infinity = kInfinity<T>;
    if (lse == -infinity || seen.first == seen.last) {  // nothing was seen
        for (int64_t i = 0; i < width; i++) weight[i] = slope[i] = 0;
        return;
    }
    T scale = T(s.scale * kLog2E);
    if (s.softcap > 0) {
        const T cap = T(s.softcap), inner = T(s.scale / s.softcap);
        for (int64_t i = 0; i < width; i += L) {
            const Vec<T> bent = hyperbolic_tangent(load(weight + i) * inner);
            store(weight + i, cap * bent);
            store(cap_slope + i, 1 - bent * bent);
        }
        scale = T(kLog2E);
    }
    const Vec<T> factor = splat(scale), minus_lse = splat(T(-double(lse) * kLog2E)), log2e = splat(T(kLog2E));
    const Vec<T> none = zero<T>(), mean = splat(delta);
    for (int64_t i = 0; i < width; i += L) {
        Vec<T> x = fma(load(weight + i), factor, minus_lse);
        if (bias) {
            const Vec<T> add = load_first(bias + i, keys - i);
            x = fma(add, log2e, x);
            x = add == -infinity ? splat(-infinity) : x;
        }
        const Vec<T> p = exp2_shifted<T>(x, none);
        Vec<T> grad = load(slope + i), used = p;
        if (kept) {
            const Vec<T> keep = load(kept + i);
            grad *= keep;
            used *= keep;
        }
        store(weight + i, used);
        store(slope + i, p == 0 ? none : p * (grad - mean));
    }
    if (seen.first == 0 && seen.last == width) return;
    fill_outside<T>(weight, seen.first, seen.last, width, T(0));
    fill_outside<T>(slope, seen.first, seen.last, width, T(0));
}

// What D of a row adds to the mask's gradient.
template <class T>
static void add_to_mask(char* to, int64_t column_bytes, const T* slope, int64_t keys) {
    constexpr int64_t L = kLanes<T>;
    if (column_bytes == int64_t(sizeof(T))) {
        T* row = reinterpret_cast<T*>(to);
        for (int64_t j = 0; j < keys; j += L)
            store_first(row + j, load_first(row + j, keys - j) + load_first(slope + j, keys - j), keys - j);
    } else {
        for (int64_t j = 0; j < keys; j++) store_scalar(to + j * column_bytes, load_scalar<T>(to + j * column_bytes) + slope[j]);
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

// Rows begin .. end - 1 of query head `group` against a block of keys.
template <class T>
static void attention_grad_chunk(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, MaskRows<T>& mask, int64_t n,
                                 int64_t head, int64_t item, int64_t group, int64_t begin, int64_t end, int64_t key, int64_t keys,
                                 const RowBlock<T>& key_rows, bool& begun) {
    constexpr int64_t L = kLanes<T>;
    const AttentionShape& s = c.s;
    const AttentionGradArrays& a = c.a;
    const Dropout<T> dropout(s);
    const int64_t rows = end - begin, block = item % c.blocks, row = group * s.L + begin;
    const int64_t chunk = group * c.chunks_of_query_head() + begin / AttentionGradCall<T>::kRows;
    T* grad_query = c.grad_query + ((n * s.H + head) * s.G * s.L + row) * s.E;
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
        wait_to_add_to_mask(c, n * s.H + head, block, chunk);
        if (block > 0) wait_for(c.done + item - 1, chunk + 1);
        else for (int64_t i = 0; i < rows * s.E; i++) grad_query[i] = 0;
        return;
    }
    first = key + (first - key) / L * L;
    const int64_t depth = last - first, width = round_up(depth, L), offset = first - key;

    const RowBlock<T> queries = row_block<T>(m.queries, query_row(s, a.query, n, head, row), a.query, rows, s.E);
    const RowBlock<T> grads = row_block<T>(m.grads, query_row(s, a.grad_output, n, head, row), a.grad_output, rows, s.F);
    for (int64_t i = 0; i < rows; i++) {
        copy_padded<T>(m.outputs, query_row(s, a.output, n, head, row + i), a.output.stride_bytes[2], s.F);
        Vec<T> sum = zero<T>();
        for (int64_t f = 0; f < c.F; f += L) sum = fma(load(m.outputs + f), load(grads.data + i * grads.stride + f), sum);
        m.delta[i] = lanes_sum<T>(sum);
        m.lse[i] = load_scalar<T>(query_row(s, a.lse, n, head, row + i));
    }
    multiply<T>(rows, width, s.E, {queries.data, queries.stride, 1, m.key_lanes + offset * c.E, c.E * L, L}, m.weights, c.pitch,
                nullptr);
    multiply<T>(rows, width, s.F, {grads.data, grads.stride, 1, m.value_lanes + offset * c.F, c.F * L, L}, m.slopes, c.pitch,
                nullptr);
    wait_to_add_to_mask(c, n * s.H + head, block, chunk);
    for (int64_t i = 0; i < rows; i++) {
        T *weight = m.weights + i * c.pitch, *slope = m.slopes + i * c.pitch;
        const T* bias = mask.any() ? mask.row(query_row(s, a.mask, n, head, row + i), first, depth) : nullptr;
        if (dropout.drops()) dropout.factors(m.kept, (n * s.H + head) * s.G + group, begin + i, first, width);
        const KeyRange inside = clipped(seen[i], first, last), columns{inside.first - first, inside.last - first};
        slope_row<T>(s, weight, slope, width, columns, m.lse[i], m.delta[i], bias, depth, dropout.drops() ? m.kept : nullptr,
                     m.cap_slope);
        if (a.grad_mask) {
            const HeadTensor& g = *a.grad_mask;
            add_to_mask<T>(const_cast<char*>(query_row(s, g, n, head, row + i)) + first * g.stride_bytes[2], g.stride_bytes[2],
                           slope, depth);
        }
        const Vec<T> scale = splat(T(s.scale));
        for (int64_t j = 0; j < width; j += L) {
            Vec<T> x = load(slope + j) * scale;
            if (s.softcap > 0) x = x == 0 ? x : x * load(m.cap_slope + j);  // the factor of a hidden key may be anything
            store(slope + j, x);
        }
    }
    // The first product of all writes; a first one that leaves keys out finds zeros instead.
    if (!begun && depth < keys) clear_keys<T>(c, n, head, key, keys), begun = true;
    const T* const add = begun ? m.ones : nullptr;
    const int64_t key_row = (n * s.H + head) * s.S + first;
    multiply<T>(depth, s.F, rows, {m.weights, 1, c.pitch, grads.data, L, grads.stride}, c.grad_value + key_row * s.F, s.F, add);
    multiply<T>(depth, s.E, rows, {m.slopes, 1, c.pitch, queries.data, L, queries.stride}, c.grad_key + key_row * s.E, s.E, add);
    begun = true;
    if (block > 0) wait_for(c.done + item - 1, chunk + 1);
    multiply<T>(rows, s.E, depth, {m.slopes, c.pitch, 1, key_rows.data + offset * key_rows.stride, L, key_rows.stride}, grad_query,
                s.E, block > 0 ? m.ones : nullptr);
}

template <class T>
static void attention_grad_item(const AttentionGradCall<T>& c, const AttentionGradMemory<T>& m, int64_t item) {
    const AttentionShape& s = c.s;
    const AttentionGradArrays& a = c.a;
    const int64_t n = item / c.blocks / s.H, head = item / c.blocks % s.H;
    const int64_t key = item % c.blocks * c.block, keys = smaller(c.block, s.S - key);
    // Keys beyond a sample's length are not read.
    const int64_t real = larger(0, smaller(keys, (s.kv_lengths ? s.kv_lengths[n] : s.S) - key));
    pack_lanes<T>(m.key_lanes, key_row(s, a.key, n, head, key), a.key, real, s.E);
    pack_lanes<T>(m.value_lanes, key_row(s, a.value, n, head, key), a.value, real, s.F);
    const RowBlock<T> key_rows = row_block<T>(m.keys, key_row(s, a.key, n, head, key), a.key, real, s.E);
    MaskRows<T> mask(a.mask_kind, a.mask, m.bias);
    int32_t done = 0;
    bool begun = false;  // rows of grad_key and grad_value have been written
    for (int64_t group = 0; group < s.G; group++)
        for (int64_t begin = 0; begin < s.L; begin += AttentionGradCall<T>::kRows) {
            attention_grad_chunk<T>(c, m, mask, n, head, item, group, begin, smaller(s.L, begin + AttentionGradCall<T>::kRows), key,
                                    keys, key_rows, begun);
            __atomic_store_n(c.done + item, ++done, __ATOMIC_RELEASE);
        }
    if (!begun) clear_keys<T>(c, n, head, key, keys);
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
                           nullptr};
    const int64_t heads = s.N * s.H;
    if (heads == 0) return Status::ok;
    const int threads = threads_for(5.0 * double(heads * s.G) * double(s.L) * double(s.S) * double(s.E + s.F));
    // Blocks of up to 256 keys, as equal as whole vectors allow: a thread that has a smaller one waits for the block before. More
    // blocks than these where that leaves less of the threads' time unused at the end.
    const int64_t fewest = ceil_div(larger(1, s.S), keys_per_block<T>(s, kBlockBytes, 256));
    const auto unused = [&](int64_t blocks) {
        const int64_t items = heads * blocks;
        return double(ceil_div(items, threads) * threads - items) / double(items);
    };
    // A mask's gradient that is summed over keys takes them block by block: there blocks may not depend on threads.
    const bool fixed = a.grad_mask && a.grad_mask->stride_bytes[2] == 0;
    c.blocks = fewest;
    for (int64_t blocks = fewest + 1; !fixed && blocks <= smaller(ceil_div(s.S, 64), fewest + 4 * threads); blocks++)
        if (unused(c.blocks) > 0.05 && unused(blocks) < unused(c.blocks)) c.blocks = blocks;
    c.block = round_up(larger(1, ceil_div(s.S, c.blocks)), L);
    c.blocks = larger(1, ceil_div(s.S, c.block));
    c.pitch = c.block + L;
    c.chunks = s.G * c.chunks_of_query_head();
    const int64_t items = heads * c.blocks;

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
        take_items(next, items, [&](int64_t item) { attention_grad_item<T>(c, m, item); });
    });
    return Status::ok;
}

static Status attention_grad(const AttentionShape& s, int itemsize, const AttentionGradArrays& a) {
    return itemsize == 4 ? attention_grad_of<float>(s, a) : attention_grad_of<double>(s, a);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
