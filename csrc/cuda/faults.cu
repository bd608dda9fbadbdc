// The words that kernels note faults in, and what asks a device.
#include "faults.h"

namespace fastcv::cuda {
namespace {

// More than any machine has. A device's words have a line of the host's cache.
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

uint32_t* first_word(int device) {
    if (device < 0 || device >= kMaxDevices) throw std::runtime_error("a device's number is out of range");
    return host_words() + kApart * device;
}

}  // namespace

// With unified addressing, which every device from sm_75 on has on Linux, one pointer serves both sides.
uint32_t* fault_words(int device) { return first_word(device); }

bool take_fault(int device, Fault fault) {
    // A read first: it is all that happens nearly always.
    uint32_t* const word = first_word(device) + int(fault);
    if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0) return false;
    return __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL) != 0;
}

bool take_index_fault(int device) { return take_fault(device, Fault::index); }

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
