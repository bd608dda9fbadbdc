// The gradients of scaled dot product attention, with scores and weights made again tile by tile.
//
//   P[l][j]  = exp(x[l][j] - lse[l])             K[l][j] = the factor that dropout put on it, 1 without
//   delta[l] = sum over f of grad_output[l][f] output[l][f]
//   D[l][j]  = P[l][j] (K[l][j] sum over f of grad_output[l][f] value[j][f] - delta[l])     the gradient of mask and score
//   grad_value[j] = sum over l of K[l][j] P[l][j] grad_output[l]
//   grad_query[l] = scale * sum over j of D[l][j] key[j]       grad_key[j] = scale * sum over l of D[l][j] query[l]
//
// and with a softcap D times its derivative in the last line. No block adds what another one makes. In general there are
//
//   deltas       16 threads a row
//   grad_keys    a block has 64 keys (32 in float64) of a head of keys, and goes through the rows of all the heads that share it
//   grad_queries a block has 64 rows of a head, and goes through the keys that they see
//   grad_mask    a block has a tile of the mask, and goes through all heads and samples that share it; where it has a single row
//                or column, through the tiles of rows and columns as well
//
//        keys                Each makes tiles of P and D from two products (scores, and grad_output by value), and puts what it
//      +-------+             needs into the square of tiles.h, for the product that follows. Nine products in all, where five
//  rows| P , D |             would do if blocks added to each other's sums; but then the order of these would show.
//      +-------+
//
//   windows      instead of the last three, for up to 144 tokens and heads of a tile's columns: a block has a whole head, and
//                makes all its gradients from one tile of P and D after the other, five products; sums of several tiles for
//                grad_query lie in shared memory, which 144 rows of 32 columns fill. It goes through the heads that share a
//                plane of the mask, whose gradient it keeps: in registers if it is one tile, else in its own part of the
//                workspace
//
// What a mask's gradient adds up for one tile may be thousands of windows, of which a tile or some are all the mask there is. So
// it is cut into parts of four steps or more, as many as make 512 blocks, whose sums go to the workspace and are added in order.
// How many depends on the shapes alone.
//
// Where query, key or value broadcasts, its gradient is made in full, widened, in the workspace, and `sum_planes` of tiles.h adds
// up. A row that sees no key has lse = -infinity, and gives and gets zeros. Weights of zero take no part, whatever they meet.
//
// No figure has been measured. Tri Dao: FlashAttention-2, 2023.
#include "attention.h"

namespace fastcv::cuda {
namespace {

constexpr const char* kOp = "scaled_dot_product_attention_grad";

// A gradient as a kernel writes it: in the array's type, or widened, in full, where it is yet to be summed.
struct Target {
    void* data;
    bool wide;

    template <class T>
    __device__ void store(int64_t at, typename Wide<T>::type x) const {
        if (wide)
            static_cast<typename Wide<T>::type*>(data)[at] = x;
        else
            static_cast<T*>(data)[at] = narrow<T>(x);
    }
};

struct Arguments : AttentionArguments {
    HeadTensor grad_output, result, lse;
    Target grad_query, grad_key, grad_value, grad_mask;
    void* delta;
    int64_t row_tiles, key_tiles;
    int64_t chunks;  // of columns
    // The mask's gradient: its planes among all heads, its rows and columns or one, and the steps that one tile is the sum of.
    Planes mask_planes;
    bool one_row, one_column;
    int64_t steps, parts, part_steps;

    using AttentionArguments::AttentionArguments;
};

// A head with what the gradient reads of it beside.
struct GradHead : Head {
    const char *grad_output, *lse;

