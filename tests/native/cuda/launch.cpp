// csrc/cuda/launch.h and dtypes.h over emulation.h: quotients, places, roundings. Prints what is wrong.
//
//   g++ -std=c++17 -include tests/native/cuda/emulation.h tests/native/cuda/launch.cpp
#include <stdio.h>

#include "../../../csrc/cuda/dtypes.h"

using namespace fastcv::cuda;

static int failed = 0;

static void expect(bool right, const char* what, int64_t which, int64_t of = 0) {
    if (!right && failed++ < 10) printf("%s %lld %lld\n", what, static_cast<long long>(which), static_cast<long long>(of));
}

static void check_quotients(int64_t size, int64_t largest) {
    const Divisor divisor(size, largest);
    for (int64_t multiple = 0;; multiple = multiple * 3 / 2 + 1) {
        bool more = false;
        for (int64_t n = multiple * size - 2; n <= multiple * size + 2; n++) {
            if (n < 0 || n > largest) continue;
            more = true;
            expect(divisor.quotient(n) == n / size, "quotient", n, size);
        }
        if (!more && multiple > 0) break;
        if (multiple > largest / size) break;
    }
    expect(divisor.quotient(largest) == largest / size, "quotient", largest, size);
}

// Where items lie, against counting.
static void check_walk(int64_t N, int64_t C, int64_t H, int64_t W, bool last, int64_t channels) {
    const Walk walk(N, C, H, W, last, channels);
    int64_t item = 0;
    const auto next_is = [&](int64_t n, int64_t c, int64_t y, int64_t x) {
        const Place at = walk.place(item++);
        expect(at.n == n && at.c == c && at.y == y && at.x == x, "item", item - 1);
    };
    for (int64_t n = 0; n < N; n++)
        if (last) {
            for (int64_t y = 0; y < H; y++)
                for (int64_t x = 0; x < W; x++)
                    for (int64_t c = 0; c < C; c += channels) next_is(n, c, y, x);
        } else {
            for (int64_t c = 0; c < C; c++)
                for (int64_t y = 0; y < H; y++)
                    for (int64_t x = 0; x < W; x++) next_is(n, c, y, x);
        }
    expect(item == walk.items, "items", walk.items, item);
}

int main() {
    const int64_t top = (int64_t(1) << 31) - 1;
    for (int64_t size = 1; size <= 4096; size++) check_quotients(size, top);
    for (int bit = 12; bit < 40; bit++)
        for (int64_t size = (int64_t(1) << bit) - 3; size <= (int64_t(1) << bit) + 3; size++) {
            check_quotients(size, top);                 // multiplied, while the size is small enough
            check_quotients(size, int64_t(1) << 50);    // divided
        }
    check_walk(2, 3, 5, 7, false, 1);
    check_walk(2, 12, 5, 7, true, 1);
    check_walk(2, 12, 5, 7, true, 4);
    check_walk(1, 1, 1, 1, true, 1);
    check_walk(0, 3, 2, 2, false, 1);
    // Items beyond 32 bits.
    const Walk large(5, 1024, 1024, 1024, false);
    const Place at = large.place(large.items - 1);
    expect(at.n == 4 && at.c == 1023 && at.y == 1023 && at.x == 1023, "the last item", large.items);
    // Every float16 and bfloat16 survives, and what lies half way between two goes to the even one.
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint16_t even = uint16_t((bits + 1) / 2 * 2), size = bits % 0x8000;
        const float half = widen(Half{uint16_t(bits)}), next_half = widen(Half{uint16_t(bits + 1)});
        if (half == half) expect(narrow<Half>(half).bits == bits, "float16", bits);
        if (half != half) expect(isnan(widen(narrow<Half>(half))), "float16 NaN", bits);
        if (size < 0x7bff) expect(narrow<Half>((half + next_half) / 2).bits == even, "between float16", bits);
        const float wide = widen(BFloat16{uint16_t(bits)}), next_wide = widen(BFloat16{uint16_t(bits + 1)});
        if (wide == wide) expect(narrow<BFloat16>(wide).bits == bits, "bfloat16", bits);
        if (wide != wide) expect(isnan(widen(narrow<BFloat16>(wide))), "bfloat16 NaN", bits);
        if (size >= 0x100 && size < 0x7f7f)
            expect(narrow<BFloat16>(wide / 2 + next_wide / 2).bits == even, "between bfloat16", bits);
    }
    expect(widen(narrow<Half>(65520)) == INFINITY && widen(narrow<Half>(65519)) == 65504, "float16 overflow", 65520);
    expect(blocks_for(0, 256) == 0 && blocks_for(257, 256) == 2, "blocks", 257);
    expect(blocks_for(int64_t(1) << 60, 256) == 1 << 20, "blocks", int64_t(1) << 60);
    printf("%d failed\n", failed);
    return failed != 0;
}
