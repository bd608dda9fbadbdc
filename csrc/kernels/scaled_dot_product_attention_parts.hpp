// What attention and its gradients share: products of a few rows, packing, which keys a query sees, masks, dropout.
#pragma once

#include <math.h>

#include "../channel_lanes.h"
#include "../epilogue.h"
#include "../exp2.h"
#include "../ops.h"
#include "../parallel.h"
#include "../philox.h"
#include "../simd.h"
#include "../tiles.h"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.69314718055994530942;

template <class T>
struct LaneIndex {
    typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct LaneIndex<double> {
    typedef int64_t type __attribute__((vector_size(kVectorBytes)));
};

// Over all lanes, pairwise.
template <class T>
FASTCV_INLINE T lanes_sum(Vec<T> v) {
    typedef typename LaneIndex<T>::type Index;
    Index number = Index{};
    FASTCV_UNROLL for (int i = 0; i < kLanes<T>; i++) number[i] = i;
    FASTCV_UNROLL for (int width = kLanes<T> / 2; width > 0; width /= 2) v += __builtin_shuffle(v, number ^ width);
    return v[0];
}

// result[i] of all lanes of v[i], for eight vectors at once: two of them, interleaved, become one that has both in turn. A row's
// sum has the same order whatever i is.
constexpr int kReducedRows = 8;
template <class T, class Combine>
FASTCV_INLINE void reduce_lanes(T* result, Vec<T> (&v)[kReducedRows], const Combine& both) {
    constexpr int L = kLanes<T>, group = L < kReducedRows ? L : kReducedRows;
    typedef typename LaneIndex<T>::type Index;
    Index across = Index{};
    FASTCV_UNROLL for (int i = 0; i < L; i++) across[i] = i ^ group % L;
    FASTCV_UNROLL for (int g = 0; g < kReducedRows; g += group) {
        FASTCV_UNROLL for (int half = group / 2; half > 0; half /= 2)
            FASTCV_UNROLL for (int i = g; i < g + half; i++)
                v[i] = both(interleave_low<T>(v[i], v[i + half]), interleave_high<T>(v[i], v[i + half]));
        static_assert(L <= 2 * kReducedRows);
        if constexpr (L > group) v[g] = both(v[g], __builtin_shuffle(v[g], across));
        __builtin_memcpy(result + g, &v[g], group * sizeof(T));
    }
}

// ---- products

// Accumulators and columns fill 32 registers, or 16. Narrower tiles cost more loads, yet with 8 rows even a single vector
// of columns keeps both pipes busy.
struct ProductTiles {
    static constexpr int rows = kManyRegisters ? 8 : 6, vectors = kManyRegisters ? 3 : 2;
};

// out[i][..] = end[i] * (start[i] * out[i][..] + rows times columns). Without `start`, what `out` held does not matter; without
// `end` it is 1. `last` lanes of the last vector are stored.
template <class T, int MT, int NV>
FASTCV_NOINLINE void product_tile(const Operands<T>& o, int64_t depth, T* out, int64_t out_stride, const T* start, const T* end,
                                  int64_t last) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MT][NV];
    clear_tile<T, MT, NV>(acc);
    if (start) {
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            const T* from = out + i * out_stride;
            const Vec<T> factor = splat(start[i]);
            FASTCV_UNROLL for (int j = 0; j < NV - 1; j++) acc[i][j] = factor * load(from + j * L);
            acc[i][NV - 1] = factor * load_first(from + (NV - 1) * L, last);
        }
    }
    strided_product<T, MT, NV>(acc, depth, o);
    if (end)
        FASTCV_UNROLL for (int i = 0; i < MT; i++) {
            const Vec<T> factor = splat(end[i]);
            FASTCV_UNROLL for (int j = 0; j < NV; j++) acc[i][j] *= factor;
        }
    FASTCV_UNROLL for (int i = 0; i < MT; i++) {
        T* to = out + i * out_stride;
        FASTCV_UNROLL for (int j = 0; j < NV - 1; j++) store(to + j * L, acc[i][j]);
        store_first(to + (NV - 1) * L, acc[i][NV - 1], last);
    }
}

