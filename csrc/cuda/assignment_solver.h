// One problem's matching, found by the threads of a block: bids, and then shortest augmenting paths.
//
//   n rows, m >= n columns, costs c; prices v of columns, which only fall. A row at its cheapest column, c - v, stays there;
//   when all rows have such columns, and columns without a row the price 0, no matching costs less (kernels/assignment.hpp,
//   whose rules these are: limits, rows that go without, what is lost to rows that are too many).
//
//                     columns, a thread every so many
//   row i       [ c c c c | c c c c | .. ]        rows without gaps, in the workspace
//   prices      [ v v v v | v v v v | .. ]        in shared memory, where it holds them all
//   distances   [ d d d d | d d d d | .. ]   ->   the least of all, by warps, then of the warps
//
// 1. Look at all costs: NaN and infinities, and the least of each column, which is its first price in square problems.
// 2. Rounds of bids: a warp for each row without a column finds the two cheapest columns at these prices, and offers for the
//    cheapest the price at which the second is as good. The column goes to the lowest price, of equal ones to the first row;
//    who had it is without. All rows of a round see the same prices, so the order of warps does not show. A row that
//    cannot lower a price has to wait for a column that is free. A round in which no column changes hands is the last.
// 3. Each row that is left, one after the other: Dijkstra's algorithm over reduced costs, all threads at one row of costs a
//    step. Of columns at the same distance a free one comes first, then the first. A step has one barrier: the slots of
//    warps' results take turns.
//
// Every decision is the least of numbers with the column or row as tie-break, and no sum is shared between threads: the
// same bits for any order of threads. Results depend on the costs alone. Sums are float64; the dual of a row is worked out
// anew from its column's price after each search, so that a pair's reduced cost is 0 exactly, and integers up to 2**53 are
// exact. Costs from 2**960 on are scaled by 2**-64, in the workspace.
//
// A search's steps follow each other, each as long as it takes to read a row from the second-level cache, so a problem cannot
// use much of a device; many at a time can. No figure has been measured; threads, rounds and the sizes of shared memory are
// guesses from counts of steps.
//
// R. Jonker and A. Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.
// D. P. Bertsekas, The auction algorithm, 1988.
#pragma once

#include "assignment_rows.h"

namespace fastcv::cuda {
namespace {

constexpr int kFree = -1;     // a row or column without a partner
constexpr int kWithout = -2;  // a row that goes without, for good
constexpr int kBids = -3;     // kBids - j: a row that bids for column j
constexpr int kNobody = 0x7fffffff;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr double kLargest = 0x1p960, kScale = 0x1p-64;

constexpr int kMostThreads = 512, kMostWarps = kMostThreads / kWarp;
constexpr int kMostRounds = 24;

__host__ __device__ inline int64_t up_to_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }
// Of what Solver::cut cuts: 12 bytes a row, 24 a column, and 8 more for lost prices.
__host__ __device__ inline int64_t arrays_bytes(int64_t n, int64_t m, bool incomplete) {
    return up_to_16((incomplete ? 32 : 24) * m + 12 * n);
}

// A number and where it is; among equal ones the least place.
struct Least {
    double number;
    int place;

    __device__ void take(double x, int at) {
        if (x < number || (x == number && at < place)) number = x, place = at;
    }
};
__device__ inline Least nothing_yet() { return {INFINITY, kNobody}; }

__device__ inline Least least_of_warp(Least least) {
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
        const double number = __shfl_xor_sync(kAllLanes, least.number, lanes);
        least.take(number, __shfl_xor_sync(kAllLanes, least.place, lanes));
    }
    return least;
}

