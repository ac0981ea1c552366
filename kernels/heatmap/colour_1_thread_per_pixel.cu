// heatmap / colour_1_thread_per_pixel.cu                                                                rung 1 of 1
// out  out (G,height,width,3) u8: the picture with each map over it
// in   values (G,inner height,inner width) f32: the maps at the pixels from (top,left) on; picture (height,width,3) u8;
//      scale (G,2) f32: the values of the lowest and the highest colour; table (256,3) u8
// idea        the obvious loop: one thread makes one pixel. The arithmetic is that of src/image/overlay.rs, bit for bit:
//             the place on the scale in f64, the mixing in f32, no product fused with its sum
// needs       any GPU; any sizes
// bytes/flops 7 read and 3 written for a pixel; 1 division in f64
// predicted   40 % of the card's bandwidth where f64 has half the rate of f32; single bytes, 3 apart
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/exact.cuh"

constexpr float OUTSIDE = 235.0f, OUTSIDE_SHARE = 0.6f, SMALLEST_NORMAL = 1.17549435e-38f;

DEV float mix(float a, float b, float share) { return a + product(b - a, share); }

// `fade` is the heat's opacity, `alpha` its share. With a diverging table the middle is no heat, over a pale grey picture.
KERNEL void heatmap_colour__1__f32(u8* out, const float* values, const u8* picture, const float* scale, const u8* table,
                                   int is_diverging, float alpha, float fade, int top, int left, int inner_height,
                                   int inner_width, int height, int width, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int x = at % width, y = at / width % height;
    const i64 g = at / width / height;
    picture += (i64(y) * width + x) * 3;
    const bool is_inside = y >= top && y < top + inner_height && x >= left && x < left + inner_width;
    float t = 0.0f;
    if (is_inside) {
        const double low = scale[g * 2], high = scale[g * 2 + 1];
        const bool is_flat = scale[g * 2 + 1] - scale[g * 2] < SMALLEST_NORMAL;
        if (is_flat) {
            t = is_diverging ? 0.5f : 0.0f;
        } else {
            const double place = (double(values[(g * inner_height + y - top) * inner_width + x - left]) - low) / (high - low);
            t = float(fmin(fmax(place, 0.0), 1.0));
        }
    }
    const u8* colour = table + int(roundf(product(t, 255.0f))) * 3;
    const float luma = product(0.2126f, float(picture[0])) + product(0.7152f, float(picture[1])) + product(0.0722f, float(picture[2]));
    const float heat = product(product(fade, sqrtf(alpha)), sqrtf(fabsf(2.0f * t - 1.0f)));
    for (int c = 0; c < 3; c++) {
        const float base = is_diverging ? (luma + 255.0f) / 2.0f : float(picture[c]);
        float drawn;
        if (!is_inside) drawn = mix(base, OUTSIDE, OUTSIDE_SHARE);
        else if (is_diverging) drawn = mix(base, float(colour[c]), heat);
        else drawn = mix(base, mix(float(table[c]), float(colour[c]), fade), alpha);
        out[at * 3 + c] = u8(fminf(fmaxf(roundf(drawn), 0.0f), 255.0f));
    }
}
REGISTER_KERNEL(heatmap_colour__1__f32)
