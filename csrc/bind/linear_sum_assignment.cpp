// linear_sum_assignment and detr_match. A call on a small matrix takes less than a microsecond, and what usual bindings spend on
// arguments and results would double that; so arguments come as CPython hands them out, and results are made by hand.
#include "core.h"

#include <algorithm>
#include <memory>
#include <new>

#include "../dispatch.h"

namespace fastcv {
namespace {

PyObject* cost_error = nullptr;  // the exception CostError

// Asked without the GIL, on the thread that called.
bool interrupted() {
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return raised;
}

// A new array of sizes that are given one by one, or null with an exception set.
template <class T, class... Sizes>
PyObject* new_array(Sizes... sizes) {
    static PyObject* const descriptor = py::dtype::of<T>().release().ptr();
    const auto& numpy = py::detail::npy_api::get();
    const Py_intptr_t shape[] = {sizes...};
    Py_INCREF(descriptor);
    return numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descriptor, sizeof...(sizes), shape, nullptr, nullptr, 0, nullptr);
}
template <class T>
T* data_of(PyObject* array) {
    return reinterpret_cast<T*>(py::detail::array_proxy(array)->data);
}

// Sets the exception that belongs to a status.
void set_error(Status status, const AssignmentFault& fault) {
    if (status == Status::out_of_memory) {
        PyErr_NoMemory();
    } else if (status != Status::interrupted) {  // which has set its own
        const char* kind = status == Status::infeasible ? "infeasible" : "invalid";
        PyObject* const arguments = Py_BuildValue("(sLLL)", kind, static_cast<long long>(fault.problem),
                                                  static_cast<long long>(fault.row), static_cast<long long>(fault.column));
        if (arguments) PyErr_SetObject(cost_error, arguments);
        Py_XDECREF(arguments);
    }
}

int item_size(PyObject* array) { return int(py::reinterpret_borrow<py::array>(array).itemsize()); }

CostMatrix matrix(PyObject* array) {
    const auto* const a = py::detail::array_proxy(array);
    return {a->data, a->dimensions[0], a->dimensions[1], {a->strides[0], a->strides[1]}, item_size(array)};
}

AssignmentRules rules_of(bool maximize, double cost_limit, bool forbid_nan) {
    AssignmentRules rules;
    rules.maximize = maximize;
    rules.cost_limit = cost_limit;
    rules.forbid_nan = forbid_nan;
    rules.interrupted = interrupted;
    return rules;
}

// (cost_matrix, maximize, cost_limit, forbid_nan, return_duals) -> (row_ind, col_ind[, u, v])
PyObject* linear_sum_assignment(PyObject*, PyObject* const* arguments, Py_ssize_t) {
    const CostMatrix costs = matrix(arguments[0]);
    const AssignmentRules rules =
        rules_of(arguments[1] == Py_True, PyFloat_AS_DOUBLE(arguments[2]), arguments[3] == Py_True);
    const bool with_duals = arguments[4] == Py_True;

    const int64_t most = costs.rows < costs.columns ? costs.rows : costs.columns;
    PyObject* const result = PyTuple_New(with_duals ? 4 : 2);
    if (!result) return nullptr;
    for (int k = 0; k < (with_duals ? 4 : 2); k++) {
        PyObject* const array = k < 2 ? new_array<int64_t>(most) : new_array<double>(k == 2 ? costs.rows : costs.columns);
        if (!array) {
            Py_DECREF(result);
            return nullptr;
        }
        PyTuple_SET_ITEM(result, k, array);
    }
    Assignment assignment{};
    assignment.row = data_of<int64_t>(PyTuple_GET_ITEM(result, 0));
    assignment.column = data_of<int64_t>(PyTuple_GET_ITEM(result, 1));
    if (with_duals) {
        assignment.u = data_of<double>(PyTuple_GET_ITEM(result, 2));
        assignment.v = data_of<double>(PyTuple_GET_ITEM(result, 3));
    }
    AssignmentFault fault{};
    Status status;
    Py_BEGIN_ALLOW_THREADS;
    status = kernels().linear_sum_assignment(costs, rules, &assignment, &fault);
    Py_END_ALLOW_THREADS;
    if (status != Status::ok) {
        Py_DECREF(result);
        set_error(status, fault);
        return nullptr;
    }
    for (int k = 0; k < 2 && assignment.pairs < most; k++) {
        PyObject* const shorter = PySequence_GetSlice(PyTuple_GET_ITEM(result, k), 0, assignment.pairs);
        if (!shorter) {
            Py_DECREF(result);
            return nullptr;
        }
        Py_SETREF(PyTuple_GET_ITEM(result, k), shorter);
    }
    return result;
}

// (costs, sizes, maximize, cost_limit, forbid_nan) -> columns (B, n_max). Costs have three axes or are a list of matrices; sizes
// (B, 2) are contiguous, or None.
PyObject* linear_sum_assignment_batch(PyObject*, PyObject* const* arguments, Py_ssize_t) {
    const bool listed = PyList_Check(arguments[0]);
    const auto* const all = listed ? nullptr : py::detail::array_proxy(arguments[0]);
    const int64_t count = listed ? PyList_GET_SIZE(arguments[0]) : all->dimensions[0];
    const AssignmentRules rules =
        rules_of(arguments[2] == Py_True, PyFloat_AS_DOUBLE(arguments[3]), arguments[4] == Py_True);

    const std::unique_ptr<CostMatrix[]> problems(new (std::nothrow) CostMatrix[size_t(count)]);
    if (!problems) return PyErr_NoMemory();
    int64_t most_rows = listed ? 0 : all->dimensions[1];
    for (int64_t p = 0; p < count; p++) {
        if (listed) {
            problems[size_t(p)] = matrix(PyList_GET_ITEM(arguments[0], p));
            most_rows = std::max(most_rows, problems[size_t(p)].rows);
        } else {
            problems[size_t(p)] = {all->data + p * all->strides[0], all->dimensions[1], all->dimensions[2],
                                   {all->strides[1], all->strides[2]}, item_size(arguments[0])};
        }
    }
    if (arguments[1] != Py_None) {
        const int64_t* const used = data_of<int64_t>(arguments[1]);
        for (int64_t p = 0; p < count; p++)
            problems[size_t(p)].rows = used[2 * p], problems[size_t(p)].columns = used[2 * p + 1];
    }
    PyObject* const columns = new_array<int64_t>(count, most_rows);
    if (!columns) return nullptr;
    AssignmentFault fault{};
    Status status;
    Py_BEGIN_ALLOW_THREADS;
    status = kernels().linear_sum_assignment_batch(problems.get(), count, rules, data_of<int64_t>(columns), most_rows, &fault);
    Py_END_ALLOW_THREADS;
    if (status == Status::ok) return columns;
    Py_DECREF(columns);
    set_error(status, fault);
    return nullptr;
}

// All arrays but logits and boxes are contiguous; labels, begin and pairs_begin are int64.
void detr_match(const py::array& logits, const py::array& boxes, const py::array& labels, const py::array& target_boxes,
                const py::array& begin, const py::array& pairs_begin, double cost_class, double cost_bbox, double cost_giou,
                bool focal, const py::array& query, const py::array& target, const py::array& cost) {
    DetrProblem d{};
    d.B = logits.shape(0), d.Q = logits.shape(1), d.K = logits.shape(2);
    d.logits = static_cast<const char*>(logits.data());
    d.boxes = static_cast<const char*>(boxes.data());
    for (int i = 0; i < 3; i++) d.logits_stride_bytes[i] = logits.strides(i), d.boxes_stride_bytes[i] = boxes.strides(i);
    d.labels = static_cast<const int64_t*>(labels.data());
    d.target_boxes = target_boxes.data();
    d.begin = static_cast<const int64_t*>(begin.data());
    d.pairs_begin = static_cast<const int64_t*>(pairs_begin.data());
    d.cost_class = cost_class, d.cost_bbox = cost_bbox, d.cost_giou = cost_giou;
    d.focal = focal;
    const int itemsize = int(logits.itemsize());
    const auto written = [](const py::array& a) { return const_cast<void*>(a.data()); };
    int64_t* const queries = static_cast<int64_t*>(written(query));
    int64_t* const targets = static_cast<int64_t*>(written(target));
    double* const costs = static_cast<double*>(written(cost));
    AssignmentFault fault{};
    Status status;
    {
        py::gil_scoped_release release;
        status = kernels().detr_match(d, itemsize, interrupted, queries, targets, costs, &fault);
    }
    if (status == Status::ok) return;
    set_error(status, fault);
    throw py::error_already_set();
}

// How CPython has a function that takes its arguments as an array.
template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef fast(const char* name, const char* signature) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, signature};
}

PyMethodDef functions[] = {
    fast<linear_sum_assignment>("linear_sum_assignment",
                                "linear_sum_assignment(cost_matrix, maximize, cost_limit, forbid_nan, return_duals, /)\n--\n\n"),
    fast<linear_sum_assignment_batch>("linear_sum_assignment_batch",
                                      "linear_sum_assignment_batch(costs, sizes, maximize, cost_limit, forbid_nan, /)\n--\n\n"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void bind_linear_sum_assignment(py::module_& m) {
    cost_error = PyErr_NewExceptionWithDoc("fastcv._core.CostError", "(kind, problem, row, column)", nullptr, nullptr);
    if (!cost_error) throw py::error_already_set();
    m.add_object("CostError", cost_error);
    if (PyModule_AddFunctions(m.ptr(), functions) != 0) throw py::error_already_set();
    m.def("detr_match", &detr_match, py::arg("logits"), py::arg("boxes"), py::arg("labels"), py::arg("target_boxes"),
          py::arg("begin"), py::arg("pairs_begin"), py::arg("cost_class"), py::arg("cost_bbox"), py::arg("cost_giou"),
          py::arg("focal"), py::arg("query"), py::arg("target"), py::arg("cost"));
}

}  // namespace fastcv
