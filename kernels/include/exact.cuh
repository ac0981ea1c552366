// Products that no compiler fuses with the sum around them: for results that must be the processor's, bit for bit.
#pragma once

#include "include/types.cuh"

#ifdef VITSCOPE_EMULATED

DEV float product(float a, float b) {
    float c = a * b;
    asm("" : "+x"(c));
    return c;
}
DEV double product(double a, double b) {
    double c = a * b;
    asm("" : "+x"(c));
    return c;
}

#else

DEV float product(float a, float b) { return __fmul_rn(a, b); }
DEV double product(double a, double b) { return __dmul_rn(a, b); }

#endif
