/* Calls a tile (tile.o) on memory from a file and writes what it left there: see run.py.

   int64: bytes of memory, number of arguments, then each: whether it is an offset into the memory, its value; number of
   places in the memory that hold offsets, then these; then the memory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void tile(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, 8, 1, file) != 1) exit(2);
    return value;
}

int main(int count, char **names) {
    FILE *file = fopen(names[1], "rb");
    int64_t size = number(file), arguments = number(file), a[10] = {0}, places[64];
    char *memory = aligned_alloc(64, (size + 63) / 64 * 64);
    for (int i = 0; i < arguments; i++) {
        int64_t is_offset = number(file);
        a[i] = number(file) + (is_offset ? (int64_t)memory : 0);
    }
    int64_t listed = number(file);
    for (int i = 0; i < listed; i++) places[i] = number(file);
    if (fread(memory, 1, size, file) != (size_t)size) return 2;
    for (int i = 0; i < listed; i++) *(int64_t *)(memory + places[i]) += (int64_t)memory;
    tile(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]);
    for (int i = 0; i < listed; i++) *(int64_t *)(memory + places[i]) -= (int64_t)memory;
    return fwrite(memory, 1, size, stdout) != (size_t)size;
}
