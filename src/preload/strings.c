/* SPDX-License-Identifier: MIT */
/*
 * The functions on bytes and strings that the shim, and what it is linked with, call: its own, not the C
 * library's. A program may have functions of these names that come first, and the sanitizers do: theirs look
 * up the real ones when they start, which is after our constructor, and expect a thread that they know, which
 * the worker is none. Hidden: nobody else is to call them. Built so that the compiler does not make calls of
 * themselves out of them.
 *
 * x86-64's string instructions are as fast as anything where it matters (a page and more).
 */
#include <stddef.h>
#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t n) {
    if ((size_t)((char *)to - (const char *)from) >= n)
        return memcpy(to, from, n);
    void *at = (char *)to + n - 1;
    const void *last = (const char *)from + n - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(at), "+S"(last), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int byte, size_t n) {
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t n) {
    const unsigned char *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

void *memchr(const void *in, int byte, size_t n) {
    const unsigned char *at = in;
    for (; n; n--, at++)
        if (*at == (unsigned char)byte)
            return (void *)(size_t)at;
    return NULL;
}

size_t strlen(const char *text) {
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

int strncmp(const char *a, const char *b, size_t n) {
    for (; n; n--, a++, b++)
        if (*a != *b || !*a)
            return (unsigned char)*a - (unsigned char)*b;
    return 0;
}

int strcmp(const char *a, const char *b) {
    return strncmp(a, b, (size_t)-1);
}

char *strchr(const char *text, int c) {
    return memchr(text, c, strlen(text) + 1);
}

char *strrchr(const char *text, int c) {
    for (size_t n = strlen(text) + 1; n; n--)
        if (text[n - 1] == (char)c)
            return (char *)(size_t)&text[n - 1];
    return NULL;
}

char *strstr(const char *text, const char *part) {
    size_t n = strlen(part);
    for (; *text; text++)
        if (!strncmp(text, part, n))
            return (char *)(size_t)text;
    return n ? NULL : (char *)(size_t)text;
}

char *strncat(char *restrict to, const char *restrict from, size_t n) {
    char *at = to + strlen(to);
    for (; n && *from; n--)
        *at++ = *from++;
    *at = '\0';
    return to;
}

size_t strspn(const char *text, const char *set) {
    size_t n = 0;
    while (text[n] && strchr(set, text[n]))
        n++;
    return n;
}

size_t strcspn(const char *text, const char *set) {
    size_t n = 0;
    while (text[n] && !strchr(set, text[n]))
        n++;
    return n;
}
