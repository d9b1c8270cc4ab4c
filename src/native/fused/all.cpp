// The operations of this folder on libtorch's headers, as one file; see ../all.cpp.

#include "block.cpp"
#include "checkpointed.cpp"
#include "composed.cpp"
#include "conv.cpp"
#include "inference.cpp"
#include "kept_filters.cpp"
#include "norm.cpp"
#include "pool.cpp"
#include "winograd_conv.cpp"
