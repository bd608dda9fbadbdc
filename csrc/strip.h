// The padded, phase-split strip that convolutions read.
//
//   strip[c][slot_y][slot_x][row][column]
//
// A strip holds the input under a block of output rows and columns, zero padding included, with the stride taken out:
// input pixel (y * stride + phase_y - pad, x * stride + phase_x - pad) lies at [row y][column x] of its phase. Every tap of
// the window is then one fixed offset, and a vector of neighbouring outputs reads a vector of neighbouring elements.
//
// Where a block spans the whole width of one image, one row's right padding is the next row's left padding, which lets vectors run
// on across row ends.
//
// Rows are written in ascending order and in whole vectors: what overshoots a row's end is zeros, or is overwritten by
// the next row. Each plane ends in enough zeros for the last row's right padding.
#pragma once

#include "geometry.h"
#include "ops.h"
#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

// Planes of one image: channels x H x W, any strides.
struct Planes {
    const char* data;
    int64_t channel_bytes, row_bytes, column_bytes;
};

struct Strip {
    Axis y, x;
    int64_t channels;
    int64_t pitch;        // elements from row to row
    int64_t columns;      // of a row that are filled; behind them another image's may lie
    int64_t rows;         // per phase
    int64_t plane;        // elements from phase to phase
    int64_t channel;      // elements from channel to channel
    int64_t overrun;      // zeros that the last row reads behind its end
    int64_t elements;     // to allocate, slack included

    // Of a tap, in the first channel. It takes divisions; channels are `channel` apart.
    int64_t offset(int64_t r, int64_t s) const {
        return (y.slot_of(r) * x.slots() + x.slot_of(s)) * plane + y.step_of(r) * pitch + x.step_of(s);
    }
};

// Whether even a strip of one output would have more elements than offsets can count, as absurd padding and dilation make it.
static inline bool strip_too_large(const Axis& y, const Axis& x, int64_t channels) {
    return double(channels) * double(y.slots()) * double(x.slots()) * double(y.steps() + 1) * double(x.steps() + 1) > 1e9;
}

// A strip for blocks of `block_rows` x `block_columns` outputs. Several images may stand side by side in its rows, each `columns`
// behind the one before it; they have to be filled in that order.
template <class T>
static Strip make_strip(const Axis& y, const Axis& x, int64_t channels, int64_t block_rows, int64_t block_columns, int64_t images = 1) {
    constexpr int64_t L = kLanes<T>;
    Strip s;
    s.y = y;
    s.x = x;
    s.channels = channels;
    s.rows = block_rows + y.steps();
    const int64_t needed = block_columns + x.steps();
    s.pitch = needed;
    if (images > 1) {
        s.pitch = images * needed + L;  // for what the last one overshoots
    } else if (block_columns == x.output) {
        // Shared padding: every phase begins with at least `lead` zeros, and no phase has more than `filled` columns.
        const int64_t lead = larger(0, ceil_div(x.pad - x.stride + 1, x.stride));
        const int64_t filled = larger(0, ceil_div(x.input + x.pad, x.stride));
        s.pitch = larger(x.output, larger(smaller(filled, needed), needed - lead));
    }
    s.columns = images > 1 ? needed : s.pitch;
    s.overrun = larger(0, needed - s.columns);
    s.plane = round_up(s.rows * s.pitch + s.overrun + L, L);
    s.channel = s.plane * y.slots() * x.slots();
    // Channels a multiple of 4 KiB apart would fall into the same cache sets.
    if (s.channel * int64_t(sizeof(T)) % 4096 < 256) s.channel += 5 * L;
    s.elements = s.channel * channels + 4 * L;
    return s;
}

template <class T>
FASTCV_INLINE void fill_zeros(T* to, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes<T>) store(to + i, zero<T>());
}

// to[i] = from[i * stride_bytes], i = 0 .. count-1, and nothing behind.
template <class T>
FASTCV_INLINE void copy_row(T* to, const char* from, int64_t stride_bytes, int64_t count) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    const T* f = reinterpret_cast<const T*>(from);
    int64_t i = 0;
    if (stride_bytes == size) {
        for (; i + L <= count; i += L) store(to + i, load(f + i));
        if (i < count) store_first(to + i, load_first(f + i, count - i), count - i);
    } else if (stride_bytes == 2 * size) {
        for (; i + L < count; i += L) store(to + i, even<T>(load(f + 2 * i), load(f + 2 * i + L)));
        if (i < count) {
            const int64_t left = 2 * (count - i) - 1;
            store_first(to + i, even<T>(load_first(f + 2 * i, left), load_first(f + 2 * i + L, left - L)), count - i);
        }
    } else if (stride_bytes == 4 * size) {
        for (; i + L < count; i += L) {
            const T* p = f + 4 * i;
            store(to + i, even<T>(even<T>(load(p), load(p + L)), even<T>(load(p + 2 * L), load_first(p + 3 * L, L - 3))));
        }
        for (; i < count; i++) to[i] = load_scalar<T>(from + i * stride_bytes);
    } else {
        for (; i < count; i++) to[i] = load_scalar<T>(from + i * stride_bytes);
    }
}

// Even elements of a row go to `even_to`, odd ones to `odd_to`: both phases of a stride of 2 in one pass.
template <class T>
FASTCV_INLINE void split_row(T* even_to, T* odd_to, const T* from, int64_t evens, int64_t odds, int64_t width) {
    constexpr int64_t L = kLanes<T>;
    int64_t i = 0;
    for (; i + L <= odds; i += L) {
        const Vec<T> a = load(from + 2 * i), b = load(from + 2 * i + L);
        store(even_to + i, even<T>(a, b));
        store(odd_to + i, odd<T>(a, b));
    }
    if (i < evens) {
        const Vec<T> a = load_first(from + 2 * i, width - 2 * i), b = load_first(from + 2 * i + L, width - 2 * i - L);
        store_first(even_to + i, even<T>(a, b), evens - i);
        store_first(odd_to + i, odd<T>(a, b), odds - i);
    }
}

