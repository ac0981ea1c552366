// What an SAE's kernels share: its input norm and the norm's reverse, its activations, the edits of its latents.
//
// The code of a row has C slots. `index` (N,C+1) u32 holds their count and then their latents; z, z', dz/dh and dz'/dz
// are (N,C) f32. With u the normalised input, p the input bias and r the norms of the decoder's rows, or 1:
//   h = (W_enc (u - p) + b_enc) r        z = act(h)        y = scale (W_dec^T (z' / r) + b_dec) + shift
#pragma once

#include "include/types.cuh"

namespace sae {

// Input norms, as launches number them: (x - mean) / scale; LayerNorm over the token; x sqrt(D) / |x|.
constexpr int FIXED = 0, LAYER_NORM = 1, UNIT_NORM = 2;
// Activations, as launches number them.
constexpr int RELU = 0, TOP_K = 1, TOP_K_RELU = 2, GROUP_MAX = 3, THRESHOLD = 4, JUMP_RELU = 5, GATED = 6;
// Splices and ways of the gradient, as launches number them.
constexpr int REPLACE = 0, KEEP_ERROR = 1;
constexpr int EXACT = 0, DETACHED = 1, STRAIGHT = 2;
// Edits, as `sae_encode::EditBlock` numbers them.
constexpr u32 ZERO = 0, SCALE = 1, SET = 2, ADD = 3, KEEP = 4;

// The norm at one token: u = (x - shift) / divisor, undone by y scale + shift.
struct Normed {
    float shift, scale, divisor;
};

// `sum(shift, is_squared)` is the sum of x - shift, or of its square, over the token's values. `value` is FIXED's scale
// and LAYER_NORM's eps.
template <class Sum> DEV Normed normed(int norm, float value, int D, Sum sum) {
    if (norm == LAYER_NORM) {
        const float mean = sum(0.0f, false) / D, std = sqrtf(sum(mean, true) / (D - 1));
        return {mean, std, std + value};
    }
    if (norm == UNIT_NORM) {
        const float scale = sqrtf(sum(0.0f, true) / D);
        return {0.0f, scale, scale};
    }
    return {0.0f, value, value};
}

// The same by one thread, from a row of `x`.
template <class T> DEV Normed normed_row(int norm, float value, int D, const T* x) {
    return normed(norm, value, D, [&](float shift, bool is_squared) {
        float sum = 0.0f;
        for (int d = 0; d < D; d++) {
            const float from_shift = to_float(x[d]) - shift;
            sum += is_squared ? from_shift * from_shift : from_shift;
        }
        return sum;
    });
}

// The norm's reverse: dx = gain du + offset + pull (x - shift).
struct NormReverse {
    float gain, offset, pull;
};

// `sum_du` and `along` are the sums of du and of du (x - shift); `dscale` is the gradient of the scale times the scale.
DEV NormReverse norm_reverse(int norm, const Normed& at, int D, float sum_du, float along, float dscale) {
    const float gain = 1.0f / at.divisor;
    if (norm == LAYER_NORM) {
        // d std / dx = (x - mean) / ((D - 1) std)
        return {gain, -sum_du / D * gain, (dscale / at.scale - along * gain * gain) / ((D - 1) * at.scale)};
    }
    if (norm == UNIT_NORM) return {gain, 0.0f, (dscale - along * gain) / (at.scale * at.scale * D)};
    return {gain, 0.0f, 0.0f};
}

// Whether latent `i` of an activation that looks at one latent at a time fires; then its value and d value / dh.
// `parameters`: (S) thresholds of JUMP_RELU; (3,S) gate bias, magnitude bias and exp(r_mag) of GATED.
DEV bool fires(int activation, float theta, const float* parameters, int S, int i, float h, float& value, float& gain) {
    value = h;
    gain = 1.0f;
    if (activation == JUMP_RELU) return h > fmaxf(parameters[i], 0.0f);
    if (activation == GATED) {
        gain = parameters[i64(S) * 2 + i];
        value = gain * h + parameters[S + i];
        return h + parameters[i] > 0.0f && value > 0.0f;
    }
    return h > theta;
}

// One edit: its latents are `count` words from word `first` of the block on, ascending.
struct Edit {
    u32 kind, first, count;
    float value;
};

struct Edited {
    float value, slope;
};

// z' and dz'/dz of a latent after all edits in their order. The block of edits begins with their records.
DEV Edited edit(const u32* block, int edits, u32 latent, float z) {
    Edited edited = {z, 1.0f};
    for (int e = 0; e < edits; e++) {
        const Edit& record = reinterpret_cast<const Edit*>(block)[e];
        const u32* latents = block + record.first;
        u32 low = 0, high = record.count;
        while (low < high) {
            const u32 middle = (low + high) / 2;
            if (latents[middle] < latent) low = middle + 1;
            else high = middle;
        }
        const bool is_named = low < record.count && latents[low] == latent;
        if (is_named == (record.kind == KEEP)) continue;
        switch (record.kind) {
            case SCALE:
                edited.value *= record.value;
                edited.slope *= record.value;
                break;
            case SET: edited = {record.value, 0.0f}; break;
            case ADD: edited.value += record.value; break;
            default: edited = {0.0f, 0.0f};
        }
    }
    return edited;
}

// The latents that edits write even where they do not fire follow the records.
DEV const u32* forced_latents(const u32* block, int edits) { return block + edits * (sizeof(Edit) / sizeof(u32)); }

}  // namespace sae
