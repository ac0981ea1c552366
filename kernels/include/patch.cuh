// Where the values of a patch lie in the picture.
#pragma once

#include "include/types.cuh"

// SIZE neighbouring values of a token's row (3 p p values, then zeros), from value `first` on; pixel(channel, y, x) gives
// one. One division for all of them: neighbours are followed from line to line.
template <int SIZE, class Pixel>
DEV void patch_values(float (&out)[SIZE], int token, int first, int cols, int p, Pixel pixel) {
    const int top = (token - 1) / cols * p, left = (token - 1) % cols * p;
    int channel = first / (p * p), y = first / p % p, x = first % p;
#pragma unroll
    for (int e = 0; e < SIZE; e++) {
        out[e] = token > 0 && channel < 3 ? pixel(channel, top + y, left + x) : 0.0f;
        if (++x == p) {
            x = 0;
            if (++y == p) y = 0, channel++;
        }
    }
}