// Numbers in the order of unsigned integers.
__device__ inline unsigned long long in_order(double x) {
    unsigned long long bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// What the threads of a block share beside a problem's arrays.
struct Shared {
    Least slots[2][kMostWarps];
    int counts[kMostThreads];
    int found;
    bool won;  // whether a column has changed hands in this round
};

enum Finding : int { kInvalid = 1, kInfinite = 2, kHuge = 4 };
enum class Solved { yes, invalid, infeasible };

// All threads of a block call all of this together.
template <class T>
struct Solver {
    T* costs;
    int n, m;
    double limit;
    bool incomplete;
    Shared* shared;
    double *v, *d, *u, *lost_price;
    int *row_of, *from, *column_of;
    // The row before column j on its path is from[j], or ~from[j] once the column has been passed.
    int turn = 0;
    bool may_win = true;
    double scale = 1;

    __device__ void cut(char* memory) {
        v = reinterpret_cast<double*>(memory);
        d = v + m;
        u = d + m;
        lost_price = u + n;
        int* const integers = reinterpret_cast<int*>(lost_price + (incomplete ? m : 0));
        row_of = integers;
        from = row_of + m;
        column_of = from + m;
    }
    __device__ int thread() const { return int(threadIdx.x); }
    __device__ int threads() const { return int(blockDim.x); }
    __device__ double cost(int i, int j) const { return double(costs[int64_t(i) * m + j]); }
    __device__ bool limited() const { return limit < INFINITY; }
    __device__ bool waits(int i) const { return column_of[i] < 0 && column_of[i] != kWithout; }
    __device__ bool is_lost(int j) const { return v[j] == -INFINITY; }

    __device__ Solved solve();
    __device__ int look();
    __device__ int bid();
    __device__ void offer(int i, Least first, double second);
    __device__ bool search(int start);
    template <bool kFirst, bool kLost>
    __device__ Least relax(int i, double offset);
    __device__ void leave_one_out(int start, double end, int end_row);
    __device__ void hand_over(int column, int start);
    __device__ void let_go(int row, int start);
    __device__ Least least_of_block(Least);
    __device__ int sum_of_block(int mine);
    __device__ int count_before(int mine);
};

template <class T>
__device__ Least Solver<T>::least_of_block(Least least) {
    least = least_of_warp(least);
    if (threads() == kWarp) return least;
    // Whoever writes a slot again has passed the barrier after the one in between, which all reach having read it.
    Least* const slots = shared->slots[turn];
    turn = 1 - turn;
    const int lane = thread() % kWarp;
    if (lane == 0) slots[thread() / kWarp] = least;
    __syncthreads();
    return least_of_warp(lane < threads() / kWarp ? slots[lane] : nothing_yet());
}

// The sum over all threads, for every thread.
template <class T>
__device__ int Solver<T>::sum_of_block(int mine) {
    if (thread() == 0) shared->found = 0;
    __syncthreads();
    if (mine) atomicAdd(&shared->found, mine);
    __syncthreads();
    const int sum = shared->found;
    __syncthreads();  // before anybody writes there again
    return sum;
}

// The sum over the threads before this one.
template <class T>
__device__ int Solver<T>::count_before(int mine) {
    __syncthreads();
    int* const counts = shared->counts;
    counts[thread()] = mine;
    __syncthreads();
    for (int step = 1; step < threads(); step *= 2) {
        const int more = thread() >= step ? counts[thread() - step] : 0;
        __syncthreads();
        counts[thread()] += more;
        __syncthreads();
    }
    return counts[thread()] - mine;
}

// First prices, and nobody has a partner. What there is among the costs.
template <class T>
__device__ int Solver<T>::look() {
    int found = 0;
    for (int j = thread(); j < m; j += threads()) {
        double least = INFINITY;
        for (int i = 0; i < n; i++) {
            const double x = cost(i, j);
            if (!(x > -kLargest && x < kLargest))
                found |= x != x || x == -INFINITY ? kInvalid : x == INFINITY ? kInfinite : kHuge;
            if (x < least) least = x;
        }
        v[j] = least;
        row_of[j] = kFree;
    }
    for (int i = thread(); i < n; i += threads()) column_of[i] = kFree;
    if (thread() == 0) shared->found = 0;
    __syncthreads();
    if (found) atomicOr(&shared->found, found);
    __syncthreads();
    found = shared->found;
    if (found & kInvalid) return found;
    if (found & kHuge) {
        scale = kScale;
        limit *= kScale;
        for (int64_t k = thread(); k < int64_t(n) * m; k += threads()) costs[k] = T(costs[k] * kScale);
    }
    // Columns that may stay without a row have the price 0.
    const bool all_taken = n == m && !(found & kInfinite) && !limited();
    for (int j = thread(); j < m; j += threads()) v[j] = all_taken ? v[j] * scale : 0;
    __syncthreads();
    return found;
}

// What a row, whose cheapest and second cheapest columns are known, does about it. One lane of its warp.
template <class T>
__device__ void Solver<T>::offer(int i, Least first, double second) {
    if (limited() && first.number > limit) {
        column_of[i] = kWithout;
        return;
    }
    if (first.number == INFINITY) return;
    const int j = first.place % m;
    if (limit < second) second = limit;
    const double price = second == INFINITY ? v[j] : v[j] - (second - first.number);
    if (row_of[j] >= 0 && !(price < v[j])) return;
    column_of[i] = kBids - j;
    u[i] = price;
    atomicMin(reinterpret_cast<unsigned long long*>(d + j), in_order(price));
}

// One round of bids; the number of rows that still wait. `may_win`: whether another round could change anything.
template <class T>
__device__ int Solver<T>::bid() {
    for (int j = thread(); j < m; j += threads()) {
        reinterpret_cast<unsigned long long*>(d)[j] = ~0ull;
        from[j] = kNobody;
    }
    if (thread() == 0) shared->won = false;
    __syncthreads();
    const int lane = thread() % kWarp;
    for (int i = thread() / kWarp; i < n; i += threads() / kWarp) {
        if (!waits(i)) continue;
        Least first = nothing_yet();
        double second = INFINITY;
        const auto take = [&](double x, int place) {
            const double before = first.number;
            first.take(x, place);
            const double beaten = first.place == place ? before : x;
            if (beaten < second) second = beaten;
        };
        for (int j = lane; j < m; j += kWarp) take(cost(i, j) - v[j], row_of[j] < 0 ? j : m + j);
        for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
            const double number = __shfl_xor_sync(kAllLanes, first.number, lanes);
            const int place = __shfl_xor_sync(kAllLanes, first.place, lanes);
            const double other = __shfl_xor_sync(kAllLanes, second, lanes);
            if (place != kNobody) take(number, place);
            if (other < second) second = other;
        }
        if (lane == 0) offer(i, first, second);
    }
    __syncthreads();
    for (int i = thread(); i < n; i += threads()) {
        if (column_of[i] > kBids) continue;
        const int j = kBids - column_of[i];
        if (in_order(u[i]) == reinterpret_cast<unsigned long long*>(d)[j]) atomicMin(from + j, i);
    }
    __syncthreads();
    for (int j = thread(); j < m; j += threads()) {
        if (from[j] == kNobody) continue;
        const int i = from[j];
        if (row_of[j] >= 0) column_of[row_of[j]] = kFree;
        v[j] = u[i];
        row_of[j] = i;
        column_of[i] = j;
        u[i] = cost(i, j) - v[j];
        shared->won = true;
    }
    __syncthreads();
    may_win = shared->won;
    int waiting = 0;
    for (int i = thread(); i < n; i += threads()) {
        if (column_of[i] <= kBids) column_of[i] = kFree;
        waiting += waits(i);
    }
    return sum_of_block(waiting);
}

