// Gram matrices and their gradient.
#include "check.h"


namespace fastcv::check {
namespace {

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
    {40, 3, 4, 4}, {1, 16, 1, 16}, {1, 17, 33, 1}, {1, 49, 15, 17}, {2, 3, 11, 13}, {0, 3, 2, 2}, {2, 0, 2, 2}, {2, 3, 0, 2},
};

}  // namespace

void gram_matrix(const KernelTable& table) {
    for (const GramShape& s : kGramShapes) {
        check_gram_matrix<float>(table, s);
        check_gram_matrix<double>(table, s);
    }
}

}  // namespace fastcv::check
