// linear_sum_assignment: the user's costs to rows, which assignment.cu solves.
//
//   bring    a block a tile of 32 x 32: costs of any strides to rows in the workspace, turned where there are more rows than
//            columns, negated to maximise, NaN to +infinity where it is forbidden
//
// A warp reads along the axis whose elements lie closer, and writes along a row. No figure has been measured.
#include "assignment_rows.h"
#include "dtypes.h"

namespace fastcv::cuda {
namespace {

constexpr int kTile = 32, kTileThreads = 256;

struct Arguments {
    DeviceProblems problems;
    int64_t tiles;  // of the largest problem
    bool maximize, forbid_nan;
};

template <class T>
__global__ void bring(Arguments a) {
    __shared__ T tile[kTile][kTile + 1];
    const int lane = int(threadIdx.x) % kTile, first = int(threadIdx.x) / kTile;
    constexpr int kAtOnce = kTileThreads / kTile;
    for (int64_t item = blockIdx.x; item < a.problems.count * a.tiles; item += gridDim.x) {
        const AssignmentProblem p = a.problems.of(item / a.tiles);
        const bool turned = p.rows > p.columns;
        const int64_t n = turned ? p.columns : p.rows, m = turned ? p.rows : p.columns;
        const int64_t down = p.stride_bytes[turned], across = p.stride_bytes[!turned];
        const int64_t tiles_across = (m + kTile - 1) / kTile, number = item % a.tiles;
        if (number >= (n + kTile - 1) / kTile * tiles_across) continue;
        const int64_t top = number / tiles_across * kTile, left = number % tiles_across * kTile;
        const bool along = (across < 0 ? -across : across) <= (down < 0 ? -down : down);
        for (int k = first; k < kTile; k += kAtOnce) {
            const int y = along ? k : lane, x = along ? lane : k;
            if (top + y >= n || left + x >= m) continue;
            T cost = *reinterpret_cast<const T*>(p.data + (top + y) * down + (left + x) * across);
            if (a.maximize) cost = -cost;
            if (a.forbid_nan && cost != cost) cost = T(INFINITY);
            tile[y][x] = cost;
        }
        __syncthreads();
        T* const rows = a.problems.rows_of<T>(p);
        for (int y = first; y < kTile; y += kAtOnce)
            if (top + y < n && left + lane < m) rows[(top + y) * m + left + lane] = tile[y][lane];
        __syncthreads();  // before the next tile
    }
}

}  // namespace

int64_t linear_sum_assignment_workspace_bytes(const AssignmentProblems& problems, Dtype dtype, const AssignmentAsk& ask) {
    AssignmentProblems placed = problems;
    return AssignmentLayout(placed, 0, dtype, ask.forbid_nan).bytes;
}

void linear_sum_assignment(AssignmentProblems problems, Dtype dtype, const AssignmentAsk& ask, const AssignmentAnswer& answer,
                           void* workspace, Queue queue) {
    const char* const op = "linear_sum_assignment";
    const OnDevice here(queue.device);
    const AssignmentLayout layout(problems, 0, dtype, ask.forbid_nan);
    const DeviceProblems found = bring_problems(op, problems, layout, workspace, queue);
    const auto tiles = [](int64_t size) { return (size + kTile - 1) / kTile; };
    // A problem of the largest number of tiles may be turned.
    const int64_t most = tiles(layout.most_rows) * tiles(layout.most_columns);
    if (most > 0) {
        const Arguments a{found, most, ask.maximize, ask.forbid_nan};
        const auto kernel = dtype == Dtype::float32 ? bring<float> : bring<double>;
        launch(op, kernel, blocks_for(found.count * most, 1), kTileThreads, queue, a);
    }
    solve_rows(op, found, layout, dtype, ask, answer, queue);
}

}  // namespace fastcv::cuda
