// What a track remembers of its keyframe: the twins of fusion_server/surface/bias.py and rest.py.
#include "kernel.h"

// Two unit vectors within a face, at right angles: along its first edge, and the normal's product with that.
DEVICE void axes(const double* x, const int32_t* face, const double* n, double* u, double* w) {
    const double *a = x + 3 * (int64_t)face[0], *b = x + 3 * (int64_t)face[1];
    u[0] = b[0] - a[0], u[1] = b[1] - a[1], u[2] = b[2] - a[2];
    double scale = 1.0 / fmax(sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2]), 1e-12);
    u[0] *= scale, u[1] *= scale, u[2] *= scale;
    w[0] = n[1] * u[2] - n[2] * u[1], w[1] = n[2] * u[0] - n[0] * u[2], w[2] = n[0] * u[1] - n[1] * u[0];
}

// share: of the tilt that is still there, with one more frame seen. sums: (2,), of what is seen again and of all.
extern "C" int seen_again(
    const double* x, const int32_t* faces, const double* face_normals, const double* normal, const double* weight,
    const double* tilt, int64_t face_count, double learn, double* sums, double* share, void* stream
) {
    int failed = launch_blocks(2, stream, EACH_BLOCK (int64_t block, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t f = t; f < face_count; f += THREADS) {
                if (!(weight[f] > 0.0)) continue;
                const double *own = tilt + 2 * f, *n = normal + 3 * f;
                double u[3], w[3], s = own[0], r = own[1];
                axes(x, faces + 3 * f, face_normals + 3 * f, u, w);
                if (!block) s = n[0] * u[0] + n[1] * u[1] + n[2] * u[2], r = n[0] * w[0] + n[1] * w[1] + n[2] * w[2];
                shared[t] += weight[f] * (s * own[0] + r * own[1]);
            }
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) sums[block] = sum; }
    });
    if (failed) return failed;
    return launch(1, stream, EACH (int64_t) {
        double left = sums[1] > 0.0 ? fmin(fmax(sums[0] / sums[1], 0.0), 1.0) : 1.0;
        *share += learn * (left - *share);
    });
}

// The fused normals without the tilt, and what they count: weight, where all corners are within, over trusted^2.
extern "C" int wanted_normals(
    const double* x, const int32_t* faces, const double* face_normals, const double* normal, const double* weight,
    const double* tilt, const double* share, const int8_t* unseen, const double* trusted, int64_t face_count,
    double* wanted, double* counts, void* stream
) {
    return launch(face_count, stream, EACH (int64_t f) {
        const int32_t* corner = faces + 3 * f;
        double u[3], w[3], n[3], s = *share * tilt[2 * f], r = *share * tilt[2 * f + 1];
        axes(x, corner, face_normals + 3 * f, u, w);
        for (int k = 0; k < 3; ++k) n[k] = normal[3 * f + k] - s * u[k] - r * w[k];
        double scale = 1.0 / fmax(sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-9);
        for (int k = 0; k < 3; ++k) wanted[3 * f + k] = n[k] * scale;
        bool within = !unseen[corner[0]] && !unseen[corner[1]] && !unseen[corner[2]];
        counts[f] = within ? weight[f] / (*trusted * *trusted) : 0.0;
    });
}

