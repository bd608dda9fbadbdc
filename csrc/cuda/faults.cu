// The words that kernels note wrong indices in, and what asks a device.
#include "faults.h"

namespace fastcv::cuda {
namespace {

// More than any machine has. A word has a line of the host's cache.
constexpr int kMaxDevices = 64, kApart = 16;

uint32_t* host_words() {
    static uint32_t* const words = [] {
        void* memory = nullptr;
        constexpr size_t bytes = sizeof(uint32_t) * kApart * kMaxDevices;
        require(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "cudaHostAlloc");
        uint32_t* const first = static_cast<uint32_t*>(memory);
        for (int i = 0; i < kApart * kMaxDevices; i++) first[i] = 0;
        return first;
    }();
    return words;
}

uint32_t* host_word(int device) {
    if (device < 0 || device >= kMaxDevices) throw std::runtime_error("a device's number is out of range");
    return host_words() + kApart * device;
}

}  // namespace

// With unified addressing, which every device from sm_75 on has on Linux, one pointer serves both sides.
uint32_t* fault_word(int device) { return host_word(device); }

bool take_index_fault(int device) {
    // A read first: it is all that happens nearly always.
    uint32_t* const word = host_word(device);
    if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0) return false;
    return __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL) != 0;
}

void synchronize(int device) {
    const OnDevice here(device);
    require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

int device_count() {
    int count = 0;
    require(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    return count;
}

}  // namespace fastcv::cuda
