// The packed matrices of a program: making room, packing, and taking what was packed before.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "float_state.h"
#include "tektra/program.h"

namespace tektra {

const LinearKernel& Program::kernel_for(WeightType type, size_t rows, size_t width,
                                        size_t count) const {
    const auto index = static_cast<size_t>(type);
    if (index >= kMaxWeightType || kernels_.linear[index].lanes == 0) {
        throw std::invalid_argument("no kernel for weight type " + std::to_string(index));
    }
    const LinearKernel& kernel = kernels_.linear[index];
    constexpr size_t kMost = size_t{1} << 40;  // of bytes and of elements; no product overflows
    if (rows == 0 || width == 0 || count == 0 || rows > kMost / width ||
        count > kMost / (rows * width) || width % kernel.block_width != 0) {
        throw std::invalid_argument("a matrix of " + std::to_string(rows) + " x " +
                                    std::to_string(width) + " does not fit its weight type");
    }
    return kernel;
}

void Program::reserve_matrices(size_t bytes) {
    const Exclusive exclusive(busy_);
    check_building();
    room_ = Memory(bytes, true);
    room_taken_ = 0;
}

int32_t Program::add_matrix(WeightType type, size_t rows, size_t width, size_t count) {
    const Exclusive exclusive(busy_);
    check_building();
    const LinearKernel& kernel = kernel_for(type, rows, width, count);
    const size_t groups = (rows + kernel.lanes - 1) / kernel.lanes;
    const size_t bytes = kernel.matrix_bytes(rows, width, count);
    Memory packed;
    if (bytes <= room_.size() - room_taken_) {
        packed = room_.part(room_taken_, bytes);
        room_taken_ += bytes;
    } else {
        packed = Memory(bytes, true);
    }
    matrices_.push_back({type, rows, width, count, groups, std::move(packed)});
    return static_cast<int32_t>(matrices_.size() - 1);
}

int32_t Program::adopt_matrix(WeightType type, size_t rows, size_t width, Memory packed,
                              size_t count) {
    const Exclusive exclusive(busy_);
    check_building();
    const LinearKernel& kernel = kernel_for(type, rows, width, count);
    const size_t wanted = kernel.matrix_bytes(rows, width, count);
    if (packed.size() != wanted || reinterpret_cast<uintptr_t>(packed.data()) % 64 != 0) {
        throw std::invalid_argument("a packed matrix has " + std::to_string(wanted) +
                                    " bytes at a multiple of 64, not " +
                                    std::to_string(packed.size()));
    }
    const size_t groups = (rows + kernel.lanes - 1) / kernel.lanes;
    matrices_.push_back({type, rows, width, count, groups, std::move(packed)});
    return static_cast<int32_t>(matrices_.size() - 1);
}

void Program::copy_matrix(int32_t id, const uint8_t* packed, size_t num_bytes) {
    const Exclusive exclusive(busy_);
    check_building();
    if (id < 0 || static_cast<size_t>(id) >= matrices_.size()) {
        throw std::invalid_argument("no such matrix");
    }
    const Memory& to = matrices_[id].packed;
    if (to.foreign() || to.size() != num_bytes) {
        throw std::invalid_argument("the matrix cannot be filled with " +
                                    std::to_string(num_bytes) + " packed bytes");
    }
    constexpr size_t kShare = 256 * 1024;
    pool_.run((num_bytes + kShare - 1) / kShare, [&](size_t task, size_t) {
        const size_t begin = task * kShare;
        std::memcpy(to.data() + begin, packed + begin, std::min(kShare, num_bytes - begin));
    });
}

const Memory& Program::packed_matrix(int32_t id) {
    const Exclusive exclusive(busy_);
    if (id < 0 || static_cast<size_t>(id) >= matrices_.size()) {
        throw std::invalid_argument("no such matrix");
    }
    return matrices_[id].packed;
}

void Program::pack_matrix(int32_t id, const uint8_t* rows, size_t num_bytes) {
    const Exclusive exclusive(busy_);
    const DefaultFloats floats;
    check_building();
    if (id < 0 || static_cast<size_t>(id) >= matrices_.size()) {
        throw std::invalid_argument("no such matrix");
    }
    const Matrix& matrix = matrices_[id];
    if (matrix.packed.foreign()) throw std::invalid_argument("the matrix is packed already");
    const LinearKernel& kernel = kernel_of(matrix);
    const size_t row_bytes = matrix.width / kernel.block_width * kernel.source_bytes;
    const size_t wanted = matrix.count * matrix.rows * row_bytes;
    if (num_bytes != wanted) {
        throw std::invalid_argument("the matrix has " + std::to_string(wanted) + " bytes, not " +
                                    std::to_string(num_bytes));
    }
    const size_t group_bytes = kernel.group_bytes(matrix.width);
    const size_t num_groups = matrix.count * matrix.num_groups;
    const size_t share = std::max<size_t>(1, num_groups / (16 * pool_.num_threads()));
    pool_.run((num_groups + share - 1) / share, [&](size_t task, size_t) {
        const size_t end = std::min(num_groups, (task + 1) * share);
        for (size_t g = task * share; g < end; ++g) {
            const size_t first = g % matrix.num_groups * kernel.lanes;  // row of its matrix
            const size_t row = g / matrix.num_groups * matrix.rows + first;
            kernel.pack(rows + row * row_bytes, std::min(kernel.lanes, matrix.rows - first),
                        row_bytes, matrix.width, matrix.packed.data() + g * group_bytes);
        }
    });
}

}  // namespace tektra
