// A z-buffer for all views at once. The arithmetic is that of geometry/rasterize/cpu.py, in doubles: a face a thread,
// large faces a block; the nearest wins by an atomic maximum on one word a pixel, and a last pass per pixel works out
// what the winner is like there.
//
// The word is (40 bits of 1/z, 24 bits of the face's number from the top down): a positive double's bits grow with it,
// so the upper 40 order 1/z to 4e-9 of itself, and of faces that are alike to that the first one wins. 0 is no face.
#include "kernel.h"

constexpr double ON_EDGE = 1e-9;  // share of a face by which a pixel may lie outside, as on the CPU
constexpr int FACE_BITS = 24;
constexpr uint64_t LAST_FACE = (1ull << FACE_BITS) - 1;
constexpr int64_t LARGE = 512;  // pixels of a bounding box above which a face gets a block
constexpr int64_t LARGE_BLOCKS = 512;

struct Triangle {
    double aw, bw, cw;  // 1 / z of the corners
    double u0, v0, u_right, v_right, u_below, v_below;
    int64_t x0, x1, y0, y1;
    bool drawn;
};

DEVICE Triangle triangle(const double* screen, const int32_t* face, int64_t width, int64_t height) {
    Triangle t;
    const double *a = screen + 3 * (int64_t)face[0], *b = screen + 3 * (int64_t)face[1], *c = screen + 3 * (int64_t)face[2];
    t.drawn = false;
    t.aw = a[2], t.bw = b[2], t.cw = c[2];
    if (t.aw < 0 || t.bw < 0 || t.cw < 0) return t;
    double left = ceil(fmin(fmin(a[0], b[0]), c[0])), right = floor(fmax(fmax(a[0], b[0]), c[0]));
    double top = ceil(fmin(fmin(a[1], b[1]), c[1])), bottom = floor(fmax(fmax(a[1], b[1]), c[1]));
    left = fmax(left, 0.0), right = fmin(right, width - 1.0);
    top = fmax(top, 0.0), bottom = fmin(bottom, height - 1.0);
    double area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    if (!(left <= right) || !(top <= bottom) || !(fabs(area) >= 1e-12)) return t;
    t.x0 = (int64_t)left, t.x1 = (int64_t)right, t.y0 = (int64_t)top, t.y1 = (int64_t)bottom;
    double inverse = 1.0 / area;
    t.u_right = (b[1] - c[1]) * inverse, t.u_below = (c[0] - b[0]) * inverse;
    t.v_right = (c[1] - a[1]) * inverse, t.v_below = (a[0] - c[0]) * inverse;
    t.u0 = ((b[0] - t.x0) * (c[1] - t.y0) - (b[1] - t.y0) * (c[0] - t.x0)) * inverse;
    t.v0 = ((c[0] - t.x0) * (a[1] - t.y0) - (c[1] - t.y0) * (a[0] - t.x0)) * inverse;
    t.drawn = true;
    return t;
}

DEVICE void weights(const Triangle& t, int64_t x, int64_t y, double& u, double& v, double& near) {
    u = t.u0 + (y - t.y0) * t.u_below + (x - t.x0) * t.u_right;
    v = t.v0 + (y - t.y0) * t.v_below + (x - t.x0) * t.v_right;
    near = u * (t.aw - t.cw) + v * (t.bw - t.cw) + t.cw;
}

DEVICE void cover(const Triangle& t, int64_t f, int64_t x, int64_t y, int64_t width, uint64_t* words) {
    double u, v, near;
    weights(t, x, y, u, v, near);
    if (!(u >= -ON_EDGE && v >= -ON_EDGE && u + v <= 1.0 + ON_EDGE) || !(near > 0)) return;
    uint64_t word = ((uint64_t)bits_of(near) >> FACE_BITS << FACE_BITS) | (LAST_FACE - (uint64_t)f);
    atomic_max(words + y * width + x, word);
}

