# Finds nvcc and says what the CUDA backend is built for. Sets TINYLLM_CUDA_ENABLED and tinyllm_cuda_summary.
#
# nvcc comes from the PATH, from CUDACXX, or from the nvidia-cuda-nvcc package in the build environment
# (<site-packages>/nvidia/cu13/bin/nvcc, found through CMAKE_PREFIX_PATH, which scikit-build-core sets).
set(TINYLLM_CUDA_ENABLED OFF)
set(tinyllm_cuda_summary " (CUDA backend: off)")
if(TINYLLM_CUDA STREQUAL "OFF")
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  list(TRANSFORM CMAKE_PREFIX_PATH APPEND "/nvidia/cu13/bin" OUTPUT_VARIABLE nvcc_hints)
  find_program(tinyllm_nvcc nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)
  find_program(tinyllm_nvcc nvcc HINTS ${nvcc_hints})
  if(tinyllm_nvcc)
    set(CMAKE_CUDA_COMPILER ${tinyllm_nvcc})
  endif()
endif()
# CMake would otherwise ask for the default architecture of the compiler.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;80-virtual" CACHE STRING "GPU targets")
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(TINYLLM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TINYLLM_CUDA=ON, but no nvcc was found: put it on the PATH, set CUDACXX, or use TINYLLM_CUDA=OFF")
  endif()
  set(tinyllm_cuda_summary " (CUDA backend: off, no nvcc found)")
  return()
endif()

set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # the library loads where there is no driver, and says so
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(TINYLLM_CUDA_ENABLED ON)
set(tinyllm_cuda_summary ", cuda (nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES})")

# Adds the CUDA backend's sources to a target.
function(tinyllm_add_cuda target)
  file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS backends/cuda/*.cu backends/cuda/*.cpp)
  list(FILTER cuda_sources EXCLUDE REGEX "/scratch_bytes\\.cpp$")  # in every build (CMakeLists.txt)
  target_sources(${target} PRIVATE ${cuda_sources})
  string(REPLACE ";" "," architectures "${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(${target} PUBLIC TINYLLM_WITH_CUDA TINYLLM_CUDA_ARCHITECTURES="${architectures}")
  target_compile_options(${target} PUBLIC
    # Not CUDA_STANDARD (nor CXX_STANDARD, its default): CMake 3.25 does not know C++20 for nvcc 13.
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-Xcompiler=-Wall,-Wextra,-Wno-restrict;--expt-relaxed-constexpr>)
  if(TINYLLM_WERROR)
    target_compile_options(${target} PUBLIC $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Werror;-Werror=all-warnings>)
  endif()
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()
