/* What the C sources know about caches. Thresholds that depend on the machine come from softmax_ce/tuning.py. */
#ifndef SOFTMAX_CE_SIZES_H
#define SOFTMAX_CE_SIZES_H

/* Bytes of a cache line. */
#define SCE_LINE 64

/* How far ahead of the running maximum memory is prefetched, in bytes. */
#define SCE_PREFETCH 8192

/* Bytes of a row's exponentials that are kept on the stack. */
#define SCE_ON_STACK 8192

/* Transformed rows of up to so many classes are transformed in tiles, and others chunk by chunk. */
#define SCE_FEW 256

/* Bytes of a tile of strided rows: with another for targets, and what the row kernels keep, it fits into L2. */
#define SCE_TILE (1 << 16)

/* Bytes of a tile whose rows lie side by side: it stays in L1 (32 KiB). Axis 1 of (8, 21, 256, 256) took 1.10 of the
 * last axis' time with 64 KiB, 1.09 with 32, 1.07 with 16. */
#define SCE_TILE_BESIDE (1 << 14)

/* Such a tile has so many cache lines of each class, for the sake of DRAM bursts and the prefetcher; or one line, if
 * it would otherwise exceed SCE_TILE_OF_LINES; or less, if it would then exceed SCE_LARGEST_TILE. */
#define SCE_TILE_LINES 8
#define SCE_TILE_OF_LINES (1 << 18)
#define SCE_LARGEST_TILE (1 << 24)

#endif
