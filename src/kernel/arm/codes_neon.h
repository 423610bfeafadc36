/* SPDX-License-Identifier: MIT
 * How the NEON kernels of packed weights read code words (type/packed.h): a panel is four quarters
 * of 4 outputs, one 32-bit lane each, the four codes of a quad to a lane. Codes come out as signed
 * bytes: those of 8 bits less 128, all others as they are. Everything is static: nothing compiled
 * here may reach another object. */
#ifndef BAL_KERNEL_CODES_NEON_H
#define BAL_KERNEL_CODES_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define BYTES8 0 /* 8-bit codes are multiplied less 128 */

/* A unit is multiplied in steps of two quads. */
#define ALL_STEPS(call) call(0) call(1) call(2) call(3)

/* Word v of quarter h. */
ALWAYS_INLINE uint8x16_t word(const uint32_t *unit, int v, int h)
{
    return vld1q_u8((const uint8_t *)(unit + 16 * v + 4 * h));
}

/* Of each byte the bits of `mask` after a shift to the right. */
ALWAYS_INLINE uint8x16_t field(uint8x16_t w, const int shift, const int mask)
{
    if (shift) w = w >> vdupq_n_u8((uint8_t)shift);
    return mask == 255 >> shift ? w : vandq_u8(w, vdupq_n_u8((uint8_t)mask));
}

ALWAYS_INLINE uint8x16_t six_bits(const uint32_t *unit, const int h, const int j)
{
    if (j < 6) return field(word(unit, j, h), 0, 63);
    const int v = 3 * (j - 6);
    const uint8x16_t low = field(word(unit, v, h), 6, 3), mid = field(word(unit, v + 1, h), 4, 12);
    return vorrq_u8(vorrq_u8(low, mid), field(word(unit, v + 2, h), 2, 48));
}

/* Codes of quad j of quarter h. */
ALWAYS_INLINE int8x16_t quad(const int bits, const uint32_t *unit, const int h, const int j)
{
    uint8x16_t q;
    if (bits == 8)
        q = veorq_u8(word(unit, j, h), vdupq_n_u8(128));
    else if (bits == 6)
        q = six_bits(unit, h, j);
    else if (bits == 4)
        q = field(word(unit, j / 2, h), 4 * (j % 2), 15);
    else if (bits == 2)
        q = field(word(unit, j / 4, h), 2 * (j % 4), 3);
    else if (j < 6)
        q = field(word(unit, j / 2, h), 3 * (j % 2), 7);
    else
        q = vorrq_u8(field(word(unit, j - 6, h), 6, 3), field(word(unit, 2, h), j - 2, 4));
    return vreinterpretq_s8_u8(q);
}

/* What step s of quarter h multiplies, taken out before: bytes [4 steps][4 quarters][2][16]. */
ALWAYS_INLINE int8x16x2_t load_step(const uint32_t *unit, const int s, const int h)
{
    const int8_t *from = (const int8_t *)unit + 32 * (4 * s + h);
    return (int8x16x2_t){{vld1q_s8(from), vld1q_s8(from + 16)}};
}

ALWAYS_INLINE void store_step(uint32_t *unit, const int s, const int h, int8x16x2_t w)
{
    int8_t *to = (int8_t *)unit + 32 * (4 * s + h);
    vst1q_s8(to, w.val[0]);
    vst1q_s8(to + 16, w.val[1]);
}

/* What one side of a panel has for its 16 outputs, a register for each quarter. */
ALWAYS_INLINE void widen_u8(uint8x16_t b, int32x4_t out[4])
{
    const uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_high_u8(b);
    out[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low)));
    out[1] = vreinterpretq_s32_u32(vmovl_high_u16(low));
    out[2] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high)));
    out[3] = vreinterpretq_s32_u32(vmovl_high_u16(high));
}

ALWAYS_INLINE void widen_s8(int8x16_t b, int32x4_t out[4])
{
    const int16x8_t low = vmovl_s8(vget_low_s8(b)), high = vmovl_high_s8(b);
    out[0] = vmovl_s16(vget_low_s16(low));
    out[1] = vmovl_high_s16(low);
    out[2] = vmovl_s16(vget_low_s16(high));
    out[3] = vmovl_high_s16(high);
}

ALWAYS_INLINE void widen_scales(const uint16_t *scales, float32x4_t out[4])
{
    for (int h = 0; h < 4; h++)
        out[h] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales + 4 * h)));
}

#endif