// Distances by way of row i, which adds `offset`, and the least of this thread's: of columns that have not been passed, or of
// those that are lost.
template <class T>
template <bool kFirst, bool kLost>
__device__ Least Solver<T>::relax(int i, double offset) {
    Least least = nothing_yet();
    const T* const c = costs + int64_t(i) * m;
    for (int j = thread(); j < m; j += threads()) {
        if (kLost && !is_lost(j)) continue;
        if (!kFirst && from[j] < 0) continue;
        double x = double(c[j]) - (kLost ? lost_price[j] : v[j]) + offset;
        if (kFirst || x < d[j]) {
            d[j] = x;
            from[j] = i;
        } else {
            x = d[j];
        }
        least.take(x, kLost || row_of[j] < 0 ? j : m + j);
    }
    return least;
}

// `column` goes to the row before it on its path, that row's column to the row before, and so on. One thread.
template <class T>
__device__ void Solver<T>::hand_over(int column, int start) {
    for (;;) {
        const int i = from[column] < 0 ? ~from[column] : from[column], next = column_of[i];
        row_of[column] = i;
        column_of[i] = column;
        if (i == start) return;
        column = next;
    }
}

// `row` goes without, and its column to the row before. One thread.
template <class T>
__device__ void Solver<T>::let_go(int row, int start) {
    const int column = column_of[row];
    column_of[row] = kWithout;
    if (row != start) hand_over(column, start);
}

