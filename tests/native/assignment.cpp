// Assignments, one at a time and as a batch, and the matching of DETR.
#include "check.h"

namespace fastcv::check {
namespace {

// That pairs are a matching, and that the duals prove it to be the best: no slack is below 0, and pairs have none.
template <class T>
void check_assignment(const KernelTable& table, int64_t n, int64_t m, double limit, bool turned) {
    snprintf(current, sizeof current, "%s float%d linear_sum_assignment %lld x %lld, limit %g%s", table.isa, 8 * int(sizeof(T)),
             static_cast<long long>(n), static_cast<long long>(m), limit, turned ? ", turned" : "");
    const Numbers numbers = random_numbers(n * m, 11);
    const Layout layout = turned ? kTurned : kMisaligned;
    Array<T> costs(Size4{{1, 1, n, m}}, layout, numbers);
    const Tensor t = costs.tensor();
    const CostMatrix matrix{t.data, n, m, {t.stride_bytes[2], t.stride_bytes[3]}, int(sizeof(T))};
    AssignmentRules rules;
    rules.cost_limit = limit;
    const int64_t most = n < m ? n : m;
    std::vector<int64_t> row(size_t(most + 1)), column(size_t(most + 1));
    Numbers u(size_t(n + 1)), v(size_t(m + 1));
    Assignment result{row.data(), column.data(), 0, u.data(), v.data()};
    AssignmentFault fault{};
    const Status status = table.linear_sum_assignment(matrix, rules, &result, &fault);
    bool right = status == Status::ok && (limit < INFINITY || result.pairs == most);
    const double tolerance = 1e-13 * double(n + m);
    const auto cost = [&](int64_t i, int64_t j) { return double(T(numbers[size_t(i * m + j)])); };
    std::vector<int> taken(size_t(m + 1));
    for (int64_t k = 0; right && k < result.pairs; k++) {
        const int64_t i = row[size_t(k)], j = column[size_t(k)];
        right = i >= 0 && i < n && j >= 0 && j < m && (k == 0 || row[size_t(k - 1)] < i) && !taken[size_t(j)]++ &&
                fabs(cost(i, j) - u[size_t(i)] - v[size_t(j)]) <= tolerance;
    }
    for (int64_t i = 0; right && i < n; i++)
        for (int64_t j = 0; right && j < m; j++) right = cost(i, j) - u[size_t(i)] - v[size_t(j)] >= -tolerance;
    double sum = 0;
    for (int64_t k = 0; k < result.pairs; k++) sum += cost(row[size_t(k)], column[size_t(k)]);
    if (limit < INFINITY) sum += limit * double(n - result.pairs);
    for (int64_t i = 0; i < n; i++) sum -= u[size_t(i)];
    for (int64_t j = 0; j < m; j++) sum -= v[size_t(j)];
    right = right && fabs(sum) <= 10 * tolerance * double(n + m);
    if (right)
        passed++;
    else
        fail("status %d, %lld pairs, the duals are %g short", int(status), static_cast<long long>(result.pairs), sum);

    // The same as part of a batch.
    const CostMatrix two[] = {matrix, matrix};
    std::vector<int64_t> columns(size_t(2 * n + 1), -2);
    right = table.linear_sum_assignment_batch(two, 2, rules, columns.data(), n, &fault) == status;
    for (int64_t k = 0; right && k < result.pairs; k++)
        for (int64_t b = 0; b < 2; b++) right = right && columns[size_t(b * n + row[size_t(k)])] == column[size_t(k)];
    if (right)
        passed++;
    else
        fail("a batch finds other pairs");
}

template <class T>
void check_assignments(const KernelTable& table) {
    for (const int64_t n : kAroundLanes)
        for (const int64_t m : {n, n + 1, 3 * n, int64_t(2)})
            for (const double limit : {double(INFINITY), -0.9, 0.0})
                for (const bool turned : {false, true}) check_assignment<T>(table, n, m, limit, turned);
    for (const double limit : {double(INFINITY), -0.99}) {
        check_assignment<T>(table, 300, 640, limit, false);
        check_assignment<T>(table, 650, 650, limit, true);
    }
}

// ---- the matching of DETR

double giou(const double* a, const double* b) {
    double both = 1, hull = 1, area_a = 1, area_b = 1;
    for (int k = 0; k < 2; k++) {
        const double a0 = a[k] - a[k + 2] / 2, a1 = a[k] + a[k + 2] / 2, b0 = b[k] - b[k + 2] / 2, b1 = b[k] + b[k + 2] / 2;
        both *= fmax(fmin(a1, b1) - fmax(a0, b0), 0);
        hull *= fmax(fmax(a1, b1) - fmin(a0, b0), 0);
        area_a *= a[k + 2];
        area_b *= b[k + 2];
    }
    const double either = area_a + area_b - both;
    return (either != 0 ? both / either : 0) - (hull != 0 ? (hull - either) / hull : 0);
}

double class_cost(const double* logits, int64_t K, int64_t label, bool focal) {
    if (focal) {
        const double p = 1 / (1 + exp(-logits[label])), q = 1 / (1 + exp(logits[label]));
        return 0.25 * q * q * -log(p + 1e-8) - 0.75 * p * p * -log(q + 1e-8);
    }
    double sum = 0;
    for (int64_t k = 0; k < K; k++) sum += exp(logits[k] - logits[label]);
    return -1 / sum;
}

// B images with the same number of queries, and from none to T objects.
template <class T>
void check_detr(const KernelTable& table, int64_t B, int64_t Q, int64_t K, int64_t most, bool focal, const Layout& layout) {
    snprintf(current, sizeof current, "%s float%d detr_match of %lld x %lld queries, %lld classes, %lld objects%s, %s", table.isa,
             8 * int(sizeof(T)), static_cast<long long>(B), static_cast<long long>(Q), static_cast<long long>(K),
             static_cast<long long>(most), focal ? ", focal" : "", layout.name);
    std::vector<int64_t> begin(1), pairs_begin(1), labels;
    for (int64_t b = 0; b < B; b++) {
        const int64_t objects = b == 0 ? most : (b * 7) % (most + 1);
        for (int64_t t = 0; t < objects; t++) labels.push_back((3 * t + b) % K);
        begin.push_back(begin.back() + objects);
        pairs_begin.push_back(pairs_begin.back() + (Q < objects ? Q : objects));
    }
    const int64_t objects = begin.back();
    const auto rounded = [](Numbers numbers, double scale, double shift) {
        for (double& x : numbers) x = double(T(x * scale + shift));
        return numbers;
    };
    const Numbers logits = rounded(random_numbers(B * Q * K, 21), 4, 0);
    const Numbers boxes = rounded(random_numbers(B * Q * 4, 22), 0.2, 0.4);
    const Numbers targets = rounded(random_numbers(objects * 4, 23), 0.2, 0.4);
    Array<T> logits_array(Size4{{1, B, Q, K}}, layout, logits), boxes_array(Size4{{1, B, Q, 4}}, layout, boxes);
    Array<T> targets_array(Size4{{1, 1, objects, 4}}, kPlanar, targets);
    const Tensor l = logits_array.tensor(), x = boxes_array.tensor();
    DetrProblem d{};
    d.B = B, d.Q = Q, d.K = K;
    d.logits = l.data, d.boxes = x.data;
    for (int i = 0; i < 3; i++) d.logits_stride_bytes[i] = l.stride_bytes[i + 1], d.boxes_stride_bytes[i] = x.stride_bytes[i + 1];
    labels.push_back(0);
    d.labels = labels.data();
    d.target_boxes = targets_array.tensor().data;
    d.begin = begin.data(), d.pairs_begin = pairs_begin.data();
    d.cost_class = 1, d.cost_bbox = 5, d.cost_giou = 2;
    d.focal = focal;
    std::vector<int64_t> query(size_t(pairs_begin.back() + 1)), target(query);
    Numbers summed(static_cast<size_t>(B));
    AssignmentFault fault{};
    const Status status =
        table.detr_match(d, int(sizeof(T)), nullptr, query.data(), target.data(), summed.data(), &fault);
    bool right = status == Status::ok;
    double worst = 0;
    for (int64_t b = 0; right && b < B; b++) {
        const int64_t first = begin[size_t(b)], n = begin[size_t(b + 1)] - first;
        Numbers costs(size_t(n * Q + 1));
        for (int64_t t = 0; t < n; t++)
            for (int64_t q = 0; q < Q; q++) {
                const double *of_query = &boxes[size_t((b * Q + q) * 4)], *of_object = &targets[size_t((first + t) * 4)];
                double distance = 0;
                for (int k = 0; k < 4; k++) distance += fabs(of_query[k] - of_object[k]);
                costs[size_t(t * Q + q)] = 5 * distance - 2 * giou(of_query, of_object) +
                                           class_cost(&logits[size_t((b * Q + q) * K)], K, labels[size_t(first + t)], focal);
            }
        // The least that any matching costs, by a kernel that proves its results above.
        const int64_t pairs = n < Q ? n : Q;
        std::vector<int64_t> row(size_t(pairs + 1)), column(row);
        Assignment best{row.data(), column.data(), 0, nullptr, nullptr};
        AssignmentRules rules;
        rules.cost_limit = INFINITY;
        const CostMatrix matrix{reinterpret_cast<const char*>(costs.data()), n, Q, {8 * Q, 8}, 8};
        right = table.linear_sum_assignment(matrix, rules, &best, &fault) == Status::ok && best.pairs == pairs;
        double least = 0, got = 0;
        for (int64_t k = 0; right && k < pairs; k++) {
            least += costs[size_t(row[size_t(k)] * Q + column[size_t(k)])];
            const size_t at = size_t(pairs_begin[size_t(b)] + k);
            right = query[at] >= 0 && query[at] < Q && target[at] >= 0 && target[at] < n && (k == 0 || query[at - 1] < query[at]);
            if (right) got += costs[size_t(target[at] * Q + query[at])];
        }
        worst = fmax(worst, fmax(fabs(got - least), fabs(got - summed[size_t(b)])) / double(pairs + 1));
    }
    if (right && worst <= 200 * double(std::numeric_limits<T>::epsilon()))
        passed++;
    else
        fail("status %d, costs are off by %g a pair", int(status), worst);
}

template <class T>
void check_detrs(const KernelTable& table) {
    for (const bool focal : {false, true}) {
        for (const int64_t Q : kAroundLanes)
            for (const int64_t K : {int64_t(1), int64_t(7), int64_t(33)})
                for (const Layout& layout : {kPlanar, kMisaligned, kTurned}) check_detr<T>(table, 3, Q, K, 5, focal, layout);
        check_detr<T>(table, 5, 100, 92, 20, focal, kBackwards);
        check_detr<T>(table, 2, 12, 3, 40, focal, kPlanar);
    }
}

}  // namespace

void assignment(const KernelTable& table) {
    check_assignments<float>(table);
    check_assignments<double>(table);
    check_detrs<float>(table);
    check_detrs<double>(table);
}

}  // namespace fastcv::check
