/* MessagePack, as much of it as the headers of the native dialect need: a writer of one small map, and a scanner that
 * finds keys and steps over everything else, whatever it is (https://github.com/msgpack/msgpack/blob/master/spec.md).
 *
 * The writer is told what to write by us, so it does not fail. The scanner reads what a broker sent: it looks at no byte
 * behind the end, and says when the map is cut or broken.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- writing ---- */

enum { WRITTEN_MAX = 4096 }; /* a hello that names a hundred queues */

struct written { size_t size; uint8_t bytes[WRITTEN_MAX]; };

static void begin_map(struct written *map) /* of at most 15 pairs; each key counts itself */
{
    map->size = 1;
    map->bytes[0] = 0x80;
}

static void write_big_endian(struct written *map, uint64_t number, int bytes)
{
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
        map->bytes[map->size++] = (uint8_t)(number >> shift);
}

static void write_text(struct written *map, const char *text) /* of at most 31 characters */
{
    size_t size = strlen(text);
    map->bytes[map->size++] = (uint8_t)(0xa0 | size);
    memcpy(map->bytes + map->size, text, size);
    map->size += size;
}

static void write_key(struct written *map, const char *key)
{
    map->bytes[0]++;
    write_text(map, key);
}

static void write_text_pair(struct written *map, const char *key, const char *text)
{
    write_key(map, key);
    write_text(map, text);
}

static void write_int_pair(struct written *map, const char *key, uint64_t number)
{
    write_key(map, key);
    if (number < 0x80)
        map->bytes[map->size++] = (uint8_t)number;
    else if (number <= 0xff) {
        map->bytes[map->size++] = 0xcc;
        write_big_endian(map, number, 1);
    } else if (number <= 0xffff) {
        map->bytes[map->size++] = 0xcd;
        write_big_endian(map, number, 2);
    } else if (number <= 0xffffffffu) {
        map->bytes[map->size++] = 0xce;
        write_big_endian(map, number, 4);
    } else {
        map->bytes[map->size++] = 0xcf;
        write_big_endian(map, number, 8);
    }
}

static void write_bin_pair(struct written *map, const char *key, const void *data, size_t size) /* at most 255 bytes */
{
    write_key(map, key);
    map->bytes[map->size++] = 0xc4;
    map->bytes[map->size++] = (uint8_t)size;
    memcpy(map->bytes + map->size, data, size);
    map->size += size;
}

static void write_true_pair(struct written *map, const char *key)
{
    write_key(map, key);
    map->bytes[map->size++] = 0xc3;
}

static void write_map_pair(struct written *map, const char *key, const struct written *value)
{
    write_key(map, key);
    memcpy(map->bytes + map->size, value->bytes, value->size);
    map->size += value->size;
}

static void write_texts_pair(struct written *map, const char *key, const char *const *texts, size_t count) /* < 65536 */
{
    write_key(map, key);
    map->bytes[map->size++] = 0xdc;
    write_big_endian(map, count, 2);
    for (size_t i = 0; i < count; i++)
        write_text(map, texts[i]);
}

/* ---- reading ---- */

enum kind { ABSENT, NIL, BOOLEAN, INTEGER, TEXT, BIN, LIST, MAP, OTHER }; /* OTHER: float, negative, extension */

struct value {
    enum kind kind;
    uint64_t number;     /* BOOLEAN, INTEGER */
    const uint8_t *data; /* TEXT, BIN: the bytes; LIST, MAP: the first element */
    size_t size;         /* TEXT, BIN: how many bytes; LIST, MAP: how many elements, pairs */
};

enum { DEPTH_MAX = 16 };

static uint64_t big_endian(const uint8_t *at, int bytes)
{
    uint64_t number = 0;
    while (bytes--)
        number = number << 8 | *at++;
    return number;
}

/* Reads the value at `at`, all that is in it included. Returns what follows it, or NULL: cut, broken, too deep. */
static const uint8_t *read_value(const uint8_t *at, const uint8_t *end, struct value *value, int depth)
{
    if (at >= end || depth > DEPTH_MAX)
        return NULL;
    uint8_t type = *at++;
    size_t left = (size_t)(end - at);
    int length_bytes = 0; /* of the number, or of the length, that follows the type */
    *value = (struct value){OTHER, 0, at, 0};

    if (type < 0x80) {
        value->kind = INTEGER;
        value->number = type;
        return at;
    }
    if (type >= 0xe0)
        return at;
    if (type <= 0x8f)
        value->kind = MAP, value->size = type & 0x0f;
    else if (type <= 0x9f)
        value->kind = LIST, value->size = type & 0x0f;
    else if (type <= 0xbf)
        value->kind = TEXT, value->size = type & 0x1f;
    else
        switch (type) {
        case 0xc0: value->kind = NIL; return at;
        case 0xc2: case 0xc3: value->kind = BOOLEAN; value->number = type & 1; return at;
        case 0xc4: case 0xc5: case 0xc6: value->kind = BIN; length_bytes = 1 << (type - 0xc4); break;
        case 0xd9: case 0xda: case 0xdb: value->kind = TEXT; length_bytes = 1 << (type - 0xd9); break;
        case 0xdc: case 0xdd: value->kind = LIST; length_bytes = 2 << (type - 0xdc); break;
        case 0xde: case 0xdf: value->kind = MAP; length_bytes = 2 << (type - 0xde); break;
        case 0xcc: case 0xcd: case 0xce: case 0xcf:
            length_bytes = 1 << (type - 0xcc);
            if (left < (size_t)length_bytes)
                return NULL;
            value->kind = INTEGER;
            value->number = big_endian(at, length_bytes);
            return at + length_bytes;
        case 0xd0: case 0xd1: case 0xd2: case 0xd3: value->size = (size_t)1 << (type - 0xd0); break; /* signed */
        case 0xca: case 0xcb: value->size = (size_t)4 << (type - 0xca); break;                        /* float */
        case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: value->size = ((size_t)1 << (type - 0xd4)) + 1; break;
        case 0xc7: case 0xc8: case 0xc9: length_bytes = 1 << (type - 0xc7); break; /* extension: its type is a byte more */
        default: return NULL;
        }
    if (length_bytes) {
        if (left < (size_t)length_bytes)
            return NULL;
        value->size = big_endian(at, length_bytes) + (value->kind == OTHER);
        at += length_bytes;
        left -= (size_t)length_bytes;
        value->data = at;
    }
    if (value->kind == LIST || value->kind == MAP) {
        struct value inner;
        for (size_t elements = value->kind == MAP ? 2 * value->size : value->size; elements && at; elements--)
            at = read_value(at, end, &inner, depth + 1);
        return at;
    }
    return left < value->size ? NULL : at + value->size;
}

static int is_text(const struct value *value, const char *text)
{
    size_t size = strlen(text);
    return value->kind == TEXT && value->size == size && !memcmp(value->data, text, size);
}

/* Finds the values of the keys `names` in a map that was read; those that are not there are ABSENT. */
static void find_keys(const struct value *map, const uint8_t *end, const char *const *names, int count,
                      struct value *found)
{
    const uint8_t *at = map->data;
    struct value key, value;
    for (int i = 0; i < count; i++)
        found[i] = (struct value){0};
    for (size_t pair = 0; map->kind == MAP && pair < map->size; pair++) {
        at = read_value(at, end, &key, 0);
        at = read_value(at, end, &value, 0);
        for (int i = 0; i < count; i++)
            if (is_text(&key, names[i])) {
                found[i] = value;
                break;
            }
    }
}
