#define FASTCV_ISA baseline
#define FASTCV_VECTOR_BYTES 16
#include "../../kernels/add_pooling.hpp"
