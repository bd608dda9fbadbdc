// Assignment over short lists of each row's cheapest columns, with a bound on all that is not listed.
//
//   row i    [ 3: 0.02 | 17: 0.05 | 41: 0.01 | .. ] | all others: c - v >= bound[i]
//
// A list is made at the prices of the moment by one pass over the row. Prices only fall, reduced costs c - v only grow, so a
// bound stays true, and what is found on lists alone is exact as long as nothing beyond a bound is needed. Who does need it
// has his list made anew, longer: in row reduction a row whose second cheapest column lies beyond the bound; in a search a
// row whose bound comes up in the queue before any column does. So nothing has to be verified in the end, and a large
// problem is solved on some 24 entries a row.
//
// The first bound is the largest of the smallest costs of 8 classes of columns (by number, modulo 8): found without sorting,
// and at least 8 entries lie within. Longer lists were slower (52 entries: twice the time). A list is cut at 64
// entries where many costs are equal, and begins with column i then, so that rows do not all ask for the same columns.
//
// The queue is a heap with four children a node, without decrease-key. Entries are read one by one: on Zen 4 gathers of
// prices and distances take as long, and most entries are no improvement.
#pragma once

#include "assignment_dense.hpp"

namespace fastcv::FASTCV_ISA {
namespace {

constexpr int64_t kClasses = 8;
constexpr int64_t kLongest = 64;      // of a first list
constexpr int64_t kListMemory = 128;  // entries a row, all its lists together
constexpr int64_t kChainOnLists = 8;
// What a search costs, in picoseconds: an entry, an improvement with its turn in the queue, a row reached; and a cost of a
// whole row, in a new list and in a search over whole rows, where the costs fit the last cache and where they do not.
constexpr int64_t kEntryWork = 3000, kPushWork = 30000, kScanWork = 20000;
constexpr int64_t kListWork = 400, kCachedWork = 300, kMemoryWork = 700, kCacheBytes = int64_t(32) << 20;
constexpr int64_t kUnlisted = -1;
constexpr double kLargestFinite = 0x1.fffffffffffffp1023;

struct Entry {
    double cost;
    int64_t column;
};
// A column, or the bound of a row as -1 - row.
struct Node {
    double key;
    int64_t id;
};

struct SparseArrays {
    Entry* entries;
    int64_t entries_end;
    Node* queue;
    int64_t queue_end;
    double* reduced;   // a row at current prices, while its list is made
    uint64_t* marks;   // a bit for each of its costs
    double* price;     // v, but -infinity where a search has been
    double* distance;  // +infinity between searches
    int64_t* previous;
    int64_t* touched;
    int64_t* begin;
    int64_t* length;
    double* bound;
    double* own_cost;
    double* offset;
    int64_t* scanned;
    double* scanned_distance;

    static int64_t entries_of(int64_t n, int64_t m) { return n * kListMemory + 2 * m; }
    static int64_t queue_of(int64_t n, int64_t m) { return 4 * (n + m); }
    static int64_t bytes(int64_t n, int64_t m) {
        return 16 * (entries_of(n, m) + queue_of(n, m)) + 8 * (6 * round_up(m, 64) + 7 * round_up(n, 64));
    }
    void cut(char* memory, int64_t n, int64_t m) {
        const auto take = [&](auto*& array, int64_t elements) {
            array = reinterpret_cast<decltype(array + 0)>(memory);
            memory += 8 * round_up(elements, 64);
        };
        take(reduced, m), take(marks, m), take(price, m), take(distance, m), take(previous, m), take(touched, m);
        take(begin, n), take(length, n), take(bound, n), take(own_cost, n), take(offset, n);
        take(scanned, n), take(scanned_distance, n);
        entries_end = entries_of(n, m);
        queue_end = queue_of(n, m);
        entries = reinterpret_cast<Entry*>(memory);
        queue = reinterpret_cast<Node*>(entries + entries_end);
    }
};

template <class T>
class Sparse {
public:
    Sparse(const Costs<T>& costs, const Rules& rules, const Arrays& arrays, const SparseArrays& sparse, Watch& watch)
        : c_(costs), rules_(rules), a_(arrays), s_(sparse), watch_(watch), dense_(costs, rules, arrays, watch) {}

