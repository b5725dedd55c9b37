// Pictures of all cameras -> the windows that network and surface look at: undistorted, cut and resized in one pass, by
// the sums of geometry/resample.py. A pixel is rounded once.
#include "kernel.h"

// The three colours of one pixel of the undistorted picture, times a weight, added to `sum`.
DEVICE void add_pixel(
    const uint8_t* picture, const int16_t* whole, const uint16_t* parts, int64_t width, int64_t height, int64_t x,
    int64_t y, float weight, float* sum
) {
    if (!whole) {
        const uint8_t* p = picture + 3 * (y * width + x);
        for (int c = 0; c < 3; ++c) sum[c] += weight * p[c];
        return;
    }
    int64_t at = y * width + x, left = whole[2 * at], top = whole[2 * at + 1];
    float right_share = (parts[at] & 31) / 32.0f, low_share = (parts[at] >> 5) / 32.0f;
    for (int corner = 0; corner < 4; ++corner) {
        int64_t cx = left + (corner & 1), cy = top + (corner >> 1);
        if (cx < 0 || cy < 0 || cx >= width || cy >= height) continue;
        float share = ((corner & 1) ? right_share : 1.0f - right_share) * ((corner >> 1) ? low_share : 1.0f - low_share);
        const uint8_t* p = picture + 3 * (cy * width + cx);
        for (int c = 0; c < 3; ++c) sum[c] += weight * share * p[c];
    }
}

DEVICE uint8_t level(float value) { return (uint8_t)fminf(fmaxf(rintf(value), 0.0f), 255.0f); }

// Addresses (views, 3) of a picture and of its lens table, 0 where the lens is straight; sizes (views, 2) width, height;
// starts (views, 2, size) and weights (views, 2, size, taps) of columns and rows; out (views, size, size, 3).
extern "C" int cut_windows(
    const int64_t* addresses, const int32_t* sizes, const int32_t* starts, const float* weights, int64_t views,
    int64_t size, int64_t taps, uint8_t* out, void* stream
) {
    return launch(views * size * size, stream, EACH (int64_t i) {
        int64_t v = i / (size * size), y = i / size % size, x = i % size;
        const uint8_t* picture = (const uint8_t*)addresses[3 * v];
        const int16_t* whole = (const int16_t*)addresses[3 * v + 1];
        const uint16_t* parts = (const uint16_t*)addresses[3 * v + 2];
        int64_t width = sizes[2 * v], height = sizes[2 * v + 1];
        int64_t column = starts[2 * v * size + x], row = starts[(2 * v + 1) * size + y];
        const float *across = weights + (2 * v * size + x) * taps, *down = weights + ((2 * v + 1) * size + y) * taps;
        float sum[3] = {0.0f, 0.0f, 0.0f};
        for (int64_t k = 0; k < taps; ++k) {
            if (down[k] == 0.0f) continue;
            for (int64_t j = 0; j < taps; ++j) {
                if (across[j] == 0.0f) continue;
                add_pixel(picture, whole, parts, width, height, column + j, row + k, down[k] * across[j], sum);
            }
        }
        for (int c = 0; c < 3; ++c) out[3 * i + c] = level(sum[c]);
    });
}

// Windows (views, from, from, 3) averaged to (views, size, size, 3); one axis of weights (size, taps) serves both.
extern "C" int shrink_windows(
    const uint8_t* windows, const int32_t* start, const float* weight, int64_t views, int64_t from, int64_t size,
    int64_t taps, uint8_t* out, void* stream
) {
    return launch(views * size * size, stream, EACH (int64_t i) {
        int64_t v = i / (size * size), y = i / size % size, x = i % size;
        float sum[3] = {0.0f, 0.0f, 0.0f};
        for (int64_t k = 0; k < taps; ++k) {
            float down = weight[y * taps + k];
            if (down == 0.0f) continue;
            for (int64_t j = 0; j < taps; ++j) {
                float share = down * weight[x * taps + j];
                if (share == 0.0f) continue;
                const uint8_t* p = windows + 3 * ((v * from + start[y] + k) * from + start[x] + j);
                for (int c = 0; c < 3; ++c) sum[c] += share * p[c];
            }
        }
        for (int c = 0; c < 3; ++c) out[3 * i + c] = level(sum[c]);
    });
}