// The function of Kind, such as ProductTile, for so many rows and vectors.
template <class Kind, int NV, int MT = 1>
static auto find_tile(int64_t rows) {
    if constexpr (MT < ProductTiles::rows) {
        if (rows > MT) return find_tile<Kind, NV, MT + 1>(rows);
    }
    return Kind::template tile<MT, NV>;
}
template <class Kind>
static auto find_tile(int64_t rows, int64_t vectors) {
    if constexpr (ProductTiles::vectors == 3) {
        if (vectors == 3) return find_tile<Kind, 3>(rows);
    }
    return vectors == 2 ? find_tile<Kind, 2>(rows) : find_tile<Kind, 1>(rows);
}
template <class T>
struct ProductTile {
    template <int MT, int NV>
    static constexpr auto tile = &product_tile<T, MT, NV>;
};

// A length cut into parts that are as equal as can be: the first `longer` parts have one more.
struct Parts {
    int64_t number, size, longer;
    Parts(int64_t length, int64_t most) : number(ceil_div(length, most)), size(0), longer(0) {
        if (number == 1) size = length;
        else if (number > 1) size = length / number, longer = length % number;
    }
    int64_t begin(int64_t part) const { return part * size + smaller(part, longer); }
};

// The same for any number of rows and columns. What is read of a column operand is a whole number of vectors.
template <class T>
static void multiply(int64_t rows, int64_t width, int64_t depth, const Operands<T>& o, T* out, int64_t out_stride, const T* start,
                     const T* end = nullptr) {
    constexpr int64_t L = kLanes<T>;
    const Parts passes(ceil_div(width, L), ProductTiles::vectors), tiles(rows, ProductTiles::rows);
    for (int64_t t = 0; t < tiles.number; t++) {
        const int64_t first = tiles.begin(t), count = tiles.begin(t + 1) - first;
        for (int64_t p = 0; p < passes.number; p++) {
            const int64_t v = passes.begin(p), n = passes.begin(p + 1) - v;
            const Operands<T> tile{o.rows + first * o.row_stride, o.row_stride,    o.row_step,
                                   o.columns + v * o.vector_stride, o.vector_stride, o.column_step};
            find_tile<ProductTile<T>>(count, n)(tile, depth, out + first * out_stride + v * L, out_stride,
                                                start ? start + first : nullptr, end ? end + first : nullptr,
                                                smaller(L, width - (v + n - 1) * L));
        }
    }
}

// Threads take item after item: work(item), until `next` has gone from 0 to all of them.
template <class Work>
static void take_items(int64_t& next, int64_t items, const Work& work) {
    for (;;) {
        const int64_t item = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
        if (item >= items) return;
        work(item);
    }
}

// ---- where things lie

static inline int64_t batch_offset(const AttentionShape& s, const HeadTensor& a, int64_t n) {
    int64_t offset = 0;
    for (int axis = s.batch_axes - 1; axis >= 0; axis--) {
        offset += n % s.batch[axis] * a.batch_stride_bytes[axis];
        n /= s.batch[axis];
    }
    return offset;
}

// Row `row` of the G * L queries that share a head of keys: query row % L of head row / L among them.
static inline const char* query_row(const AttentionShape& s, const HeadTensor& a, int64_t n, int64_t head, int64_t row) {
    return a.data + batch_offset(s, a, n) + (head * s.G + row / s.L) * a.stride_bytes[0] + row % s.L * a.stride_bytes[1];
}
static inline const char* query_base(const AttentionShape& s, const HeadTensor& a, int64_t n, int64_t head) {
    return a.data + batch_offset(s, a, n) + head * s.G * a.stride_bytes[0];
}
static inline const char* key_row(const AttentionShape& s, const HeadTensor& a, int64_t n, int64_t head, int64_t key) {
    return a.data + batch_offset(s, a, n) + head * a.stride_bytes[0] + key * a.stride_bytes[1];
}

