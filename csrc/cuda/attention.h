// What attention's kernels share: where a head lies, which keys a query sees, tiles of masked scores, dropout.
//
// Heads are those of the queries, H * G of them; G consecutive ones share a head of keys and values.
#pragma once

#include "tiles.h"

namespace fastcv::cuda {

template <class W>
constexpr W kLog2E = W(1.4426950408889634074);
template <class W>
constexpr W kLn2 = W(0.6931471805599453094);

__device__ inline float minus_infinity(float) { return -INFINITY; }
__device__ inline double minus_infinity(double) { return -double(INFINITY); }

// ---- dropout: Philox4x32-10, counted as ../philox.h says

// The weight of key 64 g + 16 w + i is dropped where word w of block 16 g + i is below the threshold.
struct Dropout {
    bool drops;
    uint32_t threshold;
    uint64_t seed;
    double factor;  // of the weights that stay

    explicit Dropout(const AttentionShape& s)
        : drops(s.dropout > 0), threshold(0xffffffffu), seed(s.seed), factor(s.dropout < 1 ? 1 / (1 - s.dropout) : 0) {
        const double words = s.dropout * 4294967296.0;
        if (words < 4294967295.0) threshold = uint32_t(words);
    }
    __device__ static uint32_t upper(uint64_t x) { return uint32_t(x >> 32); }
    __device__ void words(uint32_t (&c)[4], uint32_t block, int64_t row, int64_t head) const {
        c[0] = block, c[1] = uint32_t(row), c[2] = uint32_t(head), c[3] = upper(uint64_t(head));
        uint32_t key0 = uint32_t(seed), key1 = upper(seed);
        for (int round = 0; round < 10; round++) {
            const uint64_t a = uint64_t(c[0]) * 0xD2511F53u, b = uint64_t(c[2]) * 0xCD9E8D57u;
            c[0] = upper(b) ^ c[1] ^ key0;
            c[1] = uint32_t(b);
            c[2] = upper(a) ^ c[3] ^ key1;
            c[3] = uint32_t(a);
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
    }
    // Factors of this thread's weights in a row of a tile that begins at `key`: a block has those of keys 16 apart.
    template <class T, class W = typename Wide<T>::type>
    __device__ void factors(W (&kept)[kColumns<T>], int64_t head, int64_t row, int64_t key) const {
        const auto factor_of = [&](uint32_t word) { return !drops ? W(1) : word >= threshold ? W(factor) : W(0); };
        uint32_t c[4] = {};
        if constexpr (kTensorCores<T>) {
            FASTCV_UNROLL for (int j = 0; j < 4; j++) {
                if (drops) words(c, uint32_t(key / 64 * kSide + j / 2 * 8 + lane_column() + j % 2), row, head);
                kept[j] = factor_of(warp_column() == 0 ? c[0] : c[2]);
                kept[j + 4] = factor_of(warp_column() == 0 ? c[1] : c[3]);
            }
        } else {
            if (drops) words(c, uint32_t(key / 64 * kSide + thread_x()), row, head);
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++)
                kept[j] = factor_of(kColumns<T> == 4 ? c[j] : c[key % 64 / kSide + j]);
        }
    }
};

// ---- places

struct AttentionArguments {
    AttentionShape s;
    HeadTensor query, key, value, mask, lengths;
    AttentionMask mask_kind;
    int length_bytes;
    Dropout dropout;

    explicit AttentionArguments(const AttentionCall& c)
        : s(c.s),
          query(c.query),
          key(c.key),
          value(c.value),
          mask(c.mask),
          lengths(c.lengths),
          mask_kind(c.mask_kind),
          length_bytes(c.length_bytes),
          dropout(c.s) {}
};

__device__ inline const char* head_data(const HeadTensor& t, const AttentionShape& s, int64_t n, int64_t head) {
    const char* at = t.data + head * t.stride_bytes[0];
    for (int axis = s.batch_axes - 1; axis >= 0; axis--) {
        at += n % s.batch[axis] * t.batch_stride_bytes[axis];
        n /= s.batch[axis];
    }
    return at;
}

struct KeyRange {
    int64_t first, last;
};

// One head of one sample.
struct Head {
    const char *query, *key, *value, *mask;
    int64_t flat;    // counted through all samples
    int64_t length;  // keys that there are
    int64_t shift;   // from a query to its own key

