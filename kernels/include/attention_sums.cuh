// What the rungs 1 of attention share: P = exp(score - lse) / its row's sum.
//
// lse has the rounding of a number as large as the scores. In exp(score - lse) it is one factor common to a row, which the
// division takes out again: P is then as near as exp(score - max) / sum. What is not common is the rounding of the
// difference, which is made by one fmaf: it is small where P is not.
#pragma once

#include "include/reduce.cuh"

// In parts of 8: a chain of all products would round larger sums, and more often.
template <class T> DEV float dot(const T* a, const T* b, int n) {
    float sum = 0.0f;
    for (int first = 0; first < n; first += 8) {
        float part = 0.0f;
        for (int i = first; i < n && i < first + 8; i++) part += to_float(a[i]) * to_float(b[i]);
        sum += part;
    }
    return sum;
}

// sums (B,queries,H) of exp(score - lse): a block of one warp a value.
template <class T>
DEV void attention_sums(float* sums, const T* qkv, const float* lse, float scale, int causal, int queries, int tokens,
                        int H, int Dh) {
    const int h = blockIdx.x % H, row = blockIdx.x / H, i = row % queries, b = row / queries;
    const int seen = causal ? i + 1 : tokens, stride = 3 * H * Dh;
    const T *q = qkv + (i64(b) * tokens + i) * stride + h * Dh, *k = qkv + i64(b) * tokens * stride + (H + h) * Dh;
    float sum = 0.0f;
    for (int j = threadIdx.x; j < seen; j += WARP_SIZE) {
        sum += expf(fmaf(dot(q, k + i64(j) * stride, Dh), scale, -lse[blockIdx.x]));
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
