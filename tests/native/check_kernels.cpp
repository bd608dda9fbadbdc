// Every kernel of every instruction set that runs here, against naive loops in double: for machines where Python and NumPy
// are far away, such as an emulated one. The Python suite is the thorough one; this one goes through the same ways to
// compute a convolution over small shapes.
//
//   check_kernels [ISA]     prints a line for each case that fails, then 'N passed, M failed'; exit status 1 on failure
//
// Arrays lie as unkindly as the contract allows. What surrounds an array's elements is NaN and must stay as it is, and the
// page behind it may not be touched at all.
#include <math.h>
#include <signal.h>
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
}

using namespace fastcv;

namespace {

using Numbers = std::vector<double>;  // an array's elements in order of its dimensions

int passed = 0, failed = 0;
char current[400];  // the case at work

__attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED %s: ", current);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

void report_crash(int signal) {
    const char* what = signal == SIGILL ? ": illegal instruction\n" : ": access outside an array\n";
    if (write(1, "FAILED ", 7) + write(1, current, strlen(current)) + write(1, what, strlen(what)) < 0) _exit(2);
    _exit(1);
}

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
} const kLayouts[] = {
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
Numbers random_numbers(int64_t count, uint64_t seed, double scale = 1) {
    Numbers numbers(static_cast<size_t>(count));
    for (double& x : numbers) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x = double(int64_t(seed) >> 40) / double(1 << 23) * scale;
    }
    return numbers;
}

double rms(const Numbers& numbers) {
    double sum = 0;
    for (const double x : numbers) sum += x * x;
    return numbers.empty() ? 0 : sqrt(sum / double(numbers.size()));
}

// ---- the naive loops

Size4 input_size(const Conv2dShape& s) { return {{s.N, s.C, s.H, s.W}}; }
Size4 weight_size(const Conv2dShape& s) { return {{s.K, s.C / s.G, s.R, s.S}}; }
Size4 output_size(const Conv2dShape& s) { return {{s.N, s.K, s.P, s.Q}}; }

// Visits all products that a convolution and its two gradients sum up, by the positions of their three elements.
template <class Visit>
void for_each_product(const Conv2dShape& s, const Visit& visit) {
    const int64_t filters = s.K / s.G, channels = s.C / s.G;
    int64_t output = 0;
    for (int64_t n = 0; n < s.N; n++)
        for (int64_t k = 0; k < s.K; k++)
            for (int64_t p = 0; p < s.P; p++)
                for (int64_t q = 0; q < s.Q; q++, output++)
                    for (int64_t c = 0; c < channels; c++)
                        for (int64_t r = 0; r < s.R; r++) {
                            const int64_t y = p * s.stride_h + r * s.dilation_h - s.pad_top;
                            if (y < 0 || y >= s.H) continue;
                            for (int64_t t = 0; t < s.S; t++) {
                                const int64_t x = q * s.stride_w + t * s.dilation_w - s.pad_left;
                                if (x < 0 || x >= s.W) continue;
                                const int64_t plane = n * s.C + k / filters * channels + c;
                                visit(size_t((plane * s.H + y) * s.W + x), size_t(((k * channels + c) * s.R + r) * s.S + t),
                                      size_t(output));
                            }
                        }
}

Numbers naive_conv2d(const Conv2dShape& s, const Numbers& input, const Numbers& weight) {
    Numbers output(size_t(output_size(s).elements()));
    for_each_product(s, [&](size_t x, size_t w, size_t y) { output[y] += weight[w] * input[x]; });
    return output;
}
Numbers naive_grad_input(const Conv2dShape& s, const Numbers& grad_output, const Numbers& weight) {
    Numbers grad(size_t(input_size(s).elements()));
    for_each_product(s, [&](size_t x, size_t w, size_t y) { grad[x] += weight[w] * grad_output[y]; });
    return grad;
}
Numbers naive_grad_weight(const Conv2dShape& s, const Numbers& grad_output, const Numbers& input) {
    Numbers grad(size_t(weight_size(s).elements()));
    for_each_product(s, [&](size_t x, size_t w, size_t y) { grad[w] += grad_output[y] * input[x]; });
    return grad;
}

