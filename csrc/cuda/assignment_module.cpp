// Assignment's part of the module fastcv._cuda: see module.cpp.
//
// A problem is (address, (stride, stride), rows, columns) of its costs, an image (boxes' address, (stride, stride), labels'
// address, labels' stride, queries, objects, first pair). Problems are a list of them, or one, a count and how many bytes its
// costs are apart. The functions return what `take_assignment_fault` does.
#include "assignment.h"
#include "module.h"

namespace fastcv::cuda {
namespace {

using PyProblem = std::tuple<uintptr_t, Pair, int64_t, int64_t>;
using PyImage = std::tuple<uintptr_t, Pair, uintptr_t, int64_t, int64_t, int64_t, int64_t>;
using PyAlike = std::tuple<PyProblem, int64_t, int64_t>;
using PyAsk = std::tuple<bool, bool, double>;
using PyPredictions = std::tuple<uintptr_t, std::array<int64_t, 3>>;
using PyAddresses = std::vector<uintptr_t>;

template <class Number>
Number* pointer(uintptr_t address) {
    return reinterpret_cast<Number*>(address);
}
AssignmentAsk ask_of(const PyAsk& a) { return {std::get<0>(a), std::get<1>(a), std::get<2>(a)}; }

AssignmentProblem problem_of(const PyProblem& p) {
    const auto& [address, strides, rows, columns] = p;
    return {pointer<const char>(address), {strides[0], strides[1]}, nullptr, 0, rows, columns, 0, 0};
}

AssignmentProblems listed(const std::vector<PyProblem>& given, uintptr_t sizes) {
    AssignmentProblems problems;
    for (const PyProblem& p : given) problems.listed.push_back(problem_of(p));
    problems.sizes = pointer<const int64_t>(sizes);
    return problems;
}
AssignmentProblems alike(const PyAlike& given, uintptr_t sizes) {
    const auto& [first, count, apart_bytes] = given;
    return {{}, problem_of(first), count, apart_bytes, pointer<const int64_t>(sizes)};
}

template <class Given, AssignmentProblems (*kProblems)(const Given&, uintptr_t)>
int64_t workspace_bytes(const Given& problems, Dtype dtype, const PyAsk& ask) {
    return linear_sum_assignment_workspace_bytes(kProblems(problems, 0), dtype, ask_of(ask));
}

// `answer`: columns and how many a problem; or rows and columns of pairs, how many, u, v.
template <class Given, AssignmentProblems (*kProblems)(const Given&, uintptr_t)>
std::string run(const Given& problems, uintptr_t sizes, Dtype dtype, const PyAsk& ask,
                const std::tuple<uintptr_t, int64_t>& columns, const std::array<uintptr_t, 5>& pairs, uintptr_t workspace,
                const PyQueue& queue) {
    const Queue q = queue_of(queue);
    AssignmentAnswer answer{};
    answer.columns = pointer<int64_t>(std::get<0>(columns)), answer.columns_stride = std::get<1>(columns);
    answer.pair_rows = pointer<int64_t>(pairs[0]), answer.pair_columns = pointer<int64_t>(pairs[1]);
    answer.pairs = pointer<int64_t>(pairs[2]);
    answer.u = pointer<double>(pairs[3]), answer.v = pointer<double>(pairs[4]);
    linear_sum_assignment(kProblems(problems, sizes), dtype, ask_of(ask), answer, pointer<void>(workspace), q);
    return take_assignment_fault(q.device);
}

DetrImages images_of(const std::array<int64_t, 3>& shape, const PyPredictions& logits, const PyPredictions& boxes,
                     const std::array<double, 3>& weights, bool focal) {
    const auto& [l, ls] = logits;
    const auto& [b, bs] = boxes;
    return {shape[0],
            shape[1],
            shape[2],
            pointer<const char>(l),
            pointer<const char>(b),
            {ls[0], ls[1], ls[2]},
            {bs[0], bs[1], bs[2]},
            weights[0],
            weights[1],
            weights[2],
            focal};
}

AssignmentProblems objects_of(const std::vector<PyImage>& given) {
    AssignmentProblems problems;
    for (const auto& [boxes, strides, labels, label_stride, queries, objects, first_pair] : given)
        problems.listed.push_back({pointer<const char>(boxes),
                                   {strides[0], strides[1]},
                                   pointer<const char>(labels),
                                   label_stride,
                                   queries,
                                   objects,
                                   first_pair,
                                   0});
    return problems;
}

int64_t py_detr_match_workspace_bytes(const std::array<int64_t, 3>& shape, const std::vector<PyImage>& objects, Dtype dtype,
                                      bool focal) {
    return detr_match_workspace_bytes(images_of(shape, {}, {}, {}, focal), objects_of(objects), dtype);
}

std::string py_detr_match(const std::array<int64_t, 3>& shape, const PyPredictions& logits, const PyPredictions& boxes,
                          const std::vector<PyImage>& objects, Dtype dtype, const std::array<double, 3>& weights, bool focal,
                          const std::array<uintptr_t, 3>& results, uintptr_t workspace, const PyQueue& queue) {
    const Queue q = queue_of(queue);
    AssignmentAnswer answer{};
    answer.pair_rows = pointer<int64_t>(results[0]), answer.pair_columns = pointer<int64_t>(results[1]);
    answer.cost = pointer<double>(results[2]);
    detr_match(images_of(shape, logits, boxes, weights, focal), objects_of(objects), dtype, answer, pointer<void>(workspace), q);
    return take_assignment_fault(q.device);
}

}  // namespace

void add_assignment(py::module_& m) {
    const py::call_guard<py::gil_scoped_release> released;
    m.def("take_assignment_fault", &take_assignment_fault, py::arg("device"));
    m.def("assignment_workspace_bytes", &workspace_bytes<std::vector<PyProblem>, listed>, py::arg("problems"), py::arg("dtype"),
          py::arg("ask"));
    m.def("assignment_workspace_bytes", &workspace_bytes<PyAlike, alike>, py::arg("problems"), py::arg("dtype"), py::arg("ask"));
    m.def("linear_sum_assignment", &run<std::vector<PyProblem>, listed>, py::arg("problems"), py::arg("sizes"), py::arg("dtype"),
          py::arg("ask"), py::arg("columns"), py::arg("pairs"), py::arg("workspace"), py::arg("queue"), released);
    m.def("linear_sum_assignment", &run<PyAlike, alike>, py::arg("problems"), py::arg("sizes"), py::arg("dtype"), py::arg("ask"),
          py::arg("columns"), py::arg("pairs"), py::arg("workspace"), py::arg("queue"), released);
    m.def("detr_match_workspace_bytes", &py_detr_match_workspace_bytes, py::arg("shape"), py::arg("objects"), py::arg("dtype"),
          py::arg("focal"));
    m.def("detr_match", &py_detr_match, py::arg("shape"), py::arg("logits"), py::arg("boxes"), py::arg("objects"),
          py::arg("dtype"), py::arg("weights"), py::arg("focal"), py::arg("results"), py::arg("workspace"), py::arg("queue"),
          released);
}

}  // namespace fastcv::cuda
