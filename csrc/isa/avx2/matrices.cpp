#define FASTCV_ISA avx2
#define FASTCV_VECTOR_BYTES 32
#include "../../kernels/add_matrices.hpp"
