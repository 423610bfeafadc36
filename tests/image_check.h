/* SPDX-License-Identifier: MIT
 * What the image tests share: the picture that golden data are made from, short hashes, and the
 * lines of a golden table. */
#ifndef BAL_TESTS_IMAGE_CHECK_H
#define BAL_TESTS_IMAGE_CHECK_H

#include "check.h"

#include "image/image.h"

#include <openssl/evp.h>

/* pixel(x, y, c) = ((7x + 13y + 29c) XOR ((x*y) >> 3)) & 255 */
static inline bal_image pattern_image(int width, int height)
{
    bal_error err;
    bal_image img;
    ASSERT_OK(bal_image_create(&img, width, height, &err));
    uint8_t *to = img.rgb;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) *to++ = (uint8_t)((7 * x + 13 * y + 29 * c) ^ (x * y >> 3));
    return img;
}

/* The first 32 hex digits of SHA-256. */
static inline void short_hash(char hex[33], const void *data, size_t n_bytes)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    assert_int_equal(EVP_Digest(data, n_bytes, digest, NULL, EVP_sha256(), NULL), 1);
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

static inline void image_hash(char hex[33], const bal_image *img)
{
    short_hash(hex, img->rgb, (size_t)img->width * (size_t)img->height * 3);
}

/* Reads tests/golden/<name> and calls fn for each line; returns how many there were. */
static inline int for_each_line(const char *name, void (*fn)(const char *line))
{
    bal_error err;
    uint8_t *text;
    size_t n;
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    ASSERT_OK(bal_read_file(&text, &n, source_path(path), (size_t)1 << 24, &err));
    int count = 0;
    for (char *line = strtok((char *)text, "\n"); line; line = strtok(NULL, "\n"), count++)
        fn(line);
    free(text);
    return count;
}

#endif
