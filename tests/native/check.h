// What the checks of all kernels share: arrays that lie as unkindly as the contract allows, the comparison with what is wanted, and
// the count. What surrounds an array's elements is NaN and must stay as it is, and the page behind it may not be touched at all.
#pragma once

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <vector>

#include "../../csrc/dispatch.h"

namespace fastcv {
void set_num_threads(int n);  // parallel.cpp

namespace check {

using Numbers = std::vector<double>;  // an array's elements in order of its dimensions

inline int passed = 0, failed = 0;
inline char current[400];  // the case at work

__attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED %s: ", current);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    failed++;
}

// A file each: one operation on every kernel of an instruction set.
void convolution(const KernelTable& table);
void gram_matrix(const KernelTable& table);
void max_pool2d(const KernelTable& table);
void attention(const KernelTable& table);
void assignment(const KernelTable& table);

// Numbers of pixels, channels, filters, rows or columns around every vector's number of lanes.
constexpr int64_t kAroundLanes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33};

// ---- arrays

// How an array lies in memory: its dimensions from the outermost to the innermost, elements from one to the next in the
// innermost, bytes left over behind each row (and plane, ..), and whether all dimensions run backwards.
struct Layout {
    const char* name;
    int order[4], step, gap_bytes;
    bool backwards;
};
constexpr Layout kPlanar{"planar", {0, 1, 2, 3}, 1, 0, false};
constexpr Layout kChannelsLast{"channels-last", {0, 2, 3, 1}, 1, 0, false};
constexpr Layout kMisaligned{"misaligned", {0, 1, 2, 3}, 1, 3, false};
constexpr Layout kEveryOther{"every-other", {1, 0, 2, 3}, 2, 0, false};
constexpr Layout kBackwards{"backwards", {0, 1, 2, 3}, 1, 0, true};
constexpr Layout kTurned{"turned", {0, 1, 3, 2}, 1, 1, true};

// Input (or what stands for it), weights and result of a case; bias lies like the weights.
struct Layouts {
    Layout input, weight, result;
};
constexpr Layouts kLayouts[] = {
    {kPlanar, kPlanar, kPlanar},        {kChannelsLast, kChannelsLast, kChannelsLast}, {kPlanar, kBackwards, kChannelsLast},
    {kChannelsLast, kPlanar, kPlanar},  {kMisaligned, kMisaligned, kMisaligned},       {kEveryOther, kTurned, kBackwards},
    {kBackwards, kEveryOther, kTurned}, {kTurned, kChannelsLast, kEveryOther},
};

struct Size4 {
    int64_t of[4];
    int64_t elements() const { return of[0] * of[1] * of[2] * of[3]; }
};