double naive_activation(double x, Activation activation, double slope) {
    switch (activation) {
        case Activation::none: return x;
        case Activation::relu: return x < 0 ? 0 : x;
        case Activation::relu6: return x < 0 ? 0 : x > 6 ? 6 : x;
        case Activation::leaky_relu: return x < 0 ? x * slope : x;
        case Activation::sigmoid: return 1 / (1 + exp(-x));
        case Activation::tanh: return tanh(x);
        case Activation::silu: return x / (1 + exp(-x));
        case Activation::gelu: return 0.5 * x * erfc(-x / sqrt(2.0));
    }
    return NAN;
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
        failed++;
        break;
    }
    if (failed == failed_before) passed++;
}

// ---- the ways to compute a convolution

struct Way {
    const char* name;
    bool packed;               // through conv2d_pack and conv2d_packed
    Conv2dAlgorithm algorithm;
    bool forced;               // packed: this kind and tile, instead of what conv2d_choose says
    Conv2dChoice::Kind kind;
    int tile;
};
const Way kWays[] = {
    {"auto", false, Conv2dAlgorithm::automatic, false, {}, 0},
    {"direct", false, Conv2dAlgorithm::direct, false, {}, 0},
    {"winograd", false, Conv2dAlgorithm::winograd, false, {}, 0},
    {"packed auto", true, Conv2dAlgorithm::automatic, false, {}, 0},
    {"strip_pixels", true, {}, true, Conv2dChoice::strip_pixels, 0},
    {"strip_channels", true, {}, true, Conv2dChoice::strip_channels, 0},
    {"clipped", true, {}, true, Conv2dChoice::clipped, 0},
    {"depthwise", true, {}, true, Conv2dChoice::depthwise, 0},
    {"winograd_f4", true, {}, true, Conv2dChoice::winograd, 4},
    {"winograd_f3", true, {}, true, Conv2dChoice::winograd, 3},
    {"winograd_f2", true, {}, true, Conv2dChoice::winograd, 2},
};

bool fits_winograd(const Conv2dShape& s) {
    const bool strided = s.stride_h > 1 || s.stride_w > 1, dilated = s.dilation_h > 1 || s.dilation_w > 1;
    return s.R * s.S > 1 && s.R * s.S <= 121 && !(strided && dilated) && s.R <= 5 * s.stride_h && s.S <= 5 * s.stride_w;
}

// Six points serve tiles of 7 - t outputs under t taps; more than five taps are cut into parts.
int64_t taps_together(int64_t taps, int64_t stride) {
    if (taps == 1) return 1;
    const int64_t parts = stride > 1 ? stride : taps > 5 ? (taps + 3) / 4 : 1, each = (taps + parts - 1) / parts;
    return each < 3 ? 3 : each;
}
bool fits_tile(const Conv2dShape& s, int tile) {
    return taps_together(s.R, s.stride_h) <= 7 - tile && taps_together(s.S, s.stride_w) <= 7 - tile;
}

bool applies(const Way& way, const Conv2dShape& s) {
    const bool winograd = way.algorithm == Conv2dAlgorithm::winograd || (way.forced && way.kind == Conv2dChoice::winograd);
    if (winograd && (!fits_winograd(s) || (way.forced && !fits_tile(s, way.tile)))) return false;
    if (way.forced && way.kind == Conv2dChoice::depthwise && s.C != s.G) return false;
    if (way.forced && way.kind == Conv2dChoice::clipped && s.stride_w != 1) return false;
    // Where taps see padding alone, what is left of a 3x3 window may be too small for Winograd.
    if (way.forced && winograd &&
        kernels().conv2d_choose(s, 4, Conv2dAlgorithm::winograd, true).kind != Conv2dChoice::winograd)
        return false;
    return !way.forced || s.C > 0;  // kernels are never chosen for empty sums, but for strip_pixels
}

// Aligned as a plan's; null where nothing is packed.
struct PackedMemory {
    explicit PackedMemory(int64_t bytes) : bytes_(size_t(bytes) + 64) {
        if (bytes) data = bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64;
    }
    void* data = nullptr;

private:
    std::vector<char> bytes_;
};

