// Scaled dot product attention and its gradients.
#include "check.h"


namespace fastcv::check {
namespace {

HeadTensor heads_of(const Tensor& t) {
    HeadTensor h;
    h.data = t.data;
    h.batch_stride_bytes[0] = t.stride_bytes[0];
    for (int i = 0; i < 3; i++) h.stride_bytes[i] = t.stride_bytes[i + 1];
    return h;
}

struct AttentionRow {
    int64_t N, H, G, L, S, E, F;
    int mask;  // 0: none, 1: one for all samples, 2: one for all rows
    double softcap;
    int64_t left, right;
    bool bottom_right, lengths;
} const kAttentions[] = {
    {1, 1, 1, 1, 1, 1, 1, 0, 0, -1, -1, false, false},      {2, 2, 1, 9, 20, 8, 8, 0, 0, -1, -1, false, false},
    {2, 2, 3, 7, 33, 5, 17, 1, 0, -1, 0, true, true},       {1, 2, 2, 17, 16, 33, 3, 2, 2, 4, 3, false, false},
    {2, 1, 1, 70, 90, 16, 16, 1, 0, -1, -1, false, true},   {1, 1, 4, 1, 700, 16, 24, 0, 0, -1, 0, true, true},
    {1, 2, 1, 100, 300, 24, 16, 0, 0, 60, 0, true, false},  {1, 1, 1, 3, 0, 4, 4, 0, 0, -1, -1, false, false},
    {1, 3, 1, 20, 5, 4, 4, 2, 3, -1, 0, true, false},       {1, 1, 1, 65, 65, 64, 64, 0, 0, -1, 0, false, false},
    {2, 1, 1, 2, 1100, 16, 16, 1, 0, -1, -1, false, true},  {1, 2, 1, 49, 49, 32, 20, 1, 0, -1, -1, false, false},
};

// Weights, outputs and gradients by the formulas, and the mask's gradient in full.
struct NaiveAttention {
    Numbers output, lse, grad_query, grad_key, grad_value, grad_mask;
};
NaiveAttention naive_attention(const AttentionShape& s, const Numbers& query, const Numbers& key, const Numbers& value,
                               const Numbers& grad, const Numbers& mask, int mask_kind) {
    NaiveAttention r;
    r.output.resize(size_t(s.N * s.H * s.G * s.L * s.F)), r.lse.resize(size_t(s.N * s.H * s.G * s.L));
    r.grad_query.resize(query.size()), r.grad_key.resize(key.size()), r.grad_value.resize(value.size());
    r.grad_mask.resize(mask.size());
    for (int64_t row = 0; row < s.N * s.H * s.G * s.L; row++) {
        const int64_t n = row / (s.H * s.G * s.L), query_head = row / s.L % (s.H * s.G), l = row % s.L, h = query_head / s.G;
        const int64_t length = s.kv_lengths ? s.kv_lengths[n] : s.S, own = l + (s.bottom_right ? length - s.L : 0);
        const double* q = &query[size_t(row * s.E)];
        const auto k = [&](int64_t j) { return size_t(((n * s.H + h) * s.S + j) * s.E); };
        const auto v = [&](int64_t j) { return size_t(((n * s.H + h) * s.S + j) * s.F); };
        const auto at = [&](int64_t j) {
            return size_t(mask_kind == 1 ? (query_head * s.L + l) * s.S + j : (n * s.H * s.G + query_head) * s.S + j);
        };
        Numbers weight(size_t(s.S)), bent(size_t(s.S), 1.0);
        double sum = 0, mean = 0;
        for (int64_t j = 0; j < length; j++) {
            if ((s.left >= 0 && j < own - s.left) || (s.right >= 0 && j > own + s.right)) continue;
            double x = 0;
            for (int64_t e = 0; e < s.E; e++) x += q[e] * key[k(j) + size_t(e)];
            x *= s.scale;
            if (s.softcap > 0) {
                const double t = tanh(x / s.softcap);
                x = s.softcap * t, bent[size_t(j)] = 1 - t * t;
            }
            sum += weight[size_t(j)] = exp(x + (mask_kind ? mask[at(j)] : 0));
        }
        r.lse[size_t(row)] = sum > 0 ? log(sum) : -INFINITY;
        Numbers slope(size_t(s.S));
        for (int64_t j = 0; j < s.S && sum > 0; j++) {
            const double w = weight[size_t(j)] /= sum;
            for (int64_t f = 0; f < s.F; f++) {
                const double g = grad[size_t(row * s.F + f)];
                r.output[size_t(row * s.F + f)] += w * value[v(j) + size_t(f)];
                r.grad_value[v(j) + size_t(f)] += w * g;
                slope[size_t(j)] += g * value[v(j) + size_t(f)];
            }
            mean += w * slope[size_t(j)];
        }
        for (int64_t j = 0; j < s.S && sum > 0; j++) {
            const double d = weight[size_t(j)] * (slope[size_t(j)] - mean);
            if (mask_kind) r.grad_mask[at(j)] += d;
            for (int64_t e = 0; e < s.E; e++) {
                r.grad_query[size_t(row * s.E + e)] += s.scale * bent[size_t(j)] * d * key[k(j) + size_t(e)];
                r.grad_key[k(j) + size_t(e)] += s.scale * bent[size_t(j)] * d * q[e];
            }
        }
    }
    return r;
}

template <class T>
void check_attention_result(const char* what, const std::vector<T>& got, const Numbers& want) {
    const double bound = 200 * double(std::numeric_limits<T>::epsilon()) * fmax(0.1, rms(want));
    for (size_t i = 0; i < got.size(); i++)
        if (!(fabs(double(got[i]) - want[i]) <= bound) && double(got[i]) != want[i]) {
            fail("%s[%zu] is %.9g, not %.9g", what, i, double(got[i]), want[i]);
            return;
        }
    passed++;
}

template <class T>
void check_attention(const KernelTable& table, const AttentionRow& row, const Layouts& layouts) {
    AttentionShape s{};
    s.batch_axes = 1, s.batch[0] = s.N = row.N;
    s.H = row.H, s.G = row.G, s.L = row.L, s.S = row.S, s.E = row.E, s.F = row.F;
    s.scale = 0.5, s.softcap = row.softcap, s.left = row.left, s.right = row.right, s.bottom_right = row.bottom_right;
    std::vector<int64_t> lengths(size_t(row.N));
    for (int64_t n = 0; n < row.N; n++) lengths[size_t(n)] = n == 0 ? row.S / 2 : row.S;
    if (row.lengths) s.kv_lengths = lengths.data();
    snprintf(current, sizeof current, "attention %s %s: N %ld H %ld G %ld L %ld S %ld E %ld F %ld mask %d, %s", table.isa,
             sizeof(T) == 4 ? "float" : "double", long(s.N), long(s.H), long(s.G), long(s.L), long(s.S), long(s.E), long(s.F),
             row.mask, layouts.input.name);
    const int64_t heads = s.H * s.G;
    const Size4 queries{{s.N, heads, s.L, s.E}}, keys{{s.N, s.H, s.S, s.E}}, values{{s.N, s.H, s.S, s.F}};
    const Size4 outputs{{s.N, heads, s.L, s.F}}, logs{{s.N, heads, s.L, 1}};
    const Size4 mask_size = row.mask == 1 ? Size4{{1, heads, s.L, s.S}} : Size4{{s.N, heads, 1, s.S}};
    const Numbers q = random_numbers(queries.elements(), 1), k = random_numbers(keys.elements(), 2);
    const Numbers v = random_numbers(values.elements(), 3), g = random_numbers(outputs.elements(), 4);
    const Numbers m = random_numbers(mask_size.elements(), 5);
    const NaiveAttention want = naive_attention(s, q, k, v, g, m, row.mask);

    const Array<T> query(queries, layouts.input, q), key(keys, layouts.weight, k), value(values, layouts.result, v);
    const Array<T> grad(outputs, layouts.weight, g), mask(mask_size, layouts.input, m);
    const auto shared = [&](HeadTensor t) {
        if (row.mask == 1) t.batch_stride_bytes[0] = 0;
        if (row.mask == 2) t.stride_bytes[1] = 0;
        return t;
    };
    const AttentionMask kind = row.mask ? AttentionMask::additive : AttentionMask::none;
    Array<T> output(outputs, kPlanar), lse(logs, kPlanar);
    const HeadTensor bias = shared(heads_of(mask.tensor()));
    Status status = table.attention(s, sizeof(T), heads_of(query.tensor()), heads_of(key.tensor()), heads_of(value.tensor()), kind,
                                    bias, output.tensor().data, lse.tensor().data, nullptr);
    Array<T> grad_query(queries, kPlanar), grad_key(keys, kPlanar), grad_value(values, kPlanar);
    Array<T> grad_mask(mask_size, kPlanar, Numbers(size_t(mask_size.elements())));
    const HeadTensor mask_grads = shared(heads_of(grad_mask.tensor()));
    AttentionGradArrays a{};
    a.grad_output = heads_of(grad.tensor());
    a.query = heads_of(query.tensor()), a.key = heads_of(key.tensor()), a.value = heads_of(value.tensor());
    a.output = heads_of(output.tensor()), a.lse = heads_of(lse.tensor());
    a.mask_kind = kind, a.mask = bias;
    a.grad_query = grad_query.tensor().data, a.grad_key = grad_key.tensor().data, a.grad_value = grad_value.tensor().data;
    a.grad_mask = row.mask ? &mask_grads : nullptr;
    if (status == Status::ok) status = table.attention_grad(s, sizeof(T), a);
    if (status != Status::ok) {
        fail("out of memory");
        return;
    }
    check_attention_result("output", output.take_elements(), want.output);
    check_attention_result("lse", lse.take_elements(), want.lse);
    check_attention_result("grad_query", grad_query.take_elements(), want.grad_query);
    check_attention_result("grad_key", grad_key.take_elements(), want.grad_key);
    check_attention_result("grad_value", grad_value.take_elements(), want.grad_value);
    const std::vector<T> mask_result = grad_mask.take_elements();
    if (row.mask) check_attention_result("grad_mask", mask_result, want.grad_mask);
    for (const Array<T>* array : {&output, &lse, &grad_query, &grad_key, &grad_value, &grad_mask})
        if (!array->untouched()) fail("written beyond an array");
}

}  // namespace

void attention(const KernelTable& table) {
    for (const AttentionRow& row : kAttentions)
        for (const Layouts& layouts : kLayouts) {
            check_attention<float>(table, row, layouts);
            check_attention<double>(table, row, layouts);
        }
}

}  // namespace fastcv::check
