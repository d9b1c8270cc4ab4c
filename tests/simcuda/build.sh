#!/usr/bin/env bash
# Builds the simulated CUDA device and its self-test, unless FOLDER holds them already:
#
#   tests/simcuda/build.sh FOLDER      # LIBTORCH: a libtorch 2.11 for CUDA; default: that of .venv
#   LD_LIBRARY_PATH=FOLDER/torch/lib target/release/ddpm doctor
#
# FOLDER/torch/lib is libtorch's folder of libraries as links, with the simulated device for libtorch_cuda.so and
# libcuda.so.1. The program then finds libtorch_cpu.so there, and looks for its CUDA half beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# == 1 ]] || { echo "usage: $0 FOLDER" >&2 && exit 2; }
torch=$(readlink -f "${LIBTORCH:-$here/../../.venv/libtorch}")
mkdir -p "$1"
cd "$1"

exec 9>lock
flock 9
key=$({ echo "$torch" && g++ --version && cat "$here"/*.{cpp,h,inc,sh}; } | sha256sum)
[[ $key != "$(cat key 2>/dev/null)" ]] || exit 0
rm -f key

# All files as one: libtorch's headers take most of the time.
flags=(-std=c++17 -w -D_GLIBCXX_USE_CXX11_ABI=1 -I "$torch/include" -I "$torch/include/torch/csrc/api/include" -I "$here")
g++ "${flags[@]}" -O0 -c "$here/selftest.cpp" -o selftest.o &
selftest=$!
for file in "$here"/*.cpp; do
    [[ $file == */selftest.cpp ]] || echo "#include \"$file\""
done | g++ "${flags[@]}" -O1 -fPIC -x c++ -c - -o simcuda.o
wait "$selftest"

mkdir -p torch/lib
ln -sfn "$torch/../nvidia" nvidia # libtorch_cpu.so looks for NVIDIA's libraries there
find torch/lib -type l -delete
for library in "$torch"/lib/*.so*; do
    case ${library##*/} in
    *cuda* | *nvrtc* | *nvshmem* | *python* | libshm*) ;; # they need a driver, or Python
    *) ln -s "$library" torch/lib/ ;;
    esac
done
link=(-L "$torch/lib" -ltorch_cpu -lc10 -ldl)
g++ -shared simcuda.o -o torch/lib/libtorch_cuda.so "${link[@]}"
ln -s libtorch_cuda.so torch/lib/libcuda.so.1
g++ selftest.o -o selftest "${link[@]}" -l:libgomp.so.1 -Wl,-rpath-link,"$torch/lib" -Wl,--allow-shlib-undefined
rm ./*.o
echo "$key" >key