Status run_conv2d(const KernelTable& table, const Way& way, const Conv2dShape& s, int itemsize, Tensor input, Tensor weight,
                  Tensor output, const Epilogue& epilogue) {
    if (!way.packed) return table.conv2d(s, itemsize, way.algorithm, input, weight, output, epilogue);
    Conv2dPacked packed;
    packed.choice = table.conv2d_choose(s, itemsize, way.algorithm, true);
    if (way.forced) {
        packed.choice.kind = way.kind;
        packed.choice.tile = way.tile;
    }
    const int64_t bytes = table.conv2d_packed_bytes(s, itemsize, packed.choice);
    PackedMemory memory(bytes);
    packed.data = memory.data;
    if (bytes) table.conv2d_pack(s, itemsize, packed.choice, weight, packed.data);
    return table.conv2d_packed(s, itemsize, packed, input, weight, output, epilogue);
}

void name_case(const KernelTable& table, size_t itemsize, const Conv2dShape& s, const Layouts& layouts, const char* what) {
    const struct {
        const char* name;
        int64_t value;
    } sizes[] = {{"N", s.N},         {"C", s.C},
                 {"H", s.H},         {"W", s.W},
                 {"K", s.K},         {"R", s.R},
                 {"S", s.S},         {"P", s.P},
                 {"Q", s.Q},         {"stride ", s.stride_h},
                 {"", s.stride_w},   {"pad ", s.pad_top},
                 {"", s.pad_left},   {"dilation ", s.dilation_h},
                 {"", s.dilation_w}, {"groups ", s.G}};
    int length = snprintf(current, sizeof current, "%s %s %s, %s %s -> %s,", table.isa, itemsize == 4 ? "float" : "double", what,
                          layouts.input.name, layouts.weight.name, layouts.result.name);
    for (const auto& size : sizes)
        length +=
            snprintf(current + length, sizeof current - size_t(length), " %s%lld", size.name, static_cast<long long>(size.value));
}

// One shape's random operands, and what comes out of them before bias and activation.
struct Problem {
    explicit Problem(const Conv2dShape& shape)
        : s(shape),
          input(random_numbers(input_size(s).elements(), 1)),
          weight(random_numbers(weight_size(s).elements(), 2)),
          grad_output(random_numbers(output_size(s).elements(), 3)),
          output(naive_conv2d(s, input, weight)) {}
    Conv2dShape s;
    Numbers input, weight, grad_output, output;
};

constexpr double kSlope = 0.125;

// What follows a sum: a bias per channel, or none, and an activation.
template <class T>
class Finish {
public:
    Finish(const Numbers& bias, int64_t channels, const Layout& layout, Activation activation)
        : bias_(bias),
          channels_(channels),
          activation_(activation),
          array_({{1, 1, 1, channels}}, layout, bias.empty() ? Numbers(size_t(channels)) : bias) {}

    Epilogue epilogue() const {
        Epilogue e;
        if (!bias_.empty()) {
            e.bias = array_.tensor().data;
            e.bias_stride_bytes = array_.tensor().stride_bytes[3];
        }
        e.activation = activation_;
        e.slope = kSlope;
        return e;
    }
    // What becomes of sums over `depth` products from two arrays, in planes of so many elements.
    Wanted want(const Numbers& sums, int64_t plane, int64_t depth, const Numbers& left, const Numbers& right,
                bool winograd) const {
        double largest_bias = 0;
        for (const double v : bias_) largest_bias = fmax(largest_bias, fabs(v));
        Wanted w{sums, sum_bound<T>(depth, left, right, largest_bias, winograd), 0};
        for (size_t i = 0; i < w.numbers.size(); i++) {
            const double bias = bias_.empty() ? 0 : bias_[i / size_t(plane) % size_t(channels_)];
            w.numbers[i] = naive_activation(w.numbers[i] + bias, activation_, kSlope);
        }
        if (activation_ != Activation::none) {
            // No activation is steeper than 1.2; evaluating it costs a few roundings of its own.
            w.absolute = 1.2 * w.absolute + 8 * double(std::numeric_limits<T>::epsilon());
            w.epsilons = 8;
        }
        return w;
    }
    void describe(char* text, size_t size, const char* op, const char* way) const {
        snprintf(text, size, "%s %s%s activation %d", op, way, bias_.empty() ? "" : " bias", int(activation_));
    }

private:
    const Numbers& bias_;
    int64_t channels_;
    Activation activation_;
    Array<T> array_;
};

