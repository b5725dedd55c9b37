// A rendered surface against the maps, pixel by pixel: the twins of fusion_server/surface/rigid_rows.py (which says what
// is computed) and of silhouette.overlap. Each thread sums over pixels of its own, and blocks add these sums in one order.
#include "kernel.h"

constexpr int SUMS = 27;  // 21 of a symmetric 6 x 6, row by row up to the diagonal, and 6 of the right side
constexpr int64_t CHUNKS = 2048;  // threads a view
constexpr double NORMAL_ENDS = 1e-9;

DEVICE bool smooth(const int32_t* face, const float* depth, int64_t at, int64_t width, double slack) {
    if (face[at] < 0) return false;
    const int64_t beside[4] = {at + 1, at - 1, at + width, at - width};
    for (int k = 0; k < 4; ++k)
        if (face[beside[k]] < 0 || fabsf(depth[beside[k]] - depth[at]) > slack) return false;
    return true;
}

// rendered: (V, H, W, 3) normals as the cameras would see them. parts: (V, SUMS, CHUNKS). out: (V, SUMS), in the cameras'
// frames. camera: (V, 3) where they stand. center: (3,), world, what rotations are about.
extern "C" int rigid_rows(
    const double* vertex_normals, const int32_t* faces, const int32_t* face, const float* bary, const float* depth,
    const float* observed, const float* trust, const float* distance, const double* intrinsics, const double* rotation,
    const double* camera, const double* center, int64_t views, int64_t height, int64_t width, double cut, double slack,
    int64_t every, double* rendered, double* parts, double* out, void* stream
) {
    int64_t pixels = height * width;
    int failed = launch(views * pixels, stream, EACH (int64_t i) {
        double* to = rendered + 3 * i;
        to[0] = to[1] = to[2] = 0.0;
        if (face[i] < 0) return;
        const int32_t* corner = faces + 3 * (int64_t)face[i];
        const double* r = rotation + 9 * (i / pixels);
        float u = bary[2 * i], w = bary[2 * i + 1];
        double n[3];
        for (int axis = 0; axis < 3; ++axis)
            n[axis] = u * vertex_normals[3 * (int64_t)corner[0] + axis] + w * vertex_normals[3 * (int64_t)corner[1] + axis]
                      + (1.0 - u - w) * vertex_normals[3 * (int64_t)corner[2] + axis];
        double scale = 1.0 / fmax(sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), NORMAL_ENDS);
        for (int axis = 0; axis < 3; ++axis)
            to[axis] = scale * (r[3 * axis] * n[0] + r[3 * axis + 1] * n[1] + r[3 * axis + 2] * n[2]);
    });
    if (failed) return failed;
    failed = launch(views * CHUNKS, stream, EACH (int64_t i) {
        int64_t v = i / CHUNKS, chunk = i % CHUNKS;
        double fx = intrinsics[4 * v], fy = intrinsics[4 * v + 1], cx = intrinsics[4 * v + 2], cy = intrinsics[4 * v + 3];
        const double *r = rotation + 9 * v, *c = camera + 3 * v;
        double middle[3], sum[SUMS];
        for (int k = 0; k < 3; ++k)
            middle[k] = r[3 * k] * (center[0] - c[0]) + r[3 * k + 1] * (center[1] - c[1]) + r[3 * k + 2] * (center[2] - c[2]);
        for (int k = 0; k < SUMS; ++k) sum[k] = 0.0;
        for (int64_t n = chunk; n < pixels; n += CHUNKS) {
            int64_t y = n / width, x = n % width, at = v * pixels + n;
            if (y < 1 || x < 1 || y >= height - 1 || x >= width - 1 || (x + y) % every) continue;
            if (distance[at] < 1.0 || !smooth(face, depth, at, width, slack)) continue;
            double z = depth[at], px = (x - cx) / fx, py = (y - cy) / fy;
            const double* own = rendered + 3 * at;
            double off[3], square = 0.0;
            for (int k = 0; k < 3; ++k) {
                off[k] = observed[3 * at + k] - own[k];
                square += off[k] * off[k];
            }
            double weight = every * trust[at] / (1.0 + square / (cut * cut));
            double d0 = px * z - middle[0], d1 = py * z - middle[1], d2 = z - middle[2];
            for (int k = 0; k < 3; ++k) {
                double gx = 0.5 * (own[3 + k] - own[k - 3]) * fx / z;
                double gy = 0.5 * (own[3 * width + k] - own[k - 3 * width]) * fy / z;
                double t0 = -gx, t1 = -gy, t2 = gx * px + gy * py;
                double row[6] = {d1 * t2 - d2 * t1, d2 * t0 - d0 * t2, d0 * t1 - d1 * t0, t0, t1, t2};
                if (k == 0) row[1] += own[2], row[2] -= own[1];
                else if (k == 1) row[0] -= own[2], row[2] += own[0];
                else row[0] += own[1], row[1] -= own[0];
                int place = 0;
                for (int p = 0; p < 6; ++p) {
                    double weighted = weight * row[p];
                    for (int q = 0; q <= p; ++q) sum[place++] += weighted * row[q];
                    sum[21 + p] += weighted * off[k];
                }
            }
        }
        for (int k = 0; k < SUMS; ++k) parts[(v * SUMS + k) * CHUNKS + chunk] = sum[k];
    });
    if (failed) return failed;
    return launch_blocks(views * SUMS, stream, EACH_BLOCK (int64_t block, double* shared) {
        PHASE (t) {
            shared[t] = 0.0;
            for (int64_t k = t; k < CHUNKS; k += THREADS) shared[t] += parts[block * CHUNKS + k];
        }
        double sum = block_sum(shared);
        PHASE (t) { if (t == 0) out[block] = sum; }
    });
}

// counts: (V, 2): pixels of a view that both masks cover, and that either does, where it is known.
extern "C" int overlap(
    const int32_t* face, const int8_t* inside, const double* known, const int8_t* blind, int64_t views, int64_t height,
    int64_t width, int64_t* counts, void* stream
) {
    int failed = launch(2 * views, stream, EACH (int64_t i) { counts[i] = 0; });
    if (failed) return failed;
    return launch(views * height, stream, EACH (int64_t i) {
        int64_t v = i / height, y = i % height, both = 0, either = 0;
        const double* k = known + 4 * v;
        if (blind[v] || y < k[1] || y > k[3]) return;
        for (int64_t x = 0; x < width; ++x) {
            if (x < k[0] || x > k[2]) continue;
            bool ours = face[i * width + x] >= 0, theirs = inside[i * width + x];
            both += ours && theirs, either += ours || theirs;
        }
        atomic_add(counts + 2 * v, both);
        atomic_add(counts + 2 * v + 1, either);
    });
}
