// What Python found out about calls, for the next ones like them.
//
// Checking arguments in Python costs a few microseconds, and ten times as much where a kernel has just had the caches to itself.
// What follows from dtypes, shapes, strides and parameters is therefore worked out once, and found again by all of them, in one
// step. What arrays hold, and where they lie, plays no part.
#include <stdint.h>
#include <string.h>

#include <array>
#include <mutex>
#include <utility>
#include <vector>

#include "core.h"

namespace fastcv {
namespace {

PyTypeObject* array_type = nullptr;  // numpy.ndarray

// Arguments as numbers, where equal numbers mean equal arguments: types, None, bool, int, float, str, NumPy arrays, and tuples of
// these but for types, all of exactly that type. 2, 2.0 and np.int64(2) are equal in Python, but not all of them are sizes.
class CallKey {
public:
    // Whether these arguments have one.
    bool read(const py::tuple& call) {
        for (const py::handle argument : call)
            if (PyType_Check(argument.ptr()) ? !add_type(argument.ptr()) : !add(argument)) return false;
        return true;
    }
    bool operator==(const std::vector<int64_t>& other) const {
        return size_ == other.size() && memcmp(numbers_.data(), other.data(), size_ * sizeof(int64_t)) == 0;
    }
    std::vector<int64_t> copy() const { return {numbers_.begin(), numbers_.begin() + std::ptrdiff_t(size_)}; }
    uint64_t hash() const {
        uint64_t h = size_;
        for (size_t i = 0; i < size_; i++) h = (h ^ uint64_t(numbers_[i])) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
        return h;
    }

private:
    enum Kind : int64_t { none, no, yes, integer, real, text, type, tuple, array };

    bool put(int64_t number) {
        if (size_ == numbers_.size()) return false;
        numbers_[size_++] = number;
        return true;
    }

    bool add(py::handle h) {
        PyObject* const o = h.ptr();
        if (o == Py_None) return put(none);
        if (o == Py_False) return put(no);
        if (o == Py_True) return put(yes);
        if (Py_TYPE(o) == array_type) return add_array(py::reinterpret_borrow<py::array>(h));
        if (PyLong_CheckExact(o)) {
            int overflow = 0;
            const int64_t value = PyLong_AsLongLongAndOverflow(o, &overflow);
            return overflow == 0 && put(integer) && put(value);
        }
        if (PyTuple_CheckExact(o)) {
            if (!put(tuple) || !put(PyTuple_GET_SIZE(o))) return false;
            for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(o); i++)
                if (!add(PyTuple_GET_ITEM(o, i))) return false;
            return true;
        }
        if (PyFloat_CheckExact(o)) {
            const double value = PyFloat_AS_DOUBLE(o);
            int64_t bits = 0;
            memcpy(&bits, &value, sizeof bits);
            return put(real) && put(bits);
        }
        return PyUnicode_CheckExact(o) && add_text(o);
    }

    bool add_type(PyObject* o) { return put(type) && put(int64_t(reinterpret_cast<uintptr_t>(o))); }

    bool add_text(PyObject* o) {
        Py_ssize_t bytes = 0;
        const char* const data = PyUnicode_AsUTF8AndSize(o, &bytes);
        if (!data) PyErr_Clear();
        if (!data || !put(text) || !put(bytes)) return false;
        for (Py_ssize_t i = 0; i < bytes; i += Py_ssize_t(sizeof(int64_t))) {
            int64_t piece = 0;
            memcpy(&piece, data + i, size_t(bytes - i < Py_ssize_t(sizeof piece) ? bytes - i : Py_ssize_t(sizeof piece)));
            if (!put(piece)) return false;
        }
        return true;
    }

    bool add_array(const py::array& a) {
        const py::dtype dtype = a.dtype();
        if (!put(array) || !put(a.ndim()) || !put(dtype.num()) || !put(dtype.byteorder())) return false;
        for (py::ssize_t i = 0; i < a.ndim(); i++)
            if (!put(a.shape(i)) || !put(a.strides(i))) return false;
        return true;
    }

    std::array<int64_t, 128> numbers_;
    size_t size_ = 0;
};

// The last calls of one function, as many as four times `sets` of them. Those whose arguments have no key are never known.
class KnownCalls {
public:
    explicit KnownCalls(size_t sets) : sets_(sets) {}

    // What was kept for a call like this, or None.
    py::object find(const py::tuple& call) {
        CallKey key;
        if (!key.read(call)) return py::none();
        const uint64_t hash = key.hash();
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const Entry& e : set_of(hash))
            if (e.hash == hash && e.plan && key == e.key) return e.plan;
        return py::none();
    }

    // The oldest of its set makes room.
    void keep(const py::tuple& call, py::object plan) {
        CallKey key;
        if (!key.read(call)) return;
        // In the end what makes room is here, and goes with the lock let go.
        Entry entry{key.hash(), key.copy(), std::move(plan), types_in(call)};
        const std::lock_guard<std::mutex> lock(mutex_);
        for (Entry& e : set_of(entry.hash)) std::swap(e, entry);
    }

private:
    struct Entry {
        uint64_t hash = 0;
        std::vector<int64_t> key;
        py::object plan;
        std::vector<py::object> types;  // whose addresses are part of the key
    };
    using Set = std::array<Entry, 4>;

    Set& set_of(uint64_t hash) { return sets_[hash % sets_.size()]; }
    static std::vector<py::object> types_in(const py::tuple& call) {
        std::vector<py::object> types;
        for (const py::handle argument : call)
            if (PyType_Check(argument.ptr())) types.push_back(py::reinterpret_borrow<py::object>(argument));
        return types;
    }

    std::mutex mutex_;
    std::vector<Set> sets_;
};

}  // namespace

void bind_calls(py::module_& m) {
    array_type = reinterpret_cast<PyTypeObject*>(py::object(py::module_::import("numpy").attr("ndarray")).release().ptr());
    py::class_<KnownCalls>(m, "KnownCalls")
        .def(py::init<size_t>(), py::arg("sets") = 64)
        .def("find", &KnownCalls::find, py::arg("call"))
        .def("keep", &KnownCalls::keep, py::arg("call"), py::arg("plan"));
}

}  // namespace fastcv