    Solved solve(Known known);

private:
    struct Two {
        double first, second;
        int64_t column;  // the first at `first`; a free one if there is any
    };
    bool make_list(int64_t i, double beyond);
    void list(int64_t i);
    Two two_smallest(int64_t i) const;
    int64_t reduce_rows(int64_t waiting);
    bool relax(int64_t i, double offset);
    Solved search(int64_t row, bool* given_up);
    bool dense_is_cheaper() const;
    void push(double key, int64_t id);
    Node pop();

    Costs<T> c_;
    Rules rules_;
    Arrays a_;
    SparseArrays s_;
    Watch& watch_;
    Dense<T> dense_;
    int64_t entries_ = 0, queued_ = 0, touched_ = 0;
    Known known_ = Known::nothing;
    bool full_ = false, unusable_ = false;
    double nearest_end_ = kInfinity<double>;  // of a search: the shortest way to a free column, or to leave a row without
    int64_t end_column_ = kFree, end_row_ = 0;
    // What searches have cost, and how many rows they have reached.
    int64_t work_ = 0, scans_ = 0;
};

// The k-th smallest of n numbers, k from 0; they change places.
static double select(double* x, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const double pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (pivot < x[j]) j--;
            if (i <= j) {
                const double t = x[i];
                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (k <= j) high = j;
        else if (k >= i) low = i;
        else break;
    }
    return x[k];
}

// Lists row i. The first time `beyond` is -infinity; later it is the old bound, and the new list reaches farther. False:
// no room is left.
template <class T>
bool Sparse<T>::make_list(int64_t i, double beyond) {
    constexpr int L = kLanes<double>;
    const int64_t m = c_.m, padded = round_up(m, 64);
    double* const x = s_.reduced;
    Vec<double> least[4], squares[4];
    for (int k = 0; k < 4; k++) least[k] = splat(kInfinity<double>), squares[k] = zero<double>();
    for_each_vector(c_.row(i), m, [&](int k, int64_t j, Vec<double> c) {
        const Vec<double> r = c - load(a_.v + j);
        store(x + j, r);
        if (j + L <= m) squares[k] = fma(r, r, squares[k]);
        else squares[k] = add_squares(squares[k], r, m - j);
        least[k] = lower(least[k], r);
    });
    if (known_ == Known::nothing && !all_finite((squares[0] + squares[1]) + (squares[2] + squares[3]))) {
        unusable_ = true;
        return false;
    }
    // The vectors that hold the classes, and then their largest.
    for (int width = 4; width * L > kClasses; width /= 2)
        for (int k = 0; k < width / 2; k++) least[k] = lower(least[k], least[k + width / 2]);
    Vec<double> smallest = least[0], largest = least[0];
    for (int k = 1; k * L < kClasses; k++) smallest = lower(smallest, least[k]), largest = upper(largest, least[k]);
    const double least_cost = lowest_lane<double>(smallest);
    double reach = -lowest_lane<double>(-largest);

    // Marks what is within a limit, a byte for eight columns, and counts it.
    const int64_t words = padded / 64;
    const auto mark = [&](double limit) {
        const Vec<double> at_most = splat(limit);
        int64_t count = 0;
        for (int64_t w = 0; w < words; w++) {
            uint64_t word = 0;
            FASTCV_UNROLL for (int k = 0; k < 64; k += L)
                word |= uint64_t(bits(less_or_equal(load(x + 64 * w + k), at_most))) << k;
            s_.marks[w] = word;
            count += __builtin_popcountll(word);
        }
        return count;
    };
    int64_t longest = kLongest;
    if (beyond > -kInfinity<double>) {
        const int64_t wanted = larger(s_.length[i] * 3 / 2, 16);
        longest = larger(kLongest, 2 * wanted);
        const double wider = least_cost + 1.6 * (beyond - least_cost);
        if (wider > reach) reach = wider;
        while (reach < kInfinity<double> && mark(reach) < wanted) {
            const double further = least_cost + 1.6 * (reach - least_cost);
            if (further > reach) {
                reach = further;
                continue;
            }
            double next = kInfinity<double>;  // equal costs: on to the next higher one
            for (int64_t j = 0; j < m; j++)
                if (x[j] > reach && x[j] < next) next = x[j];
            reach = next;
        }
    }
    // Nothing above the limit will ever be paid.
    const bool limited = rules_.limited() && reach >= rules_.limit;
    if (limited) reach = rules_.limit;
    const int64_t count = mark(reach < kInfinity<double> ? reach : kLargestFinite);
    const bool all = limited || reach == kInfinity<double>;
    s_.bound[i] = all ? kInfinity<double> : reach;
    if (entries_ + smaller(count, longest) > s_.entries_end) return false;
    Entry* const list = s_.entries + entries_;
    int64_t length = 0;
    const T* const row = c_.row(i);
    const auto add = [&](int64_t j) { list[length++] = {double(load_scalar<T>(row + j)), j}; };
    if (count > longest) {
        const int64_t below = [&] {
            int64_t less_than = 0;
            for (int64_t j = 0; j < m; j++) less_than += x[j] < reach;
            return less_than;
        }();
        if (below >= longest) {  // costs lie unevenly, or are forbidden; d is free meanwhile
            for (int64_t j = 0; j < m; j++) a_.d[j] = x[j];
            reach = select(a_.d, m, longest - 1);
        }
        s_.bound[i] = reach;
        for (int64_t j = 0; j < m && length < longest; j++)
            if (x[j] < reach) add(j);
        for (int64_t k = 0, j = smaller(i, m - 1); k < m && length < longest; k++, j = j + 1 < m ? j + 1 : 0)
            if (x[j] == reach) add(j);
    } else {
        for (int64_t w = 0; w < words; w++)
            for (uint64_t marked = s_.marks[w]; marked; marked &= marked - 1) add(64 * w + __builtin_ctzll(marked));
    }
    s_.begin[i] = entries_;
    s_.length[i] = length;
    entries_ += length;
    return true;
}

// Lists a row that nobody has asked for yet.
template <class T>
void Sparse<T>::list(int64_t i) {
    if (s_.length[i] == kUnlisted && !full_) full_ = !make_list(i, -kInfinity<double>);
}

template <class T>
typename Sparse<T>::Two Sparse<T>::two_smallest(int64_t i) const {
    const Entry* const list = s_.entries + s_.begin[i];
    Two two{kInfinity<double>, kInfinity<double>, kFree};
    for (int64_t k = 0; k < s_.length[i]; k++) {
        const int64_t j = list[k].column;
        const double x = list[k].cost - a_.v[j];
        if (x < two.second) {
            if (x < two.first) {
                two.second = two.first;
                two.first = x;
                two.column = j;
            } else {
                two.second = x;
                if (x == two.first && a_.row_of[two.column] >= 0 && a_.row_of[j] < 0) two.column = j;
            }
        } else if (x == two.first && a_.row_of[two.column] >= 0 && a_.row_of[j] < 0) {
            two.column = j;
        }
    }
    return two;
}

template <class T>
int64_t Sparse<T>::reduce_rows(int64_t waiting) {
    int64_t left = 0;
    for (int64_t k = 0; k < waiting; k++) {
        int64_t i = a_.waiting[k];
        for (int64_t chain = kChainOnLists;; chain--) {
            list(i);
            Two two = two_smallest(i);
            while (!full_ && two.second > s_.bound[i]) {
                full_ = !make_list(i, s_.bound[i]);
                two = two_smallest(i);
            }
            if (full_ || two.first == kInfinity<double>) {
                a_.waiting[left++] = i;
                break;
            }
            if (rules_.limited() && two.first > rules_.limit) {
                a_.column_of[i] = kWithout;
                break;
            }
            const double second = two.second < rules_.limit ? two.second : rules_.limit;
            const int64_t j = two.column, before = a_.row_of[j];
            const double price = second < kInfinity<double> ? a_.v[j] - (second - two.first) : a_.v[j];
            const bool falls = price < a_.v[j];
            if (before >= 0 && !falls) {
                a_.waiting[left++] = i;
                break;
            }
            a_.v[j] = price;
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

template <class T>
void Sparse<T>::push(double key, int64_t id) {
    if (queued_ == s_.queue_end) {
        full_ = true;
        return;
    }
    int64_t k = queued_++;
    while (k > 0 && s_.queue[(k - 1) / 4].key > key) {
        s_.queue[k] = s_.queue[(k - 1) / 4];
        k = (k - 1) / 4;
    }
    s_.queue[k] = {key, id};
}

template <class T>
Node Sparse<T>::pop() {
    const Node top = s_.queue[0], last = s_.queue[--queued_];
    int64_t k = 0;
    for (;;) {
        const int64_t first = 4 * k + 1;
        if (first >= queued_) break;
        int64_t best = first;
        double key = s_.queue[first].key;
        for (int64_t child = first + 1; child < smaller(first + 4, queued_); child++) {
            best = s_.queue[child].key < key ? child : best;
            key = s_.queue[child].key < key ? s_.queue[child].key : key;
        }
        if (key >= last.key) break;
        s_.queue[k] = s_.queue[best];
        k = best;
    }
    s_.queue[k] = last;
    return top;
}

// Looks from row i, reached at a distance that makes up `offset`, at the columns of its list.
template <class T>
bool Sparse<T>::relax(int64_t i, double offset) {
    const Entry* const list = s_.entries + s_.begin[i];
    const int64_t length = s_.length[i];
    work_ += kEntryWork * length;
    // Which entries are an improvement cannot be foretold; so they are gathered without a branch first.
    for (int64_t first = 0; first < length; first += kLongest) {
        double at[kLongest];
        int64_t column[kLongest];
        int64_t better = 0;
        for (int64_t k = first; k < smaller(first + kLongest, length); k++) {
            const int64_t j = list[k].column;
            const double x = list[k].cost - s_.price[j] + offset;
            at[better] = x;
            column[better] = j;
            better += (x < s_.distance[j]) & (x < nearest_end_);
        }
        for (int64_t k = 0; k < better; k++) {
            const int64_t j = column[k];
            if (!(at[k] < nearest_end_)) continue;
            if (s_.distance[j] == kInfinity<double>) s_.touched[touched_++] = j;
            s_.distance[j] = at[k];
            s_.previous[j] = i;
            if (a_.row_of[j] < 0) {
                nearest_end_ = at[k];
                end_column_ = j;
            } else {
                push(at[k], j);
                work_ += kPushWork;
            }
        }
    }
    if (s_.bound[i] + offset < nearest_end_) push(s_.bound[i] + offset, -1 - i);
    return !full_;
}

template <class T>
Solved Sparse<T>::search(int64_t row, bool* given_up) {
    queued_ = touched_ = 0;
    nearest_end_ = kInfinity<double>;
    end_column_ = kFree;
    const auto reach = [&](int64_t i, double offset) {
        s_.offset[i] = offset;
        work_ += kScanWork;
        scans_++;
        if (rules_.limited() && offset + rules_.limit < nearest_end_) {
            nearest_end_ = offset + rules_.limit;
            end_column_ = kFree;
            end_row_ = i;
        }
        list(i);
        relax(i, offset);
    };
    int64_t scanned = 0;
    reach(row, 0);
    while (!full_ && queued_ > 0 && s_.queue[0].key < nearest_end_) {
        const Node node = pop();
        if (node.id < 0) {
            const int64_t i = -1 - node.id;
            work_ += kListWork * c_.m;
            full_ = !make_list(i, s_.bound[i]);
            if (!full_) relax(i, s_.offset[i]);
            continue;
        }
        const int64_t j = node.id;
        if (node.key != s_.distance[j] || s_.price[j] == -kInfinity<double>) continue;  // found a shorter way since
        s_.scanned[scanned] = j;
        s_.scanned_distance[scanned++] = node.key;
        s_.price[j] = -kInfinity<double>;
        const int64_t i = a_.row_of[j];
        reach(i, node.key - (s_.own_cost[i] - a_.v[j]));
    }
    const bool found = !full_ && nearest_end_ < kInfinity<double>;
    for (int64_t k = 0; k < scanned; k++) {
        const int64_t j = s_.scanned[k];
        if (found) a_.v[j] += s_.scanned_distance[k] - nearest_end_;
        s_.price[j] = a_.v[j];
    }
    for (int64_t k = 0; k < touched_; k++) s_.distance[s_.touched[k]] = kInfinity<double>;
    *given_up = !found;
    if (!found) return Solved::yes;
    // Each row on the way takes the column to which it led, and leaves its own to the row before.
    int64_t j = end_column_;
    if (j < 0) {
        j = a_.column_of[end_row_];
        a_.column_of[end_row_] = kWithout;
    }
    while (j >= 0) {
        const int64_t i = s_.previous[j], left = a_.column_of[i];
        a_.row_of[j] = i;
        a_.column_of[i] = j;
        s_.own_cost[i] = c_.at(i, j);
        j = i == row ? kFree : left;
    }
    return watch_.ends(scanned * kLongest) ? Solved::interrupted : Solved::yes;
}

template <class T>
bool Sparse<T>::dense_is_cheaper() const {
    const bool cached = c_.n * c_.m * int64_t(sizeof(T)) <= kCacheBytes;
    return full_ || (scans_ > 300 && work_ > scans_ * (kScanWork + c_.m * (cached ? kCachedWork : kMemoryWork)));
}

template <class T>
Solved Sparse<T>::solve(Known known) {
    known_ = known;
    Vec<double> squares = zero<double>();
    int64_t waiting = c_.n;
    if (dense_.set_prices(known, &squares)) {
        if (known == Known::nothing && !all_finite(squares)) return Solved::unusable;
        waiting = dense_.claim();
    } else {
        for (int64_t i = 0; i < c_.n; i++) a_.waiting[i] = i;
    }
    for (int64_t i = 0; i < c_.n; i++) s_.length[i] = kUnlisted;
    for (int64_t j = c_.m; j < round_up(c_.m, 64); j++) s_.reduced[j] = kInfinity<double>;
    waiting = reduce_rows(waiting);
    if (unusable_) return Solved::unusable;
    if (watch_.ends(4 * c_.n * c_.m)) return Solved::interrupted;
    for (int64_t i = 0; i < c_.n; i++)
        if (a_.column_of[i] >= 0) s_.own_cost[i] = c_.at(i, a_.column_of[i]);
    for (int64_t j = 0; j < c_.m; j++) {
        s_.price[j] = a_.v[j];
        s_.distance[j] = kInfinity<double>;
    }
    for (int64_t k = 0; k < waiting; k++) {
        bool given_up = dense_is_cheaper();
        if (!given_up) {
            const Solved solved = search(a_.waiting[k], &given_up);
            if (solved != Solved::yes) return solved;
        }
        if (given_up) {
            for (int64_t j = 0; j < Arrays::padded(c_.m); j++) a_.d[j] = kInfinity<double>;
            return dense_.finish(k, waiting);
        }
    }
    return Solved::yes;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
