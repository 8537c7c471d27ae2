// Memory from the operating system: zeroed pages, and files that are read where they lie.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#undef near  // which it makes nothing of
#undef far
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace edgegpt {

// Of each system: pages of zeros that cost nothing until they are written; the bytes of a file, to
// be read, and their number; and giving either back. Null: there are none, and errno tells why.
#if defined(_WIN32)

inline void *zeroed_pages(std::size_t bytes) {
    return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

inline void *mapped_file(const char *path, std::size_t &bytes) {
    wchar_t wide[4096];
    errno = ENOENT;
    if (MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 4096) == 0) return nullptr;
    const DWORD sharing = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    const HANDLE file = CreateFileW(wide, GENERIC_READ, sharing, nullptr, OPEN_EXISTING,
                                    FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file == INVALID_HANDLE_VALUE) {
        if (GetLastError() == ERROR_ACCESS_DENIED) errno = EACCES;
        return nullptr;
    }
    LARGE_INTEGER size = {};
    errno = EINVAL;  // if it is empty
    HANDLE mapping = nullptr;
    if (GetFileType(file) == FILE_TYPE_DISK && GetFileSizeEx(file, &size) != 0)
        mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    CloseHandle(file);
    if (size.QuadPart > 0) errno = ENOMEM;
    if (mapping == nullptr) return nullptr;
    void *memory = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    CloseHandle(mapping);  // the view holds on to it
    bytes = static_cast<std::size_t>(size.QuadPart);
    return memory;
}

inline void give_back(void *memory, std::size_t, bool is_file) {
    if (is_file)
        UnmapViewOfFile(memory);
    else
        VirtualFree(memory, 0, MEM_RELEASE);
}

#else

inline void *zeroed_pages(std::size_t bytes) {
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

inline void *mapped_file(const char *path, std::size_t &bytes) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait
    if (file < 0) return nullptr;
    struct stat about;
    errno = ENODATA;  // if it is empty
    void *memory = MAP_FAILED;
    if (fstat(file, &about) == 0 && about.st_size > 0) {
        bytes = static_cast<std::size_t>(about.st_size);
        memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    return memory == MAP_FAILED ? nullptr : memory;
}

inline void give_back(void *memory, std::size_t bytes, bool) { munmap(memory, bytes); }

#endif

// Pages that cost nothing until they are written, or a file mapped for reading.
class Pages {
public:
    Pages() = default;
    ~Pages() { release(); }
    Pages(const Pages &) = delete;
    Pages &operator=(const Pages &) = delete;

    // Return whether there is room for so many bytes of zeros.
    bool reserve(std::size_t bytes) { return take(zeroed_pages(bytes), bytes, false); }

    // Return whether the file could be mapped; errno tells why it could not.
    bool map(const char *path) {
        std::size_t bytes = 0;
        void *memory = mapped_file(path, bytes);
        return take(memory, bytes, true);
    }

    char *begin() const { return static_cast<char *>(memory_); }
    std::size_t size() const { return size_; }

private:
    bool take(void *memory, std::size_t bytes, bool is_file) {
        if (memory == nullptr) return false;
        release();
        memory_ = memory, size_ = bytes, is_file_ = is_file;
        return true;
    }
    void release() {
        if (memory_ != nullptr) give_back(memory_, size_, is_file_);
        memory_ = nullptr, size_ = 0;
    }

    void *memory_ = nullptr;
    std::size_t size_ = 0;
    bool is_file_ = false;
};

}  // namespace edgegpt
