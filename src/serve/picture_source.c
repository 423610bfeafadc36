/* SPDX-License-Identifier: MIT */
#include "serve/picture_source.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Data URLs ------------------------------------------------------------------------------- */

static const char data_scheme[] = "data:";

/* "image/png;base64" up to the comma: a known kind of picture and base64, in any case. */
static bool header_is_good(const char *header, size_t n)
{
    static const char *const types[] = {"image/jpeg", "image/jpg", "image/png", "image/webp"};
    static const char suffix[] = ";base64";
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const size_t m = strlen(types[i]);
        if (n == m + sizeof suffix - 1 && strncasecmp(header, types[i], m) == 0 &&
            strncasecmp(header + m, suffix, sizeof suffix - 1) == 0)
            return true;
    }
    return false;
}

static bool is_base64(char b)
{
    return (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') || b == '+' ||
           b == '/';
}

/* Number of '=' at the end, or -1 where the text is not padded base64. */
static int padding(const char *s, size_t n)
{
    size_t pad = 0;
    if (n == 0 || n % 4 != 0 || n > INT32_MAX) return -1;
    while (pad < 2 && s[n - 1 - pad] == '=') pad++;
    for (size_t i = 0; i < n - pad; i++)
        if (!is_base64(s[i])) return -1;
    return (int)pad;
}

bal_status bal_data_url_decode(uint8_t **out, size_t *n, const char *url, size_t n_url,
                               const char *param, bal_refusal *f)
{
    *out = NULL;
    *n = 0;
    const size_t skip = sizeof data_scheme - 1;
    const char *comma = n_url < skip ? NULL : memchr(url, ',', n_url);
    if (!comma || !header_is_good(url + skip, (size_t)(comma - url) - skip))
        return bal_refuse(f, 400, "unsupported_image_type", param,
                          "%s: '%.*s', expected data:image/jpeg;base64,... or image/png or "
                          "image/webp",
                          param, (int)(n_url < 60 ? n_url : 60), url);
    const char *text = comma + 1;
    const size_t n_text = n_url - (size_t)(text - url);
    const int pad = padding(text, n_text);
    if (pad < 0)
        return bal_refuse(f, 400, "invalid_base64", param, "%s: the data is not padded base64",
                          param);
    *out = malloc(n_text / 4 * 3);
    if (!*out) return bal_refuse(f, 500, NULL, NULL, "memory is short");
    const int got = EVP_DecodeBlock(*out, (const unsigned char *)text, (int)n_text);
    *n = got < pad ? 0 : (size_t)(got - pad);
    return BAL_OK;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static bal_status refuse_file(bal_refusal *f, const char *param, const char *path, const char *why)
{
    return bal_refuse(f, 400, "file_not_allowed", param, "%s: '%.200s': %s", param, path, why);
}

/* `path` below `dir`: an absolute one must begin with it. NULL if it does not. */
static const char *relative_to(const char *dir, const char *path)
{
    size_t n = strlen(dir);
    while (n && dir[n - 1] == '/') n--;
    if (path[0] != '/') return path;
    if (strncmp(path, dir, n) != 0 || path[n] != '/') return NULL;
    return path + n;
}

/* Step by step, each by the descriptor of the one before, no link followed: what is checked is what
 * is opened. -1 with *why. */
static int open_below(const char *dir, const char *path, const char **why)
{
    char name[256];
    int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    *why = "the folder of --media-dir cannot be opened";
    while (at >= 0) {
        while (*path == '/') path++;
        const size_t n = strcspn(path, "/");
        const bool last = path[n] == 0;
        *why = "no such file below --media-dir, or a symbolic link";
        if (n == 0 || n >= sizeof name) break;
        memcpy(name, path, n);
        name[n] = 0;
        *why = "'..' is not allowed in a path";
        if (strcmp(name, "..") == 0) break;
        const int flags = last ? O_RDONLY | O_NONBLOCK : O_PATH | O_DIRECTORY;
        const int next = openat(at, name, flags | O_NOFOLLOW | O_CLOEXEC);
        close(at);
        at = next;
        *why = "no such file below --media-dir, or a symbolic link";
        if (last) return at;
        path += n;
    }
    if (at >= 0) close(at);
    return -1;
}

bal_status bal_media_dir_check(const char *dir, const char *flag, bal_error *err)
{
    /* "." asks for the right to pass through it */
    char inside[4096];
    const int n = snprintf(inside, sizeof inside, "%s/.", dir);
    const int fd = n < (int)sizeof inside ? open(inside, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        return bal_fail(err, BAL_E_IO, "%s '%.200s': %s, expected a folder", flag, dir,
                        n < (int)sizeof inside ? strerror(errno) : "too long");
    close(fd);
    return BAL_OK;
}

static bal_status read_all(int fd, uint8_t **out, size_t *n, size_t max_bytes, const char *path,
                           const char *param, bal_refusal *f)
{
    struct stat s;
    if (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode))
        return refuse_file(f, param, path, "not an ordinary file");
    if ((uint64_t)s.st_size > max_bytes)
        return bal_refuse(f, 400, "image_too_large", param,
                          "%s: '%.200s' has %lld bytes, at most %zu", param, path,
                          (long long)s.st_size, max_bytes);
    *out = malloc((size_t)s.st_size + 1);
    if (!*out) return bal_refuse(f, 500, NULL, NULL, "memory is short");
    while (*n < (size_t)s.st_size) {
        const ssize_t got = read(fd, *out + *n, (size_t)s.st_size - *n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        *n += (size_t)got;
    }
    return BAL_OK;
}

bal_status bal_media_file_read(uint8_t **out, size_t *n, const char *dir, const char *path,
                               size_t max_bytes, const char *param, bal_refusal *f)
{
    const char *why;
    *out = NULL;
    *n = 0;
    const char *below = relative_to(dir, path);
    if (!below) return refuse_file(f, param, path, "not below --media-dir");
    const int fd = open_below(dir, below, &why);
    if (fd < 0) return refuse_file(f, param, path, why);
    const bal_status st = read_all(fd, out, n, max_bytes, path, param, f);
    close(fd);
    return st;
}

/* %XX in place; false for a broken one or a zero byte. */
static bool unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        unsigned byte;
        char digits[3] = {0};
        if (*s != '%') {
            *to++ = *s;
            continue;
        }
        if (strspn(s + 1, "0123456789abcdefABCDEF") < 2) return false;
        memcpy(digits, s + 1, 2);
        byte = (unsigned)strtoul(digits, NULL, 16);
        if (byte == 0) return false;
        *to++ = (char)byte;
        s += 2;
    }
    *to = 0;
    return true;
}

static bal_status read_file_url(uint8_t **out, size_t *n, const bal_image_ref *ref,
                                const bal_picture_rules *rules, bal_refusal *f)
{
    char path[4096];
    const char *rest = ref->url + strlen("file://");
    if (!rules->media_dir)
        return bal_refuse(
            f, 400, "file_not_allowed", ref->param,
            "%s: this server reads no files; send the picture as a data URL, or start "
            "the server with --media-dir",
            ref->param);
    if (strncmp(rest, "localhost/", 10) == 0) rest += 9;
    const int length = snprintf(path, sizeof path, "%s", rest);
    if (length >= (int)sizeof path || !unescape(path))
        return refuse_file(f, ref->param, rest, "not a path");
    return bal_media_file_read(out, n, rules->media_dir, path, rules->fetch.max_bytes, ref->param,
                               f);
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static bool begins(const char *s, const char *prefix)
{
    return strncasecmp(s, prefix, strlen(prefix)) == 0;
}

bool bal_picture_is_remote(const bal_image_ref *ref)
{
    return begins(ref->url, "http://") || begins(ref->url, "https://");
}

bal_status bal_picture_read(uint8_t **out, size_t *n, const bal_image_ref *ref,
                            const bal_picture_rules *rules, bal_refusal *f)
{
    *out = NULL;
    *n = 0;
    if (begins(ref->url, data_scheme))
        return bal_data_url_decode(out, n, ref->url, ref->n, ref->param, f);
    if (begins(ref->url, "file://")) return read_file_url(out, n, ref, rules, f);
    if (bal_picture_is_remote(ref))
        return bal_fetch(out, n, ref->url, &rules->fetch, ref->param, f);
    return bal_refuse(f, 400, "invalid_url", ref->param,
                      "%s: '%.60s', expected a data, http, https or file URL", ref->param,
                      ref->url);
}

bal_status bal_picture_decode(bal_image *out, const uint8_t *bytes, size_t n,
                              const bal_image_ref *ref, const bal_picture_rules *rules,
                              bal_refusal *f)
{
    bal_error err;
    *out = (bal_image){0};
    if (bal_image_decode(out, bytes, n, &rules->image, &err) == BAL_OK) return BAL_OK;
    return bal_refuse(f, err.status == BAL_E_NOMEM ? 500 : 400, "invalid_image", ref->param,
                      "%s: %s", ref->param, err.text);
}
