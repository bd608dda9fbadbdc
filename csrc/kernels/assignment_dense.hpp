// Assignment over whole rows of costs: for small problems, for many more columns than rows, and as the last resort.
//
//                      columns, in lanes
//   row i      [  c  c  c  c |  c  c  c  c | .. ]      one pass a row that a search reaches:
//   prices     [  v  v  v  v |  v  v  v  v | .. ]      d = min(d, c - v + offset), and the least of all d
//   distances  [  d  d  d  d |  d  d  d  d | .. ]
//
// A column that has been passed gets the price -infinity and the distance +infinity, so that the pass needs no mask: its c - v
// is +infinity. Passes keep no indices. The column at the least distance is looked for afterwards, a free one first; and the
// row that a column was reached from is the last one whose cost makes up its distance exactly, which is worked out on the
// path alone. Keeping either up to date in the pass cost more than twice the arithmetic.
//
// Columns at the same least distance, of which integers have many, are passed together, up to kTied rows at a time: prices and
// distances are read and written once for all, and the least is looked for once. Integers 0..99, searches alone: 300 x 300
// from 122 to 66 us, 400 x 400 from 364 to 131; four rows at a time: 68 and 147. Prefetching the row did not help.
//
// Before searches, rows take columns: at first prices, and by row reduction, in chains of at most kChain steps. Longer chains,
// a second round, and searches from all waiting rows at once (half of them served by each) were no faster on any kind of
// costs, and slower where many are equal.
//
// Contract: rows of costs are contiguous and start at any byte; nothing is read beyond them. Costs are finite or +infinity, or
// `solve` with Known::nothing finds out. n <= m.
//
// R. Jonker and A. Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.
// D. F. Crouse, On implementing 2D rectangular assignment algorithms, 2016.
#pragma once

#include "assignment.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

// Sums of squares of costs tell infinity, NaN and what is too large at one operation a vector.
static bool all_finite(Vec<double> squares) {
    double sum = 0;
    for (int k = 0; k < kLanes<double>; k++) sum += squares[k];
    return sum < kInfinity<double>;
}

// The first n lanes only.
FASTCV_INLINE Vec<double> add_squares(Vec<double> squares, Vec<double> x, int64_t n) {
    if (n >= kLanes<double>) return fma(x, x, squares);
    for (int l = 0; l < int(n); l++) squares[0] += x[l] * x[l];
    return squares;
}

// Writes an element of an array that a pass is about to read in vectors: with its whole vector, which the pass has at once from
// the queue of stores, where it would have to wait for eight bytes to reach the cache: 20 x 100 from 1.02 to 0.91 us. In
// searches, which write more and read more in between, it is 3% slower.
FASTCV_INLINE void put(double* array, int64_t j, double x) {
    constexpr int L = kLanes<double>;
    Vec<int64_t> lanes;
    for (int k = 0; k < L; k++) lanes[k] = k;
    double* const at = array + j / L * L;
    store(at, choose(equal(lanes, splat<int64_t>(j % L)), splat(x), load(at)));
}

template <class T>
class Dense {
public:
    Dense(const Costs<T>& costs, const Rules& rules, const Arrays& arrays, Watch& watch)
        : c_(costs), rules_(rules), a_(arrays), watch_(watch) {}

    // The whole solve. Where nothing is known of the costs they are looked at on the way.
    Solved solve(Known known) {
        if (!start(known)) return Solved::unusable;
        if (watch_.ends(2 * c_.n * c_.m)) return Solved::interrupted;
        return finish(0, reduce_rows());
    }
    // Gives rows that wait, from the first to before the last, their columns by the shortest path.
    Solved finish(int64_t first, int64_t last);
    bool set_prices(Known known, Vec<double>* squares);
    int64_t claim();

private:
    struct Cheapest {
        double cost;
        int64_t column;
    };
    struct Two {
        double first, second;
    };
    static constexpr int kChain = 8;
    static constexpr int kTied = 8;