template <class T>
void check_conv2d(const KernelTable& table, const Problem& problem, const Layouts& layouts, const Numbers& bias,
                  Activation activation) {
    const Conv2dShape& s = problem.s;
    const Array<T> x(input_size(s), layouts.input, problem.input), w(weight_size(s), layouts.weight, problem.weight);
    const Finish<T> finish(bias, s.K, layouts.weight, activation);
    const int64_t depth = s.C / s.G * s.R * s.S;
    const Wanted want = finish.want(problem.output, s.P * s.Q, depth, problem.input, problem.weight, fits_winograd(s));
    for (const Way& way : kWays) {
        if (!applies(way, s)) continue;
        char what[60];
        finish.describe(what, sizeof what, "conv2d", way.name);
        name_case(table, sizeof(T), s, layouts, what);
        check<T>(output_size(s), layouts.result, want, [&](Tensor y) {
            return run_conv2d(table, way, s, int(sizeof(T)), x.tensor(), w.tensor(), y, finish.epilogue());
        });
    }
}

Status run_conv_transpose2d(const KernelTable& table, bool packed, const Conv2dShape& s, int itemsize, Tensor input,
                            Tensor weight, Tensor output, const Epilogue& epilogue) {
    if (!packed) return table.conv_transpose2d(s, itemsize, input, weight, output, epilogue);
    ConvTranspose2dPacked p;
    p.choice = table.conv_transpose2d_choose(s, itemsize, true);
    const int64_t bytes = table.conv_transpose2d_packed_bytes(s, itemsize, p.choice);
    PackedMemory memory(bytes);
    p.data = memory.data;
    if (bytes) p.finite = table.conv_transpose2d_pack(s, itemsize, p.choice, weight, p.data);
    return table.conv_transpose2d_packed(s, itemsize, p, input, weight, output, epilogue);
}

// `sums` are what is wanted before bias and activation: the convolution's gradient by its input.
template <class T>
void check_conv_transpose2d(const KernelTable& table, const Problem& problem, const Numbers& sums, const Layouts& layouts,
                            const Numbers& bias, Activation activation) {
    const Conv2dShape& s = problem.s;
    const Array<T> x(output_size(s), layouts.input, problem.grad_output), w(weight_size(s), layouts.weight, problem.weight);
    const Finish<T> finish(bias, s.C, layouts.weight, activation);
    const int64_t depth = s.K / s.G * s.R * s.S;
    const Wanted want = finish.want(sums, s.H * s.W, depth, problem.grad_output, problem.weight, fits_winograd(s));
    for (const bool packed : {false, true}) {
        char what[60];
        finish.describe(what, sizeof what, "conv_transpose2d", packed ? "packed" : "plain");
        name_case(table, sizeof(T), s, layouts, what);
        check<T>(input_size(s), layouts.result, want, [&](Tensor y) {
            return run_conv_transpose2d(table, packed, s, int(sizeof(T)), x.tensor(), w.tensor(), y, finish.epilogue());
        });
    }
}

template <class T>
void check_grad_weight(const KernelTable& table, const Problem& problem, const Numbers& grad_weight, const Layouts& layouts) {
    const Conv2dShape& s = problem.s;
    const int itemsize = int(sizeof(T));
    const Array<T> dy(output_size(s), layouts.input, problem.grad_output), x(input_size(s), layouts.weight, problem.input);
    name_case(table, sizeof(T), s, layouts, "conv2d_grad_weight");
    check<T>(weight_size(s), layouts.result,
             {grad_weight, sum_bound<T>(s.N * s.P * s.Q, problem.grad_output, problem.input, 0, fits_winograd(s)), 0},
             [&](Tensor dw) { return table.conv2d_grad_weight(s, itemsize, dy.tensor(), x.tensor(), dw); });
}

// ---- Gram matrices

