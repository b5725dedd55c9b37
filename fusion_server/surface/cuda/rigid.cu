// How the whole head moved: the twin of fusion_server/surface/rigid.py, which says what is solved. What it decides by how
// far a step went is decided here, in flags that later launches wait on.
#include "kernel.h"

constexpr int SUMS = 27;  // 21 of a symmetric 6 x 6, row by row up to the diagonal, and 6 of the right side
constexpr int64_t CHUNKS = 8192;

// out: (SUMS,) of the rows of contours (contour.cu), not yet divided by their variance. parts: (SUMS, CHUNKS).
extern "C" int contour_sums(
    const double* x, const int32_t* edges, const double* share, const double* gradient, const double* want,
    const double* weight, const double* center, int64_t views, int64_t edge_count, int64_t vertex_count, double* parts,
    double* out, void* stream
) {
    int64_t places = edge_count + vertex_count;
    int failed = launch(CHUNKS, stream, EACH (int64_t chunk) {
        double sum[SUMS];
        for (int k = 0; k < SUMS; ++k) sum[k] = 0.0;
        for (int64_t at = chunk; at < views * places; at += CHUNKS) {
            if (!(weight[at] > 0.0)) continue;
            int64_t place = at % places, i = place - edge_count, j = i;
            double s = share[at];
            if (place < edge_count) i = edges[2 * place], j = edges[2 * place + 1];
            else s = 0.0;  // a vertex, whichever end of an edge it is
            const double* g = gradient + 3 * at;
            double d[3];
            for (int k = 0; k < 3; ++k) d[k] = (1.0 - s) * x[3 * i + k] + s * x[3 * j + k] - center[k];
            double row[6] = {
                d[1] * g[2] - d[2] * g[1], d[2] * g[0] - d[0] * g[2], d[0] * g[1] - d[1] * g[0], g[0], g[1], g[2]
            };
            int to = 0;
            for (int p = 0; p < 6; ++p) {
                double weighted = weight[at] * row[p];
                for (int q = 0; q <= p; ++q) sum[to++] += weighted * row[q];
                sum[21 + p] += weighted * want[at];
            }
        }
        for (int k = 0; k < SUMS; ++k) parts[k * CHUNKS + chunk] = sum[k];
    });
    if (failed) return failed;
    return launch_blocks(SUMS, stream, EACH_BLOCK (int64_t block, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t k = t; k < CHUNKS; k += THREADS) shared[t] += parts[block * CHUNKS + k];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) out[block] = sum; }
    });
}

// Gauss' elimination with pivots of a 6 x 6 system and its right side, (6, 7).
DEVICE void solve6(double* a, double* x) {
    for (int k = 0; k < 6; ++k) {
        int pivot = k;
        for (int i = k + 1; i < 6; ++i)
            if (fabs(a[7 * i + k]) > fabs(a[7 * pivot + k])) pivot = i;
        for (int j = k; j < 7; ++j) {
            double held = a[7 * k + j];
            a[7 * k + j] = a[7 * pivot + j], a[7 * pivot + j] = held;
        }
        for (int i = k + 1; i < 6; ++i) {
            double share = a[7 * i + k] / a[8 * k];
            for (int j = k; j < 7; ++j) a[7 * i + j] -= share * a[7 * k + j];
        }
    }
    for (int k = 5; k >= 0; --k) {
        x[k] = a[7 * k + 6];
        for (int j = k + 1; j < 6; ++j) x[k] -= a[7 * k + j] * x[j];
        x[k] /= a[8 * k];
    }
}

