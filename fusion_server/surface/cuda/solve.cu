// Rows of fused normals and the conjugate gradients: the twins of System.add_normals and System.solve in
// fusion_server/surface/solve.py. Each vertex and each edge gathers its own sums, so nothing is added in a race, and the
// dot products are summed block by block in one order: a frame gives the same mesh each time.
#include "kernel.h"

// One edge (i, j) of a face with its wanted normal: what its row is.
DEVICE void row(
    const double* x, const double* v, const double* wanted, int64_t i, int64_t j, double& a, double& b, double& tilt
) {
    double e0 = x[3 * i] - x[3 * j], e1 = x[3 * i + 1] - x[3 * j + 1], e2 = x[3 * i + 2] - x[3 * j + 2];
    double scale = 1.0 / fmax(sqrt(e0 * e0 + e1 * e1 + e2 * e2), 1e-9);
    tilt = (wanted[0] * e0 + wanted[1] * e1 + wanted[2] * e2) * scale;
    a = (wanted[0] * v[3 * i] + wanted[1] * v[3 * i + 1] + wanted[2] * v[3 * i + 2]) * scale;
    b = (wanted[0] * v[3 * j] + wanted[1] * v[3 * j + 1] + wanted[2] * v[3 * j + 2]) * scale;
}

// start, at: faces at each vertex. side_start, side: for each edge, 3 * face + corner of the faces that have it.
extern "C" int normal_rows(
    const double* x, const double* v, const int32_t* faces, const double* wanted, const double* weights,
    const int32_t* start, const int32_t* at, const int32_t* side_start, const int32_t* side, int64_t vertices,
    int64_t edges, double* diagonal, double* off, double* right, void* stream
) {
    int failed = launch(vertices, stream, EACH (int64_t i) {
        double square = 0.0, pull = 0.0;
        for (int64_t n = start[i]; n < start[i + 1]; ++n) {
            int64_t f = at[n];
            if (!(weights[f] > 0.0)) continue;
            for (int k = 0; k < 3; ++k) {
                int64_t p = faces[3 * f + k], q = faces[3 * f + (k + 1) % 3];
                if (p != i && q != i) continue;
                double a, b, tilt;
                row(x, v, wanted + 3 * f, p, q, a, b, tilt);
                double own = p == i ? a : -b;
                square += weights[f] * own * own;
                pull -= weights[f] * own * tilt;
            }
        }
        diagonal[i] += square;
        right[i] += pull;
    });
    if (failed) return failed;
    return launch(edges, stream, EACH (int64_t e) {
        double product = 0.0;
        for (int64_t n = side_start[e]; n < side_start[e + 1]; ++n) {
            int64_t f = side[n] / 3, k = side[n] % 3;
            if (!(weights[f] > 0.0)) continue;
            double a, b, tilt;
            row(x, v, wanted + 3 * f, faces[3 * f + k], faces[3 * f + (k + 1) % 3], a, b, tilt);
            product += weights[f] * a * b;
        }
        off[e] -= product;
    });
}

// The sum of one number a block, known to every thread of this block afterwards.
DEVICE double summed(const double* parts, int64_t count, double* shared) {
    PHASE (t) {
        shared[t] = 0.0;
        for (int64_t k = t; k < count; k += THREADS) shared[t] += parts[k];
    }
    return block_sum(shared);
}

// Two launches a step. parts: (1 + steps + 1 + steps, blocks): of the right side's size, of r . z and of p . q of each
// step. p: two of them, the last step's and this one's, so that neighbours' are read while new ones are written.
extern "C" int conjugate_gradients(
    const double* diagonal, const double* off, const int32_t* start, const int32_t* neighbour, const int32_t* link,
    const double* right, int64_t count, int64_t steps, double* x, double* r, double* z, double* p, double* q,
    double* parts, void* stream
) {
    int64_t blocks = (count + THREADS - 1) / THREADS;
    double *sizes = parts, *falls = parts + blocks, *products = falls + (steps + 1) * blocks;
    int failed = launch_blocks(blocks, stream, EACH_BLOCK (int64_t block, double* shared) {
        PHASE (t) {
            int64_t i = block * THREADS + t;
            shared[t] = 0.0;
            if (i < count) {
                x[i] = 0.0, r[i] = right[i], z[i] = right[i] / diagonal[i];
                p[i] = p[count + i] = 0.0;
                shared[t] = right[i] * z[i];
            }
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) sizes[block] = falls[block] = sum; }
    });
    for (int64_t step = 0; step < steps && !failed; ++step) {
        const double* before = p + (step + 1) % 2 * count;
        double* now = p + step % 2 * count;
        const double *fall = falls + step * blocks, *last = step ? fall - blocks : fall;
        double *product = products + step * blocks, *next = falls + (step + 1) * blocks;
        failed = launch_blocks(blocks, stream, EACH_BLOCK (int64_t block, double* shared) {
            double above = summed(fall, blocks, shared), below = summed(last, blocks, shared);
            double beta = step && below > 0.0 ? above / below : 0.0;
            PHASE (t) {
                int64_t i = block * THREADS + t;
                shared[t] = 0.0;
                if (i < count) {
                    double own = z[i] + beta * before[i], total = diagonal[i] * own;
                    for (int64_t n = start[i]; n < start[i + 1]; ++n) {
                        int64_t j = neighbour[n];
                        total += off[link[n]] * (z[j] + beta * before[j]);
                    }
                    now[i] = own, q[i] = total;
                    shared[t] = own * total;
                }
            }
            double sum = block_sum(shared);
            PHASE (t) { if (t == 0) product[block] = sum; }
        });
        if (failed) return failed;
        failed = launch_blocks(blocks, stream, EACH_BLOCK (int64_t block, double* shared) {
            double least = 1e-16 * fmax(summed(sizes, blocks, shared), 1e-300);
            double above = summed(fall, blocks, shared), below = summed(product, blocks, shared);
            double alpha = above > least && below != 0.0 ? above / below : 0.0;  // 0: solved, nothing moves any more
            PHASE (t) {
                int64_t i = block * THREADS + t;
                shared[t] = 0.0;
                if (i < count) {
                    x[i] += alpha * now[i];
                    r[i] -= alpha * q[i];
                    z[i] = r[i] / diagonal[i];
                    shared[t] = r[i] * z[i];
                }
            }
            double sum = block_sum(shared);
            PHASE (t) { if (t == 0) next[block] = sum; }
        });
    }
    return failed;
}