    // `flat_`: n * H * G + head
    __device__ Head(const AttentionArguments& a, int64_t flat_) : flat(flat_) {
        const AttentionShape& s = a.s;
        const int64_t n = flat / (s.H * s.G), head = flat % (s.H * s.G), shared = head / s.G;
        query = head_data(a.query, s, n, head);
        key = head_data(a.key, s, n, shared);
        value = head_data(a.value, s, n, shared);
        mask = a.mask_kind == AttentionMask::none ? nullptr : head_data(a.mask, s, n, head);
        length = s.S;
        if (a.lengths.data) {
            const int64_t given = load_index(head_data(a.lengths, s, n, 0), a.length_bytes);
            length = given < 0 ? 0 : given < s.S ? given : s.S;
        }
        shift = s.bottom_right ? length - s.L : 0;
    }
    __device__ KeyRange seen(const AttentionShape& s, int64_t row) const {
        const int64_t own = row + shift, left = own - s.left, right = own + s.right + 1;
        const int64_t first = s.left < 0 || left < 0 ? 0 : left;
        const int64_t last = s.right < 0 || right > length ? length : right;
        return {first, last};
    }
    // What the rows from `row` to before `end` see, from a multiple of a tile on.
    template <class W>
    __device__ KeyRange seen_by_tile(const AttentionShape& s, int64_t row) const {
        const int64_t end = row + kTile<W> < s.L ? row + kTile<W> : s.L;
        return {seen(s, row).first / kTile<W> * kTile<W>, seen(s, end - 1).last};
    }
    // The rows that see keys of the tile from `key` on, likewise.
    template <class W>
    __device__ KeyRange rows_that_see(const AttentionShape& s, int64_t key) const {
        const int64_t last_key = key + kTile<W> < length ? key + kTile<W> - 1 : length - 1;
        const int64_t from = key - shift - s.right, to = last_key - shift + s.left + 1;
        const int64_t first = s.right < 0 || from < 0 ? 0 : from;
        const int64_t last = key >= length ? 0 : s.left < 0 || to > s.L ? s.L : to;
        return {first / kTile<W> * kTile<W>, last};
    }
};

// Columns of a row-by-row matrix from `row` and `column` on, `rows` rows of them: the right side of a product over its rows.
__device__ inline Side columns_of(const char* data, const HeadTensor& t, int64_t row, int64_t rows, int64_t column,
                                  int64_t columns) {
    return {data + row * t.stride_bytes[1] + column * t.stride_bytes[2], columns - column, t.stride_bytes[2], rows,
            t.stride_bytes[1], false};
}
// Its rows from `row` on, for a product over its columns.
__device__ inline Side rows_of(const char* data, const HeadTensor& t, int64_t row, int64_t rows, int64_t columns) {
    return {data + row * t.stride_bytes[1], rows - row, t.stride_bytes[1], columns, t.stride_bytes[2], true};
}
__device__ inline int64_t up_to(int64_t a, int64_t most) { return a < most ? a : most; }

// ---- scores

// Masked scores of a tile, times log2(e); -infinity for a key that a row does not see. `slope`, where it is not null, becomes the
// derivative of the cap.
template <class T, class W = typename Wide<T>::type>
__device__ void score_tile(const AttentionArguments& a, TileMemory<T>& memory, const Head& head, int64_t row, int64_t key,
                           Sums<T>& x, Sums<T>* slope = nullptr) {
    const AttentionShape& s = a.s;
    x.clear();
    multiply_panels<T>(x, memory, rows_of(head.query, a.query, row, s.L, s.E), rows_of(head.key, a.key, key, head.length, s.E));
    const W scale = W(s.scale), cap = W(s.softcap);
    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
        const int64_t l = row + row_of<T>(i);
        const KeyRange seen = l < s.L ? head.seen(s, l) : KeyRange{0, 0};
        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
            const int64_t k = key + column_of<T>(j);
            bool is_seen = k >= seen.first && k < seen.last;
            W score = x.at[i][j] * scale;
            if (slope) slope->at[i][j] = 1;
            if (cap > 0) {
                const W bent = tanh(score / cap);
                score = cap * bent;
                if (slope) slope->at[i][j] = 1 - bent * bent;
            }
            if (is_seen && a.mask_kind != AttentionMask::none) {
                const char* at = head.mask + l * a.mask.stride_bytes[1] + k * a.mask.stride_bytes[2];
                if (a.mask_kind == AttentionMask::boolean) {
                    is_seen = *at != 0;
                } else {
                    const W add = load_wide<T>(at);
                    is_seen = add != minus_infinity(W());
                    score += add;
                }
            }
            x.at[i][j] = is_seen ? score * kLog2E<W> : minus_infinity(W());
        }
    }
}

}  // namespace fastcv::cuda