    __device__ GradHead(const Arguments& a, int64_t flat_) : Head(a, flat_) {
        const int64_t heads = a.s.H * a.s.G;
        grad_output = head_data(a.grad_output, a.s, flat / heads, flat % heads);
        lse = head_data(a.lse, a.s, flat / heads, flat % heads);
    }
};

template <class T>
__global__ void deltas(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ W pieces[kSide][kSide + 1];
    const int64_t rows = a.s.N * a.s.H * a.s.G * a.s.L, heads = a.s.H * a.s.G;
    for (int64_t first = int64_t(blockIdx.x) * kSide; first < rows; first += int64_t(gridDim.x) * kSide) {
        const int64_t row = first + thread_y(), flat = row / a.s.L, l = row - flat * a.s.L;
        W sum = 0;
        if (row < rows) {
            const char* grad = head_data(a.grad_output, a.s, flat / heads, flat % heads) + l * a.grad_output.stride_bytes[1];
            const char* result = head_data(a.result, a.s, flat / heads, flat % heads) + l * a.result.stride_bytes[1];
            for (int64_t f = thread_x(); f < a.s.F; f += kSide)
                sum += load_wide<T>(grad + f * a.grad_output.stride_bytes[2]) *
                       load_wide<T>(result + f * a.result.stride_bytes[2]);
        }
        pieces[thread_y()][thread_x()] = sum;
        __syncthreads();
        if (thread_x() == 0 && row < rows) {
            W all = 0;
            for (int x = 0; x < kSide; x++) all += pieces[thread_y()][x];
            static_cast<W*>(a.delta)[row] = all;
        }
        __syncthreads();
    }
}

// A tile of K P, of D, and of D times the cap's derivative.
template <class T>
struct GradTile {
    Sums<T> weights, masked, scores;
};

template <class T, class W = typename Wide<T>::type>
__device__ void grad_tile(const Arguments& a, TileMemory<T>& memory, const GradHead& head, int64_t row, int64_t key,
                          GradTile<T>& tile) {
    const AttentionShape& s = a.s;
    Sums<T> x;
    score_tile<T>(a, memory, head, row, key, x, &tile.scores);
    Sums<T>& products = tile.masked;
    products.clear();
    multiply_panels<T>(products, memory, rows_of(head.grad_output, a.grad_output, row, s.L, s.F),
                       rows_of(head.value, a.value, key, head.length, s.F));
    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
        const int64_t l = row + row_of<T>(i);
        W lse = minus_infinity(W()), delta = 0;
        if (l < s.L) {
            lse = *reinterpret_cast<const W*>(head.lse + l * a.lse.stride_bytes[1]) * kLog2E<W>;
            delta = static_cast<const W*>(a.delta)[head.flat * s.L + l];
        }
        W kept[kColumns<T>];
        a.dropout.factors<T>(kept, head.flat, l, key);
        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
            const bool none = x.at[i][j] == minus_infinity(W()) || lse == minus_infinity(W());
            const W weight = none ? W(0) : exp2(x.at[i][j] - lse);
            tile.weights.at[i][j] = weight * kept[j];
            tile.masked.at[i][j] = weight == 0 ? W(0) : weight * (kept[j] * products.at[i][j] - delta);
            tile.scores.at[i][j] *= tile.masked.at[i][j];
        }
    }
}

// Rows of a tile of a gradient, each `columns` long, times a factor.
template <class T, class W = typename Wide<T>::type>
__device__ void store_rows(const Target& to, const Sums<T>& sums, int64_t first_row, int64_t row, int64_t rows, int64_t column,
                           int64_t columns, W factor) {
    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
            const int64_t l = row + row_of<T>(i), e = column + column_of<T>(j);
            if (l < rows && e < columns) to.template store<T>((first_row + l) * columns + e, sums.at[i][j] * factor);
        }
}

template <class T, int kChunks>
__global__ void grad_keys(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ SquareMemory<T> memory;
    const AttentionShape& s = a.s;
    for (int64_t item = blockIdx.x; item < s.N * s.H * a.key_tiles * a.chunks; item += gridDim.x) {
        const int64_t column = item % a.chunks * (kChunks * kTile<W>), key = item / a.chunks % a.key_tiles * kTile<W>;
        const int64_t shared = item / a.chunks / a.key_tiles;  // n * H + head of keys
        if (threadIdx.x == 0) memory.careful = false;
        __syncthreads();
        Sums<T> by_key[kChunks], by_value[kChunks];
        FASTCV_UNROLL for (int c = 0; c < kChunks; c++) by_key[c].clear(), by_value[c].clear();
        for (int64_t g = 0; g < s.G; g++) {
            const GradHead head(a, shared * s.G + g);
            const KeyRange rows = head.template rows_that_see<W>(s, key);
            for (int64_t row = rows.first; row < rows.last; row += kTile<W>) {
                GradTile<T> tile;
                grad_tile<T>(a, memory.panels, head, row, key, tile);
                const int64_t count = up_to(s.L - row, kTile<W>);
                store_by_row(memory.square, tile.weights);
                FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                    if (c == 0 || column + c * kTile<W> < s.F)
                        multiply_square<T>(
                            by_value[c], memory,
                            columns_of(head.grad_output, a.grad_output, row, count, column + c * kTile<W>, s.F));
                store_by_row(memory.square, tile.scores);
                FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                    if (c == 0 || column + c * kTile<W> < s.E)
                        multiply_square<T>(by_key[c], memory,
                                           columns_of(head.query, a.query, row, count, column + c * kTile<W>, s.E));
            }
        }
        FASTCV_UNROLL for (int c = 0; c < kChunks; c++) {
            const int64_t at = column + c * kTile<W>;
            store_rows<T>(a.grad_key, by_key[c], shared * s.S, key, s.S, at, s.E, W(s.scale));
            store_rows<T>(a.grad_value, by_value[c], shared * s.S, key, s.S, at, s.F, W(1));
        }
    }
}

