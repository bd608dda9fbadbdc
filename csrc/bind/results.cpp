// Memory of results that are not small.
//
// NumPy's arrays begin anywhere, large ones 16 bytes behind a page, so each of a kernel's vectors is stored to two cache lines.
// Here a result begins at a line: on two threads, unpooling to 64 x 224 x 224 took 0.48 ms and takes 0.41.
//
// Large ones besides: the C library takes a piece of 32 MiB and more from the system for each new array and gives it
// back when the array dies, so every call that returns one waits while the system clears its pages: unpooling to
// 64 x 360 x 480 took 3.3 ms so, and 2.0 into memory that was there. Here such pieces stay for later results, up to
// kKeptBytes of them, marked as free for the system, which takes them when memory is short.
#include "core.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <mutex>
#include <vector>

#include "../memory.h"

namespace fastcv {
namespace {

constexpr int64_t kKeptBytes = int64_t(256) << 20;

struct Piece {
    char* data;
    int64_t bytes;  // whole huge pages
};

// Nobody waits for another thread here, not even for one that a fork did not copy: who finds it busy does without.
class KeptPieces {
public:
    // The smallest piece of so many bytes and up to a quarter more, if there is one.
    Piece take(int64_t bytes) {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        size_t best = pieces_.size();
        for (size_t i = 0; lock && i < pieces_.size(); i++)
            if (pieces_[i].bytes >= bytes && pieces_[i].bytes <= bytes + bytes / 4)
                if (best == pieces_.size() || pieces_[i].bytes < pieces_[best].bytes) best = i;
        return lock && best < pieces_.size() ? remove(best) : Piece{nullptr, 0};
    }

    // Keeps a piece for later, and lets the oldest ones go for it.
    void give(Piece piece) {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock || piece.bytes > kKeptBytes) return free(piece.data);
#if defined(MADV_FREE)
        madvise(piece.data, size_t(piece.bytes), MADV_FREE);
#endif
        shrink(kKeptBytes - piece.bytes);
        pieces_.push_back(piece);
        bytes_ += piece.bytes;
    }

    void clear() {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (lock) shrink(0);
    }

private:
    Piece remove(size_t i) {
        const Piece piece = pieces_[i];
        pieces_.erase(pieces_.begin() + std::ptrdiff_t(i));
        bytes_ -= piece.bytes;
        return piece;
    }

    void shrink(int64_t bytes) {
        while (bytes_ > bytes) free(remove(0).data);
    }

    std::mutex mutex_;
    std::vector<Piece> pieces_;  // the oldest first
    int64_t bytes_ = 0;
};

// Never destroyed: arrays may outlive everything else in the process.
KeptPieces& kept_pieces() {
    static KeptPieces* const kept = new KeptPieces;
    return *kept;
}

// So many bytes, whose memory goes back to the kept pieces when the last array on them dies; null if they cannot be had.
py::capsule large_piece(int64_t bytes, char** data) {
    const int64_t whole = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    Piece piece = kept_pieces().take(whole);
    if (!piece.data) piece = {allocate(whole), whole};
    if (!piece.data) {
        kept_pieces().clear();
        piece.data = allocate(whole);
    }
    *data = piece.data;
    if (!piece.data) return {};
    return py::capsule(new Piece(piece), [](void* p) {
        kept_pieces().give(*static_cast<Piece*>(p));
        delete static_cast<Piece*>(p);
    });
}

// Arrays of one shape, dtype and order in memory: C-contiguous or channels-last.
class ResultLayout {
public:
    ResultLayout(std::vector<py::ssize_t> shape, py::dtype dtype, bool channels_last)
        : shape_(std::move(shape)), strides_(shape_.size()), dtype_(std::move(dtype)), bytes_(dtype_.itemsize()) {
        const size_t axes = shape_.size();
        py::ssize_t step = bytes_;
        const auto lay = [&](size_t axis) {
            strides_[axis] = step;
            step = product(step, shape_[axis] ? shape_[axis] : 1);
            bytes_ = product(bytes_, shape_[axis]);
        };
        if (channels_last) lay(axes - 3);
        for (size_t axis = axes; axis-- > 0;)
            if (!channels_last || axis != axes - 3) lay(axis);
    }