// to[i] = factor * the columns of a row, and zeros up to a whole vector.
template <class T>
FASTCV_INLINE void copy_padded(T* to, const char* from, int64_t column_bytes, int64_t columns, T factor = T(1)) {
    constexpr int64_t L = kLanes<T>;
    if (column_bytes == int64_t(sizeof(T))) {
        const T* row = reinterpret_cast<const T*>(from);
        int64_t e = 0;
        for (; e + L <= columns; e += L) store(to + e, factor * load(row + e));
        if (e < columns) store(to + e, factor * load_first(row + e, columns - e));
        return;
    }
    for (int64_t e = 0; e < columns; e++) to[e] = factor * load_scalar<T>(from + e * column_bytes);
    for (int64_t e = columns; e < round_up(columns, L); e++) to[e] = 0;
}

// Keys (or values) with keys in lanes, times a factor: [vector of keys][column][lane], zeros behind the last key.
template <class T>
static void pack_lanes(T* to, const char* from, const HeadTensor& a, int64_t keys, int64_t columns, T factor = T(1)) {
    constexpr int64_t L = kLanes<T>;
    const int64_t padded = round_up(columns, L);
    for (int64_t key = 0; key < keys; key += L) {
        T* const vector = to + key * padded;
        load_channel_lanes<T>(vector, columns, from + key * a.stride_bytes[1], a.stride_bytes[1], a.stride_bytes[2],
                              smaller(L, keys - key), 0, columns);
        if (factor == 1) continue;
        for (int64_t e = 0; e < columns; e++) store(vector + e * L, factor * load(vector + e * L));
    }
}

// A head's rows as column operand of a product: where they lie, if a row is whole vectors and rows are close to each other;
// otherwise a copy.
template <class T>
struct RowBlock {
    const T* data;
    int64_t stride;
};
template <class T>
static RowBlock<T> row_block(T* copy, const char* from, const HeadTensor& a, int64_t rows, int64_t columns) {
    constexpr int64_t L = kLanes<T>;
    const int64_t padded = round_up(columns, L), row_bytes = a.stride_bytes[1];
    if (columns == padded && a.stride_bytes[2] == int64_t(sizeof(T)) && row_bytes == columns * int64_t(sizeof(T)))
        return {reinterpret_cast<const T*>(from), columns};
    for (int64_t i = 0; i < rows; i++) copy_padded<T>(copy + i * padded, from + i * row_bytes, a.stride_bytes[2], columns);
    return {copy, padded};
}

// A vector of keys costs as many multiply-adds as there are columns, however few of its lanes hold a key. How many keys beyond
// whole vectors are cheaper as dot products of rows instead, eight of which are summed over lanes together; `products` of
// `columns` in all are taken of each.
constexpr int kMostRest = 8;
template <class T>
static int64_t rest_of_keys(int64_t keys, int64_t columns, int64_t products) {
    constexpr int64_t L = kLanes<T>;
    const int64_t rest = keys % L;
    return rest <= kMostRest && rest * (columns / L + 8 * products) < columns + 10 ? rest : 0;
}
// result[i * step] = factor * row i times `other`. Columns are whole vectors.
template <class T>
FASTCV_NOINLINE void row_dots(const RowBlock<T>& rows, int64_t number, const char* other, int64_t columns, T factor, T* result,
                              int64_t step) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t first = 0; first < number; first += kReducedRows) {
        const T* row[kReducedRows];
        Vec<T> sums[kReducedRows];
        T dot[kReducedRows];
        FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) {
            row[i] = rows.data + smaller(first + i, number - 1) * rows.stride;
            sums[i] = zero<T>();
        }
        for (int64_t e = 0; e < columns; e += L) {
            const Vec<T> x = load(reinterpret_cast<const T*>(other) + e);
            FASTCV_UNROLL for (int i = 0; i < kReducedRows; i++) sums[i] = fma(load(row[i] + e), x, sums[i]);
        }
        reduce_lanes<T>(dot, sums, [](Vec<T> a, Vec<T> b) { return a + b; });
        for (int64_t i = 0; i < smaller(kReducedRows, number - first); i++) result[(first + i) * step] = factor * dot[i];
    }
}

