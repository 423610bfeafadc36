/* SPDX-License-Identifier: MIT
 * Rows of float weights of any type as f32; included after a lanes_*.h by the bodies that read a
 * checkpoint's weights. */
enum { F32, BF16, F16 };

ALWAYS_INLINE size_t element_size(const int type)
{
    return type == F32 ? sizeof(float) : sizeof(uint16_t);
}

ALWAYS_INLINE v16 load_w(const int type, const void *p)
{
    return type == F32 ? v16_load(p) : type == BF16 ? v16_from_bf16(p) : v16_from_f16(p);
}

/* Rows of `count` elements, stride in bytes, to f32 rows of `width` >= count, zero up to the next
 * multiple of 16. */
ALWAYS_INLINE void convert(const int type, const uint8_t *w, size_t w_stride, size_t nr,
                           size_t count, float *out, size_t width)
{
    for (size_t j = 0; j < nr; j++, w += w_stride, out += width) {
        size_t c = 0;
        for (; c + 16 <= count; c += 16)
            v16_store(out + c, load_w(type, w + c * element_size(type)));
        if (c < count) {
            float tail[16] = {0}; /* the bytes of any type; zero bytes are zeros */
            memcpy(tail, w + c * element_size(type), (count - c) * element_size(type));
            v16_store(out + c, load_w(type, tail));
        }
    }
}
