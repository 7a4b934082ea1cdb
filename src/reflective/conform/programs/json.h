/* A JSON writer on a static buffer: no malloc, no stdio, so that telling about the heap leaves it alone.
 *
 * Every value takes a key; inside an array the key is NULL. Bytes become either hex or text in which each byte above 0x7e
 * is written as the code point of the same number: decoding that as Latin-1 gives the bytes back.
 */
#ifndef WITNESS_JSON_H
#define WITNESS_JSON_H

#include "sys.h"

enum { JSON_BUFFER = 32768, JSON_DEPTH = 16, STDOUT = 1 };

static char json_buffer[JSON_BUFFER];
static size_t json_used;
static char json_closers[JSON_DEPTH];
static int json_depth;
static int json_first = 1;

static inline void json_flush(void)
{
    size_t done = 0;

    while (done < json_used) {
        long written = SYS(SYS_write, STDOUT, json_buffer + done, json_used - done);
        if (written <= 0)
            SYS(SYS_exit_group, 74); /* EX_IOERR */
        done += (size_t)written;
    }
    json_used = 0;
}

static inline void json_put(char c)
{
    if (json_used == JSON_BUFFER)
        json_flush();
    json_buffer[json_used++] = c;
}

static inline void json_puts(const char *text)
{
    while (*text)
        json_put(*text++);
}

static inline void json_hex_digits(unsigned value, int digits)
{
    while (digits--)
        json_put("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}

/* The characters of a string, without its quotes. */
static inline void json_escape(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\' || c < 0x20 || c > 0x7e) {
            json_puts("\\u");
            json_hex_digits(c, 4);
        } else {
            json_put((char)c);
        }
    }
}

static inline void json_key(const char *key)
{
    if (!json_first)
        json_put(',');
    json_first = 0;
    if (key) {
        json_put('"');
        json_puts(key);
        json_puts("\":");
    }
}

static inline void json_begin(const char *key, char open, char close)
{
    json_key(key);
    json_put(open);
    json_closers[json_depth++] = close;
    json_first = 1;
}

static inline void json_object(const char *key) { json_begin(key, '{', '}'); }
static inline void json_array(const char *key) { json_begin(key, '[', ']'); }

static inline void json_end(void)
{
    json_put(json_closers[--json_depth]);
    json_first = 0;
    if (json_depth == 0) {
        json_put('\n');
        json_flush();
    }
}

static inline void json_unsigned(const char *key, uint64_t value)
{
    char digits[20];
    int n = 0;

    json_key(key);
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n)
        json_put(digits[--n]);
}

static inline void json_signed(const char *key, int64_t value)
{
    if (value >= 0) {
        json_unsigned(key, (uint64_t)value);
        return;
    }
    json_key(key);
    json_put('-');
    json_first = 1; /* the digits follow without a comma */
    json_unsigned(NULL, 0 - (uint64_t)value);
}

static inline void json_address(const char *key, const void *address)
{
    json_unsigned(key, (uint64_t)(uintptr_t)address);
}

static inline void json_text(const char *key, const char *bytes, size_t length)
{
    json_key(key);
    json_put('"');
    json_escape(bytes, length);
    json_put('"');
}

static inline void json_string(const char *key, const char *text) { json_text(key, text, text_length(text)); }

static inline void json_hex(const char *key, const void *bytes, size_t length)
{
    json_key(key);
    json_put('"');
    for (size_t i = 0; i < length; i++)
        json_hex_digits(((const unsigned char *)bytes)[i], 2);
    json_put('"');
}

#endif
