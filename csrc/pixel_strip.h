// The padded strip of pixels whose channels lie side by side, for kernels that broadcast pixels.
//
//   strip[row][column][channel]
//
// It holds the input under a block of outputs, zero padding included, where strip.h has planes. A tile of outputs then reads each tap
// of its window as one run of channels a pixel, and where a tap follows its neighbour at the next column, all taps of a row as one run.
// Rows and columns that no tap meets, as between the taps of a 1 x 1 window with a stride, are left out.
#pragma once

#include "geometry.h"
#include "ops.h"
#include "simd.h"
#include "strip.h"

namespace fastcv::FASTCV_ISA {
namespace {

// One dimension: every `step`th position of the input; `stride` of them from output to output, `tap` from tap to tap.
struct PixelAxis {
    int64_t step, stride, tap;

    explicit PixelAxis(const Axis& a)
        : step(a.taps == 1 ? a.stride : a.stride / a.cycle()), stride(a.stride / step), tap(a.taps == 1 ? 0 : a.dilation / step) {}
    int64_t length(int64_t outputs, int64_t taps) const { return (outputs - 1) * stride + (taps - 1) * tap + 1; }
};

template <class T>
struct PixelStrip {
    Axis window_y, window_x;
    PixelAxis y, x;
    int64_t channels, rows, columns;
    int64_t pixel, row;  // elements from pixel to pixel and from row to row

    PixelStrip(const Axis& vertical, const Axis& horizontal, int64_t channels_, int64_t block_rows, int64_t block_columns)
        : window_y(vertical), window_x(horizontal), y(vertical), x(horizontal), channels(channels_),
          rows(y.length(block_rows, vertical.taps)), columns(x.length(block_columns, horizontal.taps)), pixel(channels_) {
        // A tile's pixels a multiple of 1 KiB apart would share few sets of the first-level cache.
        if (x.stride * pixel * int64_t(sizeof(T)) % 1024 == 0) pixel += 64 / int64_t(sizeof(T));
        row = columns * pixel;
    }
    int64_t elements() const { return rows * row + kLanes<T>; }
    // Whether neighbouring taps of a row are one run of channels.
    bool one_run() const { return x.tap == 1 && pixel == channels; }
};

// to[pixel * pitch + channel] = n pixels. `ahead` is what will be read next in the same way, for the caches.
template <class T>
static void gather_pixels(const char* from, int64_t pixel_bytes, int64_t channel_bytes, int64_t n, int64_t channels, T* to, int64_t pitch,
                          const char* ahead) {
    constexpr int64_t L = kLanes<T>, size = int64_t(sizeof(T));
    if (channels < L / 2 || (pixel_bytes != size && pixel_bytes != 2 * size)) {
        for (int64_t c = 0; c < channels; c++, from += channel_bytes)
            for (int64_t e = 0; e < n; e++) to[e * pitch + c] = load_scalar<T>(from + e * pixel_bytes);
        return;
    }
    for (int64_t c = 0; c < channels; c += L) {
        const int64_t count = smaller(L, channels - c);
        const char* row = from + c * channel_bytes;
        const char* next = c + L < channels ? row + L * channel_bytes : ahead;
        for (int64_t e = 0; e < n; e += L, row += L * pixel_bytes, next += L * pixel_bytes) {
            const int64_t together = smaller(L, n - e), span = (together - 1) * pixel_bytes / size + 1;
            Vec<T> square[L];
            FASTCV_UNROLL for (int64_t i = 0; i < L; i++) {
                const T* pixels = reinterpret_cast<const T*>(row + i * channel_bytes);
                __builtin_prefetch(next + i * channel_bytes);
                if (i >= count)
                    square[i] = zero<T>();
                else if (pixel_bytes != size)
                    square[i] = even<T>(load_first(pixels, span), load_first(pixels + L, span - L));
                else if (together == L)
                    square[i] = load(pixels);
                else
                    square[i] = load_first(pixels, together);
            }
            transpose<T>(square);
            if (together == L && count == L)
                FASTCV_UNROLL for (int64_t j = 0; j < L; j++) store(to + (e + j) * pitch + c, square[j]);
            else
                FASTCV_UNROLL for (int64_t j = 0; j < L; j++)
                    if (j < together) store_first(to + (e + j) * pitch + c, square[j], count);
        }
    }
}

// to[pixel * pitch + channel] = n pixels whose channels lie side by side.
template <class T>
static void copy_pixels(const char* from, int64_t pixel_bytes, int64_t n, int64_t channels, T* to, int64_t pitch) {
    constexpr int64_t size = int64_t(sizeof(T));
    if (pitch == channels && pixel_bytes == channels * size) {
        copy_row(to, from, size, n * channels);
        return;
    }
    for (int64_t e = 0; e < n; e++) copy_row(to + e * pitch, from + e * pixel_bytes, size, channels);
}

// Fills the strip for `rows` rows of outputs from (first_row, first_column) on.
template <class T>
static void fill_pixel_strip(const PixelStrip<T>& s, T* strip, const Planes& in, int64_t first_row, int64_t first_column, int64_t rows) {
    const int64_t left = first_column * s.window_x.stride - s.window_x.pad, room = s.window_x.input - 1 - left;
    const int64_t begin = left < 0 ? smaller(s.columns, ceil_div(-left, s.x.step)) : 0;
    const int64_t end = larger(begin, room < 0 ? 0 : smaller(s.columns, room / s.x.step + 1));
    const int64_t step = s.x.step * in.column_bytes;
    for (int64_t r = 0; r < s.y.length(rows, s.window_y.taps); r++) {
        const int64_t y = first_row * s.window_y.stride - s.window_y.pad + r * s.y.step;
        T* to = strip + r * s.row;
        if (y < 0 || y >= s.window_y.input) {
            fill_zeros(to, s.row);
            continue;
        }
        const char* from = in.data + y * in.row_bytes + (left + begin * s.x.step) * in.column_bytes;
        fill_zeros(to, begin * s.pixel);
        if (in.channel_bytes == int64_t(sizeof(T)))
            copy_pixels(from, step, end - begin, s.channels, to + begin * s.pixel, s.pixel);
        else
            gather_pixels(from, step, in.channel_bytes, end - begin, s.channels, to + begin * s.pixel, s.pixel,
                          from + s.y.step * in.row_bytes);
        fill_zeros(to + end * s.pixel, (s.columns - end) * s.pixel);
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