    bool start(Known known);
    Cheapest cheapest(int64_t i, Vec<double>* squares) const;
    void column_minima(Vec<double>* squares);
    Two two_smallest(int64_t i);
    template <int kRows>
    double relax(int64_t reached);
    int columns_at(double distance, int64_t* columns) const;
    int64_t column_in_block(int64_t i, int64_t j, double reduced) const;
    int64_t free_column_at(int64_t i, int64_t j, double reduced) const;
    int64_t reduce_rows();
    Solved search(int64_t row);
    Solved leave_one_out(int64_t reached);
    void hand_over(int64_t column, int64_t s);
    void let_go(int64_t s);
    int64_t predecessor(int64_t column, double price, double distance, int64_t before) const;

    Costs<T> c_;
    Rules rules_;
    Arrays a_;
    Watch& watch_;
    int64_t waiting_ = 0;
    int64_t lost_ = 0;
};

// The least cost of a row and the first column at which it is. A pass over blocks of columns keeps each lane's least and the
// first block that has it; the columns of one block are then looked at again. Where a row does not fill its last vector this
// one begins earlier, and sees some columns twice. Reading the whole row again for the column took 15.5 us instead of 8.5 for
// 60 x 900, 2.8 instead of 1.9 for 30 x 300.
template <class T>
typename Dense<T>::Cheapest Dense<T>::cheapest(int64_t i, Vec<double>* squares) const {
    constexpr int L = kLanes<double>;
    const T* const c = c_.row(i);
    const int64_t m = c_.m;
    Vec<double> least = splat(kInfinity<double>), block = zero<double>(), sums[4] = {*squares};
    const auto take = [&](Vec<double> x, int64_t j) {
        block = choose(more(least, x), splat(double(j)), block);
        least = lower(x, least);  // stays as it is where x is NaN
    };
    int64_t j = 0;
    for (; j + kBlock <= m; j += kBlock) {
        Vec<double> x[4];
        FASTCV_UNROLL for (int k = 0; k < 4; k++) {
            x[k] = wide(c + j + k * L);
            keep(x[k]);
            sums[k] = fma(x[k], x[k], sums[k]);
        }
        take(lower(lower(x[0], x[1]), lower(x[2], x[3])), j);
    }
    for (; j < m; j += L) {
        j = smaller(j, larger(m - L, 0));
        const Vec<double> x = m >= L ? wide(c + j) : wide_first(c, m);
        sums[0] = add_squares(sums[0], x, m);
        take(x, j);
    }
    *squares = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const double cost = lowest_lane<double>(least);
    if (!(cost < kInfinity<double>)) return {cost, kFree};
    j = int64_t(lowest_lane<double>(choose(equal(least, splat(cost)), block, splat(kInfinity<double>))));
    return {cost, column_in_block(i, j, cost)};
}

template <class T>
void Dense<T>::column_minima(Vec<double>* squares) {
    constexpr int L = kLanes<double>, R = 4;
    const int64_t whole = c_.m / L * L;
    for (int64_t j = 0; j < round_up(c_.m, L); j += L) store(a_.v + j, splat(kInfinity<double>));
    for (int64_t i = 0; i < c_.n; i += R) {
        const T* rows[R];  // the last one repeated where there are fewer
        for (int r = 0; r < R; r++) rows[r] = c_.row(smaller(i + r, c_.n - 1));
        Vec<double> sum = *squares;
        for (int64_t j = 0; j < whole; j += L) {
            Vec<double> x[R];
            FASTCV_UNROLL for (int r = 0; r < R; r++) {
                x[r] = wide(rows[r] + j);
                sum = fma(x[r], x[r], sum);
            }
            store(a_.v + j, lower(load(a_.v + j), lower(lower(x[0], x[1]), lower(x[2], x[3]))));
        }
        for (int64_t j = whole; j < c_.m; j++)
            for (int r = 0; r < R; r++) {
                const double x = double(load_scalar<T>(rows[r] + j));
                sum[0] += x * x;
                if (x < a_.v[j]) a_.v[j] = x;
            }
        *squares = sum;
    }
    for (int64_t j = c_.m; j < round_up(c_.m, kBlock); j++) a_.v[j] = 0;
}