template <class T, int kChunks>
__global__ void grad_queries(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ SquareMemory<T> memory;
    const AttentionShape& s = a.s;
    for (int64_t item = blockIdx.x; item < s.N * s.H * s.G * a.row_tiles * a.chunks; item += gridDim.x) {
        const int64_t column = item % a.chunks * (kChunks * kTile<W>);
        const int64_t row = (a.row_tiles - 1 - item / a.chunks % a.row_tiles) * kTile<W>;
        const GradHead head(a, item / a.chunks / a.row_tiles);
        if (threadIdx.x == 0) memory.careful = false;
        __syncthreads();
        Sums<T> by_query[kChunks];
        FASTCV_UNROLL for (int c = 0; c < kChunks; c++) by_query[c].clear();
        const KeyRange seen = head.template seen_by_tile<W>(s, row);
        for (int64_t key = seen.first; key < seen.last; key += kTile<W>) {
            GradTile<T> tile;
            grad_tile<T>(a, memory.panels, head, row, key, tile);
            store_by_column(memory.square, tile.scores);
            FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                if (c == 0 || column + c * kTile<W> < s.E)
                    multiply_square<T>(by_query[c], memory,
                                       columns_of(head.key, a.key, key, up_to(head.length - key, kTile<W>),
                                                  column + c * kTile<W>, s.E));
        }
        FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
            store_rows<T>(a.grad_query, by_query[c], head.flat * s.L, row, s.L, column + c * kTile<W>, s.E, W(s.scale));
    }
}

// A part of the steps of one tile. Steps are the heads that share the tile's plane, and for each its tiles of rows and of columns
// that the mask has only one of, in this order.
template <class T>
__global__ void grad_mask(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ SquareMemory<T> memory;
    __shared__ W columns_of_tile[kTile<W>];
    const AttentionShape& s = a.s;
    const int64_t own_rows = a.one_row ? 1 : a.row_tiles, own_columns = a.one_column ? 1 : a.key_tiles;
    const int64_t other_rows = a.one_row ? a.row_tiles : 1, other_columns = a.one_column ? a.key_tiles : 1;
    for (int64_t item = blockIdx.x; item < a.parts * a.mask_planes.own * own_rows * own_columns; item += gridDim.x) {
        const int64_t tile_x = item % own_columns, tile_y = item / own_columns % own_rows;
        const int64_t tile = item / own_columns / own_rows;
        const int64_t plane = tile % a.mask_planes.own, part = tile / a.mask_planes.own;
        const int64_t last = up_to((part + 1) * a.part_steps, a.steps);
        Sums<T> sums;
        sums.clear();
        for (int64_t step = part * a.part_steps; step < last; step++) {
            const int64_t key = (a.one_column ? step % other_columns : tile_x) * kTile<W>;
            const int64_t row = (a.one_row ? step / other_columns % other_rows : tile_y) * kTile<W>;
            const GradHead head(a, a.mask_planes.flat(plane, step / other_columns / other_rows));
            const KeyRange seen = head.template seen_by_tile<W>(s, row);
            if (key + kTile<W> <= seen.first || key >= seen.last) continue;
            GradTile<T> tile;
            grad_tile<T>(a, memory.panels, head, row, key, tile);
            FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
                FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) sums.at[i][j] += tile.masked.at[i][j];
        }
        const int64_t rows = a.one_row ? 1 : s.L, columns = a.one_column ? 1 : s.S;
        const int64_t first = (part * a.mask_planes.own + plane) * rows;
        if (!a.one_row && !a.one_column) {
            store_rows<T>(a.grad_mask, sums, first, tile_y * kTile<W>, rows, tile_x * kTile<W>, columns, W(1));
            continue;
        }
        // The tile's rows or columns, or both, are one.
        store_by_row(memory.square, sums);
        __syncthreads();
        const auto at = [&](int row, int column) { return memory.square.number(row, column); };
        const int t = int(threadIdx.x);
        W sum = 0;
        if (t < kTile<W> && a.one_row)
            for (int i = 0; i < kTile<W>; i++) sum += at(i, t);
        else if (t < kTile<W>)
            for (int j = 0; j < kTile<W>; j++) sum += at(t, j);
        const int64_t row = a.one_row ? 0 : tile_y * kTile<W> + t, column = a.one_column ? 0 : tile_x * kTile<W> + t;
        __syncthreads();
        if (a.one_row && a.one_column) {
            if (t < kTile<W>) columns_of_tile[t] = sum;
            __syncthreads();
            if (t == 0)
                for (int j = 1; j < kTile<W>; j++) sum += columns_of_tile[j];
        }
        const bool stores = a.one_row && a.one_column ? t == 0 : t < kTile<W>;
        if (stores && row < rows && column < columns) a.grad_mask.template store<T>((first + row) * columns + column, sum);
        __syncthreads();
    }
}

