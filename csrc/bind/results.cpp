// Memory of results that are not small.
//
// NumPy's arrays begin anywhere, large ones 16 bytes behind a page, so each of a kernel's vectors is stored to two cache lines. Here
// a result begins at a line: on two threads, unpooling to 64 x 224 x 224 took 0.48 ms and takes 0.41.
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

// New bytes, whose memory goes back to the kept pieces when the last array on them dies.
py::array large_result(int64_t bytes) {
    const int64_t whole = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    Piece piece = kept_pieces().take(whole);
    if (!piece.data) piece = {allocate(whole), whole};
    if (!piece.data) {
        kept_pieces().clear();
        piece.data = allocate(whole);
    }
    if (!piece.data) throw std::bad_alloc();
    const py::capsule owner(new Piece(piece), [](void* p) {
        kept_pieces().give(*static_cast<Piece*>(p));
        delete static_cast<Piece*>(p);
    });
    return py::array(py::dtype::of<uint8_t>(), {bytes}, {}, piece.data, owner);
}

// A new C-contiguous array that begins at a cache line, in memory of NumPy's.
py::array aligned_result(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
    constexpr uintptr_t kLineBytes = 64;
    py::ssize_t bytes = dtype.itemsize();
    for (const py::ssize_t size : shape) bytes *= size;
    const py::array memory(py::dtype::of<uint8_t>(), std::vector<py::ssize_t>{bytes + py::ssize_t(kLineBytes)});
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data());
    return py::array(dtype, shape, {}, reinterpret_cast<void*>((begin + kLineBytes - 1) / kLineBytes * kLineBytes), memory);
}

}  // namespace

void bind_results(py::module_& m) {
    m.def("aligned_result", &aligned_result, py::arg("shape"), py::arg("dtype"));
    m.attr("kept_result_bytes") = kKeptBytes;
    m.def("large_result", &large_result, py::arg("bytes"));
}

}  // namespace fastcv