// The rotation (by a unit quaternion) that a 4 x 4 symmetric matrix has for its largest eigenvalue, by Jacobi's turns.
DEVICE void largest_rotation(double* m, double* r) {
    double v[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    for (int sweep = 0; sweep < 20; ++sweep)
        for (int p = 0; p < 3; ++p)
            for (int q = p + 1; q < 4; ++q) {
                double off = m[4 * p + q];
                if (fabs(off) <= 1e-300) continue;
                double theta = 0.5 * (m[5 * q] - m[5 * p]) / off;
                double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
                double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
                for (int k = 0; k < 4; ++k) {
                    double a = m[4 * k + p], b = m[4 * k + q];
                    m[4 * k + p] = c * a - s * b, m[4 * k + q] = s * a + c * b;
                    a = v[4 * k + p], b = v[4 * k + q];
                    v[4 * k + p] = c * a - s * b, v[4 * k + q] = s * a + c * b;
                }
                for (int k = 0; k < 4; ++k) {
                    double a = m[4 * p + k], b = m[4 * q + k];
                    m[4 * p + k] = c * a - s * b, m[4 * q + k] = s * a + c * b;
                }
            }
    int top = 0;
    for (int k = 1; k < 4; ++k)
        if (m[5 * k] > m[5 * top]) top = k;
    double w = v[top], x = v[4 + top], y = v[8 + top], z = v[12 + top];
    double over = 2.0 / (w * w + x * x + y * y + z * z);
    r[0] = 1.0 - over * (y * y + z * z), r[1] = over * (x * y - w * z), r[2] = over * (x * z + w * y);
    r[3] = over * (x * y + w * z), r[4] = 1.0 - over * (x * x + z * z), r[5] = over * (y * z - w * x);
    r[6] = over * (x * z - w * y), r[7] = over * (y * z + w * x), r[8] = 1.0 - over * (x * x + y * y);
}

// motion: rotation (3, 3) and shift (3,) that lay the seen vertices of a pose onto x. middle: (3,) of these in the pose.
// Horn's closed form (JOSA A 4, 1987); geometry.align has Kabsch's, which finds the same. sums: (12,), room.
extern "C" int laid_onto(
    const double* pose, const double* middle, const int8_t* unseen, double seen_count, const double* x,
    int64_t vertex_count, double* sums, double* motion, void* stream
) {
    int failed = launch_blocks(12, stream, EACH_BLOCK (int64_t block, double* shared) {
        int64_t row = block / 3, column = block % 3;
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t i = t; i < vertex_count; i += THREADS)
                if (!unseen[i]) shared[t] += (row < 3 ? pose[3 * i + row] - middle[row] : 1.0) * x[3 * i + column];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) sums[block] = sum; }
    });
    if (failed) return failed;
    return launch(1, stream, EACH (int64_t) {
        const double* s = sums;
        double m[16] = {
            s[0] + s[4] + s[8], s[5] - s[7], s[6] - s[2], s[1] - s[3],
            s[5] - s[7], s[0] - s[4] - s[8], s[1] + s[3], s[6] + s[2],
            s[6] - s[2], s[1] + s[3], s[4] - s[0] - s[8], s[5] + s[7],
            s[1] - s[3], s[6] + s[2], s[5] + s[7], s[8] - s[0] - s[4],
        };
        largest_rotation(m, motion);
        for (int k = 0; k < 3; ++k)
            motion[9 + k] = s[9 + k] / seen_count - motion[3 * k] * middle[0] - motion[3 * k + 1] * middle[1]
                            - motion[3 * k + 2] * middle[2];
    });
}

DEVICE double laid(const double* motion, const double* p, int k) {
    return motion[3 * k] * p[0] + motion[3 * k + 1] * p[1] + motion[3 * k + 2] * p[2] + motion[9 + k];
}

// The unseen vertices to where the others take them. inner: their numbers, level by level: none of a level needs another
// of it, and whoever comes before it in the CPU's order is in an earlier level or waits for it in a later one.
extern "C" int carried(
    const double* pose, const double* motion, const int8_t* unseen, const int32_t* start, const int32_t* neighbour,
    const int32_t* inner, const int32_t* level_start, int64_t levels, int64_t sweeps, int64_t vertex_count, double* off,
    double* x, void* stream
) {
    int failed = launch(vertex_count, stream, EACH (int64_t i) {
        for (int k = 0; k < 3; ++k) off[3 * i + k] = x[3 * i + k] - laid(motion, pose + 3 * i, k);
    });
    if (failed) return failed;
    failed = launch_blocks(1, stream, EACH_BLOCK (int64_t, double*) {
        for (int64_t round = 0; round < sweeps; ++round)
            for (int64_t level = 0; level < levels; ++level) {
                PHASE (t) {
                    for (int64_t m = level_start[level] + t; m < level_start[level + 1]; m += THREADS) {
                        int64_t i = inner[m], count = start[i + 1] - start[i];
                        double sum[3] = {0.0, 0.0, 0.0};
                        for (int64_t n = start[i]; n < start[i + 1]; ++n)
                            for (int k = 0; k < 3; ++k) sum[k] += off[3 * (int64_t)neighbour[n] + k];
                        for (int k = 0; k < 3; ++k) off[3 * i + k] = sum[k] / count;
                    }
                }
                BARRIER;
            }
    });
    if (failed) return failed;
    return launch(vertex_count, stream, EACH (int64_t i) {
        if (unseen[i])
            for (int k = 0; k < 3; ++k) x[3 * i + k] = laid(motion, pose + 3 * i, k) + off[3 * i + k];
    });
}
