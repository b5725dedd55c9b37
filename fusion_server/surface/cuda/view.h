// What kernels of several sources ask of a view.
#pragma once
#include "kernel.h"

// Whether a view shows a point: within its maps (height, width), and not behind what a rasteriser drew there.
DEVICE bool sees(const double* m, const float* depth, int64_t height, int64_t width, double x, double y, double z, double slack) {
    double w = m[8] * x + m[9] * y + m[10] * z + m[11];
    if (!(w >= 0.01)) return false;
    double px = rint((m[0] * x + m[1] * y + m[2] * z + m[3]) / w), py = rint((m[4] * x + m[5] * y + m[6] * z + m[7]) / w);
    if (!(px >= 1 && py >= 1 && px < width - 1 && py < height - 1)) return false;
    float shown = depth[(int64_t)py * width + (int64_t)px];
    return shown > 0.0f && w < shown + slack;
}

// The cosine between a normal and the way to a camera.
DEVICE double facing_of(const double* n, const double* center, double x, double y, double z) {
    double d0 = center[0] - x, d1 = center[1] - y, d2 = center[2] - z;
    return (n[0] * d0 + n[1] * d1 + n[2] * d2) / sqrt(d0 * d0 + d1 * d1 + d2 * d2);
}

DEVICE int64_t mirrored(int64_t x, int64_t count) {  // ... 2 1 0 1 2 ...
    if (count == 1) return 0;
    x = x < 0 ? -x : x;
    return x < count ? x : 2 * (count - 1) - x;
}
