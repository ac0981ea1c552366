// The activations of CLIP's MLP and their slopes.
#pragma once

#include "include/types.cuh"

// As launches number them.
constexpr int NO_ACTIVATION = 0, QUICK_GELU = 1, GELU = 2, GELU_TANH = 3;

constexpr float QUICK_SCALE = 1.702f;
constexpr float SQRT_HALF = 0.70710678118654752f;
constexpr float INV_SQRT_2PI = 0.39894228040143268f;
// GELU's tanh form: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
constexpr float TANH_SCALE = 0.79788456080286536f, TANH_CUBE = 0.044715f;

DEV float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

DEV float activate(int kind, float u) {
    switch (kind) {
        case QUICK_GELU: return u * sigmoid(QUICK_SCALE * u);
        case GELU: return 0.5f * u * (1.0f + erff(u * SQRT_HALF));
        case GELU_TANH: return 0.5f * u * (1.0f + tanhf(TANH_SCALE * (u + TANH_CUBE * u * u * u)));
        default: return u;
    }
}

// d act(u) / du
DEV float activation_slope(int kind, float u) {
    switch (kind) {
        case QUICK_GELU: {
            const float s = sigmoid(QUICK_SCALE * u);
            return s + QUICK_SCALE * u * s * (1.0f - s);
        }
        case GELU: return 0.5f * (1.0f + erff(u * SQRT_HALF)) + u * INV_SQRT_2PI * expf(-0.5f * u * u);
        case GELU_TANH: {
            const float t = tanhf(TANH_SCALE * (u + TANH_CUBE * u * u * u));
            return 0.5f * (1.0f + t) + 0.5f * u * (1.0f - t * t) * TANH_SCALE * (1.0f + 3.0f * TANH_CUBE * u * u);
        }
        default: return 1.0f;
    }
}