// to[e] = input[e * step + first], e = 0 .. n-1, zero where that is outside 0 .. width-1. Overshoots by zeros.
template <class T>
static void fill_row(T* to, int64_t n, const char* row, int64_t column_bytes, int64_t width, int64_t first, int64_t step) {
    const int64_t begin = first >= 0 ? 0 : smaller(n, ceil_div(-first, step));
    const int64_t end = first >= width ? begin : larger(begin, smaller(n, (width - 1 - first) / step + 1));
    fill_zeros(to, begin);
    copy_row(to + begin, row + (begin * step + first) * column_bytes, step * column_bytes, end - begin);
    fill_zeros(to + end, n - end);
}

// The same for `lanes` channels at once where channels are contiguous: squares of pixels x channels are transposed.
template <class T>
static void fill_row_channels_last(T* to, int64_t channel, int64_t channels, int64_t n, const char* row,
                                   int64_t column_bytes, int64_t width, int64_t first, int64_t step) {
    constexpr int64_t L = kLanes<T>;
    for (int64_t e = 0; e < n; e += L) {
        Vec<T> square[L];
        FASTCV_UNROLL for (int64_t i = 0; i < L; i++) {
            const int64_t x = (e + i) * step + first;
            const bool inside = e + i < n && x >= 0 && x < width;
            square[i] = inside ? load_first(reinterpret_cast<const T*>(row + x * column_bytes), channels) : zero<T>();
        }
        transpose<T>(square);
        FASTCV_UNROLL for (int64_t c = 0; c < L; c++) if (c < channels) store(to + c * channel + e, square[c]);
    }
}

// Fills the strip for outputs from (first_row, first_column) on; `rows` strip rows are wanted.
template <class T>
static void fill_strip(const Strip& s, T* strip, const Planes& in, int64_t first_row, int64_t first_column, int64_t rows) {
    constexpr int64_t size = int64_t(sizeof(T));
    const int64_t slots = s.x.slots();
    const bool channels_last = in.channel_bytes == size && in.column_bytes != size;
    const bool split = s.x.stride == 2 && slots == 2 && in.column_bytes == size && first_column == 0 && s.x.pad >= 0;
    const int64_t together = channels_last ? kLanes<T> : 1;
    // Where a split row's even and odd columns begin, and how many of them fit.
    const int64_t even_slot = s.x.pad % 2 == 0 ? 0 : 1, even_begin = s.x.pad / 2, odd_begin = (s.x.pad + 1) / 2;
    const int64_t evens = smaller(ceil_div(s.x.input, 2), s.columns - even_begin);
    const int64_t odds = smaller(s.x.input / 2, s.columns - odd_begin);
    // The columns that a row is read at.
    const int64_t left = larger(0, first_column * s.x.stride - s.x.pad);
    const int64_t right = smaller(s.x.input, (first_column + s.columns) * s.x.stride - s.x.pad);
    const int64_t read_begin = left * size, read_end = in.column_bytes == size ? right * size : 0;
    for (int64_t c = 0; c < s.channels; c += together)
        for (int64_t slot_y = 0; slot_y < s.y.slots(); slot_y++) {
            T* planes = strip + c * s.channel + slot_y * slots * s.plane;
            const int64_t count = smaller(together, s.channels - c);
            for (int64_t r = 0; r < rows; r++) {
                const int64_t y = (first_row + r) * s.y.stride + s.y.phase_of_slot(slot_y) - s.y.pad;
                T* to = planes + r * s.pitch;
                const char* row = in.data + c * in.channel_bytes + y * in.row_bytes;
                // The same row of the next channel, as rows are too short for the hardware to foresee where reading goes on: 256
                // channels of 56 x 56, 1 x 1 stride 2, to 512 filters take 6% less.
                if (c + 1 < s.channels && y >= 0 && y < s.y.input)
                    for (int64_t at = read_begin; at < read_end; at += 64) __builtin_prefetch(row + in.channel_bytes + at);
                if (split && y >= 0 && y < s.y.input && evens > 0 && odds >= 0) {
                    T* even_to = to + even_slot * s.plane;
                    T* odd_to = to + (1 - even_slot) * s.plane;
                    fill_zeros(even_to, even_begin);
                    fill_zeros(odd_to, odd_begin);
                    split_row(even_to + even_begin, odd_to + odd_begin, reinterpret_cast<const T*>(row), evens, odds, s.x.input);
                    fill_zeros(even_to + even_begin + evens, s.columns - even_begin - evens);
                    fill_zeros(odd_to + odd_begin + odds, s.columns - odd_begin - odds);
                    continue;
                }
                for (int64_t slot_x = 0; slot_x < slots; slot_x++, to += s.plane) {
                    const int64_t first = first_column * s.x.stride + s.x.phase_of_slot(slot_x) - s.x.pad;
                    if (y < 0 || y >= s.y.input)
                        for (int64_t i = 0; i < count; i++) fill_zeros(to + i * s.channel, s.columns);
                    else if (channels_last)
                        fill_row_channels_last(to, s.channel, count, s.columns, row, in.column_bytes, s.x.input, first, s.x.stride);
                    else
                        fill_row(to, s.columns, row, in.column_bytes, s.x.input, first, s.x.stride);
                }
            }
            for (int64_t slot_x = 0; slot_x < slots; slot_x++)
                for (int64_t i = 0; i < count; i++)
                    fill_zeros(planes + i * s.channel + slot_x * s.plane + rows * s.pitch, s.overrun);
        }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