// step: (6,) rotation vector and translation. sums: (V, SUMS) of pixels (pixels.cu), in the cameras' frames.
// rest: (6,), of which `at_rest` times is no motion. motion: rotation (3, 3) and translation (3,).
extern "C" int rigid_step(
    const double* sums, const double* rotation, const double* contours, const double* contour_weight, const double* rest,
    double at_rest, double sigma, int64_t views, double* step, double* motion, void* stream
) {
    return launch(1, stream, EACH (int64_t) {
        double a[42], s[36], trace = 0.0;
        for (int k = 0; k < 42; ++k) a[k] = 0.0;
        for (int64_t v = 0; v < views; ++v) {
            const double *own = sums + SUMS * v, *r = rotation + 9 * v;
            for (int p = 0, at = 0; p < 6; ++p)
                for (int q = 0; q <= p; ++q, ++at) s[6 * p + q] = s[6 * q + p] = own[at];
            for (int p = 0; p < 6; ++p)
                for (int q = 0; q < 6; ++q) {
                    double turned = 0.0;  // of block (p / 3, q / 3), r^T s r
                    for (int i = 0; i < 3; ++i)
                        for (int j = 0; j < 3; ++j)
                            turned += r[3 * i + p % 3] * s[6 * (p / 3 * 3 + i) + q / 3 * 3 + j] * r[3 * j + q % 3];
                    a[7 * p + q] += turned / (sigma * sigma);
                }
            for (int p = 0; p < 6; ++p)
                for (int i = 0; i < 3; ++i) a[7 * p + 6] += r[3 * i + p % 3] * own[21 + p / 3 * 3 + i] / (sigma * sigma);
        }
        for (int p = 0, at = 0; p < 6; ++p) {
            for (int q = 0; q <= p; ++q, ++at) {
                a[7 * p + q] += *contour_weight * contours[at];
                if (q < p) a[7 * q + p] += *contour_weight * contours[at];
            }
            a[7 * p + 6] += *contour_weight * contours[21 + p];
        }
        for (int k = 0; k < 6; ++k) trace += a[8 * k];
        for (int k = 0; k < 6; ++k) a[8 * k] += 1e-9 * trace + 1e-9;
        solve6(a, step);
        for (int k = 0; k < 6; ++k) step[k] -= at_rest * rest[k];
        double angle = sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2]);  // Rodrigues
        double over = angle < 1e-12 ? 0.0 : 1.0 / angle, x = step[0] * over, y = step[1] * over, z = step[2] * over;
        double sine = sin(angle), rise = 1.0 - cos(angle);
        double cross[9] = {0, -z, y, z, 0, -x, -y, x, 0};
        for (int p = 0; p < 3; ++p)
            for (int q = 0; q < 3; ++q) {
                double square = 0.0;
                for (int i = 0; i < 3; ++i) square += cross[3 * p + i] * cross[3 * i + q];
                motion[3 * p + q] = (p == q) + sine * cross[3 * p + q] + rise * square;
            }
        for (int k = 0; k < 3; ++k) motion[9 + k] = step[3 + k];
    });
}

DEVICE double there(const double* x, const double* center, const double* motion, int k) {
    const double* r = motion + 3 * k;
    return r[0] * (x[0] - center[0]) + r[1] * (x[1] - center[1]) + r[2] * (x[2] - center[2]) + center[k] + motion[9 + k];
}

// The vertices moved. largest: metres that one goes; where that is `farthest` or more, none moves and it is 0; where it is
// less than `least`, none moves. to: may be x.
extern "C" int rigid_move(
    const double* x, const double* center, const double* motion, double least, double farthest, int64_t vertex_count,
    double* largest, double* to, void* stream
) {
    int failed = launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t i = t; i < vertex_count; i += THREADS) {
                double square = 0.0;
                for (int k = 0; k < 3; ++k) {
                    double by = there(x + 3 * i, center, motion, k) - x[3 * i + k];
                    square += by * by;
                }
                shared[t] = square == square ? fmax(shared[t], square) : INFINITY;
            }
        }
        double most = block_max(shared);
        PHASE (t) { if (t == 0) *largest = sqrt(most); }
    });
    if (failed) return failed;
    failed = launch(vertex_count, stream, EACH (int64_t i) {
        bool moves = *largest < farthest && *largest >= least;
        double p[3] = {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
        for (int k = 0; k < 3; ++k) to[3 * i + k] = moves ? there(p, center, motion, k) : p[k];
    });
    if (failed) return failed;
    return launch(1, stream, EACH (int64_t) {
        if (!(*largest < farthest)) *largest = 0.0;
    });
}

// After the first step on the finest maps: whether to begin anew on coarse ones, and whether to take another here.
extern "C" int after_first(
    const double* largest, double far, double still, int32_t* coarse, int32_t* again, int32_t* more, void* stream
) {
    return launch(1, stream, EACH (int64_t) { *coarse = *largest > far, *again = 0, *more = *largest >= still; });
}

// Whether a step of this size asks for another.
extern "C" int after_step(const double* largest, double least, int32_t* more, void* stream) {
    return launch(1, stream, EACH (int64_t) { *more = *largest >= least; });
}

// Whether a vertex went further than that; and, the other flag, whether none did.
extern "C" int went_far(
    const double* from, const double* to, double fast, int64_t vertex_count, int32_t* moved, int32_t* steady, void* stream
) {
    return launch_blocks(1, stream, EACH_BLOCK (int64_t, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t i = t; i < vertex_count; i += THREADS) {
                double x = to[3 * i] - from[3 * i], y = to[3 * i + 1] - from[3 * i + 1], z = to[3 * i + 2] - from[3 * i + 2];
                shared[t] = fmax(shared[t], x * x + y * y + z * z);
            }
        }
        double most = sqrt(block_max(shared));
        PHASE (t) { if (t == 0) *moved = most > fast, *steady = !(most > fast); }
    });
}