// First prices, and nobody has a partner. A column that might stay free must not have another price than 0; where none can,
// each has the least of its costs, and this is true.
template <class T>
bool Dense<T>::set_prices(Known known, Vec<double>* squares) {
    const int64_t n = c_.n, m = c_.m, padded = Arrays::padded(m);
    for (int64_t j = m; j < padded; j++) a_.d[j] = kInfinity<double>;
    for (int64_t j = 0; j < m; j++) a_.row_of[j] = kFree;
    for (int64_t i = 0; i < n; i++) a_.column_of[i] = kFree;
    if (n == m && known != Known::infinite && !rules_.limited()) {
        column_minima(squares);
        return true;
    }
    for (int64_t j = 0; j < padded; j++) a_.v[j] = 0;
    return false;
}

// Lets rows have the first free column at which they are the cheapest, with column minima as prices: where many costs are
// equal nearly all rows find one soon, and need not be read any further. Where it takes long this ends, so that it costs
// next to nothing. The number of rows that wait.
template <class T>
int64_t Dense<T>::claim() {
    constexpr int L = kLanes<double>;
    constexpr int64_t kTrial = 8;
    int64_t waiting = 0, read = 0;
    bool worth = true;
    for (int64_t i = 0; i < c_.n; i++) {
        const T* c = c_.row(i);
        int64_t j = 0, column = kFree;
        worth = worth && (i < kTrial || 4 * read < i * c_.m);
        for (; worth && column < 0 && j + kBlock <= c_.m; j += kBlock) {
            unsigned at = 0;
            FASTCV_UNROLL for (int k = 0; k < 4; k++)
                at |= bits(equal(wide(c + j + k * L), load(a_.v + j + k * L))) << k * L;
            if (at == 0) continue;
            FASTCV_UNROLL for (int k = 0; k < 4; k++)
                at &= ~((~negative(load(a_.row_of + j + k * L)) & ((1u << L) - 1)) << k * L);
            if (at) column = j + __builtin_ctz(at);
        }
        for (; worth && column < 0 && j < c_.m; j++)
            if (c_.at(i, j) == a_.v[j] && a_.row_of[j] < 0) column = j;
        read += j;
        if (column < 0) {
            a_.waiting[waiting++] = i;
        } else {
            a_.row_of[column] = i;
            a_.column_of[i] = column;
        }
    }
    return waiting;
}

// Prices and first partners. False: some cost is not finite, or so large that sums might not be.
template <class T>
bool Dense<T>::start(Known known) {
    Vec<double> squares = zero<double>();
    waiting_ = 0;
    if (set_prices(known, &squares)) {
        waiting_ = claim();
    } else {
        for (int64_t i = 0; i < c_.n; i++) {
            const Cheapest least = cheapest(i, &squares);
            if (rules_.limited() && least.cost > rules_.limit) {
                a_.column_of[i] = kWithout;
                continue;
            }
            int64_t j = least.column;
            if (j >= 0 && a_.row_of[j] >= 0) j = free_column_at(i, j, least.cost);
            if (j >= 0) {
                a_.row_of[j] = i;
                a_.column_of[i] = j;
            } else {
                a_.waiting[waiting_++] = i;
            }
        }
    }
    return known != Known::nothing || all_finite(squares);
}

// The column with this reduced cost in the block that begins at column j, the first one there is in the row.
template <class T>
int64_t Dense<T>::column_in_block(int64_t i, int64_t j, double reduced) const {
    const double* const v = a_.v;
    unsigned at = 0;
    j = smaller(j, larger(c_.m - kBlock, 0));
    for_each_vector(c_.row(i) + j, smaller(c_.m, kBlock), [&](int, int64_t k, Vec<double> c) {
        at |= bits(equal(c - load(v + j + k), splat(reduced))) << k;
    });
    return j + __builtin_ctz(at);
}