// ---- windows

constexpr int64_t kMostTokens = 144, kQueryBytes = 18432;

// Whether a block takes a whole head.
template <class W>
bool is_window(const AttentionShape& s) {
    const bool one_tile = s.S <= kTile<W>, fits = s.L * s.E * int64_t(sizeof(W)) <= kQueryBytes;
    return s.G == 1 && s.L > 0 && s.S > 0 && s.L <= kMostTokens && s.S <= kMostTokens && s.E <= kTile<W> && s.F <= kTile<W> &&
           (one_tile || fits);
}

template <class T>
__global__ void windows(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ SquareMemory<T> memory;
    __shared__ W by_query[kQueryBytes / sizeof(W)];  // [row][column], each element one thread's
    const AttentionShape& s = a.s;
    const bool one_tile = a.row_tiles == 1 && a.key_tiles == 1;
    for (int64_t item = blockIdx.x; item < a.mask_planes.own * a.parts; item += gridDim.x) {
        const int64_t plane = item % a.mask_planes.own, part = item / a.mask_planes.own;
        const int64_t last = up_to((part + 1) * a.part_steps, a.steps);
        if (threadIdx.x == 0) memory.careful = false;
        __syncthreads();
        Sums<T> by_mask;
        by_mask.clear();
        for (int64_t step = part * a.part_steps; step < last; step++) {
            const GradHead head(a, a.mask_planes.flat(plane, step));
            for (int64_t key = 0; key < s.S; key += kTile<W>) {
                Sums<T> by_key, by_value;
                by_key.clear(), by_value.clear();
                for (int64_t row = 0; row < s.L; row += kTile<W>) {
                    const KeyRange seen = head.template seen_by_tile<W>(s, row);
                    const bool any = key + kTile<W> > seen.first && key < seen.last;
                    GradTile<T> tile;
                    tile.masked.clear();
                    Sums<T> products;
                    products.clear();
                    if (any) {
                        const int64_t rows = up_to(s.L - row, kTile<W>), keys = up_to(head.length - key, kTile<W>);
                        grad_tile<T>(a, memory.panels, head, row, key, tile);
                        store_by_row(memory.square, tile.weights);
                        multiply_square<T>(by_value, memory, columns_of(head.grad_output, a.grad_output, row, rows, 0, s.F));
                        store_by_row(memory.square, tile.scores);
                        multiply_square<T>(by_key, memory, columns_of(head.query, a.query, row, rows, 0, s.E));
                        store_by_column(memory.square, tile.scores);
                        multiply_square<T>(products, memory, columns_of(head.key, a.key, key, keys, 0, s.E));
                    }
                    FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++)
                        FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                            const int64_t l = row + row_of<T>(i), x = column_of<T>(j);
                            by_mask.at[i][j] += tile.masked.at[i][j];
                            if (l >= s.L) continue;
                            if (!one_tile && a.grad_mask.data && key + x < s.S) {
                                W& sum = static_cast<W*>(a.grad_mask.data)[(item * s.L + l) * s.S + key + x];
                                sum = step == part * a.part_steps ? tile.masked.at[i][j] : sum + tile.masked.at[i][j];
                            }
                            if (a.key_tiles == 1 || x >= s.E) continue;
                            W& sum = by_query[l * s.E + x];
                            sum = key == 0 ? products.at[i][j] : sum + products.at[i][j];
                            products.at[i][j] = sum;
                        }
                    if (key + kTile<W> >= s.S)
                        store_rows<T>(a.grad_query, products, head.flat * s.L, row, s.L, 0, s.E, W(s.scale));
                }
                store_rows<T>(a.grad_key, by_key, head.flat * s.S, key, s.S, 0, s.E, W(s.scale));
                store_rows<T>(a.grad_value, by_value, head.flat * s.S, key, s.S, 0, s.F, W(1));
            }
        }
        if (one_tile && a.grad_mask.data) store_rows<T>(a.grad_mask, by_mask, item * s.L, 0, s.L, 0, s.S, W(1));
    }
}