template <class T>
void check_gram_matrix(const KernelTable& table, const GramShape& s) {
    constexpr double kScale = 0.25;
    const Size4 images{{s.N, s.C, s.H, s.W}}, matrices{{s.N, s.C, s.C, 1}};
    const int64_t pixels = s.H * s.W;
    const Numbers input = random_numbers(images.elements(), 1), grad = random_numbers(matrices.elements(), 2);
    Numbers output, grad_input;
    for (int64_t n = 0; n < s.N; n++)
        for (int64_t i = 0; i < s.C; i++) {
            const double *x = input.data() + n * s.C * pixels, *dy = grad.data() + n * s.C * s.C;
            // Sums of positive terms are less exact than the kernels', were they double too.
            for (int64_t j = 0; j < s.C; j++) {
                long double sum = 0;
                for (int64_t p = 0; p < pixels; p++) sum += x[i * pixels + p] * x[j * pixels + p];
                output.push_back(double(kScale * sum));
            }
            for (int64_t p = 0; p < pixels; p++) {
                long double sum = 0;
                for (int64_t k = 0; k < s.C; k++) sum += (dy[i * s.C + k] + dy[k * s.C + i]) * x[k * pixels + p];
                grad_input.push_back(double(kScale * sum));
            }
        }
    for (const Layouts& layouts : kLayouts) {
        snprintf(current, sizeof current, "%s float%d gram_matrix %lld x %lld x %lld x %lld, %s", table.isa, 8 * int(sizeof(T)),
                 static_cast<long long>(s.N), static_cast<long long>(s.C), static_cast<long long>(s.H),
                 static_cast<long long>(s.W), layouts.input.name);
        const Array<T> x(images, layouts.input, input), dy(matrices, layouts.weight, grad);
        // On the diagonal all terms are positive: see tests/test_gram_matrix.py.
        check<T>(matrices, kPlanar, {output, 3 * kScale * sum_bound<T>(pixels, input, input, 0, false), 0}, [&](Tensor y) {
            return table.gram_matrix(s, int(sizeof(T)), kScale, x.tensor(), y);
        });
        for (const Layout& result : {kPlanar, kChannelsLast})
            check<T>(images, result, {grad_input, 3 * kScale * sum_bound<T>(2 * s.C, grad, input, 0, false), 0}, [&](Tensor dx) {
                return table.gram_matrix_grad_input(s, int(sizeof(T)), kScale, dy.tensor(), x.tensor(), dx);
            });
    }
}

// Dot tiles and panels, one block and several, one part and several, around every vector's lanes.
const GramShape kGramShapes[] = {
    {1, 1, 1, 1}, {3, 5, 3, 4}, {2, 7, 9, 40}, {1, 13, 50, 49}, {2, 33, 20, 21}, {3, 67, 5, 6}, {1, 131, 19, 17},
    {40, 3, 4, 4}, {1, 16, 1, 16}, {1, 17, 33, 1}, {1, 49, 15, 17}, {0, 3, 2, 2}, {2, 0, 2, 2}, {2, 3, 0, 2},
};

// ---- the shapes