// The first free column from j on with this reduced cost, or kFree.
template <class T>
int64_t Dense<T>::free_column_at(int64_t i, int64_t j, double reduced) const {
    constexpr int L = kLanes<double>;
    const T* const c = c_.row(i);
    for (; j + L <= c_.m; j += L)
        for (unsigned at = bits(equal(wide(c + j) - load(a_.v + j), splat(reduced))); at; at &= at - 1)
            if (a_.row_of[j + __builtin_ctz(at)] < 0) return j + __builtin_ctz(at);
    for (; j < c_.m; j++)
        if (c_.at(i, j) - a_.v[j] == reduced && a_.row_of[j] < 0) return j;
    return kFree;
}

// The two smallest reduced costs of a row; all of them stay in d.
template <class T>
typename Dense<T>::Two Dense<T>::two_smallest(int64_t i) {
    Vec<double> first[4], second[4];
    for (int k = 0; k < 4; k++) first[k] = second[k] = splat(kInfinity<double>);
    const double* const v = a_.v;
    double* const d = a_.d;
    for_each_vector(c_.row(i), c_.m, [=, &first, &second](int k, int64_t j, Vec<double> c) {
        const Vec<double> x = c - load(v + j);
        store(d + j, x);
        second[k] = lower(second[k], upper(first[k], x));
        first[k] = lower(first[k], x);
    });
    const auto merge = [&](Vec<double> f, Vec<double> s) {
        second[0] = lower(lower(second[0], s), upper(first[0], f));
        first[0] = lower(first[0], f);
    };
    FASTCV_UNROLL for (int k = 1; k < 4; k++) merge(first[k], second[k]);
    const double least = lowest_lane<double>(first[0]);
    const Mask<double> at = equal(first[0], splat(least));
    if (bits(at) & (bits(at) - 1)) return {least, least};
    return {least, lowest_lane<double>(choose(at, second[0], first[0]))};
}

// The first columns whose distance this is, at most kTied, or one that is free if there is any; how many.
template <class T>
int Dense<T>::columns_at(double distance, int64_t* columns) const {
    constexpr int L = kLanes<double>;
    const Vec<double> wanted = splat(distance);
    int found = 0;
    for (int64_t j = 0; j < c_.m; j += kBlock) {
        unsigned at = 0, free = 0;
        FASTCV_UNROLL for (int k = 0; k < 4; k++) at |= bits(equal(load(a_.d + j + k * L), wanted)) << k * L;
        if (at == 0) continue;
        FASTCV_UNROLL for (int k = 0; k < 4; k++) free |= negative(load(a_.row_of + j + k * L)) << k * L;
        if (at & free) {
            columns[0] = j + __builtin_ctz(at & free);
            return 1;
        }
        for (; at && found < kTied; at &= at - 1) columns[found++] = j + __builtin_ctz(at);
    }
    return found;
}

template <class T>
int64_t Dense<T>::reduce_rows() {
    int64_t left = 0;
    for (int64_t k = 0; k < waiting_; k++) {
        int64_t i = a_.waiting[k];
        for (int chain = kChain;; chain--) {
            const Two two = two_smallest(i);
            if (rules_.limited() && two.first > rules_.limit) {
                a_.column_of[i] = kWithout;
                break;
            }
            const double second = two.second < rules_.limit ? two.second : rules_.limit;
            int64_t tied[kTied];
            const int64_t j = two.first < kInfinity<double> && columns_at(two.first, tied) ? tied[0] : kFree;
            const int64_t before = j < 0 ? i : a_.row_of[j];
            const double price = j < 0 || second == kInfinity<double> ? 0 : a_.v[j] - (second - two.first);
            const bool falls = j >= 0 && second < kInfinity<double> && price < a_.v[j];
            if (before >= 0 && !falls) {
                a_.waiting[left++] = i;
                break;
            }
            if (falls) put(a_.v, j, price);
            a_.row_of[j] = i;
            a_.column_of[i] = j;
            if (before < 0) break;
            a_.column_of[before] = kFree;
            if (chain == 1) {
                a_.waiting[left++] = before;
                break;
            }
            i = before;
        }
    }
    return left;
}

