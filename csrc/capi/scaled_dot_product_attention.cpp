// scaled_dot_product_attention and its gradient for other compiled code.
#include <string.h>

#include <initializer_list>
#include <memory>
#include <new>

#include "arrays.h"

namespace fastcv::capi {
namespace {

struct Shape {
    int ndim = 0;
    int64_t size[kMaxAxes] = {};
};

// Memory that a call needs beside its arrays; null where it has run out.
using Buffer = std::unique_ptr<char[]>;
Buffer take(int64_t bytes) { return Buffer(new (std::nothrow) char[size_t(bytes)]); }

// Adds an array of shape `full` up along the axes that `to`, which is contiguous, has with size 1, or has not.
template <class T>
void sum_into(const Array& to, const Shape& full, const T* from) {
    int64_t step[kMaxAxes] = {}, at[kMaxAxes] = {}, count = 1;
    for (int i = 0; i < full.ndim; i++) count *= full.size[i];
    for (int i = 0; i < to.ndim; i++) step[full.ndim - to.ndim + i] = to.shape[i] == 1 ? 0 : to.stride_bytes[i] / int64_t(sizeof(T));
    T* const result = reinterpret_cast<T*>(to.data);
    int64_t place = 0;
    for (int64_t n = 0; n < count; n++) {
        result[place] += from[n];
        for (int i = full.ndim; i-- > 0;) {
            place += step[i];
            if (++at[i] < full.size[i]) break;
            place -= step[i] * full.size[i];
            at[i] = 0;
        }
    }
}

// What the arrays' shapes amount to: batch axes, heads, rows, columns.
class Call {
public:
    AttentionShape s{};
    int itemsize = 0, dtype = 0;

