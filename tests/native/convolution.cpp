// Convolution, its transpose and the gradients, by every way to compute them, over small shapes.
#include "check.h"

#include <numeric>

namespace fastcv::check {
namespace {

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
    {"winograd_whole_3", true, {}, true, Conv2dChoice::winograd, kWholePhases + 3},
    {"winograd_whole_2", true, {}, true, Conv2dChoice::winograd, kWholePhases + 2},
};

bool fits_winograd(const Conv2dShape& s) {
    const bool strided = s.stride_h > 1 || s.stride_w > 1, dilated = s.dilation_h > 1 || s.dilation_w > 1;
    return s.R * s.S > 1 && s.R * s.S <= 121 && !(strided && dilated) && s.R <= 5 * s.stride_h && s.S <= 5 * s.stride_w;
}

// Six points serve tiles of 7 - t outputs under t taps, up to 4; more than five taps are cut into parts.
int64_t taps_together(int64_t taps, int64_t stride) {
    if (taps == 1) return 1;
    const int64_t parts = stride > 1 ? stride : taps > 5 ? (taps + 3) / 4 : 1, each = (taps + parts - 1) / parts;
    return each;
}
// Three taps that keep the plane's size, and two to `most` outputs that are equal modulo the dilation.
bool has_short_phases(int64_t input, int64_t output, int64_t taps, int64_t stride, int64_t before, int64_t dilation, int most) {
    return taps == 3 && stride == 1 && before == dilation && output == input && output > dilation && output <= most * dilation;
}
bool fits_tile(const Conv2dShape& s, int tile) {
    if (tile > kWholePhases)
        return has_short_phases(s.H, s.P, s.R, s.stride_h, s.pad_top, s.dilation_h, tile - kWholePhases) &&
               has_short_phases(s.W, s.Q, s.S, s.stride_w, s.pad_left, s.dilation_w, tile - kWholePhases);
    return taps_together(s.R, s.stride_h) <= 7 - tile && taps_together(s.S, s.stride_w) <= 7 - tile;
}

bool applies(const Way& way, const Conv2dShape& s) {
    const bool winograd = way.algorithm == Conv2dAlgorithm::winograd || (way.forced && way.kind == Conv2dChoice::winograd);
    if (winograd && (!fits_winograd(s) || (way.forced && !fits_tile(s, way.tile)))) return false;
    if (way.forced && way.kind == Conv2dChoice::depthwise && s.C != s.G) return false;
    if (way.forced && way.kind == Conv2dChoice::clipped && s.stride_w != 1) return false;
    // Where taps see padding alone, what is left of a 3x3 window may be too small for Winograd.
    if (way.forced && winograd &&
        kernels().conv2d_choose(s, 4, Conv2dAlgorithm::winograd, true, {}).kind != Conv2dChoice::winograd)
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
    packed.choice = table.conv2d_choose(s, itemsize, way.algorithm, true, channels_last(input, output, itemsize));
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

// The same of a transposed one: a common factor of stride and dilation, which leaves outputs without taps, is taken out.
bool transposed_fits_winograd(Conv2dShape s) {
    const auto take_out_factor = [](int64_t taps, int64_t& stride, int64_t& dilation) {
        const int64_t factor = taps > 1 ? std::gcd(stride, dilation) : stride;
        stride /= factor;
        dilation = taps > 1 ? dilation / factor : 1;
    };
    take_out_factor(s.R, s.stride_h, s.dilation_h);
    take_out_factor(s.S, s.stride_w, s.dilation_w);
    return fits_winograd(s);
}

struct TransposedWay {
    const char* name;
    bool packed;
    int tile;  // of Winograd, which is then forced; 0: what conv_transpose2d_choose says
};
const TransposedWay kTransposedWays[] = {
    {"plain", false, 0}, {"packed", true, 0}, {"winograd_f4", true, 4}, {"winograd_f3", true, 3}, {"winograd_f2", true, 2},
};

bool applies(const TransposedWay& way, const Conv2dShape& s) {
    if (!way.tile) return true;
    if (s.N * s.C * s.H * s.W == 0 || s.K == 0 || s.dilation_h > 1 || s.dilation_w > 1) return false;
    if (s.R * s.S > 121 || (s.stride_h == 1 && s.stride_w == 1)) return false;
    const int64_t rows = (s.R + s.stride_h - 1) / s.stride_h, columns = (s.S + s.stride_w - 1) / s.stride_w;
    const int64_t taps = rows > columns ? rows : columns;
    return taps > 1 && taps <= 7 - way.tile;
}

Status run_conv_transpose2d(const KernelTable& table, const TransposedWay& way, const Conv2dShape& s, int itemsize, Tensor input,
                            Tensor weight, Tensor output, const Epilogue& epilogue) {
    if (!way.packed) return table.conv_transpose2d(s, itemsize, input, weight, output, epilogue);
    ConvTranspose2dPacked p;
    p.choice = table.conv_transpose2d_choose(s, itemsize, true, channels_last(input, output, itemsize));
    if (way.tile) {
        p.choice.kind = ConvTranspose2dChoice::winograd;
        p.choice.as_convolution.tile = way.tile;
    }
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
    const Wanted want = finish.want(sums, s.H * s.W, depth, problem.grad_output, problem.weight, transposed_fits_winograd(s));
    for (const TransposedWay& way : kTransposedWays) {
        if (!applies(way, s)) continue;
        char what[60];
        finish.describe(what, sizeof what, "conv_transpose2d", way.name);
        name_case(table, sizeof(T), s, layouts, what);
        check<T>(input_size(s), layouts.result, want, [&](Tensor y) {
            return run_conv_transpose2d(table, way, s, int(sizeof(T)), x.tensor(), w.tensor(), y, finish.epilogue());
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
    {19, 7, 4, 3, 9, 4, 3},                               // windows of a whole plane
    {2, 18, 8, 9, 21, 3, 3, 1, 1, 3, 3, 3, 3, 3, 3},      // phases of two and three pixels
    {1, 9, 7, 5, 36, 3, 3, 1, 1, 4, 4, 4, 4, 4, 4},
    {2, 17, 3, 2, 33, 3, 3, 1, 1, 1, 1, 1, 1},
    {1, 20, 4, 10, 9, 3, 3, 1, 1, 3, 3, 4, 4, 3, 4},
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
    {2, 37, 6, 23, 37, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 37},  // depthwise, channels-last in place
    {1, 70, 7, 40, 70, 2, 3, 2, 2, 0, 1, 1, 2, 2, 2, 70},
    {1, 16, 5, 33, 16, 3, 5, 1, 3, 4, 2, 3, 2, 4, 1, 16},
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
    {1, 2100, 3, 5, 70, 1, 1},                            // a sum so deep that pixels are multiplied part by part
    {1, 1, 22, 22, 130, 3, 3, 1, 1, 1, 1, 1, 1},          // one channel, so that threads share filters
    {1, 6, 26, 60, 8, 3, 3, 1, 1, 12, 12, 12, 12, 12, 12},  // by phases of the dilation
    {1, 2, 150, 131, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},   // depthwise, by rows
    {1, 2, 150, 131, 2, 5, 5, 2, 2, 2, 2, 2, 2, 1, 1, 2},
    {1, 2, 150, 131, 2, 3, 3, 1, 1, 7, 7, 7, 7, 7, 7, 2},
};

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

template <class T>
void check_convolutions(const KernelTable& table) {
    for (const Row& row : kShapes) check_shape<T>(table, row, kLayouts, kLayouts + sizeof kLayouts / sizeof *kLayouts);
    for (const Row& row : kLargeShapes) check_shape<T>(table, row, kLayouts, kLayouts + 2);
    for (const int64_t n : kAroundLanes) {
        check_shape<T>(table, {1, 2, 5, n, 3, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, 2, 5, n, 3, 2, 2, 2, 2, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, n, 4, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, 2, 4, 5, n, 3, 3, 1, 1, 1, 1, 1, 1}, kLayouts, kLayouts + 2);
        check_shape<T>(table, {1, n, 4, 5, n, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, n}, kLayouts, kLayouts + 2);
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
}

}  // namespace

void convolution(const KernelTable& table) {
    check_convolutions<float>(table);
    check_convolutions<double>(table);
}

}  // namespace fastcv::check
