/* The compiled operations for the CPU, as one library; hatch_build.py compiles it once for every
 * level of the instruction set. OpenMP's functions are left open: loader.py brings the ones that
 * torch works with, so that both share one pool of threads. */

#include "layer.c" /* and all others */

#include "dense.c" /* has its activations */
#include "prompt.c"
#include "rows.c"
#include "scan.c"

#ifndef CAIRN_SOURCE
#define CAIRN_SOURCE "unknown"
#endif

/* By which the loader knows that this library was compiled from the sources beside it. */
const char *cairn_source(void) { return CAIRN_SOURCE; }
