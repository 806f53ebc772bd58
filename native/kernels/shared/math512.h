// Functions of vectors of sixteen floats, with AVX-512 F. Internal linkage: each set compiles its
// own copy.
#pragma once

#include <immintrin.h>

namespace tektra {
namespace {

// exp(x) to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a degree-6 polynomial in r (the
// coefficients of the Taylor series suffice there), scaled by 2^n. 0 below -87.3, finite above 88.
[[maybe_unused]] inline __m512 exp(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);  // in this order a NaN stays one
    x = _mm512_max_ps(_mm512_set1_ps(-87.3f), x);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // ln 2 in two parts, so that r keeps its low bits
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860682030941723e-6f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040.0f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

// tanh(x) = 1 - 2 / (exp(2 x) + 1); for small x, where that cancels, x - x^3/3 + 2x^5/15 -
// 17x^7/315.
[[maybe_unused]] inline __m512 tanh(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 twice = exp(_mm512_add_ps(x, x));
    const __m512 large =
        _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(twice, one)));
    const __m512 square = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(-17.0f / 315.0f);
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(2.0f / 15.0f));
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(-1.0f / 3.0f));
    const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, square), x, x);
    const __mmask16 is_small =
        _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0.15f), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(is_small, large, small);
}

}  // namespace
}  // namespace tektra