// Distances of the columns by way of kRows more rows, up to the one that was reached last; the least of all. None: the first
// row of a search, which sets them.
template <class T>
template <int kRows>
double Dense<T>::relax(int64_t reached) {
    constexpr int L = kLanes<double>, R = kRows ? kRows : 1;
    const int64_t m = c_.m;
    const T* rows[R];
    Vec<double> shift[R], least[4];
    for (int r = 0; r < R; r++) {
        const int64_t s = larger(reached - R + r, 0);
        rows[r] = c_.row(a_.reached[s]);
        shift[r] = splat(a_.offset[s]);
    }
    for (int k = 0; k < 4; k++) least[k] = splat(kInfinity<double>);
    const double* const v = a_.v;
    double* const d = a_.d;
    const auto visit = [&](int k, int64_t j, const auto& cost) {
        const Vec<double> price = load(v + j);
        Vec<double> x = cost(0) - price;
        if constexpr (kRows > 0) {
            x = lower(x + shift[0], load(d + j));
            FASTCV_UNROLL for (int r = 1; r < R; r++) x = lower(x, cost(r) - price + shift[r]);
        }
        store(d + j, x);
        least[k] = lower(least[k], x);
    };
    int64_t j = 0;
    for (; j + kBlock <= m; j += kBlock)
        FASTCV_UNROLL for (int k = 0; k < 4; k++) visit(k, j + k * L, [&](int r) { return wide(rows[r] + j + k * L); });
    for (; j + L <= m; j += L) visit(0, j, [&](int r) { return wide(rows[r] + j); });
    if (j < m) visit(0, j, [&](int r) { return wide_first(rows[r] + j, m - j); });
    return lowest_lane<double>(lower(lower(least[0], least[1]), lower(least[2], least[3])));
}

// The last of the first `before` rows reached by which a column is at its distance. From there a path goes on backwards, so that
// the whole of it takes one look at each row; costs i * j, with paths over all rows, took twice the time from the first row on.
template <class T>
int64_t Dense<T>::predecessor(int64_t column, double price, double distance, int64_t before) const {
    for (int64_t s = before - 1;; s--) {
        if (c_.at(a_.reached[s], column) - price + a_.offset[s] == distance) return s;
    }
}

// The row reached[s] takes `column`, the row before it on the path takes the column that this one leaves, and so on.
template <class T>
void Dense<T>::hand_over(int64_t column, int64_t s) {
    for (;;) {
        a_.row_of[column] = a_.reached[s];
        a_.column_of[a_.reached[s]] = column;
        if (s == 0) return;
        column = a_.via[s];
        s = predecessor(column, a_.via_price[s], a_.via_distance[s], s);
    }
}

// The row reached[s] goes without, and the row before it on the path takes its column.
template <class T>
void Dense<T>::let_go(int64_t s) {
    a_.column_of[a_.reached[s]] = kWithout;
    if (s > 0) hand_over(a_.via[s], predecessor(a_.via[s], a_.via_price[s], a_.via_distance[s], s));
}