    py::tuple shape() const { return py::tuple(py::cast(shape_)); }
    // A new one, like np.empty.
    py::array make() const {
        if (bytes_ < kAlignedBytes || bytes_ > kLargestBytes) return py::array(dtype_, shape_, strides_);
        if (bytes_ >= kLargeBytes && bytes_ <= kKeptBytes) {
            char* data = nullptr;
            const py::capsule owner = large_piece(bytes_, &data);
            if (data) return py::array(dtype_, shape_, strides_, data, owner);
        }
        try {
            const py::array memory(py::dtype::of<uint8_t>(), std::vector<py::ssize_t>{bytes_ + py::ssize_t(kLineBytes)});
            const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data());
            const uintptr_t line = (begin + kLineBytes - 1) / kLineBytes * kLineBytes;
            return py::array(dtype_, shape_, strides_, reinterpret_cast<void*>(line), memory);
        } catch (py::error_already_set&) {
            return py::array(dtype_, shape_, strides_);  // where it fails as well, NumPy names the shape that cannot be had
        }
    }

    // New ones that share one piece of memory where that is small, whole lines of the caches apart. The C library gives freed
    // memory back to the system once it is more than twice its largest piece: three pieces of a megabyte, freed together, come
    // back as pages to be cleared in every call. The gradient of attention in 16 x 12 windows of 49 x 32 took 2.1 ms so, and 1.2
    // into arrays that stay.
    static py::tuple make_together(const std::vector<const ResultLayout*>& layouts) {
        const auto lines = [](py::ssize_t bytes) { return (bytes + py::ssize_t(kLineBytes) - 1) & -py::ssize_t(kLineBytes); };
        py::ssize_t bytes = 0;
        for (const ResultLayout* each : layouts) bytes += each->bytes_ < kLargeBytes ? lines(each->bytes_) : kLargeBytes;
        py::tuple arrays(layouts.size());
        if (bytes >= kLargeBytes) {
            for (size_t i = 0; i < layouts.size(); i++) arrays[i] = layouts[i]->make();
            return arrays;
        }
        const py::array memory = ResultLayout({bytes}, py::dtype::of<uint8_t>(), false).make();
        char* data = static_cast<char*>(const_cast<void*>(memory.data()));
        for (size_t i = 0; i < layouts.size(); i++) {
            arrays[i] = py::array(layouts[i]->dtype_, layouts[i]->shape_, layouts[i]->strides_, data, memory);
            data += lines(layouts[i]->bytes_);
        }
        return arrays;
    }

private:
    // The largest number where there is none: NumPy refuses such sizes in its own words.
    static py::ssize_t product(py::ssize_t a, py::ssize_t b) {
        py::ssize_t result = 0;
        return __builtin_mul_overflow(a, b, &result) ? PY_SSIZE_T_MAX : result;
    }

    static constexpr uintptr_t kLineBytes = 64;
    // From where a line's alignment shows, and from where the C library gives freed memory back to the system.
    static constexpr py::ssize_t kAlignedBytes = 256 << 10, kLargeBytes = 32 << 20, kLargestBytes = py::ssize_t(1) << 62;
    std::vector<py::ssize_t> shape_, strides_;
    py::dtype dtype_;
    py::ssize_t bytes_;
};

}  // namespace

void bind_results(py::module_& m) {
    m.attr("kept_result_bytes") = kKeptBytes;
    py::class_<ResultLayout>(m, "ResultLayout")
        .def(py::init<std::vector<py::ssize_t>, py::dtype, bool>(), py::arg("shape"), py::arg("dtype"),
             py::arg("channels_last") = false)
        .def_property_readonly("shape", &ResultLayout::shape)
        .def("new", &ResultLayout::make)
        .def_static("new_together", &ResultLayout::make_together, py::arg("layouts"));
}

}  // namespace fastcv
