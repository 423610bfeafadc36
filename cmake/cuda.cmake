# ballast_cuda.so: src/cuda by nvcc, with the CUDA runtime inside, beside the program that loads it.
# Only with BALLAST_CUDA=ON; nothing else needs a toolkit. BALLAST_CUDA_ARCHITECTURES shortens a
# build for one machine.
if(NOT BALLAST_CUDA)
  return()
endif()
set(BALLAST_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;80-virtual;90-virtual" CACHE STRING
  "as CMake's CUDA_ARCHITECTURES")
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
set(CMAKE_CUDA_ARCHITECTURES ${BALLAST_CUDA_ARCHITECTURES})
enable_language(CUDA)

# C files of their own copies, since the core's are not position independent
file(GLOB CUDA_BACKEND CONFIGURE_DEPENDS src/cuda/*.cu src/cuda/*.c)
add_library(ballast_cuda MODULE ${CUDA_BACKEND} src/base/cpu.c src/base/pool.c src/base/status.c
  src/type/packed.c src/type/type.c)
target_include_directories(ballast_cuda PRIVATE include src)
target_compile_definitions(ballast_cuda PRIVATE _GNU_SOURCE)
target_link_libraries(ballast_cuda PRIVATE Threads::Threads)
target_compile_options(ballast_cuda PRIVATE $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Werror>)
set_target_properties(ballast_cuda PROPERTIES PREFIX "" CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static
  C_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
include(${CMAKE_CURRENT_LIST_DIR}/gpu_bench.cmake)
