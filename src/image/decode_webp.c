/* SPDX-License-Identifier: MIT
 * WebP through libwebp. The RIFF container is walked here, for the EXIF chunk and for the first
 * frame of an animation, which is laid on a transparent canvas of the animation's size. */
#include "image/decode.h"

#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>

typedef struct span {
    const uint8_t *p;
    size_t n;
} span;

static uint32_t get_le(const uint8_t *p, int n_bytes)
{
    uint32_t v = 0;
    for (int i = n_bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* The next chunk of `rest` into tag and body, `rest` behind it; false at the end or if cut off. */
static bool next_chunk(span *rest, const uint8_t **tag, span *body)
{
    if (rest->n < 8) return false;
    *tag = rest->p;
    *body = (span){rest->p + 8, get_le(rest->p + 4, 4)};
    if (body->n > rest->n - 8) return false;
    const size_t step = 8 + body->n + (body->n & 1 && body->n + 8 < rest->n);
    rest->p += step;
    rest->n -= step;
    return true;
}

/* First chunk of that name; an empty span if there is none. */
static span find_chunk(span rest, const char *name)
{
    const uint8_t *tag;
    span body;
    while (next_chunk(&rest, &tag, &body))
        if (!memcmp(tag, name, 4)) return body;
    return (span){0};
}

static bal_status vp8_fail(VP8StatusCode code, bal_error *err)
{
    static const char *const texts[] = {
        [VP8_STATUS_OUT_OF_MEMORY] = "out of memory",
        [VP8_STATUS_INVALID_PARAM] = "invalid parameter",
        [VP8_STATUS_BITSTREAM_ERROR] = "the picture data are damaged",
        [VP8_STATUS_UNSUPPORTED_FEATURE] = "unsupported feature",
        [VP8_STATUS_SUSPENDED] = "the file ends early",
        [VP8_STATUS_NOT_ENOUGH_DATA] = "the file ends early",
    };
    const char *text = (size_t)code < sizeof texts / sizeof *texts ? texts[code] : NULL;
    const bal_status st = code == VP8_STATUS_OUT_OF_MEMORY         ? BAL_E_NOMEM
                          : code == VP8_STATUS_UNSUPPORTED_FEATURE ? BAL_E_UNSUP
                                                                   : BAL_E_FORMAT;
    return bal_fail(err, st, "WebP: %s", text ? text : "unknown trouble");
}

/* Where one coded picture goes on the canvas, in pixels. */
typedef struct place {
    int x, y, width, height;
} place;

static bal_status decode_at(bal_pixels *px, place at, span coded, bal_error *err)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return bal_fail(err, BAL_E_UNSUP, "WebP: libwebp is of another version");
    const size_t stride = (size_t)px->width * (size_t)px->channels;
    const size_t offset = (size_t)at.y * stride + (size_t)at.x * (size_t)px->channels;
    config.output.colorspace = px->channels == 4 ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = px->data + offset;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = (size_t)px->height * stride - offset;
    const VP8StatusCode code = WebPDecode(coded.p, coded.n, &config);
    WebPFreeDecBuffer(&config.output);
    return code == VP8_STATUS_OK ? BAL_OK : vp8_fail(code, err);
}

/* ANMF: x/2, y/2, width-1, height-1 of 24 bits each, 24 bits of time, flags, coded picture. */
static bal_status decode_first_frame(bal_pixels *px, span riff, bal_error *err)
{
    const span frame = find_chunk(riff, "ANMF");
    if (frame.n < 16) return bal_fail(err, BAL_E_FORMAT, "WebP: an animation without frames");
    const place at = {2 * (int)get_le(frame.p, 3), 2 * (int)get_le(frame.p + 3, 3),
                      1 + (int)get_le(frame.p + 6, 3), 1 + (int)get_le(frame.p + 9, 3)};
    const span coded = {frame.p + 16, frame.n - 16};
    WebPBitstreamFeatures f;
    const VP8StatusCode code = WebPGetFeatures(coded.p, coded.n, &f);
    if (code != VP8_STATUS_OK) return vp8_fail(code, err);
    if (f.width != at.width || f.height != at.height || at.x + at.width > px->width ||
        at.y + at.height > px->height)
        return bal_fail(err, BAL_E_FORMAT,
                        "WebP: first frame is %d x %d at (%d, %d), announced as %d x %d on a "
                        "canvas of %d x %d",
                        f.width, f.height, at.x, at.y, at.width, at.height, px->width, px->height);
    return decode_at(px, at, coded, err);
}

static bal_status decode_riff(bal_pixels *px, span file, size_t max_pixels, bal_error *err)
{
    const uint64_t whole = (uint64_t)get_le(file.p + 4, 4) + 8;
    if (memcmp(file.p, "RIFF", 4) || whole > file.n)
        return bal_fail(err, BAL_E_FORMAT,
                        "WebP: the header announces %llu bytes, the file has %zu",
                        (unsigned long long)whole, file.n);
    const span riff = {file.p + 12, whole < 12 ? 0 : (size_t)whole - 12};
    WebPBitstreamFeatures f;
    const VP8StatusCode code = WebPGetFeatures(file.p, file.n, &f);
    if (code != VP8_STATUS_OK) return vp8_fail(code, err);
    const bool rgba = f.has_alpha || f.has_animation;
    BAL_TRY(bal_pixels_claim(px, (uint64_t)f.width, (uint64_t)f.height, rgba ? 4 : 3, max_pixels,
                             "WebP", err));
    const span exif = find_chunk(riff, "EXIF");
    if (exif.n) px->orientation = bal_exif_orientation(exif.p, exif.n);
    if (f.has_animation) return decode_first_frame(px, riff, err);
    return decode_at(px, (place){0, 0, f.width, f.height}, file, err);
}

bal_status bal_webp_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                           bal_error *err)
{
    if (n_bytes < 12) return bal_fail(err, BAL_E_FORMAT, "WebP: %zu bytes are no file", n_bytes);
    const bal_status st = decode_riff(px, (span){data, n_bytes}, max_pixels, err);
    if (st < 0) {
        free(px->data);
        px->data = NULL;
    }
    return st;
}
