// Normal maps of all views -> one normal and one weight a face: the twin of fusion_server/surface/fuse.py.
//
// Votes are added as integers, 2^30 to the unit, so that their sum is the same in whatever order pixels come.
#include "kernel.h"

constexpr double UNIT = 1073741824.0;

extern "C" int fuse_normals(
    const int32_t* face, const double* rotation, const double* intrinsics, const float* normal, const float* trust,
    const float* distance, const double* face_normals, const double* areas, int64_t views, int64_t height,
    int64_t width, int64_t faces, const double* mean_area, double eroded, double grazing, int64_t* votes, double* fused,
    double* weight, double* agreement, void* stream
) {
    int failed = launch(4 * faces, stream, EACH (int64_t i) { votes[i] = 0; });
    if (failed) return failed;
    failed = launch(views * height * width, stream, EACH (int64_t i) {
        int64_t f = face[i];
        if (f < 0 || distance[i] < eroded) return;
        int64_t v = i / (height * width);
        const double *r = rotation + 9 * v, *k = intrinsics + 4 * v, *own = face_normals + 3 * f;
        double ry = (i / width % height - k[3]) / k[1], rx = (i % width - k[2]) / k[0];
        double n0 = normal[3 * i], n1 = normal[3 * i + 1], n2 = normal[3 * i + 2];
        double cosine = -(n0 * rx + n1 * ry + n2) / sqrt(rx * rx + ry * ry + 1.0);
        if (!(cosine >= grazing)) return;
        double w0 = r[0] * n0 + r[3] * n1 + r[6] * n2;
        double w1 = r[1] * n0 + r[4] * n1 + r[7] * n2;
        double w2 = r[2] * n0 + r[5] * n1 + r[8] * n2;
        if (w0 * own[0] + w1 * own[1] + w2 * own[2] <= 0.0) return;
        double vote = cosine * trust[i] * UNIT;
        atomic_add(votes + 4 * f, llrint(vote * w0));
        atomic_add(votes + 4 * f + 1, llrint(vote * w1));
        atomic_add(votes + 4 * f + 2, llrint(vote * w2));
        atomic_add(votes + 4 * f + 3, llrint(vote));
    });
    if (failed) return failed;
    return launch(faces, stream, EACH (int64_t f) {
        const double* own = face_normals + 3 * f;
        double n0 = votes[4 * f] / UNIT, n1 = votes[4 * f + 1] / UNIT, n2 = votes[4 * f + 2] / UNIT;
        double total = votes[4 * f + 3] / UNIT, size = sqrt(n0 * n0 + n1 * n1 + n2 * n2);
        double* out = fused + 3 * f;
        if (total < 1e-3 || size < 1e-6) {
            out[0] = own[0], out[1] = own[1], out[2] = own[2];
            weight[f] = agreement[f] = 0.0;
            return;
        }
        out[0] = n0 / size, out[1] = n1 / size, out[2] = n2 / size;
        double agreed = fmin(size / total, 1.0);
        double turn = fmax(n0 * own[0] + n1 * own[1] + n2 * own[2], 0.0) / size;
        agreement[f] = agreed;
        weight[f] = fmin(0.5 * total, 1.0) * agreed * agreed * agreed * agreed * turn * turn * areas[f] / *mean_area;
    });
}
