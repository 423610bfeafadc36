# What bench/gpu.sh measures with, from the few files of the core that are needed to load a device: it
# runs where none of the library's own libraries are.
if(TARGET gpu_kernels)
  return()
endif()
add_executable(gpu_kernels bench/gpu_kernels.c bench/gpu_reference.c src/device/load.c src/base/status.c
  src/type/packed.c src/type/type.c)
target_link_libraries(gpu_kernels PRIVATE ballast_flags ${CMAKE_DL_LIBS} m)
add_executable(gpu_cublas bench/gpu_cublas.c) # a peer of it; loads the toolkit's libraries itself
target_link_libraries(gpu_cublas PRIVATE ballast_flags ${CMAKE_DL_LIBS})
