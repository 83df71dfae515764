# The CUDA kernel and the TensorRT plugin, where nvcc and TensorRT's headers are; knows nothing about the CPU parts.
#
#   FCN_EDGE_PLUGIN=AUTO  builds the plugin where everything is there, else says in one line what is missing (default)
#   FCN_EDGE_PLUGIN=ON    the same, but what is missing is an error;  OFF: not looked for
#   FCN_EDGE_CUDA_LIBRARY=ON  the kernel alone behind a C interface, for its benchmark: needs nvcc, no TensorRT
#   TENSORRT_ROOT         folder that holds include/NvInfer.h (a tar file unpacked); variable of CMake or environment
#   FCN_EDGE_CUDA_ARCHITECTURES  e.g. "87": chips to compile for; default: CMAKE_CUDA_ARCHITECTURES, else all below
#                         that this nvcc knows
set(FCN_EDGE_PLUGIN AUTO CACHE STRING "Build the TensorRT plugin: AUTO, ON or OFF")
option(FCN_EDGE_CUDA_LIBRARY "Build the CUDA kernel alone, for its benchmark" OFF)
set(FCN_EDGE_CUDA_ARCHITECTURES "" CACHE STRING "CUDA architectures, e.g. 87; empty: all that this nvcc knows")

# 75 is Turing, 87 is Orin, 86 and 89 are GeForce 30 and 40, 120 GeForce 50, 110 Thor.
set(fcn_edge_chips 75 80 86 87 89 90 100 110 120)

# Headers are looked for first, because that costs nothing: without them nvcc is never started.
set(missing "")
if(NOT FCN_EDGE_PLUGIN STREQUAL "OFF")
  find_path(FCN_EDGE_TENSORRT_INCLUDE NvInferRuntime.h
    HINTS ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT}
    PATHS /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu /usr/local/tensorrt /usr/local/TensorRT /opt/tensorrt
          /usr/src/tensorrt
    PATH_SUFFIXES include
    NO_CACHE)  # pip keeps the build folder: the next TENSORRT_ROOT counts, not the one before
  if(NOT FCN_EDGE_TENSORRT_INCLUDE)
    list(APPEND missing "TensorRT's headers (NvInferRuntime.h: install libnvinfer-headers-dev, or set TENSORRT_ROOT)")
  else()
    set(version "")
    foreach(part MAJOR MINOR)
      file(STRINGS ${FCN_EDGE_TENSORRT_INCLUDE}/NvInferVersion.h line
        REGEX "define (NV_TENSORRT|TRT)_${part}(_ENTERPRISE)? +[0-9]+" LIMIT_COUNT 1)
      string(REGEX MATCH " ([0-9]+)" ignored "${line}")
      list(APPEND version ${CMAKE_MATCH_1})
    endforeach()
    list(JOIN version "." version)
    if(version VERSION_LESS 10.3)
      list(APPEND missing "TensorRT 10.3 or later (${FCN_EDGE_TENSORRT_INCLUDE} holds ${version})")
    endif()
  endif()
endif()

set(wanted OFF)
if(FCN_EDGE_CUDA_LIBRARY OR (NOT FCN_EDGE_PLUGIN STREQUAL "OFF" AND NOT missing))
  set(wanted ON)
  # JetPack and NVIDIA's deb packages leave nvcc out of PATH.
  get_filename_component(cudacxx_folder "$ENV{CUDACXX}" DIRECTORY)
  if(NOT DEFINED FCN_EDGE_NVCC AND CMAKE_CUDA_COMPILER)
    set(FCN_EDGE_NVCC ${CMAKE_CUDA_COMPILER})
  endif()
  find_program(FCN_EDGE_NVCC nvcc
    HINTS ${cudacxx_folder} $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin NO_CACHE)
  if(NOT FCN_EDGE_NVCC)
    list(APPEND missing "nvcc (install CUDA's toolkit, or put nvcc into PATH)")
    set(wanted OFF)
  endif()
endif()

if(missing)
  set(what "TensorRT plugin")
  if(FCN_EDGE_PLUGIN STREQUAL "OFF")
    set(what "CUDA kernel")
  endif()
  list(JOIN missing ", and " missing)
  set(sentence "fcn_edge: the ${what} is not built, missing: ${missing}")
  if(FCN_EDGE_PLUGIN STREQUAL "ON" OR (FCN_EDGE_CUDA_LIBRARY AND NOT wanted))
    message(FATAL_ERROR "${sentence}")
  endif()
  message(STATUS "${sentence}")
endif()
if(NOT wanted)
  return()
endif()

execute_process(COMMAND ${FCN_EDGE_NVCC} --list-gpu-code OUTPUT_VARIABLE known RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "fcn_edge: ${FCN_EDGE_NVCC} does not run; set FCN_EDGE_PLUGIN=OFF to build without it")
endif()
set(chips "${FCN_EDGE_CUDA_ARCHITECTURES}")
if(NOT chips)
  set(chips "${CMAKE_CUDA_ARCHITECTURES}")
endif()
if(NOT chips)
  foreach(chip IN LISTS fcn_edge_chips)
    if(known MATCHES "sm_${chip}[^0-9]")
      list(APPEND chips ${chip}-real)
      set(newest ${chip})
    endif()
  endforeach()
  list(APPEND chips ${newest}-virtual)  # PTX, which the driver compiles for chips that are newer still
endif()
set(CMAKE_CUDA_ARCHITECTURES "${chips}")
set(CMAKE_CUDA_COMPILER ${FCN_EDGE_NVCC})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

add_library(fcn_edge_cuda OBJECT src/skip_head_cuda.cu src/skip_head_cuda_c.cpp src/skip_head_shape.cpp)
target_include_directories(fcn_edge_cuda PUBLIC include PRIVATE src)
target_link_libraries(fcn_edge_cuda PUBLIC CUDA::cudart_static)
target_compile_options(fcn_edge_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)

if(FCN_EDGE_CUDA_LIBRARY)
  add_library(fcn_edge_cuda_library SHARED $<TARGET_OBJECTS:fcn_edge_cuda>)
  set_target_properties(fcn_edge_cuda_library PROPERTIES OUTPUT_NAME fcn_edge_cuda)
  target_link_libraries(fcn_edge_cuda_library PRIVATE CUDA::cudart_static)
  target_link_options(fcn_edge_cuda_library PRIVATE -Wl,--exclude-libs,ALL)
endif()

if(NOT FCN_EDGE_PLUGIN STREQUAL "OFF" AND NOT missing)
  message(STATUS "fcn_edge: TensorRT plugin against ${version} in ${FCN_EDGE_TENSORRT_INCLUDE}, CUDA for ${chips}")
  # No libnvinfer: TensorRT is only ever called through the interfaces that it hands to the plugin.
  add_library(fcn_edge_plugin SHARED tensorrt/library.cpp tensorrt/skip_head_plugin.cpp
    $<TARGET_OBJECTS:fcn_edge_cuda>)
  target_include_directories(fcn_edge_plugin PRIVATE include)
  target_include_directories(fcn_edge_plugin SYSTEM PRIVATE ${FCN_EDGE_TENSORRT_INCLUDE})
  target_compile_options(fcn_edge_plugin PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
  target_link_libraries(fcn_edge_plugin PRIVATE CUDA::cudart_static)
  # Its own CUDA runtime, out of sight of the one that TensorRT or PyTorch brings.
  target_link_options(fcn_edge_plugin PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
  install(TARGETS fcn_edge_plugin LIBRARY DESTINATION fcn_edge)
endif()
