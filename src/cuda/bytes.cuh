/* SPDX-License-Identifier: MIT
 * Codes of a tile (cuda/tiles.h) as unsigned bytes, the A fragments of mma.m16n8k32: four codes of
 * a row in a word, in the order in which staged bytes lie (bal_stage_byte_at of cuda/stage.h).
 * Quad 2 s of unit s of 32 inputs has, low byte first, the pairs 4 s + 3 and 4 s, their first codes
 * and then their second ones; quad 2 s + 1 has the pairs 4 s + 1 and 4 s + 2. That is how nibbles
 * lie in a word of 4-bit codes; other widths are brought into this order. */
#ifndef BAL_CUDA_BYTES_CUH
#define BAL_CUDA_BYTES_CUH

#include "cuda/port.cuh"

/* Bits [from, from + bits) of each half of w, at the bottom of its low byte. */
template <int bits> BAL_DEVICE uint32_t bal_byte_low(uint32_t w, int from)
{
    return w >> from & 0x00010001u * ((1u << bits) - 1);
}

/* They join `low` at the bottom of the high byte. */
template <int bits> BAL_DEVICE uint32_t bal_byte_high(uint32_t w, int from, uint32_t low)
{
    return bal_and_or(from > 8 ? w >> (from - 8) : w << (8 - from),
                      0x01000100u * ((1u << bits) - 1), low);
}

/* Pairs of quad 2 s + odd. */
BAL_DEVICE constexpr int bal_quad_low(int s, int odd)
{
    return 4 * s + (odd ? 1 : 3);
}

BAL_DEVICE constexpr int bal_quad_high(int s, int odd)
{
    return 4 * s + (odd ? 2 : 0);
}

/* quad(w, s, odd): w the words of a row's unit of weights, s its unit of 32 inputs. */
template <int bits> struct bal_bytes;

template <> struct bal_bytes<2> {
    BAL_DEVICE constexpr int first(int j)
    {
        return (int)(0xce8a0246u >> 4 * (j % 8) & 15);
    }
    BAL_DEVICE uint32_t quad(const uint32_t *w, int s, int odd)
    {
        const int a = bal_quad_low(s, odd), b = bal_quad_high(s, odd);
        return bal_byte_high<2>(w[b / 8], first(b), bal_byte_low<2>(w[a / 8], first(a)));
    }
};

template <> struct bal_bytes<3> {
    /* a nibble per pair */
    BAL_DEVICE constexpr int word(int j)
    {
        return (int)(0x222212111100000ull >> 4 * j & 15);
    }
    BAL_DEVICE constexpr int first(int j)
    {
        return (int)(0xd17a14da741ad47ull >> 4 * j & 15);
    }
    BAL_DEVICE uint32_t low(const uint32_t *w, int j)
    {
        if (j < 15) return bal_byte_low<3>(w[word(j)], first(j));
        const uint32_t q = bal_and_or(w[1] << 1, 0x00020002u, w[2] & 0x00010001u);
        return bal_and_or(w[0] << 2, 0x00040004u, q);
    }
    BAL_DEVICE uint32_t quad(const uint32_t *w, int s, int odd)
    {
        const int b = bal_quad_high(s, odd);
        return bal_byte_high<3>(w[word(b)], first(b), low(w, bal_quad_low(s, odd)));
    }
};

template <> struct bal_bytes<4> {
    BAL_DEVICE uint32_t quad(const uint32_t *w, int s, int odd)
    {
        return (odd ? w[s] >> 4 : w[s]) & 0x0f0f0f0fu;
    }
};

template <> struct bal_bytes<6> {
    BAL_DEVICE uint32_t low(const uint32_t *w, int j)
    {
        if (j < 12) return bal_byte_low<6>(w[j / 2], j % 2 ? 10 : 4);
        const int i = j - 12;
        return bal_and_or(w[4 + i / 2] << (i % 2 ? 2 : 4), 0x00300030u, w[i] & 0x000f000fu);
    }
    BAL_DEVICE uint32_t high(const uint32_t *w, int j, uint32_t low)
    {
        if (j < 12) return bal_byte_high<6>(w[j / 2], j % 2 ? 10 : 4, low);
        const int i = j - 12;
        const uint32_t q = bal_and_or(w[i] << 8, 0x0f000f00u, low);
        return bal_and_or(w[4 + i / 2] << (i % 2 ? 10 : 12), 0x30003000u, q);
    }
    BAL_DEVICE uint32_t quad(const uint32_t *w, int s, int odd)
    {
        return high(w, bal_quad_high(s, odd), low(w, bal_quad_low(s, odd)));
    }
};

template <> struct bal_bytes<8> {
    BAL_DEVICE uint32_t quad(const uint32_t *w, int s, int odd)
    {
        return __byte_perm(w[2 * s], w[2 * s + 1], odd ? 0x6341u : 0x2705u);
    }
};

#endif
