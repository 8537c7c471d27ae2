// Memory from the operating system: zeroed pages, and files that are read where they lie.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace edgegpt {

// Pages that cost nothing until they are written, or a file mapped for reading.
class Pages {
public:
    Pages() = default;
    ~Pages() { release(); }
    Pages(const Pages &) = delete;
    Pages &operator=(const Pages &) = delete;

    // Return whether there is room for so many bytes of zeros.
    bool reserve(std::size_t bytes) {
        return take(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            bytes);
    }

    // Return whether the file could be mapped; errno tells why it could not.
    bool map(const char *path) {
        const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait
        if (file < 0) return false;
        struct stat about;
        errno = ENODATA;  // if it is empty
        const bool known = fstat(file, &about) == 0 && about.st_size > 0;
        const auto bytes = known ? static_cast<std::size_t>(about.st_size) : 0;
        const bool mapped =
            known && take(mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0), bytes);
        close(file);
        return mapped;
    }

    char *begin() const { return static_cast<char *>(memory_); }
    std::size_t size() const { return size_; }

private:
    bool take(void *memory, std::size_t bytes) {
        if (memory == MAP_FAILED) return false;
        release();
        memory_ = memory, size_ = bytes;
        return true;
    }
    void release() {
        if (memory_ != nullptr) munmap(memory_, size_);
        memory_ = nullptr, size_ = 0;
    }

    void *memory_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace edgegpt
