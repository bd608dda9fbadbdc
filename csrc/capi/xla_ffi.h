// The part of XLA's foreign function interface, version 0.1, that handlers on the CPU need: what a call's frame holds, how its
// buffers and attributes lie in it, and how an error is made.
//
// Declared here, so that neither JAX nor its headers are needed to build. It is a binary interface: names are free, the order
// and the types of members are not. tests/test_jax.py compares both with the header that the installed JAX carries. Every struct
// begins with its size and a list of extensions, which lets XLA add members at an end; members behind the last that is used
// here are left out where nothing follows them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fastcv::xla {

constexpr int kMajorVersion = 0, kMinorVersion = 1;

struct Error;  // XLA's own

enum class ErrorCode : int { invalid_argument = 3, resource_exhausted = 8, out_of_range = 11, internal = 13 };
enum class DataType : int { boolean = 1, int32 = 4, int64 = 5, float32 = 11, float64 = 12 };
enum class ArgumentType : int { buffer = 1 };
enum class ResultType : int { buffer = 1 };
enum class AttributeType : int { array = 1 };
enum class ExtensionType : int { metadata = 1 };

struct Extension {
    size_t struct_size;
    ExtensionType type;
    Extension* next;
};

struct Version {
    size_t struct_size;
    Extension* extensions;
    int major, minor;
};

// XLA calls each handler once with this extension, to be told what it was written against.
struct Metadata {
    size_t struct_size;
    Version version;
    uint32_t traits;
};
struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

struct ErrorArguments {
    size_t struct_size;
    Extension* extensions;
    const char* message;
    ErrorCode code;
};

struct Api {
    size_t struct_size;
    Extension* extensions;
    Version version;
    void* internal;
    Error* (*create_error)(ErrorArguments*);
};

struct Buffer {
    size_t struct_size;
    Extension* extensions;
    DataType dtype;
    void* data;
    int64_t rank;
    int64_t* shape;
};

struct Text {
    const char* characters;
    size_t length;
};

// The value of an attribute that is an array.
struct Values {
    DataType dtype;
    size_t count;
    void* data;
};

struct Arguments {
    size_t struct_size;
    Extension* extensions;
    int64_t count;
    ArgumentType* types;
    void** values;
};
struct Results {
    size_t struct_size;
    Extension* extensions;
    int64_t count;
    ResultType* types;
    void** values;
};
struct Attributes {
    size_t struct_size;
    Extension* extensions;
    int64_t count;
    AttributeType* types;
    Text** names;
    void** values;
};

struct CallFrame {
    size_t struct_size;
    Extension* extensions;
    const Api* api;
    void* context;
    int stage;
    Arguments arguments;
    Results results;
    Attributes attributes;
};

typedef Error* Function(CallFrame*);

}  // namespace fastcv::xla
