// What is compiled on libtorch's headers, as one file: reading these headers takes most of the time of each file that is
// compiled by itself. Names in anonymous namespaces differ from file to file for it. fused/all.cpp is the other half, for a
// second core.

#include "buckets.cpp"
#include "cuda.cpp"
#include "group.cpp"
#include "nccl_load.cpp"
#include "shim.cpp"
#include "weights.cpp"
