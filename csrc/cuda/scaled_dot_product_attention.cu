// Scaled dot product attention, fused: scores never leave a block's shared memory.
//
//   x[l][j] = scale * sum over e of query[l][e] key[j][e]       then, where asked for, softcap * tanh(x / softcap),
//             plus the mask, and -infinity for keys that the query does not see
//   lse[l]  = log(sum over j of exp(x[l][j]))
//   output[l][f] = sum over j of exp(x[l][j] - lse[l]) value[j][f]
//
// query (N, H G, L, E), key (N, H, S, E), value (N, H, S, F), output (N, H G, L, F).
//
//                 64 keys               A block has 64 queries of a head (32 in float64) and goes through the tiles of keys that
//               +---------+             any of them sees. Scores are sums over panels of tiles.h. Each row's largest so far is
//   64 queries  | weights |             known to all threads that have some of it, through shared memory; the weights 2^(x -
//               +---------+             largest) go to the square and are multiplied by the values. When the largest grows, the
//                    v                  row's output so far, in registers, is scaled down. The sum of a row's weights is kept
//               +---------+             in pieces, a thread each, which are added at the end.
//     64 keys   | values  |  64 or 128
//               +---------+  columns    More columns of values than 128 (64 in float64) are further blocks, which make the
//                                       scores anew.
//
// A window of an image, 49 or 144 tokens, is one or three such blocks, whose keys the second-level cache has.
//
// Sums of float16 and bfloat16, their weights and lse are float32. Sums have one order, so each call gives the same bits.
//
// `weights`, where asked for, are made by a second kernel, from lse. No figure has been measured.
//
// Maxim Milakov, Natalia Gimelshein: Online normalizer calculation for softmax. 2018.
// Tri Dao: FlashAttention-2: faster attention with better parallelism and work partitioning. 2023.
#include "attention.h"

namespace fastcv::cuda {
namespace {

struct Arguments : AttentionArguments {
    void *output, *lse, *weights;
    int64_t row_tiles, key_tiles, chunks;

    using AttentionArguments::AttentionArguments;
};

// What each row's threads have to tell each other.
template <class T, class W = typename Wide<T>::type>
using RowPieces = W[kTile<W>][kRowPieces<T> + 1];

// The largest, or the sum, of what the row's threads have, in their order.
template <class W, int kPitch, class Join>
__device__ W joined(const W (&pieces)[kTile<W>][kPitch], int row, const Join& join) {
    W result = pieces[row][0];
    for (int x = 1; x < kPitch - 1; x++) result = join(result, pieces[row][x]);
    return result;
}

template <class T, int kChunks>
__global__ void forward(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ SquareMemory<T> memory;
    __shared__ RowPieces<T> pieces;
    const AttentionShape& s = a.s;
    const int x = row_piece<T>();
    for (int64_t item = blockIdx.x; item < s.N * s.H * s.G * a.row_tiles * a.chunks; item += gridDim.x) {
        const int64_t column = item % a.chunks * (kChunks * kTile<W>);
        // Later rows may see more keys, and begin first.
        const int64_t row = (a.row_tiles - 1 - item / a.chunks % a.row_tiles) * kTile<W>;
        const Head head(a, item / a.chunks / a.row_tiles);
        if (threadIdx.x == 0) memory.careful = false;
        __syncthreads();
        Sums<T> output[kChunks];
        W largest[kRows<T>], sum[kRows<T>];
        FASTCV_UNROLL for (int c = 0; c < kChunks; c++) output[c].clear();
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) largest[i] = minus_infinity(W()), sum[i] = 0;

        const KeyRange seen = head.template seen_by_tile<W>(s, row);
        for (int64_t key = seen.first; key < seen.last; key += kTile<W>) {
            Sums<T> scores;
            score_tile<T>(a, memory.panels, head, row, key, scores);
            FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
                W most = scores.at[i][0];
                FASTCV_UNROLL for (int j = 1; j < kColumns<T>; j++) most = fmax(most, scores.at[i][j]);
                pieces[row_of<T>(i)][x] = most;
            }
            __syncthreads();
            FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
                const W found = joined(pieces, row_of<T>(i), [](W p, W q) { return fmax(p, q); });
                const W most = fmax(largest[i], found), shift = most == minus_infinity(W()) ? W(0) : most;
                const W before = exp2(largest[i] - shift);
                largest[i] = most;
                sum[i] *= before;
                FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                    FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) output[c].at[i][j] *= before;
                W kept[kColumns<T>];
                a.dropout.factors<T>(kept, head.flat, row + row_of<T>(i), key);
                FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                    const W weight = exp2(scores.at[i][j] - shift);
                    sum[i] += weight;
                    scores.at[i][j] = weight * kept[j];
                }
            }
            store_by_column(memory.square, scores);
            FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                if (c == 0 || column + c * kTile<W> < s.F)
                    multiply_square<T>(output[c], memory,
                                       columns_of(head.value, a.value, key, up_to(head.length - key, kTile<W>),
                                                  column + c * kTile<W>, s.F));
        }
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) pieces[row_of<T>(i)][x] = sum[i];
        __syncthreads();
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
            const int64_t l = row + row_of<T>(i);
            const W all = joined(pieces, row_of<T>(i), [](W p, W q) { return p + q; });
            if (l >= s.L) continue;
            const int64_t flat = head.flat * s.L + l;
            if (a.lse && column == 0 && x == 0)
                static_cast<W*>(a.lse)[flat] = all == 0 ? minus_infinity(W()) : largest[i] * kLn2<W> + log(all);
            FASTCV_UNROLL for (int c = 0; c < kChunks; c++)
                FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                    const int64_t f = column + c * kTile<W> + column_of<T>(j);
                    const W mean = all == 0 ? W(0) : output[c].at[i][j] / all;
                    if (f < s.F) static_cast<T*>(a.output)[flat * s.F + f] = narrow<T>(mean);
                }
        }
        __syncthreads();  // before the next item writes there
    }
}