// ---- calls

// What the workspace has, and where.
struct Plan {
    int64_t delta = 0, query = 0, key = 0, value = 0, mask = 0, bytes = 0;
    bool wide_query = false, wide_key = false, wide_value = false;
    Planes mask_planes;
    bool one_row = false, one_column = false, window = false, in_memory = false;
    int64_t row_tiles, key_tiles, steps = 1, parts = 1, part_steps = 1;

    Plan(const AttentionCall& c, const AttentionGradients& g, Dtype dtype) {
        const AttentionShape& s = c.s;
        const int64_t tile = dtype == Dtype::float64 ? kTile<double> : kTile<float>, item = dtype == Dtype::float64 ? 8 : 4;
        row_tiles = tiles_of(s.L, tile), key_tiles = tiles_of(s.S, tile);
        const auto take = [&](int64_t elements) {
            const int64_t at = bytes;
            bytes += tiles_of(elements * item, 16) * 16;
            return at;
        };
        delta = take(s.N * s.H * s.G * s.L);
        const auto take_wide = [&](const SharedResult& result, int64_t of_heads, int64_t elements, int64_t& at) {
            const bool wide = planes_of(s, result, of_heads).sharing != 1;
            if (wide) at = take(s.N * of_heads * elements);
            return wide;
        };
        wide_query = take_wide(g.query, s.H * s.G, s.L * s.E, query);
        wide_key = take_wide(g.key, s.H, s.S * s.E, key);
        wide_value = take_wide(g.value, s.H, s.S * s.F, value);
        window = dtype == Dtype::float64 ? is_window<double>(s) : is_window<float>(s);
        if (!g.mask.data) {
            mask_planes.add(s.N * s.H, false);  // a window's step is its head
            return;
        }
        constexpr int64_t kFewestSteps = 4, kBlocks = 512;
        mask_planes = planes_of(s, g.mask, s.H * s.G);
        one_row = g.mask.shared[s.batch_axes + 1], one_column = g.mask.shared[s.batch_axes + 2];
        window = window && !one_row && !one_column;
        const int64_t own_rows = one_row || window ? 1 : row_tiles, own_columns = one_column || window ? 1 : key_tiles;
        steps = mask_planes.sharing * (one_row ? row_tiles : 1) * (one_column ? key_tiles : 1);
        const int64_t blocks = mask_planes.own * own_rows * own_columns;
        const int64_t wanted = blocks > 0 ? tiles_of(kBlocks, blocks) : 1, most = tiles_of(steps, kFewestSteps);
        parts = wanted < most ? wanted : most;
        part_steps = parts > 0 ? tiles_of(steps, parts) : 1;
        parts = steps > 0 ? tiles_of(steps, part_steps) : 1;
        in_memory = parts > 1 || (window && row_tiles * key_tiles > 1);
        if (in_memory) mask = take(parts * mask_elements(s));
    }
    int64_t mask_elements(const AttentionShape& s) const {
        return mask_planes.own * (one_row ? 1 : s.L) * (one_column ? 1 : s.S);
    }
    // Of an array that has so many heads where it does not broadcast.
    static Planes planes_of(const AttentionShape& s, const SharedResult& result, int64_t heads) {
        Planes planes;
        for (int axis = 0; axis < s.batch_axes; axis++) planes.add(s.batch[axis], result.shared[axis]);
        planes.add(heads, result.shared[s.batch_axes]);
        return planes;
    }
};

