// scaled_dot_product_attention and its gradient for other compiled code.
#include <initializer_list>

#include "arrays.h"

namespace fastcv::capi {
namespace {

struct Shape {
    int ndim = 0;
    int64_t size[kMaxAxes] = {};
};

// What the arrays' shapes amount to: batch axes, heads, rows, columns.
class Call {
public:
    AttentionShape s{};
    int itemsize = 0, dtype = 0;

    Call(Check& check, const fastcv_array* query, const fastcv_array* key, const fastcv_array* value,
         const fastcv_array* kv_lengths, const fastcv_attention_parameters* p)
        : check_(check), q_(check.floats(query, 3, kMaxAxes)), k_(check.floats(key, 3, kMaxAxes)), v_(check.floats(value, 3, kMaxAxes)) {
        check.parameter(p);
        check.same_dtype(q_, k_);
        check.same_dtype(q_, v_);
        if (check.failed()) return;
        itemsize = q_.itemsize, dtype = q_.dtype;
        // The axes in front of the heads broadcast, aligned at their ends.
        for (const Array* a : {&q_, &k_, &v_})
            if (a->ndim - 3 > s.batch_axes) s.batch_axes = a->ndim - 3;
        s.N = 1;
        for (int i = 0; i < s.batch_axes; i++) {
            s.batch[i] = 1;
            for (const Array* a : {&q_, &k_, &v_}) {
                const int axis = i - (s.batch_axes - (a->ndim - 3));
                if (axis >= 0 && a->shape[axis] != 1) s.batch[i] = a->shape[axis];
            }
            check.shape(!__builtin_mul_overflow(s.N, s.batch[i], &s.N));
        }
        const int64_t heads = q_.shape[q_.ndim - 3];
        s.H = k_.shape[k_.ndim - 3];
        check.shape(s.H ? heads % s.H == 0 : heads == 0);
        if (check.failed()) return;
        s.G = s.H ? heads / s.H : 0;
        s.L = q_.shape[q_.ndim - 2], s.S = k_.shape[k_.ndim - 2];
        s.E = q_.shape[q_.ndim - 1], s.F = v_.shape[v_.ndim - 1];
        check.parameter(p->softcap >= 0 && p->softcap < 1e300 && p->dropout_p >= 0 && p->dropout_p <= 1);
        for (const int64_t side : p->window) check.parameter(side >= -1);
        s.scale = p->scale, s.softcap = p->softcap;
        // What reaches beyond all keys is no limit, and has to leave room for adding a position.
        const int64_t reach = s.L + s.S;
        s.left = p->window[0] < reach ? p->window[0] : reach;
        s.right = p->window[1] < reach ? p->window[1] : reach;
        s.bottom_right = p->bottom_right != 0;
        s.dropout = p->dropout_p, s.seed = p->seed;
        if (kv_lengths) lengths(check.array(kv_lengths, 0, kMaxBatchAxes));
    }

    HeadTensor query() { return heads(q_, s.H * s.G, s.L, s.E); }
    HeadTensor key() { return heads(k_, s.H, s.S, s.E); }
    HeadTensor value() { return heads(v_, s.H, s.S, s.F); }
    // An array that broadcasts to (batch axes .., heads, rows, columns): where it has size 1, or no axis, the stride is 0.
    HeadTensor heads(const Array& a, int64_t head_count, int64_t rows, int64_t columns) {
        HeadTensor t;
        t.data = a.data;
        const Shape full = with_batch(head_count, rows, columns);
        const int missing = full.ndim - a.ndim;
        check_.shape(missing >= 0);
        for (int i = missing; i < full.ndim && !check_.failed(); i++) {
            const int64_t size = a.shape[i - missing];
            check_.shape(size == 1 || size == full.size[i]);
            (i < s.batch_axes ? t.batch_stride_bytes[i] : t.stride_bytes[i - s.batch_axes]) =
                size == full.size[i] ? a.stride_bytes[i - missing] : 0;
        }
        return t;
    }
    Array exact(const fastcv_array* given, int64_t head_count, int64_t rows, int64_t columns) {
        const Array a = check_.floats(given, s.batch_axes + 2, s.batch_axes + 3);
        const Shape full = with_batch(head_count, rows, columns);
        check_.need(a.dtype == dtype, FASTCV_BAD_ARRAY);
        // lse has no columns.
        check_.shape(a.ndim == full.ndim || (a.ndim == full.ndim - 1 && columns == 1));
        for (int i = 0; i < a.ndim; i++) check_.shape(a.shape[i] == full.size[i]);
        return a;
    }
    void* result(const fastcv_array* given, int64_t head_count, int64_t rows, int64_t columns) {
        if (check_.failed() || !given) return nullptr;
        const Array a = exact(given, head_count, rows, columns);
        check_.need(a.contiguous(), FASTCV_BAD_ARRAY);
        return a.data;
    }
    AttentionMask mask(const fastcv_array* given, HeadTensor* m) {
        if (check_.failed() || !given) return AttentionMask::none;
        const Array a = check_.array(given, 0, kMaxAxes);
        check_.need(a.dtype == FASTCV_BOOL || a.dtype == dtype, FASTCV_BAD_ARRAY);
        *m = heads(a, s.H * s.G, s.L, s.S);
        return a.dtype == FASTCV_BOOL ? AttentionMask::boolean : AttentionMask::additive;
    }

private:
    Check& check_;
    Array q_, k_, v_;