// Whether all columns of some rows are finite: 0 * x is 0 then.
template <class T>
static bool rows_finite(const RowBlock<T>& rows, int64_t number, int64_t columns) {
    constexpr int64_t L = kLanes<T>;
    Vec<T> seen[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};  // four sums, lest one wait for the other
    int64_t i = 0;
    for (; i + 4 <= number; i += 4)
        for (int64_t f = 0; f < columns; f += L)
            FASTCV_UNROLL for (int k = 0; k < 4; k++) seen[k] = fma(load(rows.data + (i + k) * rows.stride + f), zero<T>(), seen[k]);
    for (; i < number; i++)
        for (int64_t f = 0; f < columns; f += L) seen[0] = fma(load(rows.data + i * rows.stride + f), zero<T>(), seen[0]);
    const T sum = lanes_sum<T>((seen[0] + seen[1]) + (seen[2] + seen[3]));
    return sum == sum;
}

// ---- which keys a query sees

struct KeyRange {
    int64_t first, last;
};
static inline KeyRange visible_keys(const AttentionShape& s, int64_t n, int64_t query) {
    const int64_t length = s.kv_lengths ? s.kv_lengths[n] : s.S;
    const int64_t own = query + (s.bottom_right ? length - s.L : 0);
    const int64_t first = s.left < 0 ? 0 : larger(0, own - s.left);
    const int64_t last = s.right < 0 ? length : smaller(length, own + s.right + 1);
    return {first, larger(first, last)};
}
static inline KeyRange clipped(KeyRange r, int64_t first, int64_t last) {
    const int64_t begin = smaller(larger(r.first, first), last);
    return {begin, larger(begin, smaller(r.last, last))};
}

template <class T>
FASTCV_INLINE Vec<T> lane_numbers() {
    Vec<T> numbers = zero<T>();
    FASTCV_UNROLL for (int i = 0; i < kLanes<T>; i++) numbers[i] = T(i);
    return numbers;
}
// Elements outside [first, last) of a row of `width` become `value`. Whole vectors are stored: narrower stores would keep a
// load that follows waiting.
template <class T>
static void fill_outside(T* x, int64_t first, int64_t last, int64_t width, T value) {
    constexpr int64_t L = kLanes<T>;
    const Vec<T> filled = splat(value);
    int64_t i = 0;
    for (; i + L <= first; i += L) store(x + i, filled);
    if (i < first) store(x + i, lane_numbers<T>() < T(first - i) ? filled : load(x + i));
    for (i = last / L * L; i < width; i += L) store(x + i, lane_numbers<T>() >= T(last - i) ? filled : load(x + i));
}

// ---- masks

// Additive numbers of one row of the mask, read where they lie or brought into a buffer. A hidden key is -infinity.
template <class T>
class MaskRows {
public:
    MaskRows(AttentionMask kind, const HeadTensor& mask, T* buffer) : kind_(kind), mask_(mask), buffer_(buffer) {}
    bool any() const { return kind_ != AttentionMask::none; }
    // Whether `row` gives numbers where they lie, if any, so that several rows may be held at once.
    bool in_place() const {
        return !any() || (kind_ == AttentionMask::additive && mask_.stride_bytes[2] == int64_t(sizeof(T)));
    }

