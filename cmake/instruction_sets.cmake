# The instruction sets that kernels may be compiled for, beyond the scalar ones that are always
# built. One line a set:
#
#     name | architecture | flags of GCC and Clang | flags of MSVC
#
# `name` is the folder native/kernels/<name>/, and TEKTRA_HAVE_<NAME>=1 for the core where the set
# was built. A set without a folder, or whose flags the compiler does not know, is left out.
# Which of the built sets runs is decided at load time, from the machine: never here.
set(TEKTRA_INSTRUCTION_SETS
    "avx2 | x86_64 | -mavx2 -mfma -mf16c -mprfchw | /arch:AVX2"
    "avxvnni | x86_64 | -mavxvnni -mavx2 -mfma -mf16c -mprfchw | /arch:AVX2"
    "avx512 | x86_64 | -mavx512f -mavx512bw -mavx512vl -mavx2 -mfma -mf16c -mprfchw | /arch:AVX512"
    "avx512vnni | x86_64 | -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c -mprfchw | /arch:AVX512"
    "neon | arm64 | -march=armv8-a | "
    "neondot | arm64 | -march=armv8.2-a+dotprod | "
    "neoni8mm | arm64 | -march=armv8.2-a+dotprod+i8mm | "
)

# Sets `out` to the architecture that is compiled for: x86_64, arm64, or the name CMake has for it.
function(tektra_target_architecture out)
    set(name "${CMAKE_SYSTEM_PROCESSOR}")
    if(CMAKE_OSX_ARCHITECTURES)
        list(LENGTH CMAKE_OSX_ARCHITECTURES count)
        if(count GREATER 1)
            message(FATAL_ERROR "Tektra is built for one architecture at a time, "
                                "not for ${CMAKE_OSX_ARCHITECTURES}")
        endif()
        set(name "${CMAKE_OSX_ARCHITECTURES}")
    endif()
    string(TOLOWER "${name}" name)
    if(name MATCHES "^(x86_64|amd64|x64)$")
        set(name x86_64)
    elseif(name MATCHES "^(arm64|aarch64)$")
        set(name arm64)
    endif()
    set(${out} "${name}" PARENT_SCOPE)
endfunction()

# Compiles native/kernels/<name>/*.cpp of every set in the table that fits `architecture` into an
# object library of its own, and adds it to `core` (an existing target).
function(tektra_add_instruction_sets core architecture)
    set(built scalar)
    foreach(line IN LISTS TEKTRA_INSTRUCTION_SETS)
        string(REPLACE "|" ";" fields "${line}")
        list(TRANSFORM fields STRIP)
        list(GET fields 0 name)
        list(GET fields 1 wanted)
        list(GET fields 2 gnu_flags)
        list(GET fields 3 msvc_flags)
        file(GLOB sources CONFIGURE_DEPENDS
             "${PROJECT_SOURCE_DIR}/native/kernels/${name}/*.cpp")
        if(NOT sources OR NOT architecture STREQUAL wanted)
            continue()
        endif()

        string(TOUPPER "${name}" upper)
        if(MSVC)
            set(flags "${msvc_flags}")
        else()
            set(flags "${gnu_flags}")
        endif()
        check_cxx_compiler_flag("${flags}" TEKTRA_COMPILER_KNOWS_${upper})
        if(NOT TEKTRA_COMPILER_KNOWS_${upper})
            message(WARNING "The compiler does not know ${flags}: no ${name} kernels are built")
            continue()
        endif()

        separate_arguments(flags UNIX_COMMAND "${flags}")
        add_library(tektra_kernels_${name} OBJECT ${sources})
        target_link_libraries(tektra_kernels_${name} PRIVATE tektra_options)
        target_compile_options(tektra_kernels_${name} PRIVATE ${flags})
        if(name MATCHES "^avx512" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            # false ones, inside the compiler's own header of intrinsics
            target_compile_options(tektra_kernels_${name} PRIVATE
                -Wno-uninitialized -Wno-maybe-uninitialized)
        endif()
        target_sources(${core} PRIVATE $<TARGET_OBJECTS:tektra_kernels_${name}>)
        target_compile_definitions(${core} PUBLIC TEKTRA_HAVE_${upper}=1)
        list(APPEND built ${name})
    endforeach()
    list(JOIN built ", " built)
    message(STATUS "Tektra: kernels for ${architecture}: ${built}")
endfunction()
