/* MinHash of word 5-grams, in one pass over the bytes of a text; and connected components.
 *
 * definition.py says the same in numpy and is the oracle: every output is equal bit for bit. Bytes
 * above 127 are letters here: near/__init__.py has blanked the characters that are none.
 * Portable C11 without state; where the compiler and the C library know function versions, the one
 * hot loop exists for AVX-512, AVX2 and the base machine, and the loader takes the best.
 */

#include <stddef.h>
#include <stdint.h>

#define PERMUTATIONS 256
#define BANDS 25
#define ROWS 10
#define NGRAM 5
#define BLOCK 8192 /* bytes of text whose words exist at a time: a first-level cache holds them */
#define LANES 16   /* shingles are padded to a multiple, so that no vector has a remainder */

#define LETTER UINT64_C(0x9E3779B97F4A7C15)
#define WORD UINT64_C(0xD1342543DE82EF95)

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(CAIRN_ONE_VERSION)
#define VERSIONS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VERSIONS
#endif

#ifndef CAIRN_SOURCE
#define CAIRN_SOURCE "unknown"
#endif

/* By which the loader knows that this library was compiled from the source beside it. */
const char *cairn_source(void) { return CAIRN_SOURCE; }

/* What the machine makes of `minima`. */
const char *cairn_machine(void)
{
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(CAIRN_ONE_VERSION)
    if (__builtin_cpu_supports("avx512f")) return "AVX-512";
    if (__builtin_cpu_supports("avx2")) return "AVX2";
#endif
    return "portable";
}

/* A bijection of 64 bits whose outputs look random (the finaliser of SplitMix64). */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* The lower-case form of a byte of a word; 0 for a byte of none. */
static void fill_letters(uint8_t letters[256])
{
    for (int byte = 0; byte < 256; byte++) {
        int upper = byte >= 'A' && byte <= 'Z';
        int word = upper || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')
                || byte == '_' || byte > 127;
        letters[byte] = (uint8_t)(word ? byte + (upper ? 'a' - 'A' : 0) : 0);
    }
}

/* Blanks, in place, the UTF-8 characters beyond ASCII whose bit is not set: they are no letters. */
void cairn_blank(uint8_t *text, int64_t length, const uint8_t *is_letter)
{
    for (int64_t at = 0; at < length;) {
        uint32_t code = text[at];
        int more = code < 0x80 ? 0 : code < 0xE0 ? 1 : code < 0xF0 ? 2 : 3;
        if (more == 0 || at + more >= length) {
            at++;
            continue;
        }
        code &= 0x3Fu >> more;
        for (int i = 1; i <= more; i++) code = code << 6 | (text[at + i] & 0x3F);
        if (!(is_letter[code >> 3] >> (code & 7) & 1))
            for (int i = 0; i <= more; i++) text[at + i] = ' ';
        at += more + 1;
    }
}

/* least[p] = min over shingles of low * family[0][p] + high * family[1][p] + family[2][p].
 * Four permutations at a time: a shingle is loaded once for all four. */
VERSIONS void cairn_minima(const uint32_t *restrict low, const uint32_t *restrict high,
                           size_t count, const uint32_t *restrict family, uint32_t *restrict least)
{
    const uint32_t *first = family, *second = family + PERMUTATIONS;
    const uint32_t *offset = family + 2 * PERMUTATIONS;
    for (size_t p = 0; p < PERMUTATIONS; p += 4) {
        uint32_t m0 = least[p], m1 = least[p + 1], m2 = least[p + 2], m3 = least[p + 3];
        for (size_t i = 0; i < count / LANES * LANES; i++) {
            uint32_t v0 = low[i] * first[p] + high[i] * second[p] + offset[p];
            uint32_t v1 = low[i] * first[p + 1] + high[i] * second[p + 1] + offset[p + 1];
            uint32_t v2 = low[i] * first[p + 2] + high[i] * second[p + 2] + offset[p + 2];
            uint32_t v3 = low[i] * first[p + 3] + high[i] * second[p + 3] + offset[p + 3];
            m0 = v0 < m0 ? v0 : m0;
            m1 = v1 < m1 ? v1 : m1;
            m2 = v2 < m2 ? v2 : m2;
            m3 = v3 < m3 ? v3 : m3;
        }
        least[p] = m0, least[p + 1] = m1, least[p + 2] = m2, least[p + 3] = m3;
    }
}

