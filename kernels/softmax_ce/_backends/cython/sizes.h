/* What the C sources know about caches. Thresholds that depend on the machine come from softmax_ce/tuning.py. */
#ifndef SOFTMAX_CE_SIZES_H
#define SOFTMAX_CE_SIZES_H

/* Bytes of a cache line. */
#define SCE_LINE 64

/* How far ahead of the maximum, in bytes, memory is prefetched. */
#define SCE_PREFETCH 8192

/* Bytes of a row's exponentials that are kept on the stack. */
#define SCE_ON_STACK 8192

/* Bytes of a tile of strided rows: it stays in L2 with another of targets, and with what the row kernels keep. */
#define SCE_TILE (1 << 16)

/* Bytes of a tile whose rows lie side by side: what is read and written stays in L1 (32 KiB). Axis 1 of
 * (8, 21, 256, 256) took 1.10 of the last axis' time with 64 KiB, 1.09 with 32, 1.07 with 16. */
#define SCE_TILE_BESIDE (1 << 14)

/* Such a tile has several cache lines of each class, which suits the memory, unless it would then be larger than
 * SCE_TILE_OF_LINES; and at least one line, unless it would be larger than SCE_LARGEST_TILE. */
#define SCE_TILE_LINES 8
#define SCE_TILE_OF_LINES (1 << 18)
#define SCE_LARGEST_TILE (1 << 24)

#endif