    // Of keys first .. first + keys - 1 in the row that begins at `row`.
    const T* row(const char* row, int64_t first, int64_t keys) {
        const int64_t column_bytes = mask_.stride_bytes[2];
        const char* from = row + first * column_bytes;
        if (kind_ == AttentionMask::additive && column_bytes == int64_t(sizeof(T))) return reinterpret_cast<const T*>(from);
        if (from == held_ && keys <= held_keys_) return buffer_;
        held_ = from, held_keys_ = keys;
        if (kind_ == AttentionMask::additive) {
            for (int64_t j = 0; j < keys; j++) buffer_[j] = load_scalar<T>(from + j * column_bytes);
        } else if (column_bytes == 1) {
            for (int64_t j = 0; j < keys; j++) buffer_[j] = from[j] ? T(0) : -kInfinity<T>;
        } else {
            for (int64_t j = 0; j < keys; j++) buffer_[j] = from[j * column_bytes] ? T(0) : -kInfinity<T>;
        }
        return buffer_;
    }

private:
    const AttentionMask kind_;
    const HeadTensor& mask_;
    T* buffer_;
    const char* held_ = nullptr;
    int64_t held_keys_ = 0;
};

// ---- softcap

// cap * tanh(x / cap)
template <class T>
static void cap_scores(T* x, int64_t width, T cap) {
    for (int64_t i = 0; i < width; i += kLanes<T>) store(x + i, cap * hyperbolic_tangent(load(x + i) / cap));
}

// ---- dropout

// Which weights are kept: that of key 64 g + 16 w + i in a query's row is if word w of Philox block 16 g + i, counted with the
// query and its head, is at least dropout * 2^32. Kept ones are multiplied by 1 / (1 - dropout).
template <class T>
class Dropout {
public:
    explicit Dropout(const AttentionShape& s)
        : seed_(s.seed),
          threshold_(s.dropout < 1 ? uint32_t(s.dropout * 4294967296.0) : ~0u),
          factor_(s.dropout < 1 ? T(1 / (1 - s.dropout)) : T(0)),
          drops_(s.dropout > 0) {}
    bool drops() const { return drops_; }

    // factors[j] of keys first .. first + keys - 1, `first` a multiple of lanes.
    void factors(T* factors, int64_t head, int64_t query, int64_t first, int64_t keys) const {
        uint32_t words[64];
        int64_t group = -1;
        for (int64_t j = 0; j < keys; j++) {
            const int64_t key = first + j;
            if (key / 64 != group) {
                group = key / 64;
                philox(words, seed_, uint32_t(16 * group), uint32_t(query), uint64_t(head));
            }
            factors[j] = words[key % 64] >= threshold_ ? factor_ : T(0);
        }
    }

private:
    uint64_t seed_;
    uint32_t threshold_;
    T factor_;
    bool drops_;
};

// ---- sizes of blocks, and scratch

// Cuts arrays that start at cache lines off a piece of memory; without memory it only adds up their sizes.
class ScratchCut {
public:
    explicit ScratchCut(char* memory) : memory_(memory) {}
    template <class T>
    T* take(int64_t elements) {
        char* piece = memory_ ? memory_ + bytes_ : nullptr;
        bytes_ += round_up(elements * int64_t(sizeof(T)), 64);
        return reinterpret_cast<T*>(piece);
    }
    int64_t bytes() const { return bytes_; }

private:
    char* memory_;
    int64_t bytes_ = 0;
};

// Keys of a block: packed keys and values of one lie in half of a 1 MB second-level cache, a row of scores in the first-level
// one. Blocks of a call are about equal, and start at multiples of 64 keys.
template <class T>
static int64_t keys_per_block(const AttentionShape& s, int64_t bytes, int64_t most) {
    const int64_t columns = round_up(s.E, kLanes<T>) + round_up(s.F, kLanes<T>);
    const int64_t fit = larger(64, smaller(most, bytes / int64_t(sizeof(T)) / larger(1, columns) / 64 * 64));
    return round_up(ceil_div(larger(1, s.S), ceil_div(larger(1, s.S), fit)), 64);
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
