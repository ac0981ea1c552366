// heatmap / upsample_1_thread_per_pixel.cu                                                              rung 1 of 1
// out  values (G,height,width) f32: the maps at the pixels that they cover
// in   map (G,rows,cols) f32; x_taps (width,taps), y_taps (height,taps): entries of the map and their weights, f64
// idea        the obvious loop: one thread makes one pixel. Sums and their order are those of src/image/upsample.rs, which
//             also makes the taps, so the values are the same bit for bit
// needs       any GPU; any sizes
// bytes/flops 1 write of G*height*width values; (taps^2 + taps) multiply-adds in f64 a pixel
// predicted   40 % of the card's bandwidth where f64 has half the rate of f32; limited by f64 elsewhere
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/exact.cuh"

struct Tap {
    double weight;
    u32 index, unused;
};

KERNEL void heatmap_upsample__1__f32(float* values, const float* map, const Tap* x_taps, const Tap* y_taps, int taps,
                                     int rows, int cols, int height, int width, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    x_taps += at % width * taps;
    y_taps += at / width % height * taps;
    map += at / width / height * rows * cols;
    double sum = 0.0;
    for (int i = 0; i < taps; i++) {
        double along = 0.0;
        for (int j = 0; j < taps; j++) {
            along += product(x_taps[j].weight, double(map[i64(y_taps[i].index) * cols + x_taps[j].index]));
        }
        sum += product(y_taps[i].weight, along);
    }
    values[at] = float(sum);
}
REGISTER_KERNEL(heatmap_upsample__1__f32)