// A search has seen all that its rows can have: there is one row too many for these columns. Which one goes without is a
// matter of cost. It may also be one of an earlier such set, whose columns are out of reach for an ordinary search because
// a row that comes from outside drives another one out. As if going without cost a number B beyond all others: those
// columns have prices of -B and something, distances to them are B and something, and only the something is kept here.
template <class T>
Solved Dense<T>::leave_one_out(int64_t reached) {
    const int64_t ordinary = reached;
    double end = 0;
    int64_t end_row = 0;
    for (int64_t s = 1; s < reached; s++)
        if (a_.offset[s] < end) end = a_.offset[end_row = s];
    for (int64_t k = 0; k < lost_; k++) a_.lost_distance[k] = kInfinity<double>;
    double distance = kInfinity<double>;
    int64_t nearest = -1;
    const auto relax_lost = [&](int64_t s) {
        distance = kInfinity<double>;
        for (int64_t k = 0; k < lost_; k++) {
            if (a_.lost_distance[k] == -kInfinity<double>) continue;  // seen
            const double x = c_.at(a_.reached[s], a_.lost[k]) - a_.lost_price[k] + a_.offset[s];
            if (x < a_.lost_distance[k]) a_.lost_distance[k] = x;
            if (a_.lost_distance[k] < distance) distance = a_.lost_distance[nearest = k];
        }
    };
    for (int64_t s = 0; s < ordinary; s++) relax_lost(s);
    while (distance < end) {
        const int64_t column = a_.lost[nearest], i = a_.row_of[column];
        a_.lost_distance[nearest] = -kInfinity<double>;
        a_.reached[reached] = i;
        a_.offset[reached] = distance - (c_.at(i, column) - a_.lost_price[nearest]);
        a_.via[reached] = column;
        a_.via_distance[reached] = distance;
        a_.via_price[reached] = a_.lost_price[nearest];
        if (a_.offset[reached] < end) end = a_.offset[end_row = reached];
        relax_lost(reached++);
    }
    let_go(end_row);
    for (int64_t s = ordinary; s < reached; s++)
        for (int64_t k = 0; k < lost_; k++)
            if (a_.lost[k] == a_.via[s]) a_.lost_price[k] += a_.via_distance[s] - end;
    for (int64_t s = 1; s < ordinary; s++) {  // their v stays at -infinity
        a_.lost[lost_] = a_.via[s];
        a_.lost_price[lost_++] = a_.via_price[s] + (a_.via_distance[s] - end);
    }
    return watch_.ends(ordinary * c_.m + reached * lost_) ? Solved::interrupted : Solved::yes;
}

template <class T>
Solved Dense<T>::search(int64_t row) {
    double end = rules_.limit;  // the cheapest way to let a row that was reached go without
    int64_t end_row = 0;
    int64_t reached = 1;
    a_.reached[0] = row;
    a_.offset[0] = 0;
    double distance = relax<0>(1);
    int64_t column = kFree;
    for (;;) {
        if (rules_.limited() && end < distance) {
            distance = end;
            column = kFree;
            break;
        }
        if (distance == kInfinity<double>) return rules_.incomplete ? leave_one_out(reached) : Solved::infeasible;
        int64_t tied[kTied];
        const int columns = columns_at(distance, tied);
        if (a_.row_of[tied[0]] < 0) {
            column = tied[0];
            break;
        }
        for (int t = 0; t < columns; t++, reached++) {
            const int64_t j = tied[t], i = a_.row_of[j];
            const double offset = distance - (c_.at(i, j) - a_.v[j]);
            a_.reached[reached] = i;
            a_.offset[reached] = offset;
            a_.via[reached] = j;
            a_.via_distance[reached] = distance;
            a_.via_price[reached] = a_.v[j];
            a_.v[j] = -kInfinity<double>;
            a_.d[j] = kInfinity<double>;
            if (rules_.limited() && offset + rules_.limit < end) {
                end = offset + rules_.limit;
                end_row = reached;
            }
        }
        distance = columns == 1   ? relax<1>(reached)
                   : columns == 2 ? relax<2>(reached)
                   : columns <= 4 ? relax<4>(reached)
                                  : relax<kTied>(reached);
    }
    if (column >= 0)
        hand_over(column, predecessor(column, a_.v[column], distance, reached));
    else
        let_go(end_row);
    for (int64_t s = 1; s < reached; s++) a_.v[a_.via[s]] = a_.via_price[s] + (a_.via_distance[s] - distance);
    return watch_.ends(reached * c_.m) ? Solved::interrupted : Solved::yes;
}

template <class T>
Solved Dense<T>::finish(int64_t first, int64_t last) {
    for (int64_t k = first; k < last; k++) {
        const Solved solved = search(a_.waiting[k]);
        if (solved != Solved::yes) return solved;
    }
    return Solved::yes;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