struct Row {
    int64_t N, C, H, W, K, R, S;
    int64_t stride_h = 1, stride_w = 1, top = 0, bottom = 0, left = 0, right = 0, dilation_h = 1, dilation_w = 1, G = 1;
};
// Those of half a million multiply-adds and more run on several threads.
const Row kShapes[] = {
    {1, 1, 1, 1, 1, 1, 1},
    {1, 1, 4, 4, 1, 2, 2, 2, 2, 1, 1, 1, 1},
    {2, 1, 12, 13, 6, 5, 5},                              // LeNet's first layer, smaller
    {1, 3, 40, 38, 32, 7, 7, 2, 2, 3, 3, 3, 3},           // ResNet's
    {1, 3, 21, 19, 16, 4, 4, 4, 4},                       // ConvNeXt's
    {3, 20, 5, 7, 18, 1, 1},                              // 1x1
    {2, 48, 9, 11, 56, 1, 1},
    {2, 9, 7, 8, 10, 1, 1, 2, 3},
    {1, 7, 6, 9, 5, 1, 1, 1, 1, 2, 0, 1, 3},
    {2, 5, 9, 10, 6, 3, 3, 1, 1, 1, 1, 1, 1},             // 3x3
    {1, 6, 7, 5, 4, 3, 3, 1, 1, 0, 2, 3, 1},
    {1, 6, 9, 8, 5, 3, 3, 1, 1, -1, 0, 2, -1},
    {1, 24, 14, 14, 40, 3, 3, 1, 1, 1, 1, 1, 1},
    {3, 17, 13, 11, 35, 3, 3, 1, 1, 1, 1, 1, 1},
    {1, 64, 7, 7, 66, 3, 3, 1, 1, 1, 1, 1, 1},
    {2, 5, 9, 10, 6, 3, 3, 2, 2, 1, 1, 1, 1},             // 3x3, strided
    {1, 20, 15, 17, 33, 3, 3, 2, 2, 0, 1, 0, 1},
    {1, 4, 11, 13, 3, 3, 3, 3, 2, 2, 1, 0, 2, 2, 3},
    {1, 4, 9, 8, 5, 3, 3, 4, 5, 1, 1, 1, 1},
    {1, 8, 12, 13, 10, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2},     // 3x3, dilated
    {1, 3, 11, 14, 9, 3, 3, 1, 1, 0, 4, 3, 1, 2, 3},
    {1, 21, 19, 18, 24, 3, 3, 1, 1, 4, 4, 4, 4, 4, 4},
    {1, 4, 6, 7, 5, 3, 3, 1, 1, 9, 9, 9, 9, 9, 9},
    {1, 3, 10, 9, 4, 5, 5, 1, 1, 2, 2, 2, 2},             // other windows
    {1, 3, 9, 12, 4, 1, 7, 1, 2, 0, 0, 3, 3},
    {1, 3, 12, 9, 4, 7, 1, 2, 1, 3, 3, 0, 0},
    {2, 18, 13, 12, 20, 5, 5, 1, 1, 2, 2, 2, 2},          // other windows by Winograd
    {1, 17, 11, 14, 34, 4, 4, 1, 1, 1, 2, 1, 2},
    {1, 16, 15, 17, 33, 5, 5, 2, 2, 2, 2, 2, 2},
    {1, 9, 9, 25, 18, 1, 7, 1, 1, 0, 0, 6, 6, 1, 2},
    {1, 9, 25, 9, 18, 7, 1, 1, 1, 3, 3, 0, 0},
    {1, 8, 14, 13, 17, 7, 6, 1, 1, 3, 3, 3, 2},
    {2, 4, 8, 9, 6, 2, 2, 2, 2},
    {1, 2, 9, 11, 3, 2, 3, 5, 4},
    {1, 2, 14, 15, 3, 4, 5, 3, 4, 2, 1, 3, 0, 3, 2},
    {1, 2, 1, 2, 3, 3, 3, 1, 1, 4, 3, 2, 5},
    {3, 20, 9, 9, 40, 4, 4, 2, 2, 1, 1, 1, 1},            // gradients over filters
    {1, 35, 7, 11, 72, 5, 3, 2, 3, 2, 2, 1, 1},
    {2, 12, 8, 9, 15, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 3},   // groups
    {1, 8, 9, 7, 36, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 2},
    {1, 32, 12, 13, 96, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},
    {2, 10, 6, 5, 20, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 5},
    {2, 5, 9, 11, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 5},    // depthwise
    {1, 4, 9, 3, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4},
    {1, 3, 13, 17, 9, 5, 5, 2, 2, 2, 2, 2, 2, 1, 1, 3},
    {1, 18, 33, 34, 18, 7, 7, 1, 1, 3, 3, 3, 3, 1, 1, 18},
    {2, 5, 12, 10, 5, 9, 9, 1, 1, 4, 4, 4, 4, 1, 1, 5},
    {1, 6, 14, 15, 6, 3, 3, 1, 1, 3, 3, 2, 2, 3, 2, 6},
    {1, 3, 19, 43, 6, 3, 3, 1, 1, 0, 2, 2, 1, 1, 1, 3},   // depthwise, rows in place
    {1, 3, 21, 37, 3, 3, 3, 2, 2, 1, 1, 1, 0, 1, 1, 3},
    {1, 2, 20, 39, 2, 5, 5, 2, 2, 2, 1, 3, 2, 1, 1, 2},
    {1, 2, 18, 41, 2, 7, 7, 2, 2, 3, 3, 3, 3, 1, 1, 2},
    {1, 3, 17, 50, 3, 5, 5, 1, 1, 8, 8, 6, 7, 4, 3, 3},
    {1, 2, 31, 36, 2, 7, 7, 1, 1, 6, 5, 9, 8, 2, 3, 2},
    {1, 2, 9, 3, 2, 3, 3, 1, 1, 7, 7, 9, 9, 8, 9, 2},
    {2, 8, 21, 37, 8, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 8},   // depthwise gradients by phases
    {1, 9, 12, 19, 18, 4, 4, 2, 2, 1, 2, 2, 1, 1, 1, 9},
    {1, 8, 11, 9, 8, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 8},
    {1, 16, 15, 14, 8, 5, 5, 2, 2, 2, 1, 3, 2, 1, 1, 8},
    {1, 8, 13, 40, 16, 7, 7, 2, 2, 3, 3, 4, 2, 1, 1, 8},
    {1, 8, 14, 11, 8, 6, 6, 2, 2, 5, 4, 2, 3, 1, 1, 8},
    {1, 4, 15, 13, 4, 3, 5, 3, 2, 2, 0, 1, 3, 2, 3, 4},
    {1, 7, 5, 6, 7, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 7},
    {1, 4, 8, 9, 4, 4, 4, 1, 1, 1, 2, 2, 1, 1, 1, 4},
    {1, 4, 9, 8, 4, 6, 5, 1, 1, 2, 3, 2, 2, 1, 1, 4},
    {1, 4, 12, 5, 4, 3, 1, 1, 1, 1, 1, 0, 0, 1, 1, 4},
    {1, 4, 12, 1, 4, 3, 1, 1, 1, 1, 1, 0, 0, 1, 1, 4},
    {1, 1, 10, 40, 2, 3, 3, 1, 1, 1, 1, 1, 1},
    {0, 3, 5, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1},              // nothing in, nothing out
    {2, 0, 5, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1},
    {2, 3, 5, 5, 0, 3, 3, 1, 1, 1, 1, 1, 1},
};
// Those that are cut into blocks: too much for all layouts.
const Row kLargeShapes[] = {
    {1, 2, 100, 90, 3, 3, 3, 1, 1, 1, 1, 1, 1},           // by rows
    {1, 1, 2, 33000, 2, 1, 3},                            // by columns: a row has too many vectors
    {1, 9, 7, 9000, 1, 7, 1},                             // by columns: a window's rows are too many bytes
    {1, 600, 4, 4, 12, 3, 3, 1, 1, 1, 1, 1, 1},           // few pixels and filters for several threads
    {1, 1, 22, 22, 130, 3, 3, 1, 1, 1, 1, 1, 1},          // one channel, so that threads share filters
    {1, 6, 26, 60, 8, 3, 3, 1, 1, 12, 12, 12, 12, 12, 12},  // by phases of the dilation
    {1, 2, 150, 131, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},   // depthwise, by rows
    {1, 2, 150, 131, 2, 5, 5, 2, 2, 2, 2, 2, 2, 1, 1, 2},
    {1, 2, 150, 131, 2, 3, 3, 1, 1, 7, 7, 7, 7, 7, 7, 2},
};
// Widths, channels and filters around every vector's number of lanes.
const int64_t kAroundLanes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33};