template <class T, int kChunks>
void queue_gradients(Arguments a, Queue queue) {
    using W = typename Wide<T>::type;
    const AttentionShape& s = a.s;
    const auto chunks = [](int64_t columns) {
        const int64_t needed = tiles_of(columns, kChunks * kTile<W>);
        return needed > 0 ? needed : int64_t(1);
    };
    a.chunks = chunks(s.E > s.F ? s.E : s.F);
    launch(kOp, grad_keys<T, kChunks>, blocks_for(s.N * s.H * a.key_tiles * a.chunks, 1), kTileThreads, queue, a);
    a.chunks = chunks(s.E);
    launch(kOp, grad_queries<T, kChunks>, blocks_for(s.N * s.H * s.G * a.row_tiles * a.chunks, 1), kTileThreads, queue, a);
}

}  // namespace

int64_t attention_grad_workspace_bytes(const AttentionCall& c, const AttentionGradients& g, Dtype dtype) {
    return Plan(c, g, dtype).bytes;
}

void attention_grad(const AttentionCall& c, const AttentionGradients& g, Dtype dtype, void* workspace, Queue queue) {
    const OnDevice here(queue.device);
    const AttentionShape& s = c.s;
    const Plan plan(c, g, dtype);
    char* const memory = static_cast<char*>(workspace);
    Arguments a(c);
    a.grad_output = g.grad_output, a.result = g.output, a.lse = g.lse;
    a.delta = memory + plan.delta;
    a.grad_query = plan.wide_query ? Target{memory + plan.query, true} : Target{g.query.data, false};
    a.grad_key = plan.wide_key ? Target{memory + plan.key, true} : Target{g.key.data, false};
    a.grad_value = plan.wide_value ? Target{memory + plan.value, true} : Target{g.value.data, false};
    a.grad_mask = plan.in_memory ? Target{memory + plan.mask, true} : Target{g.mask.data, false};
    a.row_tiles = plan.row_tiles, a.key_tiles = plan.key_tiles;
    a.mask_planes = plan.mask_planes, a.one_row = plan.one_row, a.one_column = plan.one_column;
    a.steps = plan.steps, a.parts = plan.parts, a.part_steps = plan.part_steps;
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        using W = typename Wide<T>::type;
        launch(kOp, deltas<T>, blocks_for(s.N * s.H * s.G * s.L, kSide), kTileThreads, queue, a);
        if (plan.window)
            launch(kOp, windows<T>, blocks_for(a.mask_planes.own * a.parts, 1), kTileThreads, queue, a);
        else if (s.E <= kTile<W> && s.F <= kTile<W>)
            queue_gradients<T, 1>(a, queue);
        else
            queue_gradients<T, 2>(a, queue);
        const auto sum = [&](bool wide, const SharedResult& result, int64_t heads, int64_t elements, const void* from) {
            if (wide) queue_sum_planes<T>(kOp, Plan::planes_of(s, result, heads), elements, from, result.data, queue);
        };
        sum(plan.wide_query, g.query, s.H * s.G, s.L * s.E, a.grad_query.data);
        sum(plan.wide_key, g.key, s.H, s.S * s.E, a.grad_key.data);
        sum(plan.wide_value, g.value, s.H, s.S * s.F, a.grad_value.data);
        if (!g.mask.data) return;
        const int64_t tiles = (plan.one_row ? 1 : plan.row_tiles) * (plan.one_column ? 1 : plan.key_tiles);
        if (!plan.window)
            launch(kOp, grad_mask<T>, blocks_for(plan.parts * plan.mask_planes.own * tiles, 1), kTileThreads, queue, a);
        if (!plan.in_memory) return;
        Planes parts;
        parts.add(plan.parts, true);
        queue_sum_planes<T>(kOp, parts, plan.mask_elements(s), a.grad_mask.data, g.mask.data, queue);
    });
}

}  // namespace fastcv::cuda
