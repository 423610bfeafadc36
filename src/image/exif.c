/* SPDX-License-Identifier: MIT
 * As much of EXIF (TIFF 6.0, section 2) as it takes to know which way up a picture is. */
#include "image/decode.h"

#include <string.h>

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, TYPE_LONG = 4, ENTRY_BYTES = 12 };

typedef struct tiff {
    const uint8_t *p;
    size_t n;
    bool big_endian;
} tiff;

/* `size` is 2 or 4; 0 for what lies outside the block. */
static uint32_t tiff_get(const tiff *t, size_t at, size_t size)
{
    if (at > t->n || t->n - at < size) return 0;
    uint32_t v = 0;
    for (size_t i = 0; i < size; i++) v = v << 8 | t->p[at + (t->big_endian ? i : size - 1 - i)];
    return v;
}

static int entry_orientation(const tiff *t, size_t at)
{
    const uint32_t type = tiff_get(t, at + 2, 2);
    if (tiff_get(t, at + 4, 4) != 1) return 1;
    const uint32_t v = type == TYPE_SHORT  ? tiff_get(t, at + 8, 2)
                       : type == TYPE_LONG ? tiff_get(t, at + 8, 4)
                                           : 1;
    return v >= 1 && v <= 8 ? (int)v : 1;
}

int bal_exif_orientation(const uint8_t *exif, size_t n_bytes)
{
    if (n_bytes >= 6 && !memcmp(exif, "Exif\0\0", 6)) {
        exif += 6;
        n_bytes -= 6;
    }
    if (n_bytes < 8 || (memcmp(exif, "II*\0", 4) && memcmp(exif, "MM\0*", 4))) return 1;
    const tiff t = {exif, n_bytes, exif[0] == 'M'};
    const size_t dir = tiff_get(&t, 4, 4);
    const uint32_t count = tiff_get(&t, dir, 2);
    for (uint32_t i = 0; i < count; i++) {
        const size_t at = dir + 2 + (size_t)i * ENTRY_BYTES;
        if (tiff_get(&t, at, 2) == TAG_ORIENTATION) return entry_orientation(&t, at);
    }
    return 1;
}