/* Shingles of words[0 .. count + NGRAM - 1), the halves of each apart; returns the padded count. */
static size_t shingle(const uint64_t *words, size_t count, uint32_t *low, uint32_t *high)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t total = 0;
        for (size_t k = 0; k < NGRAM; k++) total = total * WORD + words[i + k];
        total = mix(total);
        low[i] = (uint32_t)total;
        high[i] = (uint32_t)(total >> 32);
    }
    for (; count % LANES; count++) low[count] = low[0], high[count] = high[0];
    return count;
}

/* The minima uint32[256] and the band keys int64[25] of a text; returns its number of words.
 * With fewer words than a shingle has, nothing is written. */
int64_t cairn_sketch(const uint8_t *text, int64_t length, const uint32_t *family, uint32_t *least,
                     int64_t *keys)
{
    uint8_t letters[256];
    uint64_t words[BLOCK / 2 + 1 + NGRAM];
    uint32_t low[BLOCK / 2 + 1 + LANES], high[BLOCK / 2 + 1 + LANES];
    uint64_t hash = 0, inside = 0;
    size_t held = 0; /* words not yet at the head of a shingle */
    int64_t total = 0;

    fill_letters(letters);
    for (int64_t start = 0; start <= length; start += BLOCK) {
        /* The byte after the last is no letter: it ends a word that ends the text. */
        int64_t stop = start + BLOCK < length + 1 ? start + BLOCK : length + 1;
        size_t before = held;
        for (int64_t at = start; at < stop; at++) { /* without branches: words are short */
            uint64_t letter = at < length ? letters[text[at]] : 0;
            uint64_t is_letter = -(uint64_t)(letter != 0);
            words[held] = hash;
            held += (size_t)(inside & ~is_letter & 1);
            hash = (hash * LETTER + letter) & is_letter;
            inside = is_letter;
        }
        total += (int64_t)(held - before);
        for (size_t i = before; i < held; i++) words[i] = mix(words[i]);
        if (held < NGRAM) continue;
        if (total == (int64_t)held) /* the first shingles */
            for (size_t p = 0; p < PERMUTATIONS; p++) least[p] = UINT32_MAX;
        size_t count = held - NGRAM + 1;
        cairn_minima(low, high, shingle(words, count, low, high), family, least);
        for (size_t i = 0; i < NGRAM - 1; i++) words[i] = words[count + i];
        held = NGRAM - 1;
    }
    if (total < NGRAM) return total;
    for (size_t band = 0; band < BANDS; band++) {
        uint64_t key = band;
        for (size_t row = 0; row < ROWS; row++) key = mix(key ^ least[band * ROWS + row]) + WORD;
        keys[band] = (int64_t)key;
    }
    return total;
}

/* Joins the ends of every pair in parent[count], which holds 0, 1, 2, ... at first, then names every
 * item by the least of its component: the greater root always goes under the lesser, so the order
 * of pairs cannot be seen. Returns -1, or the place of a pair that names no item. */
int64_t cairn_components(const int64_t *pairs, int64_t edges, int64_t *parent, int64_t count)
{
    for (int64_t edge = 0; edge < edges; edge++) {
        int64_t one = pairs[2 * edge], other = pairs[2 * edge + 1];
        if (one < 0 || other < 0 || one >= count || other >= count) return edge;
        while (parent[one] != one) one = parent[one] = parent[parent[one]];
        while (parent[other] != other) other = parent[other] = parent[parent[other]];
        if (one < other) parent[other] = one;
        else parent[one] = other;
    }
    for (int64_t item = 0; item < count; item++) parent[item] = parent[parent[item]];
    return -1;
}