// exp(x - lse) times what dropout makes of it, a tile a block.
template <class T>
__global__ void weights(Arguments a) {
    using W = typename Wide<T>::type;
    __shared__ TileMemory<T> memory;
    const AttentionShape& s = a.s;
    for (int64_t item = blockIdx.x; item < s.N * s.H * s.G * a.row_tiles * a.key_tiles; item += gridDim.x) {
        const int64_t key = item % a.key_tiles * kTile<W>, row = item / a.key_tiles % a.row_tiles * kTile<W>;
        const Head head(a, item / a.key_tiles / a.row_tiles);
        Sums<T> scores;
        score_tile<T>(a, memory, head, row, key, scores);
        FASTCV_UNROLL for (int i = 0; i < kRows<T>; i++) {
            const int64_t l = row + row_of<T>(i);
            if (l >= s.L) continue;
            const W lse = static_cast<const W*>(a.lse)[head.flat * s.L + l] * kLog2E<W>;
            W kept[kColumns<T>];
            a.dropout.factors<T>(kept, head.flat, l, key);
            FASTCV_UNROLL for (int j = 0; j < kColumns<T>; j++) {
                const int64_t k = key + column_of<T>(j);
                const bool none = scores.at[i][j] == minus_infinity(W()) || lse == minus_infinity(W());
                const W weight = none ? W(0) : exp2(scores.at[i][j] - lse) * kept[j];
                if (k < s.S) static_cast<T*>(a.weights)[(head.flat * s.L + l) * s.S + k] = narrow<T>(weight);
            }
        }
    }
}

template <class T, int kChunks>
void queue_forward(Arguments a, Queue queue) {
    using W = typename Wide<T>::type;
    a.chunks = tiles_of(a.s.F, kChunks * kTile<W>);
    if (a.chunks == 0) a.chunks = 1;  // lse may be wanted
    const int64_t items = a.s.N * a.s.H * a.s.G * a.row_tiles * a.chunks;
    launch("scaled_dot_product_attention", forward<T, kChunks>, blocks_for(items, 1), kTileThreads, queue, a);
}

}  // namespace

void attention(const AttentionCall& c, Dtype dtype, void* output, void* lse, void* weights_, Queue queue) {
    const OnDevice here(queue.device);
    Arguments a(c);
    a.output = output, a.lse = lse, a.weights = weights_;
    with_type(dtype, [&](auto value) {
        using T = decltype(value);
        using W = typename Wide<T>::type;
        a.row_tiles = tiles_of(c.s.L, kTile<W>);
        a.key_tiles = tiles_of(c.s.S, kTile<W>);
        if (c.s.F <= kTile<W>)
            queue_forward<T, 1>(a, queue);
        else
            queue_forward<T, 2>(a, queue);
        if (!weights_) return;
        const int64_t items = c.s.N * c.s.H * c.s.G * a.row_tiles * a.key_tiles;
        launch("scaled_dot_product_attention", weights<T>, blocks_for(items, 1), kTileThreads, queue, a);
    });
}

}  // namespace fastcv::cuda