    Shape with_batch(int64_t head_count, int64_t rows, int64_t columns) const {
        Shape full;
        full.ndim = s.batch_axes + 3;
        for (int i = 0; i < s.batch_axes; i++) full.size[i] = s.batch[i];
        full.size[s.batch_axes] = head_count, full.size[s.batch_axes + 1] = rows, full.size[s.batch_axes + 2] = columns;
        return full;
    }
    void lengths(const Array& a) {
        check_.need(a.dtype == FASTCV_INT64 && a.contiguous(), FASTCV_BAD_ARRAY);
        int64_t count = 1;
        for (int i = 0; i < a.ndim; i++) count *= a.shape[i];
        check_.shape(count == s.N);
        if (check_.failed()) return;
        s.kv_lengths = reinterpret_cast<const int64_t*>(a.data);
        for (int64_t n = 0; n < s.N; n++) check_.parameter(s.kv_lengths[n] >= 0 && s.kv_lengths[n] <= s.S);
    }
};

}  // namespace

int attention(const fastcv_array* query, const fastcv_array* key, const fastcv_array* value, const fastcv_array* mask,
              const fastcv_array* kv_lengths, const fastcv_array* output, const fastcv_array* lse, const fastcv_array* weights,
              const fastcv_attention_parameters* p) {
    Check check;
    Call c(check, query, key, value, kv_lengths, p);
    if (check.failed()) return check.status();
    const HeadTensor q = c.query(), k = c.key(), v = c.value();
    HeadTensor m;
    const AttentionMask kind = c.mask(mask, &m);
    const int64_t heads = c.s.H * c.s.G;
    check.need(output, FASTCV_BAD_ARRAY);
    void *const o = c.result(output, heads, c.s.L, c.s.F), *const l = c.result(lse, heads, c.s.L, 1);
    void* const w = c.result(weights, heads, c.s.L, c.s.S);
    if (check.failed()) return check.status();
    return status_of(kernels().attention(c.s, c.itemsize, q, k, v, kind, m, o, l, w));
}

int attention_grad(const fastcv_array* grad_output, const fastcv_array* query, const fastcv_array* key, const fastcv_array* value,
                   const fastcv_array* output, const fastcv_array* lse, const fastcv_array* mask, const fastcv_array* kv_lengths,
                   const fastcv_array* grad_query, const fastcv_array* grad_key, const fastcv_array* grad_value,
                   const fastcv_array* grad_mask, const fastcv_attention_parameters* p) {
    Check check;
    Call c(check, query, key, value, kv_lengths, p);
    if (check.failed()) return check.status();
    const int64_t heads = c.s.H * c.s.G, kv_heads = c.s.H;
    AttentionGradArrays a{};
    a.query = c.query(), a.key = c.key(), a.value = c.value();
    a.grad_output = c.heads(c.exact(grad_output, heads, c.s.L, c.s.F), heads, c.s.L, c.s.F);
    a.output = c.heads(c.exact(output, heads, c.s.L, c.s.F), heads, c.s.L, c.s.F);
    Array l = c.exact(lse, heads, c.s.L, 1);
    if (!check.failed() && l.ndim == c.s.batch_axes + 2) l.shape[l.ndim++] = 1;
    a.lse = c.heads(l, heads, c.s.L, 1);
    a.mask_kind = c.mask(mask, &a.mask);
    check.need(grad_query && grad_key && grad_value, FASTCV_BAD_ARRAY);
    a.grad_query = c.result(grad_query, heads, c.s.L, c.s.E);
    a.grad_key = c.result(grad_key, kv_heads, c.s.S, c.s.E);
    a.grad_value = c.result(grad_value, kv_heads, c.s.S, c.s.F);
    HeadTensor dm;
    if (grad_mask) {
        const Array g = check.floats(grad_mask, 0, kMaxAxes);
        check.need(a.mask_kind == AttentionMask::additive && g.dtype == c.dtype && g.contiguous(), FASTCV_BAD_ARRAY);
        if (!check.failed()) check.shape(g.ndim == mask->ndim);
        for (int i = 0; i < g.ndim && !check.failed(); i++) check.shape(g.shape[i] == mask->shape[i]);
        dm = c.heads(g, heads, c.s.L, c.s.S);
        a.grad_mask = &dm;
        if (!check.failed()) {  // kernels add to it
            int64_t bytes = g.itemsize;
            for (int i = 0; i < g.ndim; i++) bytes *= g.shape[i];
            __builtin_memset(g.data, 0, size_t(bytes));
        }
    }
    if (check.failed()) return check.status();
    return status_of(kernels().attention_grad(c.s, c.itemsize, a));
}

}  // namespace fastcv::capi
