#define FASTCV_ISA avx512
#define FASTCV_VECTOR_BYTES 64
#include "../../kernels/add_assignment.hpp"