// Finds a row that has no column the cheapest one, by way of others. False: there is none.
template <class T>
__device__ bool Solver<T>::search(int start) {
    double cheapest = 0;  // what is added to the limit where the row goes without that is cheapest to let go
    int end_row = start, column;
    Least least = least_of_block(relax<true, false>(start, 0));
    for (;;) {
        column = kFree;
        if (limited() && limit + cheapest < least.number) {
            least.number = limit + cheapest;
            break;
        }
        if (least.number == INFINITY) {
            if (incomplete) leave_one_out(start, cheapest, end_row);
            return incomplete;
        }
        column = least.place % m;
        if (least.place < m) break;
        if (thread() == column % threads()) from[column] = ~from[column];
        const int i = row_of[column];
        const double offset = least.number - u[i];
        if (offset < cheapest) {
            cheapest = offset;
            end_row = i;
        }
        least = least_of_block(relax<false, false>(i, offset));
    }
    __syncthreads();
    if (thread() == 0) {
        if (column == kFree)
            let_go(end_row, start);
        else
            hand_over(column, start);
    }
    for (int j = thread(); j < m; j += threads())
        if (from[j] < 0) v[j] += d[j] - least.number;
    __syncthreads();
    for (int j = thread(); j < m; j += threads())
        if (from[j] < 0 || j == column) u[row_of[j]] = cost(row_of[j], j) - v[j];
    __syncthreads();
    return true;
}

// A search has passed all columns that its rows can have, and there is one row too many. See Dense::leave_one_out in
// kernels/assignment_dense.hpp: the row that goes is the cheapest to let go, of these and of those whose columns were lost to
// earlier rows that were too many.
template <class T>
__device__ void Solver<T>::leave_one_out(int start, double end, int end_row) {
    __syncthreads();
    Least least = nothing_yet();
    for (int j = thread(); j < m; j += threads()) {
        if (!is_lost(j)) continue;
        d[j] = cost(start, j) - lost_price[j];
        for (int k = 0; k < m; k++) {
            if (is_lost(k) || from[k] >= 0) continue;
            const int i = row_of[k];
            const double x = cost(i, j) - lost_price[j] + (d[k] - u[i]);
            if (!(x < d[j])) continue;
            d[j] = x;
            from[j] = i;
        }
        least.take(d[j], j);
    }
    least = least_of_block(least);
    while (least.number < end) {
        const int column = least.place, i = row_of[column];
        if (thread() == column % threads()) from[column] = ~from[column];
        const double offset = least.number - u[i];
        if (offset < end) {
            end = offset;
            end_row = i;
        }
        least = least_of_block(relax<false, true>(i, offset));
    }
    __syncthreads();
    if (thread() == 0) let_go(end_row, start);
    for (int j = thread(); j < m; j += threads()) {
        if (from[j] >= 0) continue;
        lost_price[j] = (is_lost(j) ? lost_price[j] : v[j]) + (d[j] - end);
        v[j] = -INFINITY;
    }
    __syncthreads();
    for (int j = thread(); j < m; j += threads())
        if (from[j] < 0) u[row_of[j]] = cost(row_of[j], j) - lost_price[j];
    __syncthreads();
}

template <class T>
__device__ Solved Solver<T>::solve() {
    if (look() & kInvalid) return Solved::invalid;
    int waiting = n;
    for (int round = 0; may_win && waiting > 0 && round < kMostRounds; round++) waiting = bid();
    for (int i = 0; waiting > 0 && i < n; i++)
        if (waits(i) && !search(i)) return Solved::infeasible;
    return Solved::yes;
}

}  // namespace
}  // namespace fastcv::cuda