extern "C" int rasterize(
    const double* vertices, const int32_t* faces, const double* matrices, int64_t views, int64_t vertex_count,
    int64_t face_count, int64_t height, int64_t width, double nearest, double* screen, uint64_t* words, int32_t* large,
    int32_t* large_count, int32_t* face, float* bary, float* depth, void* stream
) {
    int64_t pixels = height * width;
    int failed = launch(views * pixels, stream, EACH (int64_t i) {
        words[i] = 0;
        if (i == 0) *large_count = 0;
    });
    if (failed) return failed;
    failed = launch(views * vertex_count, stream, EACH (int64_t i) {
        const double *m = matrices + i / vertex_count * 12, *p = vertices + i % vertex_count * 3;
        double* out = screen + 3 * i;
        double w = m[8] * p[0] + m[9] * p[1] + m[10] * p[2] + m[11];
        out[0] = (m[0] * p[0] + m[1] * p[1] + m[2] * p[2] + m[3]) / w;
        out[1] = (m[4] * p[0] + m[5] * p[1] + m[6] * p[2] + m[7]) / w;
        out[2] = w >= nearest ? 1.0 / w : -1.0;
    });
    if (failed) return failed;
    failed = launch(views * face_count, stream, EACH (int64_t i) {
        int64_t view = i / face_count, f = i % face_count;
        Triangle t = triangle(screen + 3 * view * vertex_count, faces + 3 * f, width, height);
        if (!t.drawn) return;
        if ((t.x1 - t.x0 + 1) * (t.y1 - t.y0 + 1) > LARGE) {
            large[atomic_next(large_count)] = (int32_t)i;
            return;
        }
        for (int64_t y = t.y0; y <= t.y1; ++y)
            for (int64_t x = t.x0; x <= t.x1; ++x) cover(t, f, x, y, width, words + view * pixels);
    });
    if (failed) return failed;
    failed = launch_blocks(LARGE_BLOCKS, stream, EACH_BLOCK (int64_t block, double*) {
        for (int64_t n = block; n < *large_count; n += LARGE_BLOCKS) {
            int64_t view = large[n] / face_count, f = large[n] % face_count;
            Triangle t = triangle(screen + 3 * view * vertex_count, faces + 3 * f, width, height);
            int64_t columns = t.x1 - t.x0 + 1, all = columns * (t.y1 - t.y0 + 1);
            PHASE (thread) {
                for (int64_t k = thread; k < all; k += THREADS)
                    cover(t, f, t.x0 + k % columns, t.y0 + k / columns, width, words + view * pixels);
            }
        }
    });
    if (failed) return failed;
    return launch(views * pixels, stream, EACH (int64_t i) {
        uint64_t word = words[i];
        face[i] = -1;
        bary[2 * i] = bary[2 * i + 1] = depth[i] = 0.0f;
        if (!word) return;
        int64_t view = i / pixels, y = i % pixels / width, x = i % width;
        int64_t f = (int64_t)(LAST_FACE - (word & LAST_FACE));
        Triangle t = triangle(screen + 3 * view * vertex_count, faces + 3 * f, width, height);
        double u, v, near;
        weights(t, x, y, u, v, near);
        face[i] = (int32_t)f;
        depth[i] = (float)(1.0 / near);
        bary[2 * i] = (float)(fmin(fmax(u, 0.0), 1.0) * t.aw / near);
        bary[2 * i + 1] = (float)(fmin(fmax(v, 0.0), 1.0) * t.bw / near);
    });
}

// Per-vertex values at each pixel, zeros where nothing is.
extern "C" int interpolate(
    const int32_t* faces, const int32_t* face, const float* bary, const float* values, int64_t pixels, int64_t channels,
    float* out, void* stream
) {
    return launch(pixels, stream, EACH (int64_t i) {
        float u = bary[2 * i], v = bary[2 * i + 1];
        const int32_t* corner = face[i] < 0 ? nullptr : faces + 3 * (int64_t)face[i];
        for (int64_t k = 0; k < channels; ++k)
            out[i * channels + k] = !corner ? 0.0f
                                            : u * values[corner[0] * channels + k] + v * values[corner[1] * channels + k]
                                                  + (1 - u - v) * values[corner[2] * channels + k];
    });
}