// Memory that ends where a page begins that nobody may touch. All bytes are 0xff at first: NaN as float and as double.
template <class T>
class Array {
public:
    Array(const Size4& size, const Layout& layout) : size_(size) {
        int64_t stride = layout.step * int64_t(sizeof(T)), first = 0, bytes = size.elements() ? int64_t(sizeof(T)) : 0;
        for (int i = 3; i >= 0; i--) {
            const int d = layout.order[i];
            tensor_.stride_bytes[d] = layout.backwards ? -stride : stride;
            const int64_t reach = size.elements() ? (size.of[d] - 1) * stride : 0;
            if (layout.backwards) first += reach;
            bytes += reach;
            stride = stride * size.of[d] + layout.gap_bytes;
        }
        const int64_t page = sysconf(_SC_PAGESIZE);
        usable_ = (bytes + 64 + page - 1) / page * page;
        memory_ =
            static_cast<char*>(mmap(nullptr, size_t(usable_ + page), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (memory_ == MAP_FAILED || mprotect(memory_ + usable_, size_t(page), PROT_NONE) != 0) {
            perror("check_kernels");
            exit(2);
        }
        mapped_ = usable_ + page;
        memset(memory_, 0xff, size_t(usable_));
        tensor_.data = memory_ + usable_ - bytes + first;
    }
    Array(const Size4& size, const Layout& layout, const Numbers& numbers) : Array(size, layout) {
        for_each_element([&](char* p, int64_t i) {
            const T x = T(numbers[size_t(i)]);
            memcpy(p, &x, sizeof x);
        });
    }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { munmap(memory_, size_t(mapped_)); }

    Tensor tensor() const { return tensor_; }
    std::vector<T> take_elements() {
        std::vector<T> elements(size_t(size_.elements()));
        for_each_element([&](char* p, int64_t i) {
            memcpy(&elements[size_t(i)], p, sizeof(T));
            memset(p, 0xff, sizeof(T));
        });
        return elements;
    }
    // After take_elements: whether nobody wrote between or before the elements.
    bool untouched() const {
        for (int64_t i = 0; i < usable_; i++)
            if (memory_[i] != char(0xff)) return false;
        return true;
    }

private:
    template <class Visit>
    void for_each_element(const Visit& visit) {
        const int64_t *n = size_.of, *b = tensor_.stride_bytes;
        int64_t i = 0;
        for (int64_t x0 = 0; x0 < n[0]; x0++)
            for (int64_t x1 = 0; x1 < n[1]; x1++)
                for (int64_t x2 = 0; x2 < n[2]; x2++)
                    for (int64_t x3 = 0; x3 < n[3]; x3++)
                        visit(tensor_.data + x0 * b[0] + x1 * b[1] + x2 * b[2] + x3 * b[3], i++);
    }

    Size4 size_;
    Tensor tensor_;
    char* memory_;
    int64_t usable_, mapped_;
};

// Uniform in [-scale, scale), the same on every machine, exact in float where the scale is a power of two.
inline Numbers random_numbers(int64_t count, uint64_t seed, double scale = 1) {
    Numbers numbers(static_cast<size_t>(count));
    for (double& x : numbers) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x = double(int64_t(seed) >> 40) / double(1 << 23) * scale;
    }
    return numbers;
}

inline double rms(const Numbers& numbers) {
    double sum = 0;
    for (const double x : numbers) sum += x * x;
    return numbers.empty() ? 0 : sqrt(sum / double(numbers.size()));
}
// ---- the comparison

// A result, and how far off its elements may be: `absolute`, or so many epsilons of their own size.
struct Wanted {
    Numbers numbers;
    double absolute, epsilons;
};

// The bound on a sum's rounding errors that tests/closeness.py derives. Winograd's transforms round before and after the
// sum, however short it is: that counts as two windows more, which matters where there are a few channels only.
template <class T>
double sum_bound(int64_t depth, const Numbers& left, const Numbers& right, double start, bool winograd) {
    const double factor = winograd ? 10 : 4, terms = double(depth + (winograd ? 18 : 0));
    return factor * double(std::numeric_limits<T>::epsilon()) * (terms * rms(left) * rms(right) + start);
}

// The first element that is too far off, or -1. Written so that a NaN is.
template <class T>
int64_t first_difference(const std::vector<T>& got, const Wanted& want) {
    for (size_t i = 0; i < got.size(); i++) {
        const double bound = want.absolute + want.epsilons * double(std::numeric_limits<T>::epsilon()) * fabs(want.numbers[i]);
        if (!(fabs(double(got[i]) - want.numbers[i]) <= bound)) return int64_t(i);
    }
    return -1;
}

// Whether the comparison sees that one element is off by a hundredth of the usual one, or is NaN.
template <class T>
bool sees_corruption(std::vector<T> result, const Wanted& want) {
    if (result.empty()) return true;
    const T last = result.back();
    result.back() = std::numeric_limits<T>::quiet_NaN();
    const bool sees_nan = first_difference(result, want) == int64_t(result.size()) - 1;
    result.back() = last;
    result.front() += T(0.01 * fmax(0.1, rms(want.numbers)));
    return sees_nan && first_difference(result, want) == 0;
}

// Runs a kernel on several numbers of threads: the first result must be right, the others the same bits.
template <class T, class Run>
void check(const Size4& size, const Layout& layout, const Wanted& want, const Run& run) {
    std::vector<T> first;
    const int failed_before = failed;
    for (const int threads : {1, 2, 3}) {
        set_num_threads(threads);
        Array<T> result(size, layout);
        const Status status = run(result.tensor());
        const std::vector<T> got = result.take_elements();
        if (threads == 1) first = got;
        const int64_t wrong = threads == 1 ? first_difference(got, want) : -1;
        if (status != Status::ok)
            fail("out of memory");
        else if (wrong >= 0)
            fail("element %lld is %.9g, not %.9g", static_cast<long long>(wrong), double(got[size_t(wrong)]),
                 want.numbers[size_t(wrong)]);
        else if (!result.untouched())
            fail("wrote outside the result");
        else if (!got.empty() && memcmp(got.data(), first.data(), got.size() * sizeof(T)) != 0)
            fail("%d threads give other bits than one", threads);
        else if (threads == 1 && !sees_corruption(got, want))
            fail("the comparison took a corrupted result for a right one");
        else
            continue;
        break;
    }
    if (failed == failed_before) passed++;
}

}  // namespace check
}  // namespace fastcv
