// What every way to solve an assignment problem shares: how costs are read, the arrays of one solve, when to look up.
//
// n rows, m >= n columns, costs c. A complete matching gives each row a column of its own and has the least sum of costs.
// Prices v of the columns, which only ever fall, prove it: where each row's own column is its cheapest one at these
// prices, c[i][j] - v[j] = min over k of c[i][k] - v[k] = u[i], and no column without a row has a price below 0, no other
// matching costs less, since every matching costs at least sum u + sum v. So a solver keeps to rows at their cheapest
// columns all the way and is done when every row has one.
//
// With a limit a row may also go without, at the price of the limit: as if each row had a column of its own at that cost,
// which no other row may take. Such a column needs no memory: its price stays 0.
//
// Sums are float64 whatever the costs are. Prices fall by x - (x - y) and the like, so that integers up to 2**53 stay exact.
#pragma once

#include "../parallel.h"
#include "../simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kFree = -1;     // a row or column that has no partner yet
constexpr int64_t kWithout = -2;  // a row that goes without, for good

// Rows of costs, contiguous within a row, starting at any byte. +infinity: a pair that may not be.
template <class T>
struct Costs {
    const char* data;
    int64_t row_stride_bytes;
    int64_t n, m;
    const T* row(int64_t i) const { return reinterpret_cast<const T*>(data + i * row_stride_bytes); }
    double at(int64_t i, int64_t j) const { return double(load_scalar<T>(row(i) + j)); }
};

// What is asked for beyond the cheapest complete matching.
struct Rules {
    double limit = kInfinity<double>;  // rows that would cost more go without
    bool incomplete = false;   // where no complete matching is left, as many rows as possible
    bool limited() const { return limit < kInfinity<double>; }
};

// What is known of the costs: nothing, that all are finite and sums of them too, or that and that some are +infinity.
enum class Known { nothing, finite, infinite };

enum class Solved { yes, unusable, infeasible, interrupted };

// Looks up every so often whether somebody wants the solve to end.
class Watch {
public:
    // `ask` may be null. `stop` is shared by the threads of a call.
    Watch(bool (*ask)(), bool* stop) : ask_(ask), stop_(stop), left_(kWorkBetweenLooks) {}
    // Whether to give up, after so many costs have been read since the last time.
    bool ends(int64_t work) { return (left_ -= work) < 0 && look(); }

private:
    bool look() {
        left_ = kWorkBetweenLooks;
        if (ask_ && ask_()) __atomic_store_n(stop_, true, __ATOMIC_RELAXED);
        return __atomic_load_n(stop_, __ATOMIC_RELAXED);
    }
    static constexpr int64_t kWorkBetweenLooks = int64_t(1) << 25;  // some 10 ms
    bool (*ask_)();
    bool* stop_;
    int64_t left_;
};

constexpr int64_t kBlock = 4 * kLanes<double>;  // columns in one turn of an unrolled loop, at least 64 bytes

// The arrays of one solve, cut from scratch memory.
struct Arrays {
    double* v;           // prices of the columns; -infinity: out of bounds for now
    double* d;           // distances of the columns in a search; behind the last column, in both, what disturbs no minimum
    int64_t* row_of;     // the row of each column, or kFree
    int64_t* column_of;  // the column of each row, kFree or kWithout
    int64_t* waiting;    // rows that have no column yet
    // A search: the rows that it reached, each with what is added to its costs, and the columns by which it came there,
    // with their distances and their prices before it (none for the first row).
    int64_t* reached;
    double* offset;
    int64_t* via;
    double* via_distance;
    double* via_price;
    // Columns that are lost to rows which can still have others (see Dense::leave_one_out).
    int64_t* lost;
    double* lost_price;
    double* lost_distance;

    static int64_t bytes(int64_t n, int64_t m) { return 8 * (3 * padded(m) + 10 * padded(n + 1)); }
    // `memory` is 64-byte aligned.
    void cut(char* memory, int64_t n, int64_t m) {
        const auto take = [&](auto*& array, int64_t elements) {
            array = reinterpret_cast<decltype(array + 0)>(memory);
            memory += 8 * padded(elements);
        };
        take(v, m), take(d, m), take(row_of, m);
        take(column_of, n), take(waiting, n);
        take(reached, n + 1), take(offset, n + 1), take(via, n + 1), take(via_distance, n + 1), take(via_price, n + 1);
        take(lost, n), take(lost_price, n), take(lost_distance, n);
    }
    static int64_t padded(int64_t elements) { return round_up(elements, kBlock); }
};

// ---- costs as vectors of double

FASTCV_INLINE Vec<double> wide(const double* c) { return load(c); }
FASTCV_INLINE Vec<double> wide(const float* c) {
    typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
    Half h;
    __builtin_memcpy(&h, c, sizeof h);
    return __builtin_convertvector(h, Vec<double>);
}
// The first n lanes, fewer than all; the others +infinity.
template <class T>
FASTCV_INLINE Vec<double> wide_first(const T* c, int64_t n) {
    Vec<double> x = splat(kInfinity<double>);
#if defined(__AVX512F__)
    const __mmask8 lanes = __mmask8(first_lanes(n));
    if constexpr (sizeof(T) == 8) return _mm512_mask_loadu_pd(x, lanes, c);
    else return _mm512_mask_cvtps_pd(x, lanes, _mm256_maskz_loadu_ps(lanes, c));
#else
    for (int i = 0; i < int(n); i++) x[i] = double(load_scalar<T>(c + i));
    return x;
#endif
}

// Visits a row's costs as vectors with the number of their first column: visit(j, x), four in a turn.
template <class T, class Visit>
FASTCV_INLINE void for_each_vector(const T* c, int64_t m, const Visit& visit) {
    constexpr int L = kLanes<double>;
    int64_t j = 0;
    for (; j + kBlock <= m; j += kBlock)
        FASTCV_UNROLL for (int k = 0; k < 4; k++) visit(k, j + k * L, wide(c + j + k * L));
    for (; j + L <= m; j += L) visit(0, j, wide(c + j));
    if (j < m) visit(0, j, wide_first(c + j, m - j));
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
