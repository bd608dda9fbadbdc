// The module: threads, instruction sets, the machine's limits. Ops are in a file each.
#include "core.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <memory>
#include <string>
#include <vector>

#include "../dispatch.h"
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fastcv {

int num_threads();
void set_num_threads(int n);
void note_parallel_region();

namespace {

std::vector<std::string> isas_available() {
    std::vector<std::string> names;
    for (const IsaEntry* isa = kIsas; isa->name; isa++)
        if (isa->runs_here()) names.push_back(isa->name);
    return names;
}

void select_isa_or_throw() {
    const char* wanted = getenv("FASTCV_ISA");
    if (select_kernels(wanted)) return;
    std::string text = std::string("FASTCV_ISA=") + wanted + ": this CPU and build run only";
    for (const std::string& name : isas_available()) text += " " + name;
    throw py::import_error(text);
}

void read_thread_count() {
    const char* text = getenv("FASTCV_NUM_THREADS");
    if (!text || !*text) return;
    char* end = nullptr;
    const long n = strtol(text, &end, 10);
    // libgomp ends the process where it cannot start a thread; fastcv.set_num_threads has the same limit.
    if (*end || n < 1 || n > 1024)
        throw py::import_error(std::string("FASTCV_NUM_THREADS must be an integer from 1 to 1024, got ") + text);
    set_num_threads(int(n));
}

// Bytes read and written a second by a copy far larger than the caches, each thread on its own part.
double measure_bandwidth(int threads) {
    const size_t bytes = size_t(256) << 20;
    std::unique_ptr<char[]> from(new char[bytes]), to(new char[bytes]);
    memset(from.get(), 1, bytes);
    memset(to.get(), 1, bytes);
    note_parallel_region();
    double best = 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int part = 0; part < threads; part++) {
            const size_t first = bytes / size_t(threads) * size_t(part);
            memcpy(to.get() + first, from.get() + first, bytes / size_t(threads));
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        const double seconds = double(end.tv_sec - begin.tv_sec) + 1e-9 * double(end.tv_nsec - begin.tv_nsec);
        const double rate = 2.0 * double(bytes) / seconds;
        if (rate > best) best = rate;
    }
    return best;
}

}  // namespace
}  // namespace fastcv

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    using namespace fastcv;
    m.doc() = "Compiled kernels of fastcv. Arguments are trusted: fastcv's Python functions check them.";
    select_isa_or_throw();
    read_thread_count();

    m.def("set_num_threads", &set_num_threads, py::arg("n"));
    m.def("get_num_threads", &num_threads);
    m.def("isa", [] { return std::string(kernels().isa); });
    m.def("isas_available", &isas_available);
    m.def("compiler", [] { return std::string("GCC " __VERSION__); });
    m.def("openmp_version", [] {
#if defined(_OPENMP)
        return _OPENMP;
#else
        return 0;
#endif
    });
    m.def(
        "measure_peak", [](int itemsize, int threads) { return kernels().measure_peak(itemsize, threads); },
        py::arg("itemsize"), py::arg("threads"), py::call_guard<py::gil_scoped_release>());
    m.def("measure_bandwidth", &measure_bandwidth, py::arg("threads"), py::call_guard<py::gil_scoped_release>());
    bind_conv2d(m);
    bind_conv_transpose2d(m);
    bind_gram_matrix(m);
    bind_max_pool2d(m);
    bind_max_unpool2d(m);
    bind_scaled_dot_product_attention(m);
    bind_linear_sum_assignment(m);
    bind_capi(m);
    bind_results(m);
    bind_calls(m);
}