Conv2dShape shape_of(const Row& row) {
    const auto outputs = [](int64_t size, int64_t before, int64_t after, int64_t taps, int64_t dilation, int64_t stride) {
        return (size + before + after - (taps - 1) * dilation - 1) / stride + 1;
    };
    Conv2dShape s{};
    s.N = row.N, s.C = row.C, s.H = row.H, s.W = row.W, s.K = row.K, s.R = row.R, s.S = row.S;
    s.P = outputs(row.H, row.top, row.bottom, row.R, row.dilation_h, row.stride_h);
    s.Q = outputs(row.W, row.left, row.right, row.S, row.dilation_w, row.stride_w);
    s.stride_h = row.stride_h, s.stride_w = row.stride_w, s.pad_top = row.top, s.pad_left = row.left;
    s.dilation_h = row.dilation_h, s.dilation_w = row.dilation_w, s.G = row.G;
    return s;
}

template <class T>
void check_shape(const KernelTable& table, const Row& row, const Layouts* begin, const Layouts* end) {
    const Problem problem(shape_of(row));
    const Numbers grad_input = naive_grad_input(problem.s, problem.grad_output, problem.weight);
    const Numbers grad_weight = naive_grad_weight(problem.s, problem.grad_output, problem.input);
    const Numbers none, filter_bias = random_numbers(problem.s.K, 4), channel_bias = random_numbers(problem.s.C, 5);
    for (const Layouts* layouts = begin; layouts < end; layouts++) {
        const bool biased = (layouts - kLayouts) % 2 == 0;
        check_conv2d<T>(table, problem, *layouts, biased ? filter_bias : none, Activation::none);
        check_conv_transpose2d<T>(table, problem, grad_input, *layouts, biased ? none : channel_bias, Activation::none);
        check_grad_weight<T>(table, problem, grad_weight, *layouts);
    }
}