    Call(Check& check, const fastcv_array* query, const fastcv_array* key, const fastcv_array* value,
         const fastcv_array* kv_lengths, const fastcv_attention_parameters* p)
        : check_(check),
          q_(check.floats(query, 2, kMaxAxes)),
          k_(check.floats(key, 2, kMaxAxes)),
          v_(check.floats(value, 2, kMaxAxes)) {
        check.parameter(p);
        check.same_dtype(q_, k_);
        check.same_dtype(q_, v_);
        if (check.failed()) return;
        itemsize = q_.itemsize, dtype = q_.dtype;
        // The axes in front of the heads broadcast, aligned at their ends.
        for (const Array* a : {&q_, &k_, &v_}) {
            if (a->ndim - 3 > s.batch_axes) s.batch_axes = a->ndim - 3;
            if (a->ndim > 2) has_heads_ = true;
        }
        s.N = 1;
        for (int i = 0; i < s.batch_axes; i++) {
            s.batch[i] = 1;
            for (const Array* a : {&q_, &k_, &v_}) {
                const int axis = i - (s.batch_axes - (a->ndim - 3));
                if (axis >= 0 && a->shape[axis] != 1) s.batch[i] = a->shape[axis];
            }
            check.shape(!__builtin_mul_overflow(s.N, s.batch[i], &s.N));
        }
        int64_t query_heads = heads_of(q_);
        s.H = heads_of(k_) == 1 ? heads_of(v_) : heads_of(k_);
        if (query_heads == 1) query_heads = s.H;
        check.shape(s.H ? query_heads % s.H == 0 : query_heads == 0);
        if (check.failed()) return;
        s.G = s.H ? query_heads / s.H : 0;
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

    int64_t heads() const { return s.H * s.G; }
    HeadTensor query() { return spread(q_, heads(), s.L, s.E); }
    HeadTensor key() { return spread(k_, s.H, s.S, s.E); }
    HeadTensor value() { return spread(v_, s.H, s.S, s.F); }
    // An array that broadcasts to (batch axes .., heads, rows, columns): where it has size 1, or no axis, the stride is 0.
    HeadTensor spread(const Array& a, int64_t head_count, int64_t rows, int64_t columns) {
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
    // An array of (.., heads, rows, columns), without heads where no input has them. lse is one without columns: -1.
    Array exact(const fastcv_array* given, int64_t rows, int64_t columns) {
        const Shape full = with_batch(heads(), rows, columns);
        const int begin = has_heads_ ? 0 : 1, end = full.ndim - (columns < 0);
        const Array a = check_.floats(given, end - begin, end - begin);
        check_.need(a.dtype == dtype, FASTCV_BAD_ARRAY);
        for (int i = begin; i < end && !check_.failed(); i++) check_.shape(a.shape[i - begin] == full.size[i]);
        return a;
    }
    void* result(const fastcv_array* given, int64_t rows, int64_t columns) {
        if (check_.failed() || !given) return nullptr;
        const Array a = exact(given, rows, columns);
        check_.need(a.contiguous(), FASTCV_BAD_ARRAY);
        return a.data;
    }
    AttentionMask mask(const fastcv_array* given, HeadTensor* m) {
        if (check_.failed() || !given) return AttentionMask::none;
        const Array a = check_.array(given, 0, kMaxAxes);
        check_.need(a.dtype == FASTCV_BOOL || a.dtype == dtype, FASTCV_BAD_ARRAY);
        *m = spread(a, heads(), s.L, s.S);
        return a.dtype == FASTCV_BOOL ? AttentionMask::boolean : AttentionMask::additive;
    }

    // A gradient in the shape of its input. Kernels write it at full size; where the input broadcasts, that is `whole`, and
    // `finish` adds it up.
    class Gradient {
    public:
        void* begin(Call& c, const fastcv_array* given, const Array& input, int64_t head_count, int64_t rows, int64_t columns) {
            if (c.check_.failed()) return nullptr;
            array_ = c.check_.floats(given, input.ndim, input.ndim);
            c.check_.need(array_.dtype == c.dtype && array_.contiguous(), FASTCV_BAD_ARRAY);
            c.check_.same_axes(array_, input, 0, input.ndim);
            full_ = c.with_batch(head_count, rows, columns);
            int64_t bytes = c.itemsize, own = c.itemsize;
            for (int i = 0; i < full_.ndim; i++) c.check_.shape(!__builtin_mul_overflow(bytes, full_.size[i], &bytes));
            for (int i = 0; i < array_.ndim; i++) own *= array_.shape[i];
            if (c.check_.failed() || bytes == own) return array_.data;
            bytes_ = own;
            whole_ = take(bytes);
            c.check_.need(whole_ != nullptr, FASTCV_OUT_OF_MEMORY);
            return whole_.get();
        }
        void finish() {
            if (!whole_) return;
            memset(array_.data, 0, size_t(bytes_));
            if (array_.itemsize == 4) sum_into(array_, full_, reinterpret_cast<const float*>(whole_.get()));
            else sum_into(array_, full_, reinterpret_cast<const double*>(whole_.get()));
        }

    private:
        Array array_;
        Shape full_;
        Buffer whole_;
        int64_t bytes_ = 0;
    };
    void* begin_query(Gradient& g, const fastcv_array* given) { return g.begin(*this, given, q_, heads(), s.L, s.E); }
    void* begin_key(Gradient& g, const fastcv_array* given) { return g.begin(*this, given, k_, s.H, s.S, s.E); }
    void* begin_value(Gradient& g, const fastcv_array* given) { return g.begin(*this, given, v_, s.H, s.S, s.F); }

private:
    Check& check_;
    Array q_, k_, v_;
    bool has_heads_ = false;
    Buffer lengths_;

    static int64_t heads_of(const Array& a) { return a.ndim > 2 ? a.shape[a.ndim - 3] : 1; }
    Shape with_batch(int64_t head_count, int64_t rows, int64_t columns) const {
        Shape full;
        full.ndim = s.batch_axes + 3;
        for (int i = 0; i < s.batch_axes; i++) full.size[i] = s.batch[i];
        full.size[s.batch_axes] = head_count, full.size[s.batch_axes + 1] = rows, full.size[s.batch_axes + 2] = columns;
        return full;
    }
    void lengths(const Array& a) {
        check_.need((a.dtype == FASTCV_INT64 || a.dtype == FASTCV_INT32) && a.contiguous(), FASTCV_BAD_ARRAY);
        int64_t count = 1;
        for (int i = 0; i < a.ndim; i++) count *= a.shape[i];
        check_.shape(count == s.N);
        if (check_.failed()) return;
        lengths_ = take(8 * count);
        check_.need(lengths_ != nullptr, FASTCV_OUT_OF_MEMORY);
        int64_t* const all = reinterpret_cast<int64_t*>(lengths_.get());
        for (int64_t n = 0; n < count && !check_.failed(); n++) {
            int32_t small = 0;
            if (a.itemsize == 8) memcpy(all + n, a.data + 8 * n, 8);
            else memcpy(&small, a.data + 4 * n, 4), all[n] = small;
            check_.parameter(all[n] >= 0 && all[n] <= s.S);
        }
        s.kv_lengths = all;
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
    check.need(output, FASTCV_BAD_ARRAY);
    void *const o = c.result(output, c.s.L, c.s.F), *const l = c.result(lse, c.s.L, -1), *const w = c.result(weights, c.s.L, c.s.S);
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
    AttentionGradArrays a{};
    a.query = c.query(), a.key = c.key(), a.value = c.value();
    a.grad_output = c.spread(c.exact(grad_output, c.s.L, c.s.F), c.heads(), c.s.L, c.s.F);
    a.output = c.spread(c.exact(output, c.s.L, c.s.F), c.heads(), c.s.L, c.s.F);
    Array l = c.exact(lse, c.s.L, -1);
    if (!check.failed()) l.shape[l.ndim++] = 1;
    a.lse = c.spread(l, c.heads(), c.s.L, 1);
    a.mask_kind = c.mask(mask, &a.mask);
    Call::Gradient dq, dk, dv;
    a.grad_query = c.begin_query(dq, grad_query);
    a.grad_key = c.begin_key(dk, grad_key);
    a.grad_value = c.begin_value(dv, grad_value);
    HeadTensor dm;
    if (grad_mask) {
        const Array g = check.floats(grad_mask, 0, kMaxAxes);
        check.need(a.mask_kind == AttentionMask::additive && g.dtype == c.dtype && g.contiguous(), FASTCV_BAD_ARRAY);
        if (!check.failed()) check.shape(g.ndim == mask->ndim);
        for (int i = 0; i < g.ndim && !check.failed(); i++) check.shape(g.shape[i] == mask->shape[i]);
        dm = c.spread(g, c.heads(), c.s.L, c.s.S);
        a.grad_mask = &dm;
        if (!check.failed()) {  // kernels add to it
            int64_t bytes = g.itemsize;
            for (int i = 0; i < g.ndim; i++) bytes *= g.shape[i];
            memset(g.data, 0, size_t(bytes));
        }
    }
    if (check.failed()) return check.status();
    const int status = status_of(kernels().attention_grad(c.s, c.itemsize, a));
    if (status == FASTCV_OK) dq.finish(), dk.finish(), dv.finish();
    return status;
}

}  // namespace fastcv::capi