// ---- attention

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
            failed++;
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
        failed++;
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
        if (!array->untouched()) {
            fail("written beyond an array");
            failed++;
        }
}

// ---- assignments

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
    if (!right) fail("status %d, %lld pairs, the duals are %g short", int(status), static_cast<long long>(result.pairs), sum);
    right ? passed++ : failed++;

    // The same as part of a batch.
    const CostMatrix two[] = {matrix, matrix};
    std::vector<int64_t> columns(size_t(2 * n + 1), -2);
    right = table.linear_sum_assignment_batch(two, 2, rules, columns.data(), n, &fault) == status;
    for (int64_t k = 0; right && k < result.pairs; k++)
        for (int64_t b = 0; b < 2; b++) right = right && columns[size_t(b * n + row[size_t(k)])] == column[size_t(k)];
    if (!right) fail("a batch finds other pairs");
    right ? passed++ : failed++;
}

template <class T>
void check_table(const KernelTable& table) {
    for (const Row& row : kShapes) check_shape<T>(table, row, kLayouts, kLayouts + sizeof kLayouts / sizeof *kLayouts);
    for (const Row& row : kLargeShapes) check_shape<T>(table, row, kLayouts, kLayouts + 2);
    for (const int64_t n : kAroundLanes) {
        check_shape<T>(table, {1, 2, 5, n, 3, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, 2, 5, n, 3, 2, 2, 2, 2, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, n, 4, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, 2, 4, 5, n, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, n, 4, 5, n, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, n}, kLayouts, kLayouts + 2);
    }
    for (const GramShape& s : kGramShapes) check_gram_matrix<T>(table, s);
    for (const int64_t n : kAroundLanes)
        for (const int64_t m : {n, n + 1, 3 * n, int64_t(2)})
            for (const double limit : {double(INFINITY), -0.9, 0.0})
                for (const bool turned : {false, true}) check_assignment<T>(table, n, m, limit, turned);
    for (const double limit : {double(INFINITY), -0.99}) {
        check_assignment<T>(table, 300, 640, limit, false);
        check_assignment<T>(table, 650, 650, limit, true);
    }
    // Sums near 0, where an activation bends, and far out, where it is flat. The second shape suits depthwise kernels, the third
    // has the windows of a transposed convolution overlap.
    for (const Row& row : {Row{1, 3, 6, 7, 9, 3, 3, 1, 1, 1, 1, 1, 1}, Row{1, 4, 6, 7, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4},
                           Row{1, 5, 6, 7, 9, 4, 3, 2, 2, 1, 1, 1, 1}}) {
        const Problem problem(shape_of(row));
        const Numbers sums = naive_grad_input(problem.s, problem.grad_output, problem.weight);
        for (int code = 1; code <= int(Activation::gelu); code++)
            for (const double scale : {1.0, 128.0})
                for (const Layouts* layouts = kLayouts; layouts < kLayouts + 2; layouts++) {
                    const Activation activation = static_cast<Activation>(code);
                    check_conv2d<T>(table, problem, *layouts, random_numbers(row.K, 4, scale), activation);
                    check_conv_transpose2d<T>(table, problem, sums, *layouts, random_numbers(row.C, 5, scale), activation);
                }
    }
    for (const AttentionRow& row : kAttentions)
        for (const Layouts& layouts : kLayouts) check_attention<T>(table, row, layouts);
}

}  // namespace

int main(int argc, char** argv) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL}) ::signal(signal, report_crash);
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const char* only = argc > 1 ? argv[1] : nullptr;
    int tables = 0;
    for (const IsaEntry* isa = kIsas; isa->name; isa++) {
        if ((only && strcmp(only, isa->name) != 0) || !isa->runs_here()) continue;
        const KernelTable* table = select_kernels(isa->name);
        if (!table || strcmp(table->isa, isa->name) != 0) {
            printf("FAILED %s: it runs here, but was not chosen\n", isa->name);
            return 1;
        }
        printf("checking %s\n", isa->name);
        check_table<float>(*table);
        check_table<double>(*table);
        tables++;
    }
    if (tables == 0) printf("FAILED %s: no such instruction set here\n", only);
    printf("%d passed, %d failed\n", passed, failed);
    return failed || tables == 0;
}
